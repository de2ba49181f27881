#!/usr/bin/python3
"""What it costs to place experts anew during a run (EPLB), and what balance it buys."""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))
import paper  # noqa: E402

COLUMNS = {"plan": ("key", ""), "replans": ("counted", ""), "read_imbalance": ("counted", "max/mean over the run"), "window_imbalance": ("counted", "max/mean per window"),
           "moved_kib": ("counted", "KiB/token"), "wire_kib": ("counted", "KiB/token, all"), "moved_share": ("counted", "of the wire"), "cold_misses": ("counted", "lookups of the run"),
           "stall_us": ("modelled", "us/replan"), "step_us": ("modelled", "us"), "stall_share": ("modelled", "of the modelled time"), "fanout": ("counted", "ranks/query"),
           "hit_ratio": ("counted", "1"), "replan_ms": ("time", "ms/replan")}


def tables(sweep):
    table = paper.Table("replan", COLUMNS, "Replanning of expert placement")
    for label, chosen in paper.groups(sweep).items():
        over = lambda f, least=0: paper.stats.over_repeats([f(lambda m: float(sweep.metrics[m][p])) for p in chosen], least)  # noqa: E731, B023
        table.add(plan=label, replans=over(lambda g: g("replans")), read_imbalance=over(lambda g: g("rank_imbalance_ratio"), 1), window_imbalance=over(lambda g: g("rank_imbalance_window"), 1),
                  moved_kib=over(lambda g: g("wire_pages") / g("tokens") / 1024), wire_kib=over(lambda g: g("bytes_wire_per_token") / 1024),
                  moved_share=over(lambda g: g("wire_pages") / g("bytes_wire")), cold_misses=over(lambda g: g("cold_misses")),
                  stall_us=over(lambda g: g("t_replan_model") / max(1.0, g("replans")) / 1e3), step_us=over(lambda g: g("t_step_model") / g("n_steps") / 1e3),
                  stall_share=over(lambda g: g("t_replan_model") / g("t_step_model")), fanout=over(lambda g: g("fanout"), 1),
                  hit_ratio=over(lambda g: g("hit_ratio")), replan_ms=over(lambda g: g("t_replan") / max(1.0, g("replans")) / 1e6))
    return [table]


def figures(named):
    table = named["replan"]
    figure, axes = paper.grid(1, 4, "page", 2.0)
    names = table.column("plan")
    for i, (column, text) in enumerate((("window_imbalance", "busiest rank / mean, per window"), ("moved_kib", "KiB of pages moved per token"), ("cold_misses", "cold misses of the run"), ("step_us", "modelled us per step"))):
        paper.bars(axes[i], names if i == 0 else [""] * len(names), [row[column] for row in table.rows], colour=i)
        axes[i].set_xlabel(text)
    return {"replan": figure}


if __name__ == "__main__":
    paper.main(__file__, tables, figures)
