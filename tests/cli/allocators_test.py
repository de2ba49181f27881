"""Every budget allocator replays the recorded tinymoe cut on 1, 2 and 4 processes with equal digests, divides the same sum, and says how."""
import re
import unittest

import program
import moekv_results

TRACE = program.SOURCE / "configs/traces/tinymoe_cut.moekv.h5"
SETTINGS = f"""\
model: tinymoe
trace: {{path: {TRACE}, max_requests: 3, max_output_tokens: 24}}
cluster: {{ranks: 4}}
placement: {{layout: token}}
page: {{slots: 8, head_groups: 2}}
eviction: {{policy: h2o.sum, budget: 40%, protect: {{sinks: 2, recent: 4}}}}
batch: {{load: concurrency(3)}}
metrics: {{window_steps: 4}}
probe: {{samples: 8}}
"""
EXTRA = {"pyramid": ["beta=3"], "duo": ["path=gates.csv", "sink=2", "recent=8"], "file": ["path=gates.csv"]}


def allocators():
    return re.findall(r"(?m)^  (\S+) ", program.run("list", "allocators").out)


class Allocators(program.ProgramTest):
    def setUp(self):
        super().setUp()
        (self.folder / "allocators.yaml").write_text(SETTINGS)
        (self.folder / "gates.csv").write_text("0.9,0.2\n0.4,0.3\n0.1,0.8\n0.7,0.6\n")

    def settings(self, name):
        return [f"eviction.allocator={name}", *(f"eviction.allocator.{x}" for x in EXTRA.get(name, []))]

    def replay(self, name, *overrides):
        out = self.folder / "out.h5"
        self.run_ok("run", "allocators.yaml", *self.settings(name), *overrides, "--out", out)
        return moekv_results.load(out)

    def test_each_replays_alike_and_divides_the_same_sum(self):
        names = allocators()
        self.assertEqual(names, ["uniform", "pyramid", "ada", "pooled", "cake", "duo", "file"])
        digests, sums = {}, {}
        cases = {name: self.settings(name) for name in names}
        shared = [self.sweep(SETTINGS, cases, ranks=n) for n in (2, 4)]
        for name in names:
            with self.subTest(name):
                alone = self.replay(name)
                self.assertEqual({results[name].digest for results in shared}, {alone.digest})
                self.assertEqual(alone.violations, [])
                self.assertGreater(alone.metrics["evictions"].value, 0)
                self.assertNotIn("not_exercised", alone.labels)
                self.assertEqual(alone.metrics["allocations"].value > 0, name in ("ada", "pooled", "cake"))
                rows = alone.record("allocation")
                digests[name] = alone.digest
                sums[name] = {step: rows["budget_total"][rows["first_step"] == step].sum() for step in sorted(set(rows["first_step"]))}
                uneven = any(len(set(rows["budget_total"][rows["first_step"] == step])) > 1 for step in sums[name])
                self.assertEqual(uneven, name != "uniform")
                self.assertTrue((rows["budget_min"] * rows["lists"] <= rows["budget_total"]).all())
                self.assertTrue((rows["resident_total"] <= rows["resident_max"] * rows["lists"]).all())
        self.assertEqual(len(set(digests.values())), len(names), digests)
        for name, sum_of in sums.items():
            self.assertEqual(sum_of, sums["uniform"], name)

    def test_what_never_acts_is_labelled(self):
        self.assertIn("not_exercised", self.replay("ada", "eviction.budget={tokens: 100000}").labels)

    def test_parameters_are_written_and_read_back(self):
        run = self.replay("ada", "eviction.allocator.alpha=0.75")
        self.assertEqual((run.params["eviction.allocator.name"], float(run.params["eviction.allocator.alpha"])), ("ada", 0.75))


if __name__ == "__main__":
    unittest.main()
