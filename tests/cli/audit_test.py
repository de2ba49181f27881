#!/usr/bin/python3
"""The audit: how parts of claims are judged, and what the verdicts come to with other data than ours."""
import math
import shutil
import sys
import unittest
from pathlib import Path

import yaml

import experiments_test

import audit  # of scripts/, which experiments_test makes known
from tables import Table, read_csv


class Audit(unittest.TestCase):
    def judged(self, holds, cells=((0.5, 0.4, 0.6),), **part):
        folder = Path("data/exp")
        folder.mkdir(parents=True, exist_ok=True)
        table = Table("t", {"policy": ("key", ""), "hits": ("counted", "1"), "error": ("measured", "1")})
        for i, cell in enumerate(cells):
            table.add(policy=str(i), hits=3, error=cell)
        (folder / "t.csv").write_text(table.csv(), encoding="utf-8")
        claim = {"id": "X", "claim": "c", "experiments": ["exp"], "parts": [{"says": "s", "table": "exp/t", "count": len(cells), "value": "error", "holds": holds, **part}]}
        return audit.judge(claim, Path("data"))

    def verdict(self, holds, **more):
        return self.judged(holds, **more)["verdict"]

    def test_an_interval_counts_as_a_whole(self):
        for holds, verdict in (({"at_least": 0.4}, "supported"), ({"at_least": 0.55}, "untestable here"), ({"at_least": 0.65}, "refuted"),
                               ({"at_most": 0.6}, "supported"), ({"at_most": 0.45}, "untestable here"), ({"at_most": 0.35}, "refuted"),
                               ({"equal": 0.5, "tolerance": 0.3}, "supported"), ({"equal": 0.5, "tolerance": 0.1}, "untestable here"),
                               ({"equal": 2.0, "tolerance": 0.5}, "refuted"), ({"equal": "hits", "tolerance": 0.1}, "refuted"),
                               ({"equal": 0.45, "within": 0.2}, "supported"), ({"equal": 0, "within": 0.2}, "refuted"),
                               ({"at_most": "hits", "plus": -2.4}, "supported"), ({"at_most": "hits", "plus": -2.9}, "refuted")):
            self.assertEqual(self.verdict(holds), verdict, holds)
        self.assertEqual(self.verdict({"at_most": 2}, cells=((5.0, 1.9, 12.0),)), "untestable here")

    def test_strict_relations_refuse_equality(self):
        for holds, verdict in (({"above": 0}, "refuted"), ({"at_least": 0}, "supported"), ({"below": 0}, "refuted"), ({"at_most": 0}, "supported")):
            self.assertEqual(self.verdict(holds, cells=(0.0,)), verdict, holds)
        self.assertEqual(self.verdict({"above": 0}, cells=((0.1, 0.0, 0.2),)), "untestable here")
        self.assertEqual(self.verdict({"above": 0}, cells=((0.1, 0.01, 0.2),)), "supported")

    def test_missing_rows_and_numbers_are_never_judged(self):
        for holds in ({"at_least": 0}, {"at_least": 9}):
            for part in ({"rows": {"policy": "mru"}}, {"count": 2}, {"cells": (0.5, math.nan)}, {"cells": (math.nan, math.nan)}, {"cells": (math.inf,)}):
                found = self.judged(holds, **part)
                self.assertEqual(found["verdict"], "untestable here", part)
                self.assertRegex(found["parts"][0]["reason"], "rows")
                self.assertIn("not judged", audit.markdown([found]))

    def test_a_part_that_fails_refutes_whatever_else_is_missing(self):
        self.assertEqual(self.verdict({"at_least": 0.5}, cells=(0.1, 0.9)), "refuted")
        claim = {"id": "X", "claim": "c", "experiments": ["exp"], "parts": [
            {"says": "s", "table": "exp/t", "count": count, "value": "error", "holds": {"at_least": 0.5}} for count in (2, 3)]}
        found = audit.judge(claim, Path("data"))
        self.assertEqual([p["holds"] for p in found["parts"]], [False, None])
        self.assertEqual(found["verdict"], "refuted")

    def test_a_part_is_not_judged_without_what_it_needs(self):
        needs = {"says": "n", "table": "exp/t", "count": 1, "value": "hits", "holds": {"at_least": 4}}
        self.assertEqual(self.verdict({"at_least": 0.9}, needs=needs), "untestable here")
        self.assertEqual(self.verdict({"at_least": 0.9}, needs={**needs, "holds": {"at_least": 3}}), "refuted")

    def test_readings_of_a_claim_refute_it_together_only(self):
        self.judged({"at_least": 0})  # writes the table
        for bounds, verdict in (((0.1, 0.2), "supported"), ((0.1, 0.9), audit.READING), ((0.8, 0.9), "refuted"), ((0.5, 0.9), "untestable here"), ((0.1, 0.5), "untestable here")):
            claim = {"id": "X", "claim": "c", "experiments": ["exp"], "readings": True, "parts": [
                {"says": f"reading {i}", "table": "exp/t", "count": 1, "value": "error", "holds": {"at_least": bound}} for i, bound in enumerate(bounds)]}
            found = audit.judge(claim, Path("data"))
            self.assertEqual(found["verdict"], verdict, bounds)
            self.assertRegex(audit.markdown([found], short=True), "reading 0.*reading 1")

    def test_verdicts_name_experiments_and_numbers_their_units(self):
        claim = {"id": "X", "claim": "c", "experiments": ["exp"], "parts": [{"says": "s", "table": "exp/t", "count": 2, "value": "kib", "holds": {"at_least": 0}}]}
        for unit, part, text in (("KiB, fullest rank", {}, "3 to 4 KiB in 2 rows"), ("x, over topk", {}, "3 to 4 times in 2 rows"), ("1", {}, "3 to 4 in 2 rows"),
                                 ("of the wire", {}, "3 to 4 in 2 rows"), ("1", {"unit": "nat"}, "3 to 4 nat in 2 rows")):
            table = Table("t", {"policy": ("key", ""), "kib": ("counted", unit)})
            for i in range(2):
                table.add(policy=str(i), kib=3 + i)
            Path("data/exp").mkdir(parents=True, exist_ok=True)
            Path("data/exp/t.csv").write_text(table.csv(), encoding="utf-8")
            for brief in (False, True):
                line = audit.markdown([audit.judge({**claim, "parts": [{**claim["parts"][0], **part}]}, Path("data"))], brief).splitlines()[-1]
                self.assertIn(f": {text} (claim: at least 0)", line)
                self.assertTrue(line.endswith("| exp |"), line)

    def test_what_is_not_well_said_is_an_error(self):
        for holds, part in (({"at_least": 0, "at_most": 1}, {}), ({}, {}), ({"equal": 1}, {}), ({"at_least": 0, "tolerance": 1}, {}), ({"at_least": 0}, {"value": "none"}),
                            ({"at_least": 0}, {"rows": {"none": 1}}), ({"at_least": 0}, {"row": {}}), ({"at_least": "policy"}, {})):
            with self.assertRaises(ValueError, msg=f"{holds} {part}"):
                self.judged(holds, **part)
        claim = {"id": "X", "claim": "c", "experiments": ["exp"], "parts": [{"says": "s", "table": "exp/t", "value": "error", "holds": {"at_least": 0}}]}
        with self.assertRaises(ValueError):  # no count
            audit.judge(claim, Path("data"))

    def test_untestable_claims_say_why(self):
        found = audit.judge({"id": "X", "claim": "c", "experiments": ["exp"], "untestable": "no such machine"}, None)
        self.assertEqual((found["verdict"], found["reason"]), ("untestable here", "no such machine"))

    def test_all_claims_are_judged_and_the_readme_says_so(self):
        claims = yaml.safe_load((experiments_test.EXPERIMENTS / "claims.yaml").read_text(encoding="utf-8"))
        self.assertEqual([c["id"] for c in claims], [f"F{i}" for i in range(1, 13)])
        done = experiments_test.run(sys.executable, experiments_test.SOURCE / "scripts/audit.py", "--readme", experiments_test.SOURCE / "README.md", "--check")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        for result in (audit.judge(claim, None) for claim in claims):
            for part in result["parts"]:
                self.assertIn("least", part, part)  # every part finds its rows and numbers in the committed tables


