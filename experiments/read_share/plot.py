#!/usr/bin/python3
"""F4: the share of the history that routed queries read, and what that does to traffic and modelled time, against k/E and 1 - C(E-k,k)/C(E,k)."""
import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))
import paper  # noqa: E402

COLUMNS = {"trace": ("key", ""), "E": ("key", ""), "k": ("key", ""), "read": ("counted", "share of the history"), "expected": ("derived", "1-C(E-k,k)/C(E,k)"),
           "paper": ("published", "k/E"), "speedup": ("counted", "x, entries"), "paper_speedup": ("published", "E/k"), "wire_cut": ("counted", "x, bytes of scope all over routed"),
           "wire_kib": ("counted", "KiB/token"), "local_wire_kib": ("counted", "KiB/token of layout local"), "step_cut": ("modelled", "x, time of layout local over routed")}


def tables(sweep):
    table = paper.Table("read_share", COLUMNS, "What a routed query reads")
    found = {label: chosen[0] for label, chosen in paper.groups(sweep).items()}
    for label in [name[: -len("/routed")] for name in found if name.endswith("/routed")]:
        trace, experts, k = label.split("/")
        e, k = int(experts), int(k)
        at = {scope: found[f"{label}/{scope}"] for scope in ("local", "all", "routed")}
        get = lambda metric, scope: float(sweep.metrics[metric][at[scope]])  # noqa: E731
        share = get("entries_wanted", "routed") / get("entries_wanted", "all")
        table.add(trace=trace, E=str(e), k=str(k), read=share, expected=1 - math.comb(e - k, k) / math.comb(e, k), paper=k / e, speedup=1 / share, paper_speedup=e / k,
                  wire_cut=get("bytes_wire", "all") / get("bytes_wire", "routed"), wire_kib=get("bytes_wire_per_token", "routed") / 1024,
                  local_wire_kib=get("bytes_wire_per_token", "local") / 1024, step_cut=get("t_step_model", "local") / get("t_step_model", "routed"))
    return [table]


def figures(named):
    table = named["read_share"]
    figure, axes = paper.grid(1, 2, "page", 2.3)
    for i, (kind, test) in enumerate((("uniform", lambda t: t == "uniform"), ("calibrated", lambda t: t in ("dsv2lite", "gptoss")), ("recorded", lambda t: t.startswith("recorded")))):
        rows = [row for row in table.rows if test(row["trace"])]
        look = {**paper.look(i), "linestyle": "none"}
        axes[0].plot([row["expected"] for row in rows], [row["read"] for row in rows], label=kind, **look)
        axes[1].plot([row["paper_speedup"] for row in rows], [row["speedup"] for row in rows], **look)
        axes[1].plot([row["paper_speedup"] for row in rows], [row["wire_cut"] for row in rows], **{**look, "markerfacecolor": "none"})
    axes[0].plot([0, 1], [0, 1], "k:", linewidth=0.7, label="equal")
    axes[0].set_xlabel("1 - C(E-k,k)/C(E,k)")
    axes[0].set_ylabel("share of history read (counted)")
    axes[0].legend()
    top = max(row["paper_speedup"] for row in table.rows)
    axes[1].plot([1, top], [1, top], "k:", linewidth=0.7)
    axes[1].set_xscale("log", base=2)
    axes[1].set_yscale("log", base=2)
    axes[1].set_xlabel("E/k, the paper's speed-up")
    axes[1].set_ylabel("reduced by: entries read (full), bytes sent (open)")
    return {"read_share": figure}


if __name__ == "__main__":
    paper.main(__file__, tables, figures)
