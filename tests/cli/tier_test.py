"""Action demote as a user runs it: hits of the queue policies equal `moekv policy evict` where one page stands for one unit; one scorer lossy and lossless."""
import json
import random
import subprocess
import unittest

import program

SETTINGS = """\
model:
  layers: {count: 1, pattern: [full]}
  hidden: 64
  n_heads: 2
  n_kv_heads: 1
  head_dim: 8
  gate: {n_experts: 16, top_k: 1}
trace: {path: accesses.moekv.h5}
cluster: {ranks: 1}
placement: {layout: expert}
page: {slots: 256}
routing: {key: same_layer}
read: {scope: routed}
eviction: {policy: lru, action: demote, budget: {pages: 3}, protect: {sinks: 0, recent: 0}}
backend: count
probe: {samples: 0}
"""
TINYMOE = f"""\
model: tinymoe
trace: {{path: {program.SOURCE / "configs/traces/tinymoe_cut.moekv.h5"}, layers: [0-3], max_requests: 2, max_output_tokens: 24}}
cluster: {{ranks: 2}}
page: {{slots: 8}}
eviction: {{policy: h2o.sum, unit: page, budget: 40%, protect: {{sinks: 2, recent: 8}}}}
probe: {{samples: 64}}
"""
QUEUES = ["fifo", "lru", "mru", "clock", "sieve", "slru", "2q", "s3fifo", "arc"]
T1, T2 = "ABCADAEBACDA", "AABCDABEFAGBHA"


def sequences():
    """(capacity, accesses); every one ends with a hit, so that the last miss still makes room."""
    yield 3, T1 + "A"
    yield 4, T2 + "A"
    dice = random.Random(5)
    for capacity in (2, 5, 9):
        units = "ABCDEFGHIJKLMNOP"
        weights = [1 / (i + 1) for i in range(len(units))]
        names = dice.choices(units, weights, k=300)
        yield capacity, "".join(names) + names[-1]


class Tier(program.ProgramTest):
    def import_trace(self, accesses):
        """The accesses as the experts of one request's tokens: a token stores into, and reads, the one page of its expert."""
        rows = [{"req_id": "r", "token_idx": t, "layer": 0, "topk_ids": [ord(unit) - ord("A")], "topk_weights": [1.0]} for t, unit in enumerate(accesses)]
        (self.folder / "log.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
        self.run_ok("trace", "import", "log.jsonl", "-o", "accesses.moekv.h5", "--experts", 16, "--prompt-share", 0)

    def serial(self, accesses, policy, capacity):
        case = {"rule": policy, "capacity": capacity, "accesses": list(accesses)}
        done = subprocess.run([program.PROGRAM, "policy", "evict"], input=json.dumps(case), capture_output=True, text=True, check=True)
        return json.loads(done.stdout)

    def test_queues_hit_as_the_serial_loop_does(self):
        for capacity, accesses in sequences():
            self.import_trace(accesses)
            replays = self.sweep(SETTINGS, {policy: [f"eviction.policy={policy}", f"eviction.budget={{pages: {capacity}}}"] for policy in QUEUES})
            for policy in QUEUES:
                with self.subTest(policy=policy, capacity=capacity):
                    expected = self.serial(accesses, policy, capacity)
                    found = replays[policy].metrics
                    distinct = len(set(accesses))
                    self.assertEqual(found["n_req"], len(accesses))
                    self.assertEqual(found["n_hit"] - distinct, expected["hits"], "a page's first access stores it: a hit of the replay, a miss of the loop")
                    self.assertEqual(found["recalled_pages"], expected["outcome"].count("m") - distinct)
                    self.assertEqual(found["demoted_pages"], len(expected["evictions"]))
                    self.assertEqual(found["hit_host"], found["n_miss"])
            (self.folder / "accesses.moekv.h5").unlink()

    def test_one_scorer_lossy_and_lossless(self):
        (self.folder / "tinymoe.yaml").write_text(TINYMOE)
        kept, digests = {}, {}
        for action in ("drop", "demote"):
            for ranks in (None, 2):
                self.run_ok("run", "tinymoe.yaml", f"eviction.action={action}", "--out", f"{action}.h5", ranks=ranks)
                shown = json.loads(self.run_ok("show", "--json", f"{action}.h5").out)
                (self.folder / f"{action}.h5").unlink()
                self.assertEqual(digests.setdefault(action, shown["digest"]), shown["digest"])
                self.assertEqual(shown["violations"], [])
                kept[action] = {name: shown["metrics"][name]["value"] for name in ("attn_mass_kept_min", "attn_out_err_max", "recalled_bytes", "h2d_bw")}
        self.assertLess(kept["drop"]["attn_mass_kept_min"], 0.99)
        self.assertGreater(kept["demote"]["attn_mass_kept_min"], 1 - 1e-9)
        self.assertLess(kept["demote"]["attn_out_err_max"], 0.01)
        self.assertEqual(kept["drop"]["recalled_bytes"], 0)
        self.assertGreater(kept["demote"]["recalled_bytes"], 0)
        self.assertGreater(kept["demote"]["h2d_bw"], 0)


if __name__ == "__main__":
    unittest.main()
