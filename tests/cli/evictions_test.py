"""Every eviction policy replays the recorded tinymoe cut, on one process and on four, with equal digests, and evicts."""
import json
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
EXTRA = {"snapkv": ["eviction.trigger=prefill_end", "prefill.queries=last:8"], "lagkv": ["eviction.lag=4"],
         "pikv.quest_legacy": ["compression.codec=int4_token"], "flexgen.static": ["eviction.action=demote", "eviction.budget=unlimited"],
         **{name: ["eviction.action=demote"] for name in ("2q", "s3fifo", "arc")}}  # policies of what comes back


def policies():
    return set(re.findall(r"(?m)^  (\S+) ", program.run("list", "policies").out)) - {"full"}


class Evictions(program.ProgramTest):
    def replay(self, policy, ranks):
        config, out = self.folder / "evictions.yaml", self.folder / f"{policy}_{ranks}.h5"
        config.write_text(SETTINGS)
        self.run_ok("run", config, f"eviction.policy={policy}", *EXTRA.get(policy, []), "--out", out, ranks=ranks)
        return json.loads(self.run_ok("show", "--json", out).out)

    def test_each_replays_alike_on_one_and_four_processes(self):
        names = policies()
        self.assertGreaterEqual(len(names), 40, names)
        digests = {}
        for name in sorted(names):
            with self.subTest(name):
                alone = self.replay(name, None)
                self.assertEqual(alone["digest"], self.replay(name, 4)["digest"])
                self.assertEqual(alone["violations"], [])
                self.assertGreater(alone["metrics"]["evictions"]["value"], 0)
                self.assertEqual(alone["metrics"]["recalls"]["value"] > 0, "eviction.action=demote" in EXTRA.get(name, []))
                digests[name] = alone["digest"]
        self.assertEqual(digests["tova"], digests["pikv.h2o"], "the paper's u = a is what TOVA does")
        self.assertNotEqual(digests["h2o.sum"], digests["tova"])
        looking_at_groups = {digests[name] for name in ("keydiff", "lagkv", "cur", "expected_attention", "r_kv", "cake")}
        self.assertEqual(len(looking_at_groups | {digests["fifo"], digests["knorm"]}), 8, "they all choose differently")

    def test_before_attend(self):
        for policy in ("keydiff", "h2o.sum", "lru"):
            with self.subTest(policy):
                config, outs = self.folder / "evictions.yaml", [self.folder / f"{name}.h5" for name in ("alone", "four", "standard")]
                config.write_text(SETTINGS)
                shared = [config, f"eviction.policy={policy}"]
                self.run_ok("run", *shared, "step_order=pikv", "--out", outs[0])
                self.run_ok("run", *shared, "step_order=pikv", "--out", outs[1], ranks=4)
                self.run_ok("run", *shared, "--out", outs[2])
                alone, four, standard = (json.loads(self.run_ok("show", "--json", out).out) for out in outs)
                self.assertEqual(alone["digest"], four["digest"])
                self.assertNotEqual(alone["digest"], standard["digest"])
                self.assertIn("evicts_before_attend", alone["labels"])


if __name__ == "__main__":
    unittest.main()
