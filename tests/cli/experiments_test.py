#!/usr/bin/python3
"""Experiments: every one is whole and its sweep expands; figures are the same every time; --check sees a changed number; mapping and report do their work."""
import csv
import io
import json
import os
import shutil
import subprocess
import sys
import unittest
from pathlib import Path

import h5py
import numpy

SOURCE = Path(os.environ["MOEKV_SOURCE_DIR"])
PROGRAM = os.environ["MOEKV_PROGRAM"]
EXPERIMENTS = SOURCE / "experiments"
for folder in (EXPERIMENTS / "lib", EXPERIMENTS / "pikv_table", SOURCE / "scripts"):
    sys.path.insert(0, str(folder))
import make_sweep  # noqa: E402
import report  # noqa: E402
import rows  # noqa: E402
import stats  # noqa: E402
from tables import Table, differences, read_csv  # noqa: E402


def run(*arguments):
    return subprocess.run([str(a) for a in arguments], capture_output=True, text=True)


def small_table(hits=3, error=(0.5, 0.4, 0.6), time=7.0):
    table = Table("t", {"policy": ("key", ""), "hits": ("counted", "1"), "error": ("measured", "1"), "ms": ("time", "ms")})
    table.add(policy="lru", hits=hits, error=error, ms=time)
    return table


class Folders(unittest.TestCase):
    def test_every_experiment_is_whole(self):
        for sweep in EXPERIMENTS.glob("*/sweep.yaml"):
            for name in ("plot.py", "README.md", "expected"):
                self.assertTrue((sweep.parent / name).exists(), f"{sweep.parent.name}/{name}")
            readme = (sweep.parent / "README.md").read_text(encoding="utf-8")
            self.assertIn(f"scripts/reproduce.sh --only {sweep.parent.name}", readme)
            self.assertRegex(readme, r"\babout \d+ (s|seconds|min|minutes)\b", sweep.parent.name)

    def test_programs_name_the_python_that_has_h5py(self):
        """Another one first on PATH usually has not (scripts/common.sh)."""
        for folder in ("experiments", "scripts", "tests"):
            for path in (SOURCE / folder).rglob("*.py"):
                first = path.read_text(encoding="utf-8").partition("\n")[0]
                if first.startswith("#!"):
                    self.assertEqual(first, "#!/usr/bin/python3", path)

    def test_every_sweep_expands_with_and_without_the_settings_of_full(self):
        for sweep in (*EXPERIMENTS.glob("*/sweep.yaml"), *EXPERIMENTS.glob("*/model.yaml")):
            full = sweep.parent / "full.args"
            for extra in ([], full.read_text(encoding="utf-8").split()) if full.exists() else ([],):
                done = run(PROGRAM, "sweep", sweep, *extra, "--list")
                self.assertEqual(done.returncode, 0, f"{sweep}: {done.stderr}")

    def test_committed_tables_can_be_read_and_have_unique_rows(self):
        for path in EXPERIMENTS.glob("*/expected/*.csv"):
            table = read_csv(path)
            keys = [tuple(row[k] for k in table.keys()) for row in table.rows]
            self.assertEqual(len(keys), len(set(keys)), path)


