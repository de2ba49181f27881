#!/usr/bin/python3
"""Judges the claims of experiments/claims.yaml by the tables of the experiments: supported, refuted, dependent on the reading, or untestable here,
with numbers and the experiments that scripts/reproduce.sh repeats.

usage: audit.py [--data FOLDER] [--readme README.md [--check]] [--json]
    --data FOLDER   tables of scripts/reproduce.sh (FOLDER/<experiment>/<table>.csv); default: those committed in experiments/*/expected
    --readme FILE   write the verdicts between its audit markers; with --check only compare (exit 1 where they differ)
"""
import argparse
import json
import math
import sys
from pathlib import Path

import yaml

SOURCE = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(SOURCE / "experiments/lib"))
from tables import brief, read_csv, short_unit, text_of, value_of  # noqa: E402

RELATIONS = {"equal": "claim", "at_least": "claim: at least", "at_most": "claim: at most", "above": "claim: above", "below": "claim: below"}
PART = {"says", "table", "rows", "count", "value", "unit", "holds", "needs"}
READING = "depends on the reading"
BEGIN, END = "<!-- scripts/audit.py -->", "<!-- end of scripts/audit.py -->"


def find_table(name, data):
    experiment, table = name.split("/")
    path = data / experiment / f"{table}.csv" if data else SOURCE / "experiments" / experiment / "expected" / f"{table}.csv"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is absent (scripts/reproduce.sh --only {experiment} makes it)")
    return read_csv(path, name)


def chosen(table, wanted):
    unknown = set(wanted) - set(table.columns)
    if unknown:
        raise ValueError(f"{table.name} has no column {sorted(unknown)}")

    def fits(row):
        return all(text_of(value_of(row[c])) in ([text_of(x) for x in v] if isinstance(v, list) else [text_of(v)]) for c, v in wanted.items())

    return [row for row in table.rows if fits(row)]


def relation_of(rule, where):
    """The one relation of a rule. Raises ValueError for a rule that says none, several, or something unknown."""
    found = [key for key in rule if key in RELATIONS]
    wanted = {"tolerance", "within"} if found == ["equal"] else set()
    if len(found) != 1 or set(rule) - set(found) - wanted - {"plus"} or len(wanted & set(rule)) != (1 if wanted else 0):
        raise ValueError(f"{where}: no such rule: {rule} (one of {', '.join(RELATIONS)}; equal with tolerance or within)")
    return found[0]


def target_of(row, rule):
    """The number, or that of the other column, against which a rule holds a cell."""
    against = rule[relation_of(rule, "rule")]
    return (number_of(row, against) if isinstance(against, str) else float(against)) + rule.get("plus", 0)


def number_of(row, column):
    if column not in row:
        raise ValueError(f"no column is called {column}")
    value = value_of(row[column])
    if isinstance(value, str):
        raise ValueError(f"column {column} holds text: {value}")
    return value


def unit_of(table, column):
    """The unit of a column as it stands behind a number; nothing where the column has words for one, or 1."""
    unit = short_unit(table.columns[column][1]) if column in table.columns else ""
    return "" if " " in unit or unit == "1" else {"x": "times"}.get(unit, unit)


def allowed(rule, target):
    """The least and the largest value that a rule allows. A tolerance t of a ratio: between 1/(1+t) and 1+t times the target."""
    if "equal" in rule:
        spread = (target - rule["within"], target + rule["within"]) if "within" in rule else (target / (1 + rule["tolerance"]), target * (1 + rule["tolerance"]))
        return min(spread), max(spread)
    return {"at_least": (target, math.inf), "above": (math.nextafter(target, math.inf), math.inf), "at_most": (-math.inf, target),
            "below": (-math.inf, math.nextafter(target, -math.inf))}[relation_of(rule, "rule")]


def holds(row, column, rule):
    """True where the whole interval of a cell satisfies a rule, False where none of it does, else None. The numbers must be finite."""
    low, high = row[column][1:] if isinstance(row[column], tuple) else (row[column],) * 2
    least, largest = allowed(rule, target_of(row, rule))
    return True if least <= low and high <= largest else False if high < least or low > largest else None


