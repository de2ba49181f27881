"""The tables of README.md are what the program prints of its catalogues, its catalogues name their sources, and its example of a sweep runs."""
import re
import unittest

import program

BEGIN, END = "<!-- moekv list --markdown -->\n", "<!-- end of moekv list --markdown -->"


class Readme(program.ProgramTest):
    def test_tables_are_those_of_the_program(self):
        text = (program.SOURCE / "README.md").read_text()
        self.assertEqual(text.count(BEGIN), 1)
        written = text.partition(BEGIN)[2].partition(END)[0]
        self.assertEqual(written, self.run_ok("list", "--markdown").out, "run scripts/readme_tables.sh")

    def test_every_row_says_where_it_comes_from_and_what_it_reads(self):
        out = self.run_ok("list", "--markdown").out
        rows = [line.strip("|").split(" | ") for line in out.replace("\\|", "/").splitlines() if line.startswith("| `")]
        self.assertGreater(len(rows), 80)
        for row in rows:
            with self.subTest(row[0]):
                self.assertEqual([cell for i, cell in enumerate(row) if i != 3 and not cell.strip()], [], row)

    def test_every_name_is_accepted(self):
        listed = {topic: re.findall(r"(?m)^  ([a-z0-9][\w.+]*) ", self.run_ok("list", topic).out) for topic in ("policies", "routers", "codecs")}
        table = self.run_ok("list", "--markdown").out
        for topic, names in listed.items():
            for name in names:
                self.assertIn(f"| `{name}` |", table, topic)

    def test_the_example_of_a_sweep_runs_and_its_claim_holds(self):
        text = (program.SOURCE / "README.md").read_text().partition("## Many configurations: sweeps")[2]
        sweep, expect = re.findall(r"```yaml\n(.*?)```", text, re.S)[:2]
        self.assertRegex(expect, "^expect:")
        (self.folder / "configs").symlink_to(program.SOURCE / "configs")
        (self.folder / "evict.yaml").write_text(re.sub("(?m)^repeats:.*$", "", sweep) + expect)
        self.assertIn(" 0 refused", self.run_ok("sweep", "evict.yaml", "--dry-run").out)
        self.run_ok("sweep", "evict.yaml", "--out", "evict.sweep", "-q")
        self.run_ok("merge", "evict.sweep", "--out", "evict.h5")
        self.assertRegex(self.run_ok("report", "evict.h5").out, "(?m)^holds: h2o keeps more mass")

    def test_topic_and_tables_exclude_each_other(self):
        self.refuse("list", "codecs", "--markdown")


if __name__ == "__main__":
    unittest.main()