class Tables(unittest.TestCase):
    def setUp(self):
        self.expected = read_csv_text(small_table().csv())

    def test_equal_tables_have_no_differences(self):
        self.assertEqual(differences(self.expected, small_table()), [])

    def test_a_counted_number_is_compared_exactly(self):
        self.assertEqual(differences(self.expected, small_table(hits=4)), ["row lru: hits was 3, is 4"])

    def test_a_measured_number_may_move_inside_its_interval_only(self):
        self.assertEqual(differences(self.expected, small_table(error=(0.54, 0.44, 0.64))), [])
        self.assertEqual(len(differences(self.expected, small_table(error=(0.7, 0.6, 0.8)))), 1)

    def test_the_ends_of_an_interval_are_compared_too(self):
        for error in ((0.5, 0.04, 0.6), (0.5, 0.4, 0.9), (0.5, 0.49, 0.51), 0.5):
            self.assertEqual(len(differences(self.expected, small_table(error=error))), 1, error)
        counted = read_csv_text(small_table(hits=(3, 2, 4)).csv())
        self.assertEqual(differences(counted, small_table(hits=(3, 2, 4))), [])
        for hits in ((3, 2, 5), 3):
            self.assertEqual(len(differences(counted, small_table(hits=hits))), 1, hits)
        self.assertEqual(differences(self.expected, small_table(time=(7.0, 1.0, 9.0)), times=True), [])  # times: their value only

    def test_times_count_only_where_asked_for(self):
        self.assertEqual(differences(self.expected, small_table(time=70.0)), [])
        self.assertEqual(len(differences(self.expected, small_table(time=70.0), times=True)), 1)

    def test_rows_that_vanish_or_appear_are_named(self):
        other = small_table()
        other.rows[0]["policy"] = "fifo"
        self.assertEqual(differences(self.expected, other), ["row lru is missing", "row fifo is new"])
        other = small_table()
        other.rows += small_table(hits=4).rows
        self.assertIn("1 new rows share their keys with others", differences(self.expected, other))

    def test_latex_prints_every_text_as_it_is(self):
        table = Table("t", {"a_b": ("key", ""), "n": ("counted", "1")})
        for text in ("2^-(m+1)", "[x]", "*", r"a\b {c} ~<|>", "50% & $5 #1"):
            table.add(a_b=text, n=1)
        self.assertEqual(table.latex().splitlines()[2:-2], [
            r"a b & n \\", r"{\scriptsize key} & {\scriptsize counted, 1} \\", r"\midrule", r"2\textasciicircum{}-(m+1) & 1 \\", r"{}[x] & 1 \\", r"{}* & 1 \\",
            r"a\textbackslash{}b \{c\} \textasciitilde{}\textless{}\textbar{}\textgreater{} & 1 \\", r"50\% \& \$5 \#1 & 1 \\"])

    def test_keys_become_numbers_for_an_axis(self):
        table = Table("t", {"pages": ("key", ""), "policy": ("key", ""), "n": ("counted", "1")})
        for pages, policy in (("16", "lru"), ("8", "lru"), ("8", "fifo")):
            table.add(pages=pages, policy=policy, n=1)
        self.assertEqual([(row["pages"], row["policy"]) for row in table.numbered("pages", policy="lru").rows], [(16.0, "lru"), (8.0, "lru")])
        self.assertEqual(table.rows[0]["pages"], "16")

    def test_the_hash_of_the_data_leaves_out_times(self):
        self.assertEqual(small_table().sha(), small_table(time=8.0).sha())
        self.assertNotEqual(small_table().sha(), small_table(hits=4).sha())

    def test_the_hash_of_the_data_has_all_that_a_figure_draws(self):
        for other in (small_table(error=(0.5, 0.4, 0.7)), small_table(error=(0.5, 0.3, 0.6)), small_table(error=0.5), small_table(hits=(3, 2, 4))):
            self.assertNotEqual(small_table().sha(), other.sha())
        renamed = Table("t", {"policy": ("key", ""), "misses": ("counted", "1"), "error": ("measured", "1"), "ms": ("time", "ms")})
        renamed.add(policy="lru", misses=3, error=(0.5, 0.4, 0.6), ms=7.0)
        self.assertNotEqual(small_table().sha(), renamed.sha())


class Statistics(unittest.TestCase):
    def test_intervals_resample_clusters(self):
        value, low, high = stats.mean_interval([0.0] * 50 + [1.0] * 50, [0] * 50 + [1] * 50)
        self.assertEqual(value, 0.5)
        self.assertLess(low, 0.0)  # two clusters, though there are a hundred values
        self.assertGreater(high, 1.0)
        self.assertEqual(stats.mean_interval([1.0, 3.0], [0, 0]), 2.0)

    def test_few_clusters_are_not_too_sure(self):
        draw = numpy.random.RandomState(2)
        for n in (2, 3, 5, 10):
            intervals = [stats.mean_interval(draw.normal(size=n)) for _ in range(200)]
            missed = sum(not low <= 0 <= high for _, low, high in intervals)
            self.assertLess(missed, 200 * 0.12, n)  # 10 +- 3 are expected
        for freedom, quantile in ((1, 12.7062), (2, 4.3027), (4, 2.7764), (5, 2.5706), (29, 2.0452)):
            self.assertAlmostEqual(stats.student_t_975(freedom), quantile, 3)

    def test_intervals_end_where_no_mean_can_be(self):
        _, low, high = stats.over_repeats([1.0, 1.0, 3.0])
        self.assertLess(low, 1)
        self.assertEqual(stats.over_repeats([1.0, 1.0, 3.0], least=1), (5 / 3, 1, high))

    def test_rank_correlation_by_hand(self):
        self.assertAlmostEqual(stats.spearman([1, 2, 3, 4], [10, 20, 40, 30]), 0.8)
        self.assertAlmostEqual(stats.spearman([1, 2, 2, 3], [1, 2, 2, 3]), 1.0)