class Claims(unittest.TestCase):
    """What the claims of the paper come to with other data than ours."""

    def audit(self, **edits):
        """Claim -> its verdict and what its parts come to where edits[table](row) has changed or, by returning False, removed rows of the committed tables."""
        data = Path("edited")
        shutil.rmtree(data, ignore_errors=True)
        for path in experiments_test.EXPERIMENTS.glob("*/expected/*.csv"):
            copy = data / path.parts[-3] / path.name
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
            if edit := edits.get(path.stem):
                table = read_csv(path)
                table.rows = [row for row in table.rows if edit(row) is not False]
                copy.write_text(table.csv(), encoding="utf-8")
        found = [audit.judge(claim, data) for claim in yaml.safe_load((experiments_test.EXPERIMENTS / "claims.yaml").read_text(encoding="utf-8"))]
        return {r["id"]: (r["verdict"], [part["holds"] for part in r["parts"]]) for r in found}

    def test_no_claim_is_judged_by_tables_without_numbers_or_rows(self):
        def forget(row):
            row.update({column: math.nan for column, cell in row.items() if not isinstance(cell, str)})

        tables = {path.stem for path in experiments_test.EXPERIMENTS.glob("*/expected/*.csv")}
        for edit in (forget, lambda row: False):
            for claim, (verdict, parts) in self.audit(**{name: edit for name in tables}).items():
                self.assertEqual((verdict, set(parts) - {None}), ("untestable here", set()), claim)


    def test_f1_follows_what_the_shard_map_stores(self):
        def stores(tokens):
            def edit(row):
                if row["layout"] == "pikv_xor":
                    row["tokens"] = tokens(row)
                    row["over_paper"], row["saving_dense"] = row["tokens"] / row["paper"], float(row["E"]) * float(row["L"]) / row["tokens"]
            return edit

        def grows(slope):
            return lambda row: row.update(slope=slope(row)) if row["layout"] == "pikv_xor" else None

        exact = {"memory": stores(lambda row: row["paper"]), "memory_slopes": grows(lambda row: row["paper"])}
        self.assertEqual(self.audit(**exact)["F1"], ("supported", [True] * 6))
        less = {"memory": stores(lambda row: float(row["L"]) / float(row["G"])), "memory_slopes": grows(lambda row: {"G": -1, "L": 1, "E": 0, "k": 0}[row["axis"]])}
        self.assertEqual(self.audit(**less)["F1"], ("supported", [True] * 6))
        self.assertEqual(self.audit(**exact | {"memory": stores(lambda row: 3 * row["paper"])})["F1"], ("refuted", [False] + [True] * 5))
        self.assertEqual(self.audit(**exact | {"memory": stores(lambda row: float(row["E"]) * float(row["L"]))})["F1"], ("refuted", [False] * 2 + [True] * 4))
        for axis in "GLEk":
            steeper = grows(lambda row, axis=axis: row["paper"] + (0.3 if row["axis"] == axis else 0))
            self.assertEqual(self.audit(**exact | {"memory_slopes": steeper})["F1"][0], "refuted")
        padded = {name: lambda row: row.update({c: 99.0 for c in ("tokens", "over_paper", "slope") if c in row}) if row["layout"] == "xor expert pages" else None for name in exact}
        self.assertEqual(self.audit(**padded)["F1"], self.audit()["F1"])  # what pages of one expert add is not held against the claim

    def test_f7_takes_an_effect_for_one_only_beyond_its_margin(self):
        wanted = {"R_LB": -0.02, "R_E": -0.02, "R_P": 0.02, "R_A": 0.02, "R_H": -0.02}

        def effects(factor, printed):
            return lambda row: row.update({"change": printed} if "printed" in row["effect"] else {"relative": factor * wanted[row["effect"].split()[0]]})

        self.assertEqual(self.audit(routing_effects=effects(1, 0.5))["F7"], ("supported", [True] * 6))
        for factor in (0, 0.4, -1):  # none, below the margin, the wrong way
            self.assertEqual(self.audit(routing_effects=effects(factor, 0.0))["F7"], ("refuted", [False] * 6))
        self.assertEqual(len(read_csv(experiments_test.EXPERIMENTS / "routing/expected/routing_effects.csv").rows), 6)  # all of which are judged

    def test_f8_is_refuted_by_an_error_of_a_method_off_its_formula_in_either_direction(self):
        def errors(*wrong, factor=1.0):
            def edit(row):
                if not math.isnan(row["k_err_theory"]):
                    row["k_err"] = row["k_err_theory"] * (factor if (row["source"], row["codec"]) in wrong else 0.95)
            return edit

        self.assertEqual(self.audit(compression=errors())["F8"], ("supported", [True] * 9))
        for row in read_csv(experiments_test.EXPERIMENTS / "compression/expected/compression.csv").rows:
            if not math.isnan(row["k_err_theory"]):  # every method of Table 2 that has a formula is judged, nothing else
                for factor in (0.5, 2, 100):
                    self.assertEqual(self.audit(compression=errors((row["source"], row["codec"]), factor=factor))["F8"][0], "supported" if row["method"] == "-" else "refuted", row["codec"])

    def test_f2_counts_the_whole_interval_of_times_and_the_memory_of_full_buffers(self):
        def insertion(ratio, growth=1.0):
            return {"optimum_insertion": lambda row: row.update(ratio=ratio, pool_growth=growth)}

        for ratio, growth, verdict in (((1.2, 0.9, 1.9), 1.0, "supported"), ((5.0, 1.9, 12.0), 1.0, "untestable here"), ((5.0, 4.0, 6.0), 1.0, "refuted"), (1.0, 2.0, "refuted")):
            self.assertEqual(self.audit(**insertion(ratio, growth))["F2"][0], verdict, (ratio, growth))

    def test_f3_is_supported_by_memory_that_follows_the_formula(self):
        found = self.audit(optimum=lambda row: row.update(peak_kib=row["paper_kib"]), optimum_best=lambda row: row.update(smallest_s=row["paper_s"], quarter=2.1, over_paper=1))
        self.assertEqual(found["F3"], ("supported", [True] * 4))
        self.assertEqual(self.audit(optimum_best=lambda row: row.update(smallest_s=row["paper_s"], quarter=1.0, over_paper=1))["F3"], ("refuted", [False, True, False, True]))

    def test_f4_to_f6_and_f10_follow_their_tables(self):
        found = self.audit(read_share=lambda row: row.update(read=row["paper"], wire_cut=row["paper_speedup"]), scaling_gain=lambda row: row.update(step_gain=2),
                           misses=lambda row: row.update(hit_ratio=row["paper_hit"]), latency=lambda row: row.update(speedup=row["paper_speedup"]), memory_128k=lambda row: row.update(kv_gb=25))
        self.assertEqual({found[claim][0] for claim in ("F4", "F5", "F6", "F10")}, {"supported"})
        found = self.audit(scaling_gain=lambda row: row.update(step_gain=1), memory_128k=lambda row: row.update(kv_gb=24), latency=lambda row: row.update(speedup=1))
        self.assertEqual((found["F4"][1][2], found["F10"][1], found["F6"]), (False, [False] * 3, ("refuted", [False])))

    def test_f9_asks_of_adakv_only_what_thresholds_reach_and_its_gain_can_do(self):
        def target(printed, corrected=0.2, room=0.01):
            return {"scheduling_target": lambda row: row.update(slope=printed if row["sign"] == "as printed" else corrected, room=room)}

        for edit, holds in ((target(0.2), True), (target(-0.2), False), (target(0.0), False), (target(0.2, corrected=0.0), None), (target(-0.2, corrected=-0.2), None), (target(-0.2, room=-0.01), None)):
            self.assertEqual(self.audit(**edit)["F9"][1][0], holds)
        for more, holds in ((0.0, True), ((0.1, 0.05, 0.2), True), ((-0.1, -0.2, 0.05), None), ((-0.1, -0.2, -0.05), False)):
            self.assertEqual(self.audit(scheduling_literal=lambda row, more=more: row.update(kept_more=more))["F9"][1][1:], [holds] * 2)

    def test_f12_asks_for_more_than_the_sum_in_every_response(self):
        for gain, verdict in (((0.2, 0.1, 0.3), "supported"), ((0.2, -0.1, 0.3), "untestable here"), ((0.0, 0.0, 0.0), "refuted"), ((-0.2, -0.3, -0.1), "refuted")):
            self.assertEqual(self.audit(synergy=lambda row: row.update(gain=gain))["F12"][0], verdict, gain)
        one = self.audit(synergy=lambda row: row.update(gain=(0.2, 0.1, 0.3) if row["response"] == "memory" else (-0.2, -0.3, -0.1)))
        self.assertEqual(one["F12"], ("refuted", [True, False, False]))


if __name__ == "__main__":
    unittest.main()
