#!/usr/bin/python3
"""Traffic and balance of every layout, map and dedup, and who sends to whom over time."""
import sys
from pathlib import Path

import numpy

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))
import paper  # noqa: E402

ALL_CLASSES = paper.moekv_results.WIRE_CLASSES
CLASSES = [c for c in ALL_CLASSES if c != "pages"]  # nothing replans here
COLUMNS = {"map": ("key", ""), **{c: ("counted", "KiB/token") for c in CLASSES}, "total": ("counted", "KiB/token"), "total_plan": ("modelled", "KiB/token, moekv plan for even routing"), "copies": ("counted", "per token"), "ranks_stored": ("counted", "per token"),
           "fanout": ("counted", "ranks/query"), "memory_kib": ("counted", "KiB/rank"), "read_imbalance": ("counted", "max/mean"), "memory_imbalance": ("counted", "max/mean"),
           "pair_imbalance": ("counted", "max/mean"), "step_us": ("modelled", "us")}
MATRIX = {"map": ("key", ""), "first_step": ("key", ""), "source": ("key", ""), "destination": ("key", ""), "kib": ("counted", "KiB")}
DRAWN, WINDOWS = [name + dedup for name in ("expert_affine", "pikv_xor", "eplb") for dedup in ("", " rank")], range(0, 8, 2)


def tables(sweep):
    table, matrix = paper.Table("traffic", COLUMNS, "Traffic and balance of layouts and maps"), paper.Table("traffic_matrix", MATRIX, "Bytes between ranks in windows of 8 steps")
    for label, (point, *_) in paper.groups(sweep).items():
        get = lambda metric: float(sweep.metrics[metric][point])  # noqa: E731
        parts = {c: get("wire_" + c) / get("tokens") / 1024 for c in CLASSES}
        table.add(map=label, **parts, total=get("bytes_wire_per_token") / 1024, total_plan=paper.predicted(sweep, point, "bytes_wire") / get("tokens") / 1024, copies=get("replication_factor"),
                  ranks_stored=get("ranks_per_token"), fanout=get("fanout"), memory_kib=paper.rank_peak(sweep, point) / 1024,
                  read_imbalance=get("rank_imbalance_ratio"), memory_imbalance=get("rank_memory_imbalance"), pair_imbalance=get("pair_imbalance"),
                  step_us=get("t_step_model") / get("n_steps") / 1e3)
        if label in DRAWN:
            rows = sweep.record("traffic", point=point)
            kib = sum(rows[c] for c in ALL_CLASSES) / 1024
            starts = numpy.unique(rows["first_step"])
            for start in [starts[w] for w in WINDOWS if w < len(starts)]:
                for i in numpy.flatnonzero(rows["first_step"] == start):
                    if rows["source"][i] != rows["destination"][i]:
                        matrix.add(map=label, first_step=str(int(start)), source=str(int(rows["source"][i])), destination=str(int(rows["destination"][i])), kib=float(kib[i]))
    return [table, matrix]


def bars(table):
    figure, axes = paper.grid(1, 2, "page", 2.6)
    names = table.column("map")
    left = numpy.zeros(len(names))
    for i, part in enumerate(CLASSES[:4]):
        values = numpy.array(table.column(part))
        axes[0].barh(range(len(names)), values, left=left, label=part, color=paper.plot_style.FILLS[i], hatch=paper.plot_style.HATCHES[i], edgecolor="black", linewidth=0.3)
        left += values
    axes[0].plot(table.column("total_plan"), range(len(names)), "k|", markersize=7, label="predicted, all kinds")
    axes[0].set_yticks(range(len(names)))
    axes[0].set_yticklabels(names)
    axes[0].invert_yaxis()
    axes[0].set_xlabel("KiB between ranks per token (counted)")
    axes[0].set_xlim(right=1.75 * max(table.column("total")))  # room for the legend
    axes[0].legend(loc="lower right")
    paper.bars(axes[1], [""] * len(names), table.column("read_imbalance"), colour=0, offset=-0.2, width=0.4, label="entries read")
    paper.bars(axes[1], [""] * len(names), table.column("memory_imbalance"), colour=1, offset=0.2, width=0.4, label="peak memory")
    axes[1].set_xlim(left=1)
    axes[1].set_xlabel("busiest rank / mean (counted)")
    axes[1].legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncol=2)
    return figure


def heat(matrix):
    maps = matrix.distinct("map")
    figure, axes = paper.grid(len(maps), len(WINDOWS), "page", 1.15 * len(maps))
    top = max(matrix.column("kib"))
    for r, name in enumerate(maps):
        for c, start in enumerate(matrix.distinct("first_step", map=name)):
            rows = matrix.where(map=name, first_step=start)
            n = 1 + max(int(row["source"]) for row in rows)
            cells = numpy.zeros((n, n))
            for row in rows:
                cells[int(row["source"]), int(row["destination"])] = row["kib"]
            panel = axes[r * len(WINDOWS) + c]
            image = panel.imshow(cells, vmin=0, vmax=top, cmap="viridis", interpolation="nearest")
            panel.set_title(f"{name}, step {start}", fontsize=6)
            panel.set_xticks([])
            panel.set_yticks([])
    figure.colorbar(image, ax=axes, shrink=0.6, label="KiB, source (down) to destination (right)")
    return figure


def figures(named):
    return {"traffic": bars(named["traffic"]), "traffic_matrix": heat(named["traffic_matrix"])}


if __name__ == "__main__":
    paper.main(__file__, tables, figures)
