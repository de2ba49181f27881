"""Every router replays the recorded cuts on one, two and four processes, with equal digests; a trace without logits is refused with the reason."""
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


NO_LOGITS = {"recorded", "hash", "rr"}


def routers():
    listed = program.run("list", "routers").out
    return re.findall(r"(?m)^  ([a-z]\w*) ", listed)


class Routers(program.ProgramTest):
    def test_each_replays_alike_on_one_two_and_four_processes(self):
        names = routers()
        self.assertGreaterEqual(len(names), 15, names)
        base = SETTINGS.format(model="tinymoe", path=TRACES / "tinymoe_cut.moekv.h5")
        cases = {name: [f"routing.router={name}"] for name in names}
        alone, two, four = (self.sweep(base, cases, ranks=ranks) for ranks in (None, 2, 4))
        digests = {name: result.digest for name, result in alone.items()}
        for name in names:
            with self.subTest(name):
                self.assertEqual([two[name].digest, four[name].digest], 2 * [digests[name]])
                self.assertGreater(alone[name].metrics["evictions"], 0)
                self.assertEqual("feedback" in alone[name].labels, name in ("cache_aware", "bandit"))
                if name != "recorded":
                    self.assertIn("routing_change_rate", alone[name].metrics)
        self.assertEqual(digests["topk"], digests["token_entropy"], "an entropy of the token changes no choice")
        different = {name: digest for name, digest in digests.items() if name not in ("recorded", "token_entropy")}
        self.assertEqual(len(set(different.values())), len(different), "two routers decide alike")

    def test_recorded_cuts_replay_alike_on_one_two_and_four_processes(self):
        """The recordings have no logits: routers that look at them get pseudo-logits, and the result is labelled so."""
        names = routers()
        cases = {}
        for cut, (model, trace, load) in program.CUTS.items():
            self.run_ok("trace", "import", TRACES / f"{cut}.moekv.h5", "--pseudo-logits", "-o", f"{cut}.pseudo.h5")
            pseudo = trace.replace(str(TRACES / f"{cut}.moekv.h5"), str(self.folder / f"{cut}.pseudo.h5"))
            for name in names:
                cases[f"{cut} {name}"] = [model, trace if name in NO_LOGITS else pseudo, load, "page.slots=8", f"routing.router={name}"]
        base = "".join(line for line in SETTINGS.format(model="", path="").splitlines(keepends=True) if not line.startswith(("model:", "trace:")))
        runs = [self.sweep(base, cases, ranks=ranks) for ranks in (None, 2, 4)]
        for case, alone in runs[0].items():
            with self.subTest(case):
                self.assertEqual([run[case].digest for run in runs], 3 * [alone.digest])
                if case != "dsv2lite_esft_cut gshard":  # two copies a token where the budget is of six
                    self.assertGreater(alone.metrics["evictions"], 0)
                self.assertEqual("pseudo_logits" in alone.labels, case.split()[1] not in NO_LOGITS)

    def test_logits_are_asked_for(self):
        config = self.folder / "routers.yaml"
        config.write_text(SETTINGS.format(model="deepseek-v2-lite", path=TRACES / "dsv2lite_esft_cut.moekv.h5"))
        message = self.refuse("run", config, "trace.layers=[1-4]", "routing.router=load_balance", "--out", "out.h5")
        self.assertIn("'load_balance' chooses from gate logits", message)
        self.assertIn("--pseudo-logits", message)


if __name__ == "__main__":
    unittest.main()
