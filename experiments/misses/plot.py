#!/usr/bin/python3
"""What misses are made of against capacity: too little room, the division over shards, the policy; and the share that an optimum would have saved. Also F5."""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))
import paper  # noqa: E402

COLUMNS = {"policy": ("key", ""), "pages": ("key", "pages/shard"), "miss_ratio": ("counted", "1"), "capacity": ("counted", "share of lookups"), "placement": ("counted", "share of lookups"),
           "policy_part": ("counted", "share of lookups"), "optimum": ("counted", "miss ratio of Belady with bypass"), "policy_gap": ("counted", "1"), "efficiency": ("counted", "1"),
           "hit_ratio": ("counted", "1"), "paper_hit": ("published", "k/E")}


def tables(sweep):
    table = paper.Table("misses", COLUMNS, "Miss anatomy against capacity")
    bounds = paper.bounds(sweep)
    for point in paper.points(sweep):
        get = lambda metric: float(sweep.metrics[metric][point])  # noqa: E731
        of = lambda metric: bounds(point, metric)  # noqa: E731, B023
        text = str(sweep.settings["eviction.budget"][point])
        total = get("n_req")
        table.add(policy=str(sweep.settings["eviction.policy"][point]), pages="".join(c for c in text if c.isdigit()), miss_ratio=get("miss_ratio"), capacity=of("miss_capacity") / total,
                  placement=of("miss_placement") / total, policy_part=of("miss_policy") / total, optimum=of("opt_miss_ratio"), policy_gap=of("policy_gap"),
                  efficiency=of("policy_efficiency"), hit_ratio=get("hit_ratio"), paper_hit=float(sweep.params["model.gate.top_k"][point]) / float(sweep.params["model.gate.n_experts"][point]))
    return [table]


def figures(named):
    table = named["misses"]
    figure, axes = paper.grid(1, 2, "page", 2.4)
    numbered = table.numbered("pages")
    paper.lines(axes[0], numbered, "pages", "miss_ratio", "policy")
    rows = numbered.where(policy="lru")
    axes[0].plot([r["pages"] for r in rows], [r["optimum"] for r in rows], "k:", label="Belady, lookups of lru")
    axes[0].set_ylabel("miss ratio (counted)")
    for i, (column, text) in enumerate((("capacity", "capacity"), ("placement", "division over shards"), ("policy_part", "policy: lost for ever, not LRU"))):
        axes[1].plot([r["pages"] for r in rows], [r[column] for r in rows], label=text, **paper.look(i))
    axes[1].set_ylabel("share of lookups, policy lru")
    for panel in axes:
        panel.set_xscale("log", base=2)
        panel.set_xlabel("pages of 8 tokens per shard")
        panel.legend()
    return {"misses": figure}


if __name__ == "__main__":
    paper.main(__file__, tables, figures)
