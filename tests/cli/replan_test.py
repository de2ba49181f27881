"""A run whose plan of experts is renewed: the same decisions on one, two and four processes and on both backends, its price in the result."""
import json
import unittest

import program

CONFIG = program.SOURCE / "configs/examples/eplb_replan.yaml"
TINYMOE = ["model=tinymoe", f"trace.path={program.SOURCE}/configs/traces/tinymoe_cut.moekv.h5", "trace.layers=[0-3]", "placement.replicas=12"]


class Replan(program.ProgramTest):
    def replay(self, *overrides, ranks=None):
        out = self.folder / "out.h5"
        self.run_ok("run", CONFIG, *overrides, "--out", out, ranks=ranks)
        return json.loads(self.run_ok("show", "--json", out).out)

    def test_processes_and_backends_decide_alike(self):
        settings = [*TINYMOE, "eviction.policy=lru", "eviction.budget=50%", "eviction.protect={sinks: 2, recent: 8}"]
        alone = self.replay(*settings)
        self.assertEqual(alone["violations"], [])
        self.assertNotIn("feedback", alone["labels"], "no decision of the router reads the cache")
        for ranks in (2, 4):
            self.assertEqual(self.replay(*settings, ranks=ranks)["digest"], alone["digest"])
        self.assertEqual(self.replay(*settings, "backend=host", ranks=4)["digest"], alone["digest"])
        self.assertNotEqual(self.replay(*settings, "placement.replan_every_steps=9")["digest"], alone["digest"])

    def test_the_price_is_in_the_result(self):
        metrics = {name: m["value"] for name, m in self.replay()["metrics"].items()}
        for name in ("replans", "pages_moved", "entries_moved", "bytes_moved", "wire_pages", "t_replan", "t_replan_model", "plan_load_mean", "shadow_stores",
                     "shadow_saved_bytes", "shadow_weight_bytes"):
            self.assertGreater(metrics[name], 0, name)
        self.assertEqual(metrics["pages_moved"], metrics["pages_landed"])
        self.assertLess(metrics["plan_imbalance_after"], metrics["plan_imbalance_before"])
        self.assertLessEqual(metrics["node_fanout"], metrics["fanout"])
        self.assertLessEqual(metrics["nodes_per_token"], 2)
        once = {name: m["value"] for name, m in self.replay("placement.replan_every_steps=0", "placement.load=trace", "placement.window_steps=0",
                                                            "placement.shadow=none")["metrics"].items()}
        self.assertEqual(once["pages_moved"] + once["wire_pages"] + once["replans"] + once["shadow_plans"], 0)

    def test_attention_of_tinymoe_is_dense(self):
        result = self.replay(*TINYMOE, "backend=host", "read.scope=all", "probe.samples=400", "placement.replan_every_steps=5",
                             "payload.element=fp32")
        self.assertGreater(result["metrics"]["pages_moved"]["value"], 0)
        self.assertLess(result["metrics"]["attn_out_err_max"]["value"], 1e-5)


if __name__ == "__main__":
    unittest.main()
