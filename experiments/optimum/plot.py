#!/usr/bin/python3
"""F3: measured page memory of a rank against the buffer size S, beside M = (2d/rho)(L/(G S) + K S) and its minimum S*."""
import math
import sys
from pathlib import Path

import numpy

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))
import paper  # noqa: E402

COLUMNS = {"K": ("key", "shards/rank"), "S": ("key", "tokens"), "peak_kib": ("counted", "KiB/rank"), "metadata_kib": ("counted", "KiB/rank"), "paper_kib": ("derived", "KiB"),
           "kept": ("counted", "entries resident over stored"), "capacity_kib": ("derived", "KiB, K S tokens"), "admit_ns": ("time", "ns/entry, mean over repeats of the median over steps")}
INSERTION = {"K": ("key", ""), "ratio": ("time", "x, admission with the largest S over the smallest"), "pool_growth": ("counted", "x, memory taken for pages at the end over half way, largest of the full buffers")}
BEST = {"K": ("key", ""), "paper_s": ("derived", "tokens, S*"), "paper_kib": ("derived", "KiB, M*"), "smallest_s": ("counted", "tokens, the largest S of those with least memory"), "quarter": ("counted", "x, memory at S*/4 over that at S*"), "at_smallest_kib": ("counted", "KiB"),
        "needed_kib": ("counted", "KiB that keeps everything"), "over_paper": ("counted", "x, needed over M*")}


def admission(sweep, chosen):
    """Median over steps of the time of admission per entry, of every repeat."""
    steps = [sweep.record("step", point=point) for point in chosen]
    return [float(numpy.median(step["t_admit"][step["insertions"] > 0] / step["insertions"][step["insertions"] > 0])) for step in steps]


def pool_growth(sweep, point, block):
    """Memory taken for pages, in use or free, at the end over that half way; NaN for a buffer that has evicted nothing by then."""
    step = sweep.record("step", point=point)
    taken, half = step["allocated_pages"] * block + step["free_block_bytes"], len(step["tokens"]) // 2
    return float(taken[-1] / taken[half]) if step["evictions"][:half].any() else math.nan


def tables(sweep):
    table, best = paper.Table("optimum", COLUMNS, "Memory of the fullest rank against S"), paper.Table("optimum_best", BEST, "The paper's optimum and what memory does")
    insertion = paper.Table("optimum_insertion", INSERTION, "Cost of an insertion against the size of the buffer")
    for k in ("1", "4"):
        buffers, times, growth = {}, {}, []  # by S, None for no limit
        for point in paper.points(sweep):
            if str(int(sweep.params["cluster.shards_per_rank"][point])) == k:
                digits = "".join(c for c in str(sweep.settings["eviction.budget"][point]) if c.isdigit())
                buffers.setdefault(int(digits) if digits else None, []).append(point)
        for tokens, chosen in buffers.items():
            p, point = sweep.params, chosen[0]
            ranks, length = int(p["cluster.ranks"][point]), int(p["trace.synthetic.prompt_tokens"][point]) + int(p["trace.synthetic.output_tokens"][point])
            token = paper.token_bytes(sweep, point) / 1024
            formula = token * (length / (ranks * tokens) + int(k) * tokens) if tokens else math.nan
            times[tokens] = admission(sweep, chosen)
            growth.append(pool_growth(sweep, point, token * 1024 * int(p["page.slots"][point])))
            table.add(K=k, S=str(tokens or "unlimited"), peak_kib=paper.rank_peak(sweep, point) / 1024, metadata_kib=float(sweep.metrics["metadata_bytes"][point]) / ranks / 1024,
                      paper_kib=formula, kept=float(sweep.metrics["resident_entries"][point]) / float(sweep.metrics["insertions"][point]),
                      capacity_kib=token * int(k) * tokens if tokens else math.nan, admit_ns=paper.stats.mean_interval(times[tokens]))
        if None not in buffers or len(buffers) < 2:
            raise LookupError(f"no points of K = {k}, or none without a limit")
        star = math.sqrt(length / (int(k) * ranks))
        memory = {row["S"]: row["peak_kib"] for row in table.where(K=k)}
        least, needed = 2 * token * math.sqrt(int(k) * length / ranks), memory.pop("unlimited")
        smallest = max(int(s) for s, peak in memory.items() if peak == min(memory.values()))
        quarter = memory.get(f"{star / 4:g}", math.nan) / memory.get(f"{star:g}", math.nan)
        best.add(K=k, paper_s=star, paper_kib=least, smallest_s=smallest, quarter=quarter, at_smallest_kib=memory[str(smallest)], needed_kib=needed, over_paper=needed / least)
        limited = sorted(s for s in buffers if s)
        insertion.add(K=k, ratio=paper.stats.mean_interval(numpy.divide(times[limited[-1]], times[limited[0]])), pool_growth=max((g for g in growth if not math.isnan(g)), default=math.nan))
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
    paper.shared_legend(figure, axes[0])
    return {"optimum": figure}


if __name__ == "__main__":
    paper.main(__file__, tables, figures)
