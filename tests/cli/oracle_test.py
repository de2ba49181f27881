"""The access log of a run, moekv oracle, and the export for libCacheSim, as a user runs them."""
import json
import math
import struct
import subprocess
import unittest

import h5py

import program
import moekv_results
import page_caches

TRACE = program.SOURCE / "configs/traces/tinymoe_cut.moekv.h5"
SETTINGS = f"""\
model: tinymoe
trace: {{path: {TRACE}, layers: [0-1], max_requests: 3, max_output_tokens: 24}}
cluster: {{ranks: 4}}
placement: {{layout: expert}}
read: {{scope: routed}}
page: {{slots: 8}}
eviction: {{policy: lru, budget: 40%, protect: {{sinks: 0, recent: 4}}}}
batch: {{load: concurrency(4)}}
backend: count
probe: {{samples: 0}}
"""
ATTENTION = ["placement.layout=local", "read.scope=all", "backend=host", "eviction.policy=h2o.sum"]


class Oracle(program.ProgramTest):
    def setUp(self):
        super().setUp()
        (self.folder / "run.yaml").write_text(SETTINGS, encoding="utf-8")

    def log(self, *overrides, ranks=None, name="log", options=()):
        self.run_ok("run", "run.yaml", *overrides, "--out", f"{name}.run.h5", "--access-log", f"{name}.h5", "--quiet", *options, ranks=ranks,
                    OMP_NUM_THREADS="1")
        return self.folder / f"{name}.h5"

    def columns(self, path):
        with h5py.File(path) as file:
            return {f"{group}/{name}": data[:].tolist() for group in file for name, data in file[group].items()}

    def test_log_is_the_same_for_any_number_of_processes(self):
        one = self.columns(self.log(name="one"))
        self.assertGreater(len(one["event/step"]), 100)
        self.assertEqual(set(one["event/kind"]), set(range(6)))
        self.assertEqual(one, self.columns(self.log(ranks=4, name="four")))

    def test_attention_rows_are_the_same_for_any_number_of_processes(self):
        rows = ["--attention-rows", "3"]
        one = self.columns(self.log(*ATTENTION, name="one", options=rows))
        self.assertEqual(len(set(zip(one["attention/request"], one["attention/layer"]))), 3)
        four = self.columns(self.log(*ATTENTION, name="four", options=rows, ranks=4))
        self.assertEqual(one, four)

    def test_a_logged_run_decides_the_same(self):
        self.log()
        self.run_ok("run", "run.yaml", "--out", "plain.h5", "--quiet")
        self.run_ok("diff", "--decisions", "plain.h5", "log.run.h5")

    def test_bounds_are_stored_beside_the_result(self):
        self.log()
        before = moekv_results.load(self.folder / "log.run.h5")
        self.run_ok("oracle", "log.h5", "--result", "log.run.h5", "--out", "bounded.h5")
        run = moekv_results.load(self.folder / "bounded.h5")
        value = {name: metric.value for name, metric in run.metrics.items()}
        self.assertEqual(value["miss_compulsory"] + value["miss_capacity"] + value["miss_placement"] + value["miss_policy"], value["n_miss"])
        self.assertEqual(value["miss_placement"], value["miss_placement_lost"] - value["miss_placement_gained"])
        self.assertGreater(value["n_miss"], 0)
        bound = run.record("bound")
        self.assertEqual(bound["shard"].tolist(), [0, 1, 2, 3, -1])
        self.assertEqual(bound["n_miss"][:4].sum(), value["n_miss"])
        self.assertEqual(bound["n_req"][4], value["n_req"])
        self.assertTrue((bound["opt_bypass_miss"] <= bound["opt_forced_miss"]).all())
        self.assertTrue((bound["opt_forced_miss"] <= bound["lru_miss"]).all())
        self.assertAlmostEqual(value["opt_miss_ratio"], bound["opt_bypass_miss"][:4].sum() / value["n_req"])
        for name, metric in before.metrics.items():  # nothing of the run is lost or changed
            self.assertEqual(str(run.metrics[name]), str(metric), name)
        self.assertEqual((run.digest, run.params, run.status), (before.digest, before.params, before.status))
        self.assertIn("misses of the offline optimum", self.run_ok("show", "bounded.h5").out)
        self.run_ok("diff", "--decisions", "bounded.h5", "log.run.h5")
        self.assertIn("same decisions and counters", self.run_ok("rerun", "bounded.h5").out)
        # A second time, in place: the same numbers, none twice.
        self.run_ok("oracle", "log.h5", "--result", "bounded.h5")
        again = moekv_results.load(self.folder / "bounded.h5")
        self.assertEqual({n: str(m) for n, m in again.metrics.items()}, {n: str(m) for n, m in run.metrics.items()})
        printed = json.loads(self.run_ok("oracle", "log.h5", "--json").out)
        self.assertEqual(printed["metrics"]["opt_miss_ratio"]["value"], value["opt_miss_ratio"])
        self.assertEqual(printed["records"]["bound"]["shard"], [0, 1, 2, 3, -1])

    def test_pages_that_come_back(self):
        demote = ["eviction.action=demote", "eviction.policy=2q"]
        one = self.columns(self.log(*demote, name="one"))
        self.assertEqual(set(one["event/kind"]), set(range(7)))
        self.assertEqual(one, self.columns(self.log(*demote, ranks=4, name="four")))
        run = moekv_results.load(self.folder / "one.run.h5")
        self.assertEqual(sum(n for kind, n in zip(one["event/kind"], one["event/count"]) if kind == 6), run.record("step")["recalled_pages"].sum())
        self.run_ok("oracle", "one.h5", "--result", "one.run.h5")
        value = {name: metric.value for name, metric in moekv_results.load(self.folder / "one.run.h5").metrics.items()}
        self.assertEqual(value["miss_capacity"] + value["miss_placement"] + value["miss_policy"], value["n_miss"])
        self.assertLess(0, value["opt_miss_ratio"])
        self.assertLess(value["opt_miss_ratio"], 1 - value["hit_ratio"])
        self.run_ok("trace", "export", "one.h5", "--format", "oracleGeneral", "--out", "pages.bin")
        self.assertEqual((self.folder / "pages.bin").stat().st_size, 24 * value["n_req"])

    def test_attention_oracles(self):
        self.log(*ATTENTION, options=["--attention-rows", "4"])
        printed = json.loads(self.run_ok("oracle", "log.h5", "--result", "log.run.h5", "--json").out)["metrics"]
        lost = [printed[name]["value"] for name in ("orc_select_lost", "orc_mass_lost", "orc_greedy_lost", "attn_lost")]
        self.assertLessEqual(lost[0], lost[1])
        self.assertLessEqual(lost[1], min(lost[2:]) + 1e-6)
        self.assertGreater(lost[3], 0)
        self.assertEqual(len(moekv_results.load(self.folder / "log.run.h5").record("mass_bound")["request"]), 4)
        self.assertIn("backend count", self.refuse("run", "run.yaml", "--out", "x.h5", "--access-log", "x.log.h5", "--attention-rows", "1"))
        self.assertIn("layout", self.refuse("run", "run.yaml", "backend=host", "--access-log", "x.log.h5", "--attention-rows", "1"))

    def test_refusals(self):
        self.log()
        self.log("seed=2", name="other")
        self.assertIn("not the result", self.refuse("oracle", "log.h5", "--result", "other.run.h5"))
        self.assertIn("not an access log", self.refuse("oracle", "log.run.h5"))
        self.assertIn("absent.h5", self.refuse("oracle", "absent.h5"))
        self.log("eviction.policy=full", "eviction.budget=null", name="full")
        self.assertIn("budget", self.refuse("oracle", "full.h5"))
        self.log("eviction.access=mass", "backend=host", "read.scope=all", name="mass")
        self.assertIn("feedback", self.refuse("oracle", "mass.h5"))
        self.log("routing.router=cache_aware", name="router")
        self.assertIn("router reads cache state", self.refuse("oracle", "router.h5"))
        data = (self.folder / "log.h5").read_bytes()
        (self.folder / "cut.h5").write_bytes(data[: len(data) // 2])
        self.assertIn("cut.h5", self.refuse("oracle", "cut.h5"))
        with h5py.File(self.folder / "log.h5", "r+") as file:
            kinds = file["event/kind"][:]
            first = int((kinds == 3).argmax())
            file["event/kind"][first] = 4  # a hit becomes a miss
        wrong = program.run("oracle", "log.h5", folder=self.folder)
        self.assertEqual((wrong.code, wrong.out), (1, ""), wrong)
        self.assertIn("contradict", wrong.err)

    def test_export_equals_policy_evict_and_plain_simulators(self):
        self.log()
        self.run_ok("trace", "export", "log.h5", "--format", "oracleGeneral", "--out", "pages.bin")
        records = list(struct.iter_unpack("<IQIq", (self.folder / "pages.bin").read_bytes()))
        pages, following = [page for _, page, _, _ in records], [later for *_, later in records]
        run = moekv_results.load(self.folder / "log.run.h5")
        self.assertEqual(len(pages), run.metrics["n_req"].value)
        self.assertEqual(sorted(step for step, *_ in records), [step for step, *_ in records])
        self.assertEqual({size for _, _, size, _ in records}, {1})
        later = {}
        for i in reversed(range(len(pages))):
            self.assertEqual(following[i], later.get(pages[i], -1))
            later[pages[i]] = i + 1
        n_pages = len(set(pages))
        never_if = [math.inf if n < 0 else n for n in following]
        hits_of = {name: (lambda c, f=f: f(pages, c)) for name, f in page_caches.ONLINE.items()}
        hits_of["s3fifo libcachesim"] = lambda c: page_caches.s3fifo(pages, c, True)
        hits_of["opt.forced"] = lambda c: page_caches.belady(pages, never_if, False, c)
        hits_of["opt.bypass"] = lambda c: page_caches.belady(pages, never_if, True, c)
        capacities = [max(1, n_pages // 16), n_pages // 4, n_pages // 2]
        cases = [{"rule": name, "capacity": c, "accesses": pages} for name in hits_of for c in capacities]
        form = [{**case, "rule": "s3fifo", "params": {"form": "libcachesim"}} if " " in case["rule"] else case for case in cases]
        done = subprocess.run([program.PROGRAM, "policy", "evict"], input=json.dumps(form), capture_output=True, text=True, timeout=program.LIMIT_S, check=True)
        seen = set()
        for case, decision in zip(cases, json.loads(done.stdout)):
            with self.subTest(case["rule"], capacity=case["capacity"]):
                self.assertEqual(decision["hits"], hits_of[case["rule"]](case["capacity"]))
                seen.add(decision["hits"])
        self.assertGreater(len(seen), 8, "the sequence tells the rules apart")

    def test_export_of_one_shard_and_refusals(self):
        self.log()
        total = 0
        for shard in range(4):
            self.run_ok("trace", "export", "log.h5", "--format", "oracleGeneral", "--shard", shard, "--out", "part.bin")
            total += (self.folder / "part.bin").stat().st_size
        self.run_ok("trace", "export", "log.h5", "--format", "oracleGeneral", "--out", "pages.bin")
        self.assertEqual(total, (self.folder / "pages.bin").stat().st_size)
        self.assertIn("no lookup", self.refuse("trace", "export", "log.h5", "--format", "oracleGeneral", "--shard", "9", "--out", "x.bin"))
        self.assertIn("--out", self.refuse("trace", "export", "log.h5", "--format", "oracleGeneral"))
        self.assertIn("not an access log", self.refuse("trace", "export", TRACE, "--format", "oracleGeneral", "--out", "x.bin"))


if __name__ == "__main__":
    unittest.main()
