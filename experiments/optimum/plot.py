#!/usr/bin/python3
"""F3: measured page memory of a rank against the buffer size S, beside M = (2d/rho)(L/(G S) + K S) and its minimum S*."""
import math
import sys
from pathlib import Path

import numpy

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))
import paper  # noqa: E402

COLUMNS = {"K": ("key", "shards/rank"), "S": ("key", "tokens"), "peak_kib": ("counted", "KiB/rank"), "metadata_kib": ("counted", "KiB/rank"), "paper_kib": ("derived", "KiB"),
           "kept": ("counted", "entries resident over stored"), "capacity_kib": ("derived", "KiB, K S tokens"), "admit_ns": ("time", "ns/entry, median over steps")}
INSERTION = {"K": ("key", ""), "ratio": ("time", "x, admission with the largest S over the smallest")}
BEST = {"K": ("key", ""), "paper_s": ("derived", "tokens, S*"), "paper_kib": ("derived", "KiB, M*"), "smallest_s": ("counted", "tokens"), "at_smallest_kib": ("counted", "KiB"),
        "needed_kib": ("counted", "KiB that keeps everything"), "over_paper": ("counted", "x, needed over M*")}


def admission(sweep, point):
    """Median over steps of the time of admission per entry, with its quartiles."""
    step = sweep.record("step", point=point)
    kept = step["insertions"] > 0
    low, middle, high = numpy.percentile(step["t_admit"][kept] / step["insertions"][kept], (25, 50, 75))
    return float(middle), float(low), float(high)


def tables(sweep):
    table, best = paper.Table("optimum", COLUMNS, "Memory of the fullest rank against S"), paper.Table("optimum_best", BEST, "The paper's optimum and what memory does")
    insertion = paper.Table("optimum_insertion", INSERTION, "Cost of an insertion against the size of the buffer")
    for k in ("1", "4"):
        found = []
        for point in paper.points(sweep):
            p = sweep.params
            if str(int(p["cluster.shards_per_rank"][point])) != k:
                continue
            ranks, length = int(p["cluster.ranks"][point]), int(p["trace.synthetic.prompt_tokens"][point]) + int(p["trace.synthetic.output_tokens"][point])
            token = int(p["model.n_kv_heads"][point]) * (int(p["model.d_k"][point]) + int(p["model.d_v"][point])) * 2 / 1024
            peak = float(paper.per_rank_peak(sweep, point).max()) / 1024
            text = str(sweep.settings["eviction.budget"][point])
            tokens = int("".join(c for c in text if c.isdigit())) if any(c.isdigit() for c in text) else None
            found.append((tokens, peak))
            formula = token * (length / (ranks * tokens) + int(k) * tokens) if tokens else math.nan
            table.add(K=k, S=str(tokens or "unlimited"), peak_kib=peak, metadata_kib=float(sweep.metrics["metadata_bytes"][point]) / ranks / 1024, paper_kib=formula,
                      kept=float(sweep.metrics["resident_entries"][point]) / float(sweep.metrics["insertions"][point]), capacity_kib=token * int(k) * tokens if tokens else math.nan, admit_ns=admission(sweep, point))
        star = math.sqrt(length / (int(k) * ranks))
        least, needed = 2 * token * math.sqrt(int(k) * length / ranks), [peak for tokens, peak in found if tokens is None][0]
        smallest = min((peak, tokens) for tokens, peak in found if tokens)
        best.add(K=k, paper_s=star, paper_kib=least, smallest_s=smallest[1], at_smallest_kib=smallest[0], needed_kib=needed, over_paper=needed / least)
        times = [row["admit_ns"] for row in table.where(K=k) if row["S"] != "unlimited"]
        insertion.add(K=k, ratio=tuple(times[-1][i] / times[0][j] for i, j in ((0, 0), (1, 2), (2, 1))))
    return [table, best, insertion]


def figures(named):
    figure, axes = paper.grid(1, 2, "page", 2.2)
    for panel, k in zip(axes, ("1", "4")):
        rows = [row for row in named["optimum"].where(K=k) if row["S"] != "unlimited"]
        x = [float(row["S"]) for row in rows]
        for i, (column, text) in enumerate((("peak_kib", "page memory (counted)"), ("paper_kib", "the paper's M"), ("kept", "share kept x 1000"))):
            panel.plot(x, [row[column] * (1000 if column == "kept" else 1) for row in rows], label=text, **paper.look(i))
        panel.axvline(named["optimum_best"].column("paper_s", K=k)[0], color="black", linestyle=":", linewidth=0.8, label="S*")
        panel.set_xscale("log", base=2)
        panel.set_yscale("log")
        panel.set_xlabel(f"S in tokens, K = {k} shards per rank")
        panel.set_ylabel("KiB per rank; share kept x 1000")
        panel.legend()
    return {"optimum": figure}


if __name__ == "__main__":
    paper.main(__file__, tables, figures)
