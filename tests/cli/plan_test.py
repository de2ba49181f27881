"""moekv plan: a table and JSON that agree, and points that can never fit are refused."""
import json
import unittest

import program

import moekv_results  # noqa: E402, on the path that program sets

CONFIG = """\
name: planned
model: mixtral-8x7b
trace:
  synthetic: {preset: uniform, n_requests: 6, prompt_tokens: 100, output_tokens: 50}
  layers: [0-3]
cluster: {ranks: 4}
placement: {layout: expert}
"""


class Plan(program.ProgramTest):
    def setUp(self):
        super().setUp()
        (self.folder / "plan.yaml").write_text(CONFIG)

    def plan(self, *overrides):
        return json.loads(self.run_ok("plan", "plan.yaml", *overrides, "--json").out)

    def test_bytes_of_local_layout_by_hand(self):
        plan = self.plan("placement.layout=local", "cluster.ranks=1", "batch.load=concurrency(6)", "page.slots=64")
        # 8 KV heads x 128 channels x K and V x 2 bytes; the requests end together at 150 tokens, that is 3 pages of 64 slots in 4 layers
        self.assertEqual(plan["rank_page_bytes"], [6 * 4 * 3 * 64 * 8 * 128 * 2 * 2])
        self.assertEqual(plan["tokens"], 6 * 150)
        self.assertEqual(plan["traffic_total"]["wire_bytes"], 0)

    def test_expert_layout_moves_and_holds_more(self):
        expert, local = self.plan(), self.plan("placement.layout=local")
        self.assertGreater(sum(expert["rank_page_bytes"]), 1.8 * sum(local["rank_page_bytes"]))
        # two copies of each token, three quarters of them elsewhere
        self.assertAlmostEqual(expert["traffic_total"]["kv_bytes"], 900 * 4 * 2 * 0.75 * 8 * 128 * 2 * 2, delta=1)
        self.assertGreater(expert["traffic_per_decode_step"]["wire_bytes"], 0)

    def test_results_keep_the_prediction_beside_what_was_counted(self):
        exact = ("kv_peak_bytes", "rank_peak_bytes_max", "bytes_wire", "bytes_logical", "wire_kv", "wire_q", "wire_partial", "wire_lse")
        (self.folder / "sweep.yaml").write_text("base: plan.yaml\nset: {backend: count}\naxes:\n  - placement.layout: [local, token, head, expert]\n")
        self.run_ok("sweep", "sweep.yaml", "--out", "plans", "-q")
        self.run_ok("merge", "plans", "--out", "plans.h5")
        sweep = moekv_results.load_sweep(self.folder / "plans.h5")
        for name in exact:
            with self.subTest(name):
                counted, predicted = sweep.metrics[name], sweep.models[name]
                self.assertEqual(list(counted[:3]), list(predicted[:3]))  # expert: an expectation
                self.assertLessEqual(abs(predicted[3] - counted[3]), 0.1 * counted[3])
        self.assertGreater(sweep.metrics["bytes_wire"][3], 0)
        self.run_ok("run", "plan.yaml", "backend=count", "metrics.warmup_steps=2", "--out", "warm.h5")
        warm = moekv_results.load(self.folder / "warm.h5").metrics
        self.assertIsNone(warm["bytes_wire"].model, "a plan counts the warm-up too")
        self.assertGreater(warm["kv_peak_bytes"].model, 0)

    def test_table_names_the_paper_and_writes_nothing(self):
        before = self.listing()
        text = self.run_ok("plan", "plan.yaml").out
        self.assertIn("shown, not trusted", text)
        self.assertIn("page blocks", text)
        self.assertEqual(self.listing(), before)

    def test_a_point_that_can_never_fit_is_refused(self):
        done = program.run("plan", "plan.yaml", "memory.shard_bytes=500000", folder=self.folder)
        self.assertEqual(done.code, 1, done)
        self.assertIn("memory.shard_bytes", done.err)
        self.assertIn("never", done.err)

    def test_bad_input(self):
        self.assertIn("no such file", self.refuse("plan", "absent.yaml"))
        self.refuse("plan", "plan.yaml", "cluster.rnaks=4")


if __name__ == "__main__":
    unittest.main()
