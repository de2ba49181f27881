#!/usr/bin/python3
"""Adds the optima and miss classes of `moekv oracle` to finished points of a sweep: each is run again with an access log, which must decide the same.

usage: with_bounds.py SWEEP_FOLDER --program build/release/moekv [--labels REGEX] [--attention-rows N]
"""
import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
import moekv_results  # noqa: E402


def label_of(path):
    import h5py

    with h5py.File(path, "r") as file:
        return file["label"].asstr()[0]


def bound(program, result, rows, work):
    """Runs the point of a result file again with a log and lets the oracle add its bounds to the file. Returns a complaint or ""."""
    run = moekv_results.load(result)
    config, log, again = work / "point.yaml", work / "log.h5", work / "again.h5"
    config.write_text(run.provenance["config_resolved_yaml"] if "config_resolved_yaml" in run.provenance else run.attrs["config_resolved_yaml"], encoding="utf-8")
    extra = ["--attention-rows", str(rows)] if rows else []
    for path in (log, again):
        path.unlink(missing_ok=True)
    done = subprocess.run([program, "run", str(config), "-q", "--out", str(again), "--access-log", str(log), *extra], capture_output=True, text=True)
    if done.returncode:
        return done.stderr.strip().splitlines()[0] if done.stderr.strip() else f"exit {done.returncode}"
    if moekv_results.load(again).digest != run.digest:
        return f"digest {run.digest} became {moekv_results.load(again).digest}"
    done = subprocess.run([program, "oracle", str(log), "--result", str(again), "--out", str(work / "bounded.h5")], capture_output=True, text=True)
    if done.returncode:
        return done.stderr.strip().splitlines()[0] if done.stderr.strip() else f"oracle: exit {done.returncode}"
    return ""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--program", default="build/release/moekv")
    parser.add_argument("--labels", default=".*", help="only points whose label matches")
    parser.add_argument("--attention-rows", type=int, default=0)
    options = parser.parse_args()
    bad = 0
    with tempfile.TemporaryDirectory() as work:
        for result in sorted((options.folder / "points").glob("*.h5")):
            label = label_of(result)
            if re.match(options.labels, label):
                complaint = bound(options.program, result, options.attention_rows, Path(work))
                bad += complaint != ""
                if complaint:
                    print(f"{options.folder.name}: {label}: no bounds: {complaint}", file=sys.stderr)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
