"""Every router replays the recorded tinymoe cut, on one process and on four, with equal digests; a trace without logits is refused with the reason."""
import re
import unittest

import program

TRACES = program.SOURCE / "configs/traces"
SETTINGS = """\
model: {model}
trace: {{path: {path}, layers: [0-3], max_output_tokens: 40}}
cluster: {{ranks: 4}}
placement: {{layout: expert}}
eviction: {{policy: lru, budget: 40%, protect: {{sinks: 2, recent: 8}}}}
batch: {{load: concurrency(4)}}
backend: count
"""


def routers():
    listed = program.run("list", "routers").out
    return re.findall(r"(?m)^  ([a-z]\w*) ", listed)


class Routers(program.ProgramTest):
    def test_each_replays_alike_on_one_and_four_processes(self):
        names = routers()
        self.assertGreaterEqual(len(names), 15, names)
        base = SETTINGS.format(model="tinymoe", path=TRACES / "tinymoe_cut.moekv.h5")
        cases = {name: [f"routing.router={name}"] for name in names}
        alone, four = self.sweep(base, cases), self.sweep(base, cases, ranks=4)
        digests = {name: result.digest for name, result in alone.items()}
        for name in names:
            with self.subTest(name):
                self.assertEqual(digests[name], four[name].digest)
                self.assertGreater(alone[name].metrics["evictions"], 0)
                self.assertEqual("feedback" in alone[name].labels, name in ("cache_aware", "bandit"))
                if name != "recorded":
                    self.assertIn("routing_change_rate", alone[name].metrics)
        self.assertEqual(digests["topk"], digests["token_entropy"], "an entropy of the token changes no choice")
        different = {name: digest for name, digest in digests.items() if name not in ("recorded", "token_entropy")}
        self.assertEqual(len(set(different.values())), len(different), "two routers decide alike")

    def test_logits_are_asked_for(self):
        config = self.folder / "routers.yaml"
        config.write_text(SETTINGS.format(model="deepseek-v2-lite", path=TRACES / "dsv2lite_esft_cut.moekv.h5"))
        message = self.refuse("run", config, "trace.layers=[1-4]", "routing.router=load_balance", "--out", "out.h5")
        self.assertIn("'load_balance' chooses from gate logits", message)
        self.assertIn("--pseudo-logits", message)


if __name__ == "__main__":
    unittest.main()
