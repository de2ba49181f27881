"""What is said about merged sweeps: expectations, comparisons, effects; and results that are run again."""
import json
import re
import unittest

import h5py

import program
import sweep_test

REPORT = """
name: judged
base:
  model: tinymoe
  trace: {synthetic: {preset: zipf, n_requests: 12, prompt_tokens: 48, output_tokens: 16}}
  cluster: {ranks: 2}
  placement: {layout: local}
  read: {scope: all}
  page: {slots: 8}
  probe: {samples: 72}
  eviction: {protect: {sinks: 0, recent: 4}}
axes:
  - eviction.policy: [h2o.sum, streaming]
  - eviction.budget: [30%, 60%]
  - cluster.network: [h200-ndr400, host-shm]
expect:
  - {claim: more budget evicts less, metric: evictions, of: {eviction.budget: 60%}, versus: {eviction.budget: 30%}, is: less, by: 10%}
  - {claim: h2o keeps other mass than streaming, metric: attn_mass_kept_mean, of: {eviction.policy: h2o.sum}, versus: {eviction.policy: streaming}, is: different}
  - {claim: the network decides nothing, metric: evictions, of: {cluster.network: h200-ndr400}, versus: {cluster.network: host-shm}, is: equal}
"""


class Reports(sweep_test.SweepFiles):
    def test_merged_sweeps_keep_their_claims_and_settings(self):
        """Two sweeps of one name with a point in common: each claim is judged as it is in its own sweep."""
        base = "base: {model: tinymoe, backend: count, trace: {synthetic: {preset: zipf, n_requests: 4, prompt_tokens: 40, output_tokens: 16}}, page: {slots: 8}, eviction: {policy: lru, budget: 30%, protect: {sinks: 0, recent: 4}}}\n"
        (self.folder / "a").mkdir()
        (self.folder / "b").mkdir()
        (self.folder / "a/sweep.yaml").write_text(base + "axes: [{metrics.per_step: [false, true]}, {page.slots: [8, 16]}]\nset: {cluster.ranks: 4}\nexpect: [{claim: records, metric: evictions, of: {metrics.per_step: true}, versus: {metrics.per_step: false}, is: equal}]\n")
        (self.folder / "b/sweep.yaml").write_text(base + "axes: [{cluster.ranks: [4, 2]}]\nexpect: [{claim: ranks, metric: rank_peak_bytes_max, of: {cluster.ranks: 4}, versus: {cluster.ranks: 2}, is: different}]\n")
        for folder in ("a", "b"):
            self.run_ok("sweep", f"{folder}/sweep.yaml", "--out", f"{folder}.sweep")
        alone = []
        for inputs in (["a.sweep"], ["b.sweep"], ["a.sweep", "b.sweep"]):
            program.run("merge", *inputs, "--out", "all.h5", folder=self.folder)
            alone.append(re.findall("(?m)^(?:holds|FAILS): .*", program.run("report", "all.h5", folder=self.folder).out))
        self.assertEqual([len(lines) for lines in alone], [1, 1, 2])
        self.assertEqual(sorted(alone[0] + alone[1]), sorted(alone[2]))

    def test_equal_files_of_different_points_are_judged_one_by_one(self):
        """The base file changed in between; and results that stand beside a sweep are none of its points."""
        base = "{model: tinymoe, backend: count, trace: {synthetic: {preset: zipf, n_requests: N, prompt_tokens: 40, output_tokens: 16}}, page: {slots: 8}, eviction: {policy: lru, budget: 30%, protect: {sinks: 0, recent: 4}}}\n"
        name = self.write("base: base.yaml\naxes: [{page.slots: [8, 16]}]\nexpect: [{claim: more, metric: evictions, of: {page.slots: 8}, versus: {page.slots: 16}, is: different}]\n")
        for n in ("4", "6"):
            (self.folder / "base.yaml").write_text(base.replace("N", n))
            self.run_ok("sweep", name, "--out", n, "--files", "each")
        said = {}
        for inputs in (["4"], ["6"], ["4", "6"], ["4", *sorted(str(p) for p in (self.folder / "6/points").glob("*.h5"))]):
            self.run_ok("merge", *inputs, "--out", "all.h5")
            said[len(said)] = re.findall("(?m)^(?:holds|FAILS): .*", program.run("report", "all.h5", folder=self.folder).out)
        self.assertEqual(sorted(said[2]), sorted(said[0] + said[1]))
        self.assertEqual(said[3], said[0])

    def test_pairs_stay_within_a_sweep(self):
        """One sweep file with two models: no point is compared with one of the other model, also where its own partner is missing."""
        name = self.write(sweep_test.SWEEP)
        models = {"one": [], "two": ["model=tinymoe"]}
        for folder, override in models.items():
            self.run_ok("sweep", name, *override, "--out", folder, "--only", "0-11")
        self.run_ok("sweep", name, "--out", "one", "--resume", "--only", "12-15")
        comparisons = {}
        for inputs in (["one"], ["two"], ["two", "one"], ["one", "two"]):
            program.run("merge", *inputs, "--out", "all.h5", folder=self.folder)
            report = program.run("report", "all.h5", "--json", "--by", "eviction.policy", "--metric", "evictions", folder=self.folder)
            comparisons[",".join(inputs)] = json.loads(report.out)
        found = {key: sum(c["pairs"] for c in value["comparisons"]) for key, value in comparisons.items()}
        self.assertEqual((found["one"], found["two"], found["one,two"]), (8, 4, 12), found)
        self.assertEqual(comparisons["one,two"], comparisons["two,one"])
        effects = {key: {e["key"]: e["pairs"] for e in value["effects"]} for key, value in comparisons.items()}
        for key in ("eviction.policy", "page.slots"):
            self.assertEqual(effects["one,two"][key], effects["one"][key] + effects["two"][key], effects)

    def sweep_of(self, name, text):
        """Runs a sweep of the small base of REPORT; the folder is NAME.sweep."""
        base = REPORT[REPORT.index("base:"):REPORT.index("axes:")].replace("n_requests: 12", "n_requests: 6").replace("recent: 4}", "recent: 4}, policy: lru, budget: 50%")
        self.write(f"name: {name}\n{base}{text}", f"{name}.yaml")
        self.run_ok("sweep", f"{name}.yaml", "--out", f"{name}.sweep")

    def report_of(self, inputs, *arguments):
        program.run("merge", *inputs, "--out", "all.h5", folder=self.folder)
        done = program.run("report", "all.h5", "--json", *arguments, folder=self.folder)
        self.assertIn(done.code, (0, 1), done)
        return json.loads(done.out)

    def test_a_sweep_is_judged_as_if_it_were_alone(self):
        """Whatever else is merged: other values of an axis, a key that is no axis here, the same value in other words, a point without a result."""
        self.sweep_of("own", "axes: [{placement.layout: [local, token]}, {eviction.policy: [lru, fifo]}, {eviction.budget: [50%, 60%]}]\n"
                             "include: [{label: full, eviction.policy: full, eviction.budget: null}]\nexpect:\n"
                             "  - {claim: reference, metric: hit_ratio, of: {eviction.policy: lru}, versus: {label: full}, is: less}\n"
                             "  - {claim: policies, metric: attn_mass_kept_mean, of: {eviction.policy: fifo}, versus: {eviction.policy: lru}, is: different}\n"
                             "  - {claim: budgets, metric: evictions, of: {eviction.budget: 60%}, versus: {eviction.budget: 50%}, is: less, by: 1%}\n")
        self.sweep_of("layouts", "axes: [{placement.layout: [head, replicated]}]\n")
        self.sweep_of("words", "axes: [{eviction.policy: [lru, streaming]}, {eviction.budget: [0.5, 0.6]}]\nexpect:\n"
                               "  - {claim: streaming, metric: attn_mass_kept_mean, of: {eviction.policy: streaming}, versus: {eviction.policy: lru}, is: different}\n"
                               "  - {claim: shares, metric: evictions, of: {eviction.budget: 0.6}, versus: {eviction.budget: 0.5}, is: less}\n")
        self.sweep_of("maps", "set: {placement.layout: token}\naxes: [{placement.map: [hash, block_cyclic]}]\n")
        names = ("own", "layouts", "words", "maps")
        folders = [f"{name}.sweep" for name in names]
        by_budget = ("--by", "eviction.budget", "--baseline", "50%", "--metric", "evictions")
        for missing in (False, True):
            if missing:  # a point of one sweep alone, whose result is gone
                for path in (self.folder / "own.sweep/points").glob("*"):
                    path.unlink()
                self.run_ok("sweep", "own.yaml", "--out", "own.sweep", "--resume", "--only", "0-6,8")
            alone = [self.report_of([folder]) for folder in folders]
            merged = [self.report_of(inputs, *by_budget) for inputs in (folders, folders[::-1])]
            self.assertEqual(merged[0], merged[1])
            self.assertEqual(sorted(map(str, merged[0]["expect"])), sorted(str(e) for report in alone for e in report["expect"]))
            self.assertTrue(all(e["pairs"] > 1 for e in merged[0]["expect"]), merged[0]["expect"])
            pairs = {key: sum(e["pairs"] for report in alone for e in report["effects"] if e["key"] == key) for key in ("placement.layout", "placement.map", "eviction.budget")}
            pairs["eviction.budget"] -= 1  # both sweeps have local, lru with both budgets
            self.assertEqual({e["key"]: e["pairs"] for e in merged[0]["effects"] if e["key"] in pairs}, pairs)
            self.assertEqual([(c["versus"], c["pairs"]) for c in merged[0]["comparisons"] if c["value"] == "0.6"], [("0.5", 4 if missing else 5)])

    def test_what_is_stated_is_judged_over_the_own_points(self):
        """A sweep whose pairs say the opposite changes no verdict of another."""
        state = "expect: [{claim: fewer, metric: evictions, of: {eviction.budget: 90%}, versus: {eviction.budget: 30%}, is: less, by: 50%}]\n"
        self.sweep_of("stating", "axes: [{eviction.budget: [30%, 90%]}, {page.slots: [8, 16]}]\n" + state)
        self.sweep_of("other", "axes: [{eviction.budget: [30%, 90%]}, {cluster.ranks: [1, 4]}, {trace.synthetic.output_tokens: [8, 12]}]\n")
        alone = self.report_of(["stating.sweep"])["expect"]
        merged = self.report_of(["stating.sweep", "other.sweep"], "--by", "eviction.budget", "--metric", "evictions")
        self.assertEqual(merged["expect"], alone)
        self.assertEqual((alone[0]["pairs"], merged["comparisons"][0]["pairs"]), (2, 6))

    def test_requests_of_different_traces_are_no_pairs(self):
        self.sweep_of("traces", "set: {eviction.policy: h2o.sum, prefill.queries: all}\naxes: [{trace.synthetic.output_tokens: [8, 96]}]\nrepeats: 3\n"
                                "expect: [{claim: longer outputs lose more mass, metric: attn_mass_kept_mean, of: {trace.synthetic.output_tokens: 96}, versus: {trace.synthetic.output_tokens: 8}, is: less}]\n")
        expected = self.report_of(["traces.sweep"])["expect"][0]
        merged = program.moekv_results.load_sweep(self.folder / "all.h5")
        mean = {tokens: sum(value for value, of in zip(merged.metrics["attn_mass_kept_mean"], merged.settings["trace.synthetic.output_tokens"]) if of == tokens) / 3 for tokens in (8, 96)}
        self.assertLess(mean[96], mean[8])
        self.assertAlmostEqual(expected["difference"], mean[96] - mean[8])
        self.assertEqual((expected["holds"], expected["resampled"], expected["different_traces"], expected["different_queries"]), (True, "repeats", 3, 0))
        self.assertIn("3 pairs replay different traces: compared run by run", self.run_ok("report", "all.h5").out)

    def test_pairs_without_probes_are_told(self):
        self.sweep_of("probes", "set: {prefill.queries: all}\naxes: [{eviction.policy: [h2o.sum, streaming]}, {probe.samples: [0, 32]}]\n")
        mass = self.report_of(["probes.sweep"], "--by", "eviction.policy", "--metric", "attn_mass_kept_mean")["comparisons"][0]
        self.assertEqual((mass["pairs"], mass["resampled"], mass["without_value"]), (2, "requests", 1))

    def test_what_is_no_new_observation(self):
        """Repeats of the same seed, and an axis without effect, make no interval narrower."""
        text = REPORT[:REPORT.index("expect:")].replace("n_requests: 12", "n_requests: 6").replace("[h200-ndr400, host-shm]", "[h200-ndr400]")
        found = []
        for change in ("", "repeats: {count: 4, seeds: same}\n", "  - probe.top_k: [1, 2, 3, 4, 5]\n"):
            self.write(text + change)
            self.run_ok("sweep", "small.yaml", "--out", f"{len(found)}.sweep")
            self.run_ok("merge", f"{len(found)}.sweep", "--out", "all.h5")
            report = self.run_ok("report", "all.h5", "--json", "--by", "eviction.policy", "--metric", "attn_mass_kept_mean", "--metric", "attn_mass_kept_min", "--metric", "evictions").out
            found.append([(c["clusters"], c["resampled"], c["verdict"], *(f"{c[value]:.9g}" for value in ("difference", "low", "high"))) for c in json.loads(report)["comparisons"]])
        self.assertEqual(found[0], found[1])
        self.assertEqual(found[0], found[2])

    def test_report(self):
        name = self.write(REPORT, "judged.yaml")
        self.run_ok("sweep", name)
        self.run_ok("merge", "judged.sweep", "--out", "judged.h5")
        text = self.run_ok("report", "judged.h5").out
        self.assertIn("holds: more budget evicts less", text)
        self.assertIn("cluster.network: 0 of", text)
        self.assertIn("NO EFFECT", text)
        report = json.loads(self.run_ok("report", "judged.h5", "--json", "--by", "eviction.policy", "--baseline", "streaming", "--metric", "attn_mass_kept_mean").out)
        effects = {entry["key"]: entry for entry in report["effects"]}
        self.assertEqual([effects[key]["no_effect"] for key in ("eviction.policy", "eviction.budget", "cluster.network")], [False, False, True])
        mass = report["comparisons"][0]
        self.assertEqual((mass["resampled"], mass["pairs"], mass["verdict"]), ("requests", 4, "higher"))
        self.assertLessEqual(mass["low"], mass["difference"])
        self.assertGreaterEqual(mass["high"], mass["difference"])
        self.same_queries(mass)
        self.assertIn("judged: 8 points", self.run_ok("show", "judged.h5").out)
        self.assertIn("holds 8 points, not one", self.refuse("rerun", "judged.h5"))
        self.wrong_expectations(name)

    def same_queries(self, mass):
        """h2o.sum asks with all prompt tokens, streaming with none: fidelity is that of the queries of both."""
        merged = program.moekv_results.load_sweep(self.folder / "judged.h5")
        n_only = n_both = 0
        for a in range(merged.n):
            for b in range(merged.n):
                pair = [merged.settings[key][i] for key in ("eviction.budget", "cluster.network") for i in (a, b)]
                if merged.settings["eviction.policy"][a] != "h2o.sum" or merged.settings["eviction.policy"][b] != "streaming" or pair[0::2] != pair[1::2]:
                    continue
                rows = [{(r, l, p): kept for r, l, p, kept in zip(*(probe[c] for c in ("request", "layer", "position", "attn_mass_kept")))}
                        for probe in (merged.record("probe", point=i) for i in (a, b))]
                both = rows[0].keys() & rows[1].keys()
                n_both, n_only = n_both + len(both), n_only + len(rows[0].keys() ^ rows[1].keys())
        self.assertGreater(n_both, 8)
        self.assertEqual(mass["unmatched"], n_only)
        self.assertGreater(n_only, 0)
        text = self.run_ok("report", "judged.h5", "--by", "eviction.policy", "--baseline", "streaming", "--metric", "attn_mass_kept_mean", "--metric", "hit_ratio").out
        self.assertIn(f"{n_only} probed queries that one side alone measured left out", text)
        self.assertRegex(text, "hit_ratio .*4 pairs answer different numbers of queries: set prefill.queries")

    def wrong_expectations(self, name):
        wrong = REPORT.replace("is: less, by: 10%", "is: greater")
        with h5py.File(self.folder / "judged.h5", "a") as file:
            file.attrs["sweep_yaml"] = wrong
        done = program.run("report", "judged.h5", folder=self.folder)
        self.assertEqual(done.code, 1, done)
        self.assertIn("FAILS: more budget evicts less", done.out)
        for arguments, words in ((("--by", "eviction.policy", "--metric", "evictons"), "did you mean 'evictions'"),
                                 (("--by", "eviction.polcy", "--metric", "evictions"), "known: label, eviction.policy, eviction.budget"),
                                 (("--by", "eviction.policy", "--metric", "evictions", "--baseline", "lru"), "--baseline: no point has eviction.policy=lru")):
            done = program.run("report", "judged.h5", *arguments, folder=self.folder)
            self.assertEqual(done.code, 2, done)
            self.assertIn(words, done.err)
        self.write(REPORT.replace("metric: evictions", "metric: evictons", 1), name)
        self.run_ok("sweep", name, "--extend", "-q")
        self.run_ok("merge", "judged.sweep", "--out", "judged.h5")
        done = program.run("report", "judged.h5", folder=self.folder)
        self.assertEqual(done.code, 2, "the others are judged all the same")
        self.assertIn("holds: the network decides nothing", done.out)
        self.assertIn("is: unknown value 'larger'", self.refuse("sweep", self.write(REPORT.replace("is: less", "is: larger")), "--list"))

    def test_rerun(self):
        name = self.write(sweep_test.LONG + "repeats: 2\n")
        self.run_ok("sweep", name, "--only", "0-1")
        point = json.loads(self.run_ok("sweep", "small.sweep", "--status", "--json").out)[1]["id"]
        text = self.run_ok("rerun", "small.sweep", "--point", point[:6], "--out", "again.h5").out
        self.assertIn("same decisions and counters", text)
        self.assertRegex(text, r"counted +\d+ +0 ")
        with h5py.File(self.folder / "again.h5") as file:
            self.assertEqual((file["point_id"].asstr()[0], file["repeat"][0]), (point, 1), "it is the same point")
        text = self.run_ok("rerun", "again.h5", ranks=2).out
        self.assertIn("decisions equal", text)
        with h5py.File(self.folder / "again.h5", "a") as file:
            file["record/step/n_hit"][0] += 1
            file["digest"][0] = "0" * 32
        done = program.run("rerun", "again.h5", folder=self.folder)
        self.assertEqual(done.code, 1, done)
        self.assertIn("decisions differ", done.out)
        self.assertIn("n_hit", done.out)
        with h5py.File(self.folder / "again.h5", "a") as file:
            file["provenance"].attrs["trace_digest"] = "another"
        self.assertIn("is not the trace of this result", self.refuse("rerun", "again.h5"))


if __name__ == "__main__":
    unittest.main()
