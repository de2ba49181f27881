#!/usr/bin/python3
"""Judges the claims of experiments/claims.yaml by the tables of the experiments: supported, refuted, or untestable here, with numbers and the command.

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
from tables import read_csv, text_of, value_of  # noqa: E402

BEGIN, END = "<!-- scripts/audit.py -->", "<!-- end of scripts/audit.py -->"


def find_table(name, data):
    experiment, table = name.split("/")
    path = data / experiment / f"{table}.csv" if data else SOURCE / "experiments" / experiment / "expected" / f"{table}.csv"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is absent (scripts/reproduce.sh --only {experiment} makes it)")
    return read_csv(path, name)


def chosen(table, wanted):
    def fits(row):
        return all(text_of(value_of(row[c])) in ([text_of(x) for x in v] if isinstance(v, list) else [text_of(v)]) for c, v in wanted.items())

    return [row for row in table.rows if fits(row)]


def holds(row, column, rule):
    """Whether a cell satisfies a rule somewhere in its interval; False for a missing number."""
    low, high = row[column][1:] if isinstance(row[column], tuple) else (row[column], row[column])
    (relation, against), = [(k, v) for k, v in rule.items() if k in ("equal", "at_least", "at_most")]
    target = (value_of(row[against]) if isinstance(against, str) else float(against)) * rule.get("factor", 1)
    if any(math.isnan(x) for x in (low, high, target)):
        return False
    if relation == "at_least":
        return high >= target
    if relation == "at_most":
        return low <= target
    # a tolerance t of a ratio: between 1/(1+t) and 1+t times the target
    span = sorted((target / (1 + rule["tolerance"]), target * (1 + rule["tolerance"])))
    return high >= span[0] and low <= span[1]


def judge_part(part, data):
    rows = chosen(find_table(part["table"], data), part.get("rows", {}))
    if not rows:
        raise ValueError(f"{part['table']}: no row is {part.get('rows')}")
    good = [holds(row, part["value"], part["holds"]) for row in rows]
    values = [value_of(row[part["value"]]) for row in rows]
    against = [v for k, v in part["holds"].items() if k in ("equal", "at_least", "at_most")][0]
    targets = [(value_of(row[against]) if isinstance(against, str) else float(against)) * part["holds"].get("factor", 1) for row in rows]
    cell = rows[0][part["value"]] if len(rows) == 1 else None
    return {"says": part["says"], "holds": all(good), "rows": len(rows), "good": sum(good), "least": min(values), "largest": max(values), "interval": list(cell[1:]) if isinstance(cell, tuple) else None,
            "relation": [k for k in part["holds"] if k in ("equal", "at_least", "at_most")][0], "target": [min(targets), max(targets)], "table": part["table"], "value": part["value"]}


def judge(claim, data):
    """Verdict and evidence of a claim. Raises FileNotFoundError or ValueError where a table or its rows are absent."""
    result = {"id": claim["id"], "claim": claim["claim"], "command": " ; ".join(f"scripts/reproduce.sh --only {e}" for e in claim["experiments"]), "parts": []}
    if "untestable" in claim:
        return {**result, "verdict": "untestable here", "reason": claim["untestable"]}
    result["parts"] = [judge_part(part, data) for part in claim["parts"]]
    return {**result, "verdict": "supported" if all(p["holds"] for p in result["parts"]) else "refuted"}


def number(value):
    return f"{value:.3g}"


def describe(part):
    seen = number(part["least"]) if part["rows"] == 1 else f"{number(part['least'])} to {number(part['largest'])} in {part['rows']} rows"
    if part["interval"]:
        seen += f" [{number(part['interval'][0])}, {number(part['interval'][1])}]"
    word = {"equal": "claim", "at_least": "claim: at least", "at_most": "claim: at most"}[part["relation"]]
    low, high = part["target"]
    target = number(low) if math.isclose(low, high) else f"{number(low)} to {number(high)}"
    return f"{'holds' if part['holds'] else 'fails'}: {part['says']}: {seen} ({word} {target})"


def markdown(results, brief=False):
    """A table of verdicts; brief: one piece of evidence each, the first that fails where one does, and how many of the parts hold."""
    lines = ["| | the paper's claim | verdict | evidence |", "|---|---|---|---|"]
    for r in results:
        parts = sorted(r["parts"], key=lambda p: p["holds"])
        evidence = r.get("reason") or "<br>".join(describe(p) for p in (parts[:1] if brief else r["parts"]))
        held = sum(p["holds"] for p in parts)
        count = f" ({held} of {len(parts)} parts hold)" if len(parts) > 1 else ""
        command = f" (`{r['command']}`)" if not brief else ""
        lines.append(f"| {r['id']} | {r['claim']} | **{r['verdict']}**{count} | {evidence}{command} |")
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
    except (OSError, ValueError, KeyError) as error:
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
        new = f"{head}{BEGIN}\n{markdown(results, brief=True)}\n{END}{rest.partition(END)[2]}"
        if options.check:
            print("the audit in " + options.readme.name + (" is up to date" if new == old else " differs from the tables: run scripts/audit.py --readme README.md"))
            return 0 if new == old else 1
        options.readme.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