def judge_part(part, data):
    """holds: True, False, or None where it cannot be said, with the reason."""
    unknown, absent = set(part) - PART, {"says", "table", "value", "holds", "count"} - set(part)
    if unknown or absent:
        raise ValueError(f"part '{part.get('says')}': " + (f"no such key: {sorted(unknown)}" if unknown else f"{sorted(absent)} not given"))
    table, relation = find_table(part["table"], data), relation_of(part["holds"], part["says"])
    rows = chosen(table, part.get("rows", {}))
    result = {"says": part["says"], "holds": None, "rows": len(rows), "good": 0, "table": part["table"], "value": part["value"], "relation": relation,
              "unit": part.get("unit", unit_of(table, part["value"]))}
    if len({tuple(row[k] for k in table.keys()) for row in rows}) != part["count"] or len(rows) != part["count"]:
        return {**result, "reason": f"{part['table']} has {len(rows)} of the {part['count']} rows that this is about"}
    values, targets = [number_of(row, part["value"]) for row in rows], [target_of(row, part["holds"]) for row in rows]
    cells = [x for row in rows for x in (row[part["value"]][1:] if isinstance(row[part["value"]], tuple) else ())]
    missing = sum(not (math.isfinite(v) and math.isfinite(t)) for v, t in zip(values, targets))
    if missing or not all(map(math.isfinite, cells)):
        return {**result, "reason": f"{part['table']} lacks numbers in {missing or 'the intervals'} of {len(rows)} rows"}
    good = [holds(row, part["value"], part["holds"]) for row in rows]
    result.update(holds=False if False in good else None if None in good else True, good=sum(g is True for g in good), least=min(values), largest=max(values),
                  interval=[min(cells), max(cells)] if cells else None, target=[min(targets), max(targets)])
    if result["holds"] is None:
        result["reason"] = f"the interval spans the bound in {good.count(None)} of {len(rows)} rows"
    needed = judge_part(part["needs"], data) if "needs" in part else {"holds": True}
    return result if needed["holds"] else {**result, "holds": None, "reason": f"the condition {describe(needed)}"}


def judge(claim, data):
    """Verdict and evidence of a claim: refuted by a part that fails, supported where all hold, else untestable here; where the parts are `readings` of one statement,
    some that hold and some that fail say that it depends on the reading. Raises FileNotFoundError or ValueError where a table or a column is absent or the claim is
    not well said."""
    result = {"id": claim["id"], "claim": claim["claim"], "experiments": claim["experiments"], "parts": [], "readings": claim.get("readings", False)}
    if "untested" in claim:
        result["untested"] = claim["untested"]
    if "untestable" in claim:
        return {**result, "verdict": "untestable here", "reason": claim["untestable"]}
    if not claim.get("parts"):
        raise ValueError(f"{claim['id']}: neither parts nor a reason why it is untestable")
    result["parts"] = [judge_part(part, data) for part in claim["parts"]]
    found = [part["holds"] for part in result["parts"]]
    if result["readings"] and set(found) == {True, False}:
        return {**result, "verdict": READING}
    fails = False in found and not (result["readings"] and None in found)
    return {**result, "verdict": "refuted" if fails else "untestable here" if None in found else "supported"}


def describe(part):
    word = {True: "holds", False: "fails", None: "not judged"}[part["holds"]]
    if "least" not in part:
        return f"{word}: {part['says']}: {part['reason']}"
    unit = " " + part["unit"] if part["unit"] else ""
    seen = brief(part["least"]) + unit if part["rows"] == 1 else f"{brief(part['least'])} to {brief(part['largest'])}{unit} in {part['rows']} rows"
    if part["interval"]:
        seen += f" [{brief(part['interval'][0])}, {brief(part['interval'][1])}]"
    if part["holds"] is not True and part["rows"] > 1:
        seen += f", as claimed in {part['good']}"
    low, high = part["target"]
    target = brief(low) if math.isclose(low, high) else f"{brief(low)} to {brief(high)}"
    return f"{word}: {part['says']}: {seen} ({RELATIONS[part['relation']]} {target})" + (f"; {part['reason']}" if "reason" in part else "")


def markdown(results, short=False):
    """A table of verdicts; short: one piece of evidence each, the first that fails or else the first that is not judged, and how many of the parts hold; every
    reading of a claim that has several."""
    lines = ["| | the paper's claim | verdict | evidence | experiments |", "|---|---|---|---|---|"]
    for r in results:
        parts = sorted(r["parts"], key=lambda p: (p["holds"] is not False, p["holds"] is not None))
        evidence = r.get("reason") or "<br>".join(describe(p) for p in (parts[:1] if short and not r["readings"] else r["parts"]))
        evidence += f"; not tested: {r['untested']}" if "untested" in r else ""
        held, open_ones = (sum(p["holds"] is value for p in parts) for value in (True, None))
        count = f" ({held} of {len(parts)} {'readings' if r['readings'] else 'parts'} hold{f', {open_ones} not judged' if open_ones else ''})" if len(parts) > 1 else ""
        lines.append(f"| {r['id']} | {r['claim']} | **{r['verdict']}**{count} | {evidence} | {', '.join(r['experiments'])} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--claims", type=Path, default=SOURCE / "experiments/claims.yaml")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--readme", type=Path)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    try:
        results = [judge(claim, options.data) for claim in yaml.safe_load(options.claims.read_text(encoding="utf-8"))]
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    text = markdown(results)
    if options.json:
        print(json.dumps(results, indent=1))
    elif not options.readme:
        print(text)
    if options.readme:
        old = options.readme.read_text(encoding="utf-8")
        head, _, rest = old.partition(BEGIN)
        new = f"{head}{BEGIN}\n{markdown(results, short=True)}\n{END}{rest.partition(END)[2]}"
        if options.check:
            print("the audit in " + options.readme.name + (" is up to date" if new == old else " differs from the tables: run scripts/audit.py --readme README.md"))
            return 0 if new == old else 1
        options.readme.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
