#!/usr/bin/python3
"""Optima and miss classes of `moekv oracle` for points of a merged sweep: each point is run again with an access log, and must decide the same.

usage: with_bounds.py MERGED.h5 --program build/release/moekv [--labels REGEX] [--attention-rows N]     writes bounds.json beside it: {point id: {metric: value}}
"""
import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
import moekv_results  # noqa: E402


def call(program, *arguments):
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[0])
    return done.stdout


def bounds(program, sweep, point, rows, work):
    """The oracle's metrics of a point, and the pages of all its budgets. Raises RuntimeError where a run fails or decides otherwise."""
    config, log, again = work / "point.yaml", work / "log.h5", work / "again.h5"
    config.write_text(str(sweep.point_facts["config_resolved_yaml"][point]), encoding="utf-8")
    log.unlink(missing_ok=True)
    again.unlink(missing_ok=True)
    call(program, "run", config, "-q", "--out", again, "--access-log", log, *(["--attention-rows", rows] if rows else []))
    digest = moekv_results.load(again).digest
    if digest != sweep.digests[point]:
        raise RuntimeError(f"digest {sweep.digests[point]} became {digest}")
    oracle = json.loads(call(program, "oracle", log, "--json"))
    pooled = oracle["records"]["bound"]
    return {**{name: about["value"] for name, about in oracle["metrics"].items()}, "capacity_pages": pooled["capacity_pages"][pooled["shard"].index(-1)]}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("merged", type=Path)
    parser.add_argument("--program", default="build/release/moekv")
    parser.add_argument("--labels", default="", metavar="REGEX", help="only points whose label begins with a match of this regular expression")
    parser.add_argument("--attention-rows", type=int, default=0)
    options = parser.parse_args()
    target, found, bad = options.merged.parent / "bounds.json", {}, 0
    try:
        sweep = moekv_results.load_sweep(options.merged)
        if target.is_file():
            found = json.loads(target.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as work:
        for point in range(sweep.n):
            if sweep.status[point] != "ok" or not re.match(options.labels, str(sweep.label[point])):
                continue
            try:
                found[str(sweep.point_id[point])] = bounds(options.program, sweep, point, options.attention_rows, Path(work))
            except RuntimeError as error:
                bad += 1
                print(f"{options.merged}: point {point} {sweep.label[point]}: no bounds: {error}", file=sys.stderr)
    target.write_text(json.dumps(found, indent=0, sort_keys=True) + "\n", encoding="utf-8")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
