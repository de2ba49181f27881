#!/usr/bin/python3
"""Writes one self-contained page over merged sweeps: sortable table, filters, scatter plot. It opens from a file, loads nothing, and follows light and dark.

usage: report.py MERGED.h5... --out report.html
"""
import argparse
import json
import math
import sys
from pathlib import Path

import moekv_results

TEMPLATE = Path(__file__).resolve().parents[1] / "experiments/lib/report.html"
METRICS = ("hit_ratio", "attn_out_err_mean", "attn_mass_kept_mean", "compression_factor", "code_compression_factor", "page_compression_factor", "kv_peak_bytes", "bytes_wire_per_token",
           "fanout", "read_amplification", "rank_imbalance_ratio", "expert_imbalance_ratio", "evictions", "t_step_model", "step_time_mean", "routing_change_rate", "replication_factor")
LIMIT = 1_000_000  # bytes of the page


def plain(value):
    """A number short enough for a page, whole ones whole; None where there is none."""
    return None if not math.isfinite(value) else int(value) if is_whole(value) else float(f"{value:.5g}")


def setting(value):
    """A setting as the sweep file writes it: whole numbers whole, nothing where the point's case does not set it."""
    if isinstance(value, str):
        return value
    return "" if value != value else str(int(value)) if is_whole(value) else f"{value:.15g}"


def settings_of(sweep, name):
    """A setting of every point: what its axes chose, else what it has from the base."""
    base = sweep.params.get(name, [""] * sweep.n)
    return [setting(v) or setting(base[i]) for i, v in enumerate(sweep.settings[name])]


def is_whole(value):
    return float(value).is_integer() and abs(value) < 2**53


def sweep_data(path):
    """What the page knows of one sweep: facts, settings and metrics as columns."""
    sweep = moekv_results.load_sweep(path)
    names = [m for m in METRICS if m in sweep.metrics and any(math.isfinite(v) for v in sweep.metrics[m])]
    settings = {name: settings_of(sweep, name) for name in sweep.settings}
    settings = {name: values for name, values in settings.items() if len(set(values)) > 1}
    commit = str(sweep.attrs.get("git_commit", "of several commits"))[:10]
    return {
        "name": str(sweep.attrs.get("sweep_name", Path(path).parent.name)), "commit": commit, "created": str(sweep.attrs.get("created", "")), "n": int(sweep.n),
        "label": [str(v) for v in sweep.label], "status": [str(v) for v in sweep.status], "notes": [" ".join(v) for v in sweep.labels],
        "digest": [str(v)[:12] for v in sweep.digests], "settings": settings, "metrics": {m: [plain(float(v)) for v in sweep.metrics[m]] for m in names},
        "about": {m: {k: str(sweep.about(m).get(k, "")) for k in ("units", "definition", "claim_class")} for m in names},
    }


def tell_apart(sweeps, paths):
    """Sweeps of one name get their place and file behind it: the page chooses by name."""
    names = [sweep["name"] for sweep in sweeps]
    for i, sweep in enumerate(sweeps):
        if names.count(names[i]) > 1:
            sweep["name"] += f" ({i + 1}: {paths[i]})"
    return sweeps


def page(sweeps):
    """The text of the page. No `<` stays in the data: within a script `<!--<script>` would begin what ends the page."""
    data = json.dumps(sweeps, separators=(",", ":"), sort_keys=True).replace("<", "\\u003c")
    return TEMPLATE.read_text(encoding="utf-8").replace("/*DATA*/[]", data)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("merged", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    if options.out.resolve() in [path.resolve() for path in options.merged]:
        parser.error(f"--out {options.out} is also an input")
    try:
        text = page(tell_apart([sweep_data(path) for path in options.merged], options.merged))
        if len(text.encode()) > LIMIT:
            raise ValueError(f"the page would have {len(text.encode())} bytes, more than {LIMIT}: give fewer sweeps")
        options.out.write_text(text, encoding="utf-8")
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
