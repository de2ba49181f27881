#!/usr/bin/python3
"""Table 1: what every routing method does to balance, hits, traffic, the recorded choices and attention."""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))
import paper  # noqa: E402

COSTS = {"R_B": "O(1)", "R_T": "O(E log k)", "R_LB": "O(E)", "R_P": "O(E)", "R_E": "O(E)", "R_A": "O(k^2)", "R_H": "O(E + k log k)"}
COLUMNS = {
    "router": ("key", ""), "cost": ("published", ""), "expert_imbalance": ("counted", "max/mean"), "rank_imbalance": ("counted", "max/mean"),
    "hit_ratio": ("counted", "1"), "wire_kib": ("counted", "KiB/token"), "choices_changed": ("counted", "1"), "gate_mass_lost": ("counted", "1"),
    "out_err": ("measured", "1"), "route_us": ("time", "us/token"),
}

EFFECTS = {"effect": ("key", ""), "change": ("counted", "1, against R_T topk"), "relative": ("counted", "1, change over the value of R_T topk"), "of": ("published", "column")}
COMPARED = (("R_LB lowers expert imbalance", "R_LB load_balance", "expert_imbalance"), ("R_E lowers expert imbalance", "R_E entropy_balanced", "expert_imbalance"),
            ("R_P raises the hit ratio", "R_P cache_aware", "hit_ratio"), ("R_A raises the hit ratio", "R_A bandit", "hit_ratio"),
            ("R_H lowers traffic", "R_H hierarchical", "wire_kib"), ("R_E as printed changes choices", "R_E as printed", "choices_changed"))


def tables(sweep):
    table = paper.Table("routing", COLUMNS, "Routing methods (Table 1 of PiKV) on tinymoe's recorded logits")
    for label, chosen in paper.groups(sweep).items():
        mean = lambda metric, scale=1.0: paper.mean(sweep, chosen, metric, scale)  # noqa: E731
        recorded = label == "recorded"
        first = chosen[:1]
        times = [sweep.metrics["t_route"][p] / sweep.metrics["tokens"][p] / 1e3 for p in chosen]
        table.add(router=label, cost=COSTS.get(label.split()[0], ""), expert_imbalance=mean("expert_imbalance_ratio"), rank_imbalance=mean("rank_imbalance_ratio"),
                  hit_ratio=mean("hit_ratio"), wire_kib=mean("bytes_wire_per_token", 1 / 1024), choices_changed=0 if recorded else mean("routing_change_rate"),
                  gate_mass_lost=0 if recorded else mean("gate_mass_lost"), out_err=paper.fidelity(sweep, first), route_us=paper.stats.mean_interval(times, least=0))
    effects = paper.Table("routing_effects", EFFECTS, "What the penalties change against plain top-k")
    for effect, router, column in COMPARED:
        ours, plain = (paper.value_of(table.where(router=r)[0][column]) for r in (router, "R_T topk"))
        effects.add(effect=effect, change=ours - plain, relative=(ours - plain) / plain if plain else float("nan"), of=column)
    return [table, effects]


def figures(named):
    table = named["routing"]
    figure, axes = paper.grid(1, 3, "page", 2.6)
    names = table.column("router")
    for i, (column, title) in enumerate((("expert_imbalance", "busiest expert / mean (counted)"), ("hit_ratio", "hit ratio at a budget of 40 % (counted)"),
                                         ("choices_changed", "recorded choices changed (counted)"))):
        paper.bars(axes[i], names if i == 0 else [""] * len(names), [row[column] for row in table.rows], colour=i)
        axes[i].set_xlabel(title)
    axes[0].set_xlim(left=1)
    return {"routing": figure}


if __name__ == "__main__":
    paper.main(__file__, tables, figures)
