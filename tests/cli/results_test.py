"""Result files as a user meets them: show, diff and doctor, the Python reader and the figure, damaged files, and writers that are killed.

The first argument is the program that writes the sample run.
"""
import contextlib
import io
import json
import random
import subprocess
import sys
import time
import unittest

import h5py

import program
import moekv_results
import plot_run

WRITER = None
TINY = ["backend=count", "trace={synthetic: {preset: uniform, n_requests: 1, prompt_tokens: 16, output_tokens: 4}, layers: [1]}"]


class Results(program.ProgramTest):
    def sample(self, name, variant=""):
        path = self.folder / name
        subprocess.run([WRITER, path, variant], check=True)
        return path

    def test_show(self):
        text = self.run_ok("show", self.sample("a.h5")).out
        for words in ("sample: ok, digest 0123456789abcdef", "KV path only", "counted", "measured", "modelled", "labels: acausal"):
            self.assertIn(words, text)

    def test_json(self):
        path = self.sample("a.h5")
        plain = json.loads(self.run_ok("show", "--json", path).out)
        self.assertEqual(plain["metrics"]["hit_ratio"]["numerator"], 150)
        self.assertNotIn("records", plain)
        self.assertEqual(json.loads(self.run_ok("show", "--json", "--records", path).out)["records"]["step"]["n_req"], [100, 100])

    def test_diff(self):
        a, b, c = self.sample("a.h5"), self.sample("b.h5"), self.sample("c.h5", "different")
        self.assertIn("same decisions", self.run_ok("diff", "--decisions", a, b).out)
        self.assertIn("same decisions and counters", self.run_ok("diff", a, b).out)
        decisions = program.run("diff", "--decisions", a, c)
        self.assertEqual(decisions.code, 1, decisions)
        self.assertIn("steps 64 to 127", decisions.out)
        numbers = program.run("diff", a, c)
        self.assertEqual(numbers.code, 1, numbers)
        self.assertIn("record step[1] n_hit (first_step=64, n_steps=64): 70 | 69", numbers.out)

    def test_damaged_columns_are_refused(self):
        def edit(path, column, values):
            with h5py.File(path, "a") as file:
                attributes = {key: value for key, value in file[column].attrs.items() if key not in ("DIMENSION_LIST", "CLASS", "NAME")}
                del file[column]
                file[column] = values
                file[column].attrs.update(attributes)
            return path

        self.assertIn("/record/probe/layer: error: is damaged: it has 1 rows", self.refuse("export", edit(self.sample("a.h5"), "record/probe/layer", [1]), "--record", "probe"))
        path = edit(self.sample("a.h5"), "point_id", ["another"])
        self.run_ok("merge", self.sample("b.h5"), path, "--out", "two.h5")
        edit(self.folder / "two.h5", "metric/hit_ratio", ["a", "b"])
        for command in (("show",), ("export",), ("report", "--by", "label", "--metric", "hit_ratio")):
            self.assertIn("/metric/hit_ratio: error: is damaged: a metric is a number", self.refuse(command[0], "two.h5", *command[1:]))

    def test_merged_files_without_records(self):
        path = self.sample("a.h5")
        self.run_ok("merge", path, "--out", "bare.h5", "--without-records")
        self.assertIn("ok, digest 0123456789abcdef", self.run_ok("show", "bare.h5").out)
        self.assertIn("same decisions and counters", self.run_ok("diff", path, "bare.h5").out)
        self.assertIn("same decisions: digest", self.run_ok("diff", "--decisions", "bare.h5", path).out)
        whole, bare = moekv_results.load(path), moekv_results.load(self.folder / "bare.h5")
        self.assertEqual((bare.digest, bare.labels, bare.metrics["hit_ratio"]), (whole.digest, whole.labels, whole.metrics["hit_ratio"]))
        self.assertEqual(bare.record_kinds(), [])
        points = moekv_results.load_sweep(self.folder / "bare.h5")
        self.assertEqual((list(points.label), points.labels), ([""], [bare.labels]))
        self.assertRegex(self.plot_refused("bare.h5"), "^error: .*bare.h5: has no records: it was merged with --without-records\n$")

    def test_an_output_never_replaces_an_input(self):
        self.run_ok("run", program.SOURCE / "configs/examples/local_baseline.yaml", *TINY, "--out", "a.h5")
        before = (self.folder / "a.h5").read_bytes()
        for command in (("export", "a.h5"), ("merge", "a.h5"), ("rerun", "a.h5")):
            with self.subTest(command):
                self.assertIn("is also an input", self.refuse(*command, "--out", "./a.h5"))
        self.assertEqual((self.folder / "a.h5").read_bytes(), before)

    def test_options_that_would_be_ignored_are_refused(self):
        path = self.sample("a.h5")
        for options in (("--params", "--record", "step"), ("--params", "--nccl-tests-matrix"), ("--record", "step", "--nccl-tests-matrix"), ("--json", "--nccl-tests-matrix")):
            with self.subTest(options):
                self.assertIn("excludes", self.refuse("export", path, *options))

    def test_short_runs_have_the_ratios_of_their_codec(self):
        """Shorter than a window of 64 steps: the first window ends halfway, where requests are still resident."""
        config = {"model": "tinymoe", "trace": {"path": str(program.SOURCE / "configs/traces/tinymoe_cut.moekv.h5"), "max_requests": 2, "max_output_tokens": 10},
                  "cluster": {"ranks": 2}, "page": {"slots": 16}, "compression": "int8_token", "backend": "count"}
        (self.folder / "short.yaml").write_text(json.dumps(config))
        self.run_ok("run", "short.yaml", "--out", "short.h5")
        run = moekv_results.load(self.folder / "short.h5")
        self.assertGreater(len(run.record("step")["n_steps"]), 1)
        self.assertLess(run.record("step")["n_steps"].sum(), 64)
        ratios = [run.metrics[name].value for name in ("code_compression_factor", "page_compression_factor", "compression_factor")]
        self.assertEqual(ratios, sorted(ratios, reverse=True))
        self.assertGreater(ratios[1], 1.2)
        self.assertGreater(run.metrics["sealed_fraction"].value, 0.5)

    def test_empty_tables(self):
        path = self.sample("empty.h5", "empty")
        self.run_ok("show", path)
        self.assertEqual(len(moekv_results.load(path).record("step")["n_req"]), 0)
        self.plot(path, self.folder / "empty.png")

    def test_what_is_no_result_is_refused(self):
        (self.folder / "text.h5").write_text("hello")
        h5py.File(self.folder / "other.h5", "w").close()
        whole = self.sample("cut.h5")
        whole.write_bytes(whole.read_bytes()[:20000])
        for name in ("absent.h5", "text.h5", "other.h5", "cut.h5"):
            with self.subTest(name):
                self.assertIn(name, self.refuse("show", name))
                self.assertIn(name, self.refuse("diff", name, name))
                self.assertIn(name, self.plot_refused(name))
                with self.assertRaises((OSError, ValueError)):
                    moekv_results.load(self.folder / name)

    def test_reader(self):
        run = moekv_results.load(self.sample("a.h5"))
        self.assertEqual((run.status, run.labels, run.violations), ("ok", ["acausal"], []))
        self.assertEqual(run.digest, "0123456789abcdeffedcba9876543210")
        self.assertEqual((run.params["eviction.policy"], run.params["cluster.ranks"], run.params["placement.fold"]), ("lru", 2, 1))
        metric = run.metrics["hit_ratio"]
        self.assertEqual((metric.value, metric.numerator, metric.denominator, metric.claim_class), (0.75, 150, 200, "counted"))
        self.assertIsNone(run.metrics["tokens"].numerator)
        self.assertEqual(list(run.record("step")["n_hit"]), [80, 70])
        self.assertEqual(run.units("step", "t_attend"), "ns")
        self.assertEqual(run.about("step", "t_network_model")["claim_class"], "modelled")
        self.assertEqual(run.record_kinds(), ["step", "layer", "load", "layer_load", "histogram", "codec", "traffic", "allocation", "request", "gap",
                                              "probe", "token", "drift", "bound", "mass_bound", "digest"])
        self.assertEqual(list(run.record("digest")["digest"])[1], "00000000000000030000000000000004")
        shares = [name for name in run.record("step") if run.about("step", name)["definition"].startswith(("host time of phase ", "host time of replans"))]
        self.assertEqual(sorted(shares), sorted("t_" + name for name in moekv_results.PHASES))
        self.assertEqual(set(run.record("traffic")), {"first_step", "source", "destination", *moekv_results.WIRE_CLASSES, "messages"})
        try:
            import pandas  # noqa: F401
        except ImportError:
            return
        self.assertEqual(run.frame("step").n_hit.sum(), 150)

    def test_every_string_is_variable_length_utf8_and_every_axis_has_a_scale(self):
        def check(name, node):
            is_scale = node.attrs.get("CLASS") == b"DIMENSION_SCALE"
            for key, value in node.attrs.items():
                if key not in ("CLASS", "NAME"):  # which HDF5 itself writes for a scale
                    self.assertNotIsInstance(value, bytes, f"{name}@{key}")
            if isinstance(node, h5py.Dataset):
                self.assertNotEqual(node.dtype.kind, "S", name)
                attached = [list(references) for references in node.attrs.get("DIMENSION_LIST", [])]
                self.assertEqual([len(references) for references in attached], [] if is_scale else [1] * node.ndim, name)
                for axis, (reference,) in enumerate(attached):
                    users.add((address(file[reference].id), address(node.id), axis))
            if "REFERENCE_LIST" in node.attrs:
                listed.extend((address(node.id), address(file[reference].id), axis) for reference, axis in node.attrs["REFERENCE_LIST"])

        def address(opened):
            return h5py.h5o.get_info(opened).addr

        users, listed = set(), []

        with h5py.File(self.sample("a.h5")) as file:
            file.visititems(check)
            self.assertGreater(len(users), 1000)
            self.assertEqual(sorted(listed), sorted(users), "a scale lists every dataset that it is attached to, once")
            self.assertEqual(list(file["/"])[:3], ["point", "point_id", "status"], "members stand in the order of creation")

    def plot(self, path, figure):
        self.assertEqual(plot_run.main(["plot_run.py", str(path), str(figure)]), 0)

    def plot_refused(self, name):
        errors = io.StringIO()
        with contextlib.redirect_stderr(errors):
            self.assertEqual(plot_run.main(["plot_run.py", str(self.folder / name), str(self.folder / "none.png")]), 2)
        self.assertFalse((self.folder / "none.png").exists())
        return errors.getvalue()

    def test_what_a_damaged_file_lacks_is_a_message(self):
        with self.assertRaisesRegex(ValueError, "^a.h5: is damaged or not complete: Link iteration failed"), moekv_results._damage_named("a.h5"):
            raise RuntimeError("Link iteration failed")  # h5py's answer to a damaged group
        whole = self.sample("whole.h5")
        for name in ("title", "model", "backend", "git_commit"):
            with self.subTest(name):
                (self.folder / "less.h5").write_bytes(whole.read_bytes())
                with h5py.File(self.folder / "less.h5", "r+") as file:
                    del file.attrs[name]
                self.assertRegex(self.plot_refused("less.h5"), f"^error: .*less.h5: is damaged or not complete: '{name}'\n$")

    def test_figure_is_the_same_every_time(self):
        path = self.sample("a.h5")
        self.plot(path, self.folder / "one.png")
        subprocess.run([sys.executable, program.SOURCE / "scripts/plot_run.py", path, self.folder / "two.png"], check=True)
        one, two = ((self.folder / name).read_bytes() for name in ("one.png", "two.png"))
        self.assertTrue(one.startswith(b"\x89PNG"))
        self.assertGreater(len(one), 20000)
        self.assertEqual(one, two)

    def test_killed_writers_leave_only_complete_files(self):
        moments = random.Random(3)
        for attempt in range(6):
            folder = self.folder / str(attempt)
            folder.mkdir()
            writer = subprocess.Popen([WRITER, folder, "endless"])
            deadline = time.monotonic() + 20
            while not (folder / "0.h5").exists() and time.monotonic() < deadline:
                time.sleep(0.01)
            time.sleep(moments.random() * 0.3)
            writer.kill()
            writer.wait()
            results = list(folder.glob("*.h5"))
            self.assertGreater(len(results), 0)
            for path in results:
                self.assertEqual(moekv_results.load(path).status, "ok")

    def test_a_full_disk_leaves_nothing(self):
        """A limit of the file size stands for it: where the flush fails, HDF5 cannot close what it has open."""
        run = [program.PROGRAM, "run", program.SOURCE / "configs/examples/local_baseline.yaml", *TINY, "-q", "--out", "full.h5"]
        for kib, words in ((100, "cannot flush: File too large"), (0, "cannot create the file: File too large (check that")):
            done = subprocess.run(["bash", "-c", f"trap '' XFSZ; ulimit -f {kib}; exec \"$@\"", "bash", *map(str, run)], cwd=self.folder, capture_output=True,
                                  text=True, check=False)
            self.assertEqual(done.returncode, 70 if kib else 2, done)
            self.assertIn(words, done.stderr)
            self.assertEqual(list(self.folder.iterdir()), [])

    def test_doctor(self):
        lines = self.run_ok("doctor").out.splitlines()
        for topic in ("moekv", "MPI", "HDF5", "OpenMP", "instructions", "CUDA build", "GPU driver", "NCCL", "Slurm", "Python", "file locking"):
            self.assertTrue(any(line.partition(" ")[0] in ("ok", "warn", "missing") and topic in line for line in lines), topic)
        for line, following in zip(lines, lines[1:]):
            if line.startswith(("warn", "missing")):
                self.assertIn("-> ", following, "a finding says what to do")


if __name__ == "__main__":
    WRITER = sys.argv.pop(1)
    unittest.main()