class Mapping(unittest.TestCase):
    def test_every_published_row_has_settings_or_a_reason(self):
        names, published = rows.mapping(), rows.published()
        self.assertEqual(len(published), 59)
        for row in published:
            found, reason = rows.settings(row, names)
            self.assertTrue(found if found is not None else reason, row["label"])

    def test_a_name_without_an_entry_is_an_error(self):
        names = rows.mapping()
        del names["routers"]["PiKVRouter"]
        with self.assertRaises(KeyError):
            [rows.settings(row, names) for row in rows.published()]

    def test_the_sweep_is_what_the_mapping_says(self):
        for file in make_sweep.FILES:
            self.assertEqual((EXPERIMENTS / "pikv_table" / file).read_text(encoding="utf-8"), make_sweep.text(file))


class Figures(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        shutil.rmtree("traffic", ignore_errors=True)
        cls.merged = Path("traffic/merged.h5")
        done = run(PROGRAM, "sweep", EXPERIMENTS / "traffic/sweep.yaml", "-q", "--only", "local,expert_affine,pikv_xor", "--out", "traffic/points")
        assert done.returncode == 0, done.stderr
        done = run(PROGRAM, "merge", "traffic/points", "--out", cls.merged)
        assert done.returncode == 1, f"{done.returncode}: {done.stderr}"  # ten of the thirteen points did not run

    def plot(self, *arguments):
        return run(sys.executable, EXPERIMENTS / "traffic/plot.py", self.merged, "--partial", *arguments)

    def test_equal_data_gives_equal_bytes(self):
        for folder in ("traffic/a", "traffic/b"):
            done = self.plot("--out", folder)
            self.assertEqual(done.returncode, 0, done.stderr)
        names = sorted(p.name for p in Path("traffic/a").iterdir())
        self.assertEqual([n for n in names if n.endswith((".pdf", ".png"))], ["traffic.pdf", "traffic.png", "traffic_matrix.pdf", "traffic_matrix.png"])
        for name in names:
            self.assertEqual(Path("traffic/a", name).read_bytes(), Path("traffic/b", name).read_bytes(), name)

    def test_predictions_stand_beside_what_was_counted(self):
        self.assertEqual(self.plot("--out", "traffic/c").returncode, 0)
        table = read_csv("traffic/c/traffic.csv")
        for row in table.rows:
            if row["map"] == "local":
                self.assertEqual((row["total"], row["total_plan"]), (0, 0))
            else:
                self.assertTrue(0.5 < row["total_plan"] / row["total"] < 2, row)

    def test_check_fails_on_a_changed_number(self):
        expected = Path("traffic/expected")
        self.assertEqual(self.plot("--out", expected).returncode, 0)
        self.assertEqual(self.plot("--check", "--expected", expected).returncode, 0)
        path = expected / "traffic.csv"
        lines = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8"))))
        place = [i for i, head in enumerate(lines[0]) if head.startswith("fanout")][0]
        lines[2][place] = str(float(lines[2][place]) * 1.001)
        with open(path, "w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows(lines)
        done = self.plot("--check", "--expected", expected)
        self.assertEqual(done.returncode, 1)
        self.assertIn(f"row {lines[2][0]}: fanout was", done.stdout)

    def test_check_names_a_stale_table(self):
        expected = Path("traffic/stale")
        self.assertEqual(self.plot("--out", expected).returncode, 0)
        shutil.copy(expected / "traffic.csv", expected / "renamed.csv")
        done = self.plot("--check", "--expected", expected)
        self.assertEqual(done.returncode, 1)
        self.assertIn("renamed: no table is called so", done.stdout)

    def test_points_without_a_result_are_named_unless_a_partial_sweep_is_asked_for(self):
        for arguments in ([], ["--check"], ["--accept", "--expected", "traffic/none"]):
            done = run(sys.executable, EXPERIMENTS / "traffic/plot.py", self.merged, "--out", "traffic/none", *arguments)
            self.assertEqual(done.returncode, 2, done)
            self.assertIn("10 of 13 points have no result: token block_cyclic, ", done.stderr)
            self.assertIn("the first: it did not run", done.stderr)
        self.assertFalse(Path("traffic/none").exists())
        done = self.plot("--accept", "--expected", "traffic/none")
        self.assertEqual(done.returncode, 2, done)
        self.assertIn("--accept takes the tables of whole sweeps only", done.stderr)
        self.assertIn("without point head: it did not run", self.plot("--check").stderr)

    def test_every_plot_refuses_a_sweep_without_results_and_one_that_is_not_its_own(self):
        shutil.copy(self.merged, "failed.h5")
        with h5py.File("failed.h5", "r+") as file:
            file["status"][:] = file["status"].attrs["flag_meanings"].split().index("failed")
            file["error"][0] = "out of memory\nmore"
        for plot in EXPERIMENTS.glob("*/plot.py"):
            done = run(sys.executable, plot, "failed.h5", "--partial", "--out", "traffic/other")
            self.assertEqual(done.returncode, 2, done)
            self.assertRegex(done.stderr, r"^error: \w+: failed.h5: 13 of 13 points have no result: local, .* and 7 more; the first: out of memory\n$")
            if plot.parent.name in ("optimum", "scaling"):
                done = run(sys.executable, plot, self.merged, "--partial", "--out", "traffic/other")
                self.assertNotIn("Traceback", done.stderr)
                self.assertIn(done.returncode, (0, 2), plot)

    def test_points_of_the_model_in_the_loop_are_looked_at_too(self):
        Path("loop").mkdir(exist_ok=True)
        for name in ("merged.h5", "model.h5"):
            shutil.copy(self.merged, Path("loop", name))
        with h5py.File("loop/merged.h5", "r+") as file:
            file["status"][:] = 1
            file["label"][0] = "none"
        done = run(sys.executable, EXPERIMENTS / "pikv_table/plot.py", "loop/merged.h5")
        self.assertEqual(done.returncode, 2, done)
        self.assertIn("loop/model.h5: 10 of 13 points have no result", done.stderr)

    def test_a_folder_that_cannot_be_made_is_a_message(self):
        Path("file").write_text("", encoding="utf-8")
        done = self.plot("--out", "file/folder")
        self.assertEqual(done.returncode, 2, done)
        self.assertRegex(done.stderr.splitlines()[-1], "^error: traffic: .*file/folder")

    def test_the_report_is_one_small_page(self):
        done = run(sys.executable, SOURCE / "scripts/report.py", self.merged, "--out", "report.html")
        self.assertEqual(done.returncode, 0, done.stderr)
        page = Path("report.html").read_text(encoding="utf-8")
        self.assertLess(len(page.encode()), 1_000_000)
        self.assertIn("expert_affine", page)
        self.assertNotRegex(page.replace("http://www.w3.org/2000/svg", ""), r"https?://|src=|@import")


    def test_the_report_of_hostile_labels_large_numbers_and_equal_names(self):
        shutil.copy(self.merged, "odd.h5")
        with h5py.File("odd.h5", "r+") as file:
            file["label"][0] = "<!--<script>"
            name = file.attrs["sweep_name"]
        done = run(sys.executable, SOURCE / "scripts/report.py", "odd.h5", self.merged, "--out", "odd.html")
        self.assertEqual(done.returncode, 0, done.stderr)
        line, = [line for line in Path("odd.html").read_text(encoding="utf-8").splitlines() if line.startswith("const DATA = ")]
        self.assertNotIn("<", line)
        data = json.loads(line[len("const DATA = "):-1])
        self.assertEqual(data[0]["label"][0], "<!--<script>")
        self.assertEqual([sweep["name"] for sweep in data], [f"{name} (1: odd.h5)", f"{name} (2: {self.merged})"])
        self.assertEqual([report.setting(v) for v in (1048577.0, 1048578, 0.1, float("nan"), "8")], ["1048577", "1048578", "0.1", "", "8"])
        self.assertEqual([report.plain(v) for v in (1048577.0, 0.123456, float("inf"))], [1048577, 0.12346, None])
        done = run(sys.executable, SOURCE / "scripts/report.py", self.merged, "--out", "odd.html/page.html")
        self.assertEqual(done.returncode, 2, done)
        self.assertRegex(done.stderr, "^error: .*odd.html/page.html")

    def test_the_report_shows_what_points_take_from_the_base(self):
        data = report.sweep_data(self.merged)
        maps = {label: name for label, name, status in zip(data["label"], data["settings"]["placement.map"], data["status"]) if status == "ok"}
        self.assertEqual(maps, {"local": "none", "expert_affine": "expert_affine", "pikv_xor": "pikv_xor"})  # only the last sets it

    @unittest.skipUnless(shutil.which("node"), "node runs the page's script")
    def test_the_report_sorts_numbers_by_value(self):
        page = (EXPERIMENTS / "lib/report.html").read_text(encoding="utf-8")
        script = page[page.index("const absent"):page.index("function rows()")]
        values = '["16", "", "8", "100%", "25%", "-2", "{tokens: 16}", "{tokens: 8}"]'
        done = run("node", "-e", f"{script} console.log(JSON.stringify([1, -1].map(s => {values}.sort((a, b) => order(a, b, s)))))")
        up, down = json.loads(done.stdout)
        self.assertEqual(up, ["-2", "8", "16", "{tokens: 8}", "{tokens: 16}", "25%", "100%", ""])
        self.assertEqual(down, [*reversed(up[:-1]), ""])


class Reproduce(unittest.TestCase):
    def reproduce(self, *arguments):
        return run("bash", SOURCE / "scripts/reproduce.sh", *arguments)

    def test_failed_points_end_it_with_an_error_and_results_are_where_the_caller_is(self):
        shutil.rmtree("mine", ignore_errors=True)
        done = self.reproduce("--only", "traffic", "--out", "mine", "--program", PROGRAM, "--", "memory.shard_bytes=20000")
        self.assertEqual(done.returncode, 1, done)
        self.assertIn("13 of 13 points have no result: local, ", done.stderr)
        self.assertIn("failed or changed: traffic", done.stderr)
        self.assertEqual([p.name for p in sorted(Path("mine/traffic").iterdir())], ["merged.h5", "points"])

    def test_settings_reach_the_model_in_the_loop_unless_they_are_of_model_or_trace(self):
        program = Path("program.sh")
        program.write_text(f'#!/bin/sh\necho "$*" >>{Path("arguments.txt").resolve()}\n', encoding="utf-8")
        program.chmod(0o755)
        for settings, loops in ((["eviction.percent=40"], True), (["model=my.yaml", "trace.path=my.h5"], False), (["trace={path: my.h5}"], False)):
            Path("arguments.txt").unlink(missing_ok=True)
            done = self.reproduce("--full", "--only", "pikv_table", "--out", "none", "--program", program.resolve(), "--", *settings)
            self.assertEqual(done.returncode, 1, done)  # this program writes no results
            calls = [line for line in Path("arguments.txt").read_text(encoding="utf-8").splitlines() if line.startswith("sweep")]
            self.assertEqual([" ".join(["probe.samples=4096", *settings]) in line for line in calls], [True] * (1 + loops), calls)
            self.assertEqual(any("model.yaml" in line for line in calls), loops, calls)
            self.assertEqual("without the model in the loop" in done.stdout, not loops)

    def test_a_claim_stands_for_its_experiments(self):
        program = Path("nothing.sh")
        program.write_text("#!/bin/sh\nexit 3\n", encoding="utf-8")
        program.chmod(0o755)
        done = self.reproduce("--only", "F4", "--only", "scaling", "--out", "none", "--program", program.resolve())
        self.assertEqual((done.returncode, done.stderr.split()[-2:]), (1, ["changed:", "scaling"]), done)
        self.assertEqual([line for line in done.stdout.splitlines() if line.startswith("== ")], ["== read_share", "== scaling"])
        for name in ("F99", "a/b", "["):
            self.assertIn(f"no experiment is called {name}: ", self.reproduce("--only", name, "--program", program.resolve()).stderr)

    def test_only_the_quick_experiments_as_they_are_become_expected(self):
        for arguments in (["--accept", "--", "seed=2"], ["--full", "--accept"]):
            done = self.reproduce("--only", "traffic", "--out", "none", "--program", PROGRAM, *arguments)
            self.assertEqual(done.returncode, 2, done)
            self.assertIn("--accept takes the quick experiments as they are", done.stderr)


def read_csv_text(text):
    Path("t.csv").write_text(text, encoding="utf-8")
    return read_csv("t.csv", "t")


if __name__ == "__main__":
    unittest.main()
