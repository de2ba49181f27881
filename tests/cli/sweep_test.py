"""moekv sweep, merge and export as a user meets them: grids, bad points, parts, kills, resuming, and what every reader sees of a merged file."""
import csv
import functools
import io
import json
import os
import random
import re
import shutil
import signal
import subprocess
import tempfile
import time
import unittest
from pathlib import Path

import h5py
import numpy

import program
import moekv_results

# A point takes some milliseconds, some hundredths or some tenths of a second.
SMALL, MIDDLE, LARGE = (f"n_requests: {n}, prompt_tokens: {p}, output_tokens: {o}" for n, p, o in ((6, 96, 24), (12, 192, 48), (16, 384, 96)))
SWEEP = """
name: small
base:
  model: deepseek-v2-lite
  backend: count
  trace: {synthetic: {preset: uniform, SIZE}, layers: [1-2]}
  cluster: {ranks: 4}
  placement: {layout: expert}
  eviction: {protect: {sinks: 0, recent: 4}}
axes:
  - eviction.policy: [lru, fifo, clock]
  - eviction.budget: {range: {from: 20, to: 80, step: 20, unit: "%"}}
  - page.slots: [8, 16]
""".replace("SIZE", SMALL)
# Two points of the six take long enough to be told to stop.
LONG = SWEEP.replace("[lru, fifo, clock]", "[lru, fifo]").replace("{range: {from: 20, to: 80, step: 20, unit: \"%\"}}", "[30%]")
EXPECT = "expect:\n  - {claim: smaller, metric: evictions, of: {page.slots: 8}, versus: {page.slots: 16}, is: less}\n"
POINTS = 24
# Equal in every run of one specification, whatever the machine: all but times.
COUNTED = ("counted", "modelled")


def counted_columns(path):
    """Every counted or modelled column of a merged file, and its digests. A file that did not change is read once."""
    return read_columns(path, path.stat().st_mtime_ns)


@functools.cache
def read_columns(path, _):
    columns = {}

    def visit(name, node):
        if isinstance(node, h5py.Dataset) and node.attrs.get("claim_class") in COUNTED and not name.endswith("buffer_bytes"):
            columns[name] = node[:] if node.dtype.kind != "O" else node.asstr()[:]

    with h5py.File(path) as file:
        file.visititems(visit)
        for name in ("point_id", "digest", "label", "status"):
            columns[name] = file[name].asstr()[:] if file[name].dtype.kind == "O" else file[name][:]
    return columns


class SweepFiles(program.ProgramTest):
    def write(self, text=SWEEP, name="small.yaml"):
        (self.folder / name).write_text(text)
        return name


