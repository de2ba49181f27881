#!/usr/bin/python3
"""Memory, traffic, fan-out, balance and modelled step time against ranks, context and experts."""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))
import paper  # noqa: E402

AXES = ("ranks", "context", "experts")
COLUMNS = {"axis": ("key", ""), "value": ("key", ""), "layout": ("key", ""), "memory_kib": ("counted", "KiB on the fullest rank per request"), "memory_plan": ("modelled", "KiB, moekv plan"),
           "wire_kib": ("counted", "KiB/token"), "wire_plan": ("modelled", "KiB, moekv plan"),
           "over_hidden": ("modelled", "x, wire over expert-parallel hidden states"), "fanout": ("counted", "ranks/query"), "read_imbalance": ("counted", "max/mean"),
           "memory_imbalance": ("counted", "max/mean"), "step_us": ("modelled", "us")}
GAIN = {"axis": ("key", ""), "value": ("key", ""), "step_gain": ("modelled", "x, time of layout local over expert, routed"), "memory_gain": ("counted", "x, likewise")}


def tables(sweep):
    table = paper.Table("scaling", COLUMNS, "Growth with ranks, context and experts")
    for label, (point, *_) in paper.groups(sweep).items():
        layout, case = label.split("/")
        axis, value = case.split()
        get = lambda metric: float(sweep.metrics[metric][point])  # noqa: E731
        table.add(axis=axis, value=value, layout=layout, memory_kib=paper.rank_peak(sweep, point) / 1024 / get("n_requests"), wire_kib=get("bytes_wire_per_token") / 1024,
                  memory_plan=paper.predicted(sweep, point, "rank_peak_bytes_max") / 1024 / get("n_requests"), wire_plan=paper.predicted(sweep, point, "bytes_wire") / 1024 / get("tokens"),
                  over_hidden=get("wire_over_hidden_state"), fanout=get("fanout"), read_imbalance=get("rank_imbalance_ratio"), memory_imbalance=get("rank_memory_imbalance"),
                  step_us=get("t_step_model") / get("n_steps") / 1e3)
    gain = paper.Table("scaling_gain", GAIN, "Layout local over layout expert with routed reads")
    for row in table.where(layout="expert"):
        local, = table.where(axis=row["axis"], value=row["value"], layout="local")
        gain.add(axis=row["axis"], value=row["value"], step_gain=local["step_us"] / row["step_us"], memory_gain=local["memory_kib"] / row["memory_kib"])
    return [table, gain]


def figures(named):
    table = named["scaling"]
    figure, axes = paper.grid(3, 3, "page", 4.6)
    for r, (column, plan, text) in enumerate((("memory_kib", "memory_plan", "KiB, fullest rank"), ("wire_kib", "wire_plan", "KiB sent per token"), ("step_us", None, "modelled us per step"))):
        for c, axis in enumerate(AXES):
            numbered = table.numbered("value", axis=axis)
            paper.lines(axes[3 * r + c], numbered, "value", column, "layout")
            if plan:
                paper.crosses(axes[3 * r + c], numbered, "value", plan, "layout")
            axes[3 * r + c].set_xscale("log", base=2)
            axes[3 * r + c].set_yscale("symlog" if column == "wire_kib" else "log", **({"linthresh": 1} if column == "wire_kib" else {}))
            if column == "wire_kib":
                axes[3 * r + c].set_ylim(-0.2, 3 * max(numbered.column(column)))
            axes[3 * r + c].set_ylabel(text if c == 0 else "")
            axes[3 * r + c].set_xlabel(axis if r == 2 else "")
    paper.shared_legend(figure, axes[0], top=0.92)
    return {"scaling": figure}


if __name__ == "__main__":
    paper.main(__file__, tables, figures)
