"""Every router replays the recorded tinymoe cut, on one process and on four, with equal digests; a trace without logits is refused with the reason."""
import json
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
    def write(self, model, trace):
        path = self.folder / "routers.yaml"
        path.write_text(SETTINGS.format(model=model, path=TRACES / trace))
        return path

    def replay(self, config, router, ranks):
        out = self.folder / f"{router}_{ranks}.h5"
        self.run_ok("run", config, f"routing.router={router}", "--out", out, ranks=ranks)
        return json.loads(self.run_ok("show", "--json", out).out)

    def test_each_replays_alike_on_one_and_four_processes(self):
        config, names = self.write("tinymoe", "tinymoe_cut.moekv.h5"), routers()
        self.assertGreaterEqual(len(names), 15, names)
        digests = {}
        for name in names:
            with self.subTest(name):
                alone = self.replay(config, name, None)
                self.assertEqual(alone["digest"], self.replay(config, name, 4)["digest"])
                self.assertEqual(alone["violations"], [])
                self.assertGreater(alone["metrics"]["evictions"]["value"], 0)
                self.assertEqual("feedback" in alone["labels"], name in ("cache_aware", "bandit"))
                digests[name] = alone["digest"]
                if name != "recorded":
                    self.assertIn("routing_change_rate", alone["metrics"])
        self.assertEqual(digests["topk"], digests["token_entropy"], "an entropy of the token changes no choice")
        different = {name: digest for name, digest in digests.items() if name not in ("recorded", "token_entropy")}
        self.assertEqual(len(set(different.values())), len(different), "two routers decide alike")

    def test_logits_are_asked_for(self):
        config = self.write("deepseek-v2-lite", "dsv2lite_esft_cut.moekv.h5")
        message = self.refuse("run", config, "trace.layers=[1-4]", "routing.router=load_balance", "--out", "out.h5")
        self.assertIn("'load_balance' chooses from gate logits", message)
        self.assertIn("--pseudo-logits", message)


if __name__ == "__main__":
    unittest.main()
