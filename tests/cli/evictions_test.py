"""Every eviction policy replays the recorded cuts on one, two and four processes, with equal digests, and evicts."""
import re
import unittest

import program

TRACE = program.SOURCE / "configs/traces/tinymoe_cut.moekv.h5"
SETTINGS = f"""\
model: tinymoe
trace: {{path: {TRACE}, layers: [0-3], max_requests: 3, max_output_tokens: 24}}
cluster: {{ranks: 4}}
placement: {{layout: expert}}
eviction: {{policy: lru, budget: 40%, protect: {{sinks: 2, recent: 8}}}}
batch: {{load: concurrency(4)}}
probe: {{samples: 8}}
"""
RECORDED = """\
cluster: {ranks: 4}
placement: {layout: expert}
page: {slots: 8}
eviction: {policy: lru, budget: 40%, protect: {sinks: 2, recent: 8}}
probe: {samples: 4}
"""
ONCE = ["eviction.trigger=prefill_end", "prefill.queries=last:8"]
EXTRA = {"snapkv": ONCE, "chunk_retain": [*ONCE, "page.slots=8"], "lagkv": ["eviction.lag=4"],
         "pikv.quest_legacy": ["compression.codec=int4_token"], "flexgen.static": ["eviction.action=demote", "eviction.budget=unlimited"],
         **{name: ["eviction.action=demote"] for name in ("2q", "s3fifo", "arc")}}  # policies of what comes back


def policies():
    return set(re.findall(r"(?m)^  (\S+) ", program.run("list", "policies").out)) - {"full"}


class Evictions(program.ProgramTest):
    def test_each_replays_alike_on_one_and_four_processes(self):
        names = policies()
        self.assertGreaterEqual(len(names), 40, names)
        cases = {name: [f"eviction.policy={name}", *EXTRA.get(name, [])] for name in sorted(names)}
        alone, four = self.sweep(SETTINGS, cases), self.sweep(SETTINGS, cases, ranks=4)
        self.assertEqual(set(alone), names)
        digests = {name: result.digest for name, result in alone.items()}
        for name, result in alone.items():
            with self.subTest(name):
                self.assertEqual(digests[name], four[name].digest)
                self.assertGreater(result.metrics["evictions"], 0)
                self.assertEqual(result.metrics["recalls"] > 0, "eviction.action=demote" in EXTRA.get(name, []))
        self.assertEqual(digests["tova"], digests["pikv.h2o"], "the paper's u = a is what TOVA does")
        self.assertNotEqual(digests["h2o.sum"], digests["tova"])
        looking_at_groups = {digests[name] for name in ("keydiff", "lagkv", "cur", "expected_attention", "r_kv", "cake")}
        self.assertEqual(len(looking_at_groups | {digests["fifo"], digests["knorm"]}), 8, "they all choose differently")

    def test_recorded_cuts_replay_alike_on_one_two_and_four_processes(self):
        without_payload = set(re.findall(r"(?m)^  (\S+) .*\n      reads (?:accesses|nothing);", program.run("list", "policies").out))
        self.assertGreaterEqual(len(without_payload), 12)
        count = ["backend=count", "probe.samples=0"]  # decides the same, faster
        cases = {f"{cut} {name}": [*settings, f"eviction.policy={name}", *EXTRA.get(name, []), *(count if name in without_payload else [])]
                 for cut, settings in program.CUTS.items() for name in sorted(policies())}
        runs = [self.sweep(RECORDED, cases, ranks=ranks) for ranks in (None, 2, 4)]
        for cut in program.CUTS:
            self.assertGreater(len({alone.digest for case, alone in runs[0].items() if case.startswith(cut)}), 30, "most policies choose differently")
        for case, alone in runs[0].items():
            with self.subTest(case):
                self.assertEqual([run[case].digest for run in runs], 3 * [alone.digest])
                # gpt-oss-20b's recording has no prompt, so what chooses once, when the prompt ends, has nothing to choose.
                idle = case.startswith("gptoss20b") and "eviction.trigger=prefill_end" in cases[case]
                self.assertEqual(alone.metrics["evictions"] > 0, not idle)

    def test_before_attend(self):
        cases = {f"{policy} {order}": [f"eviction.policy={policy}", f"step_order={order}"]
                 for policy in ("keydiff", "h2o.sum", "lru") for order in ("pikv", "standard")}
        alone, four = self.sweep(SETTINGS, cases), self.sweep(SETTINGS, cases, ranks=4)
        for policy in ("keydiff", "h2o.sum", "lru"):
            with self.subTest(policy):
                before = alone[f"{policy} pikv"]
                self.assertEqual(before.digest, four[f"{policy} pikv"].digest)
                self.assertNotEqual(before.digest, alone[f"{policy} standard"].digest)
                self.assertIn("evicts_before_attend", before.labels)


if __name__ == "__main__":
    unittest.main()