class Sweeps(SweepFiles):
    @classmethod
    def whole(cls):
        """The merged file of SWEEP in one go, which several tests compare with, made when the first of them asks."""
        if "whole_" not in cls.__dict__:
            holder = tempfile.TemporaryDirectory()
            cls.addClassCleanup(holder.cleanup)
            folder = Path(holder.name)
            (folder / "small.yaml").write_text(SWEEP)
            for arguments in (("sweep", "small.yaml", "--out", "whole"), ("merge", "whole", "--out", "whole.h5")):
                done = program.run(*arguments, folder=folder)
                if done.code != 0:
                    raise AssertionError(done)
            cls.whole_ = folder / "whole.h5"
        return cls.whole_

    def assert_same_numbers(self, a, b):
        one, two = counted_columns(self.folder / a), counted_columns(self.folder / b)
        self.assertGreater(len(one), 100)
        self.assertEqual(one.keys(), two.keys())
        for name, values in one.items():
            numpy.testing.assert_array_equal(values, two[name], name)

    def finished_points(self, folder):
        """How many points the journals of a sweep call ok."""
        return sum(path.read_text().count('"event":"ok"') for path in (self.folder / folder).glob("journal/*.jsonl"))

    def merged(self, *folders, out="all.h5", code=0):
        done = program.run("merge", *folders, "--out", out, folder=self.folder)
        self.assertEqual(done.code, code, done)
        return moekv_results.load_sweep(self.folder / out)

    def test_whole_sweep_and_its_readers(self):
        name = self.write()
        listed = self.run_ok("sweep", name, "--list").out
        self.assertIn(f"{POINTS} points", listed)
        self.assertIn("eviction.policy=lru eviction.budget=20% page.slots=8", listed)
        plans = json.loads(self.run_ok("sweep", name, "--dry-run", "--json").out)
        self.assertEqual(len(plans), POINTS)
        self.assertTrue(all(p["rank_bytes"] > 0 and p["model_ns"] > 0 and p["refusal"] == "" for p in plans))
        self.assertEqual(self.listing(), [name], "looking leaves nothing behind")
        done = self.run_ok("sweep", name)
        self.assertIn("24 of 24 points: 24 ok, 0 failed", done.out)
        self.assertEqual([path.name for path in self.folder.glob("small.sweep/points/*")], ["0of1.bundle"])  # short points share a file
        self.assertIn("24 ok, 0 failed", self.run_ok("sweep", "small.sweep", "--status").out)
        sweep = self.merged("small.sweep")
        self.assertEqual((sweep.n, sweep.ok.sum(), sweep.attrs["status"]), (POINTS, POINTS, "complete"))
        self.assertEqual(list(sweep.settings), ["eviction.policy", "eviction.budget", "page.slots"])
        self.assertEqual(list(sweep.settings["eviction.budget"][:4]), ["20%", "20%", "40%", "40%"])
        mask = sweep.select(**{"eviction.policy": "fifo", "page.slots": 8})
        self.assertEqual(mask.sum(), 4)
        evicted = sweep.metrics["evictions"][mask]
        self.assertTrue((numpy.diff(evicted) < 0).all(), "a larger budget evicts less")
        self.assertEqual(sweep.record("request", point=3)["request"].size, 6)
        self.one_point_is_the_single_run(sweep)
        self.other_readers(sweep)

    def one_point_is_the_single_run(self, sweep):
        index = 5
        config = self.folder / "one.yaml"
        config.write_text(sweep.point_facts["config_resolved_yaml"][index])
        self.run_ok("run", config, "--out", "one.h5")
        run = moekv_results.load(self.folder / "one.h5")
        self.assertEqual(run.digest, sweep.digests[index])
        self.assertEqual(run.metrics["n_hit"].value if "n_hit" in run.metrics else 0, sweep.metrics["n_hit"][index] if "n_hit" in sweep.metrics else 0)
        numpy.testing.assert_array_equal(run.record("step")["n_req"], sweep.record("step", point=index)["n_req"])

    def other_readers(self, sweep):
        rows = list(csv.DictReader(io.StringIO(self.run_ok("export", "all.h5").out)))
        self.assertEqual([row["point_id"] for row in rows], list(sweep.point_id))
        self.assertEqual(float(rows[7]["tokens"]), sweep.metrics["tokens"][7])
        table = json.loads(self.run_ok("export", "all.h5", "--json", "--params").out)
        self.assertEqual(table[7]["metric"]["tokens"], sweep.metrics["tokens"][7])
        self.assertEqual(table[7]["param"]["cluster.ranks"], 4)
        steps = list(csv.DictReader(io.StringIO(self.run_ok("export", "all.h5", "--record", "step").out)))
        self.assertEqual(sum(int(row["point_index"]) == 3 for row in steps), sweep.record("step", point=3)["n_req"].size)
        self.assertIn("did you mean 'step'", self.refuse("export", "all.h5", "--record", "stp"))
        try:
            import xarray
        except ImportError:
            return
        # Not /metric, whose 500 variables take h5netcdf seven seconds: ncdump opens them below.
        frame = xarray.merge([xarray.open_dataset(self.folder / "all.h5", group=g, engine="h5netcdf") for g in ("param", "model")]).to_dataframe()
        self.assertEqual(len(frame), POINTS)
        self.assertEqual(list(frame["bytes_wire"]), list(sweep.models["bytes_wire"]))
        self.assertEqual(frame["eviction.policy"].nunique(), 3)
        with xarray.open_dataset(self.folder / "all.h5", engine="h5netcdf") as root, \
                xarray.open_dataset(self.folder / "all.h5", group="record/step", engine="h5netcdf") as steps:
            self.assertEqual(list(root.point_id.values), list(sweep.point_id))
            self.assertEqual(int(steps.point_index.max()), POINTS - 1)
        if shutil.which("ncdump"):
            header = subprocess.run(["ncdump", "-h", str(self.folder / "all.h5")], capture_output=True, text=True, check=True)
            self.assertIn("point = 24", header.stdout)
            metrics = header.stdout.partition("group: metric {")[2].partition("} // group metric")[0]
            self.assertEqual(set(re.findall(r"(?m)^\s+\w+ (\S+)\(point\) ;$", metrics)), set(sweep.metrics))

    def test_parts_equal_the_whole(self):
        name = self.write()
        for part in range(4):
            self.run_ok("sweep", name, "--out", "parts", "--resume", "--part", f"{part}/4")
        for part in range(2):
            self.run_ok("sweep", name, "--out", f"apart{part}", "--part", f"{part}/2")
        whole = moekv_results.load_sweep(self.whole())
        self.merged("parts", out="parts.h5")
        self.merged("apart1", "apart0", out="apart.h5")
        self.assert_same_numbers(self.whole(), "parts.h5")
        self.assert_same_numbers(self.whole(), "apart.h5")
        self.run_ok("sweep", name, "--out", "two", "--only", "0,7,23", ranks=2)
        two = self.merged("two", out="two.h5", code=1)
        self.assertEqual(list(two.digests[two.ok]), list(whole.digests[[0, 7, 23]]))
        self.assertEqual(list(two.metrics["evictions"][two.ok]), list(whole.metrics["evictions"][[0, 7, 23]]))

    def test_killed_and_resumed(self):
        name = self.write(SWEEP.replace(SMALL, MIDDLE))
        self.kill_and_resume(name, kills=3)
        for folder in ("cut", "uncut"):
            self.assertIn("24 ok, 0 failed", self.run_ok("sweep", name, "--out", folder, "--resume").out)
            self.merged(folder, out=folder + ".h5")
        self.assert_same_numbers("uncut.h5", "cut.h5")
        self.assertFalse(list(self.folder.rglob("*.tmp")), "leftovers of killed points are gone")

    def kill_and_resume(self, name, kills):
        """Starts the sweep again and again into "cut" and kills it at a random moment, each time with more points done than before."""
        moments = random.Random(11)
        too_late = kill = 0
        while kill < kills:
            job = program.start(["sweep", name, "--out", "cut", "--resume"], folder=self.folder)
            before = self.finished_points("cut")
            deadline = time.monotonic() + 30
            while self.finished_points("cut") < before + 2 and job.poll() is None and time.monotonic() < deadline:
                time.sleep(0.002)
            time.sleep(moments.random() * 0.05)
            job.send_signal(signal.SIGKILL)
            done = program.finish(job)
            if done.code == 0:  # this test had to wait for its turn, on a machine with few cores: from the start
                too_late, kill = too_late + 1, 0
                self.assertLess(too_late, 5, "the kills come too late to test anything")
                shutil.rmtree(self.folder / "cut")
                continue
            self.assertEqual(done.code, -signal.SIGKILL, done)
            self.merged("cut", out="some.h5", code=1)  # what stands there is complete
            kill += 1

    @unittest.skipUnless("MOEKV_LARGE_SWEEP" in os.environ, "240 points take a minute: MOEKV_LARGE_SWEEP=1")
    def test_large(self):
        """240 points and one that must fail: whole, killed ten times and resumed, and in four parts."""
        name = self.write(SWEEP.replace("to: 80, step: 20", "to: 59, step: 1") + "include:\n  - {label: never, memory.shard_bytes: 40KiB}\n")
        folders = ("whole", "cut", *(f"part{i}" for i in range(4)))
        self.kill_and_resume(name, kills=10)
        for folder, *part in (*((f,) for f in folders[:2]), *((f, "--part", f"{i}/4") for i, f in enumerate(folders[2:]))):
            done = program.run("sweep", name, "--out", folder, "--resume", *part, folder=self.folder)
            if not part:
                self.assertEqual(done.code, 1, done)
                self.assertIn("240 ok, 1 failed", done.out)
        for out, merged in (("whole", folders[:1]), ("cut", folders[1:2]), ("parts", folders[2:])):
            sweep = self.merged(*merged, out=out + ".h5", code=1)
            self.assertEqual((sweep.n, sweep.ok.sum(), sweep.status[-1]), (241, 240, "failed"))
        self.assert_same_numbers("whole.h5", "cut.h5")
        self.assert_same_numbers("whole.h5", "parts.h5")

    def test_bad_points_are_recorded_and_the_rest_runs(self):
        text = SWEEP + "include:\n  - {label: never, memory.shard_bytes: 40KiB}\n  - {label: nonsense, page.slots: 5000}\n"
        name = self.write(text)
        done = program.run("sweep", name, folder=self.folder)
        self.assertEqual(done.code, 1, done)
        self.assertIn("24 ok, 2 failed", done.out)
        dry = program.run("sweep", name, "--dry-run", folder=self.folder)
        self.assertEqual(dry.code, 1, dry)
        self.assertIn("it can never start", dry.out)
        sweep = self.merged("small.sweep", code=1)
        self.assertEqual(list(sweep.status[-2:]), ["failed", "failed"])
        self.assertIn("can never start", sweep.errors[-2])
        self.assertIn("small.yaml:16:35: error: page.slots: 5000 is out of range", sweep.errors[-1])
        self.assertTrue(numpy.isnan(sweep.metrics["tokens"][-2:]).all())
        self.assertEqual(sweep.ok.sum(), POINTS)
        table = self.run_ok("export", "all.h5", "--csv").out.splitlines()
        self.assertEqual(len(table), 1 + POINTS + 2, "a point is a line")

    def test_a_point_among_others_is_predicted_as_it_is_alone(self):
        self.write("""
name: alone
base:
  model: deepseek-v2-lite
  backend: count
  trace: {synthetic: {preset: uniform, n_requests: 2, prompt_tokens: 90, output_tokens: 7}, layers: [1-2]}
  cluster: {ranks: 4}
axes:
  - placement: [{layout: expert}, {layout: expert, map: hash}, {layout: token, map: hash}, {layout: token}]
  - cases: [{eviction.policy: full}, {eviction.policy: lru, eviction.budget: {tokens: 40}}, {page.slots: 8}]
  - seed: [1, 2, 3]
""", "alone.yaml")
        self.run_ok("sweep", "alone.yaml", "--out", "together.sweep", "--quiet")
        self.run_ok("sweep", "alone.yaml", "--out", "alone.sweep", "--quiet", "--isolate", "process")
        self.merged("together.sweep", out="together.h5")
        self.merged("alone.sweep", out="alone.h5")
        self.assert_same_numbers("together.h5", "alone.h5")
        memory = counted_columns(self.folder / "together.h5")
        predicted = next(values for name, values in memory.items() if name.endswith("mem_pred_bytes")).reshape(4, 3, 3)
        for placed_by_seed in (1, 3):
            self.assertGreater(len(numpy.unique(predicted[placed_by_seed, 0])), 1)
        self.assertEqual(len(numpy.unique(predicted[0, 0])), 1)

    def test_points_share_generated_payload(self):
        """What one process keeps from point to point changes no number: seeds, models and parameters of the generator that come again and change. Points
        of the same q, k and v run one after the other."""
        self.write("""
name: payload
base:
  model: qwen3-30b-a3b
  backend: host
  trace: {synthetic: {preset: uniform, n_requests: 2, prompt_tokens: 70, output_tokens: 3}, layers: [1-2]}
  cluster: {ranks: 2}
  placement: {layout: expert}
axes:
  - compression.codec: [bf16, int8_token]
  - model: [qwen3-30b-a3b, gpt-oss-20b]
  - payload.generator: [{preset: A}, {preset: C}, {preset: A, expert_affinity: 0.5}]
  - seed: [1, 2]
""", "payload.yaml")
        for out, *how in (("together",), ("alone", "--isolate", "process")):
            self.run_ok("sweep", "payload.yaml", "--out", out, "--quiet", *how)
            self.merged(out, out=out + ".h5")
        self.assert_same_numbers("together.h5", "alone.h5")
        together, alone = (moekv_results.load_sweep(self.folder / f"{name}.h5").metrics["attn_out_err_mean"] for name in ("together", "alone"))
        self.assertEqual(len(numpy.unique(together)), 24)
        numpy.testing.assert_array_equal(together, alone)
        ids = [point["id"] for point in json.loads((self.folder / "together/sweep.json").read_text())["points"]]
        events = [json.loads(line) for path in (self.folder / "together").glob("journal/*.jsonl") for line in path.read_text().splitlines()]
        started = [ids.index(event["id"]) for event in events if event["event"] == "start"]
        self.assertEqual(started, [point for first in range(12) for point in (first, first + 12)])

    def test_files_of_their_own(self):
        name = self.write()
        self.run_ok("sweep", name, "backend=host", "trace.synthetic.n_requests=1", "--only", "0,23", "--files", "each")
        files = sorted(self.folder.glob("small.sweep/points/*.h5"))
        self.assertEqual(len(files), 2)
        self.assertEqual(moekv_results.load(files[0]).status, "ok")
        sweep = self.merged("small.sweep", code=1)
        self.assertEqual((sweep.ok.sum(), list(sweep.status).count("pending")), (2, POINTS - 2))
        self.assertEqual({path.stem for path in files}, set(sweep.point_id[sweep.ok]))
        self.merged(*files, out="files.h5")

    def test_what_a_folder_refuses(self):
        name = self.write()
        self.run_ok("sweep", name, "--only", "3,7-8")
        self.assertEqual(self.finished_points("small.sweep"), 3)
        self.assertIn("--resume goes on", self.refuse("sweep", name))
        changed = self.write(SWEEP.replace("[8, 16]", "[8, 32]"), "changed.yaml")
        self.assertIn("12 are new, 12 are gone", self.refuse("sweep", changed, "--out", "small.sweep", "--resume"))
        done = self.run_ok("sweep", changed, "--out", "small.sweep", "--extend", "--only", "0-3")
        self.assertIn("4 of 4 points: 4 ok", done.out)
        self.assertIn("no sweep.json", self.refuse("sweep", self.folder, "--status"))
        self.assertIn("no index, label", self.refuse("sweep", name, "--only", "nothing", "--list"))
        self.assertIn("is no part", self.refuse("sweep", name, "--part", "4/4", "--list"))

    def test_a_misspelt_metric_is_told_at_once_and_can_be_corrected(self):
        name = self.write(SWEEP + EXPECT.replace("evictions", "evictoins"))
        done = self.run_ok("sweep", name, "--only", "0-3")
        self.assertEqual(done.err.count("warning: small.yaml: expect 'smaller': this sweep measures no 'evictoins', did you mean 'evictions'?"), 1, done)
        self.write(SWEEP + EXPECT)
        override = "eviction.protect={sinks: 0,\n  recent: 4}"
        self.assertIn("what it expects by now counts with --extend", self.run_ok("sweep", name, "--only", "4-5", "--resume").err)
        self.assertNotIn("warning", self.run_ok("sweep", name, override, "--only", "4-5", "--extend").err)
        self.assertEqual(program.run("merge", "small.sweep", "--out", "all.h5", folder=self.folder).code, 1)
        self.assertRegex(program.run("report", "all.h5", folder=self.folder).out, "(holds|FAILS): smaller: evictions")

    def test_bad_sweep_files(self):
        for text, words in (
            (SWEEP.replace("eviction.policy: [", "eviction.polcy: ["), "did you mean 'eviction.policy'"),
            (SWEEP.replace("axes:", "axis:"), "unknown key 'axis' in a sweep file"),
            (SWEEP.replace("step: 20", "stop: 20"), "unknown key 'stop' in eviction.budget"),
            (SWEEP + "exclude: [{read.scope: all}]\n", "exclude: read.scope is no axis"),
            (SWEEP.replace("layout: expert", "layout: experts"), "placement.layout: unknown value 'experts'"),
            ("axes: [{page.slots: [8]}]\n", "base: is missing"),
            ("base: none.yaml\n", "base: none.yaml: no such file"),
            (SWEEP + "repeats: 0\n", "repeats: out of range"),
            (SWEEP.replace("[8, 16]", "[]"), "page.slots: expected a list of values or a range, got an empty list"),
            (SWEEP + "  - page.slots: [32]\n", "small.yaml:14:5: error: page.slots is varied by two axes"),
            (SWEEP + EXPECT.replace("16}", "32}"), "small.yaml:15:5: error: expect: no point of this sweep has page.slots=32 (varied here: eviction.policy"),
            (SWEEP + EXPECT.replace("slots: 16", "slot: 16"), "expect: no point of this sweep has page.slot=16"),
            (SWEEP + EXPECT.replace("is: less", "if: less"), "unknown key 'if' in expect"),
            (SWEEP + "  - page: [{slots: 32}]\n", "small.yaml:14:5: error: page.slots and page are varied by two axes, and one is part of the other"),
            (SWEEP + "include: [{label: x, \"\": full}]\n", "unknown key ''"),
            (SWEEP.replace("small", "s" * 201), "name: is empty, longer than 200 bytes"),
        ):
            with self.subTest(words):
                self.assertIn(words, self.refuse("sweep", self.write(text), "--list"))
        self.assertIn("a sweep file has it: moekv sweep runs those", self.refuse("run", self.write()))
        self.assertIn("page.slots is an axis", self.refuse("sweep", self.write(), "page.slots=8", "--list"))
        self.assertIn("--json: this prints no table", self.refuse("sweep", self.write(), "--json"))
        self.run_ok("sweep", self.write(SWEEP + EXPECT.replace("slots: 16", "slots: 16.0")), "--list")


if __name__ == "__main__":
    unittest.main()
