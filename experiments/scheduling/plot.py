#!/usr/bin/python3
"""Table 3: attention that scheduling methods keep where victims are lost, and hits where they go to host memory, beside optima that know the future."""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))
import paper  # noqa: E402

DROP = {"budget": ("key", ""), "policy": ("key", ""), "mass_kept": ("measured", "1"), "lost": ("measured", "1"), "lost_over_optimum": ("measured", "x"),
        "out_err": ("measured", "1"), "evictions": ("counted", ""), "unit_labels": ("published", "")}
DEMOTE = {"budget": ("key", ""), "policy": ("key", ""), "hit_ratio": ("counted", "1"), "optimum": ("counted", "1, hits of Belady's optimum with the same pages"), "capacity_pages": ("counted", ""),
          "recalled_kib": ("counted", "KiB/token"), "premature": ("counted", "1"), "out_err": ("measured", "1"), "host_ms": ("modelled", "ms")}
TARGET = {"sign": ("key", ""), "gain": ("key", ""), "low_target": ("derived", ""), "hits_at_low": ("counted", "1"), "high_target": ("derived", ""), "hits_at_high": ("counted", "1"),
          "slope": ("counted", "hits over target"), "least": ("counted", "1, hits of the worst fixed threshold"), "most": ("counted", "1, of the best"),
          "room": ("counted", "1, between the targets and what fixed thresholds reach")}
LITERAL = {"budget": ("key", ""), "policy": ("key", ""), "printed_over_original": ("measured", "x, attention mass lost"), "kept_more": ("measured", "1, attention mass as printed minus original")}


def parts(sweep, regime):
    """(policy, budget, point) of a regime; what needs no budget stands under every one."""
    budgets = [b for b in dict.fromkeys(map(str, sweep.settings["eviction.budget"])) if b.endswith("%")]
    for point in paper.points(sweep):
        first, _, policy = str(sweep.label[point]).partition("/")
        budget = str(sweep.settings["eviction.budget"][point])
        if first == regime:
            for at in [budget] if budget in budgets else budgets:
                yield policy, at, point


def tables(sweep):
    drop = paper.Table("scheduling_drop", DROP, "Scheduling methods (Table 3 of PiKV), victims are lost")
    demote = paper.Table("scheduling_demote", DEMOTE, "Scheduling methods (Table 3 of PiKV), victims wait in host memory")
    bounds = paper.Table("scheduling_bounds", {"budget": ("key", ""), "bound": ("key", ""), "value": ("measured", "1")}, "What no policy can beat where victims are lost")
    seen, of = set(), paper.bounds(sweep)
    for policy, budget, point in parts(sweep, "drop"):
        lost, optimum, select = (of(point, metric) for metric in ("attn_lost", "orc_mass_lost", "orc_select_lost"))
        drop.add(budget=budget, policy=policy, mass_kept=paper.fidelity(sweep, [point], "attn_mass_kept"), lost=lost, lost_over_optimum=lost / optimum if optimum > 0 else float("nan"),
                 out_err=paper.fidelity(sweep, [point]), evictions=sweep.metrics["evictions"][point], unit_labels=" ".join(sweep.labels[point]))
        if budget not in seen and policy == "fifo":
            seen.add(budget)
            bounds.add(budget=budget, bound="mass lost by the exact optimum", value=optimum)
            bounds.add(budget=budget, bound="mass lost by the best visible set", value=select)
    for policy, budget, point in parts(sweep, "demote"):
        get = lambda metric: float(sweep.metrics[metric][point])  # noqa: E731
        demote.add(budget=budget, policy=policy, hit_ratio=get("hit_ratio"), optimum=1.0 - of(point, "opt_miss_ratio"), capacity_pages=of(point, "capacity_pages"), recalled_kib=get("recalled_bytes") / get("tokens") / 1024,
                   premature=get("premature_eviction_ratio"), out_err=paper.fidelity(sweep, [point]), host_ms=get("t_host_model") / 1e6)
    return [drop, demote, bounds, literal(sweep, drop), targets(sweep)]


def literal(sweep, drop):
    table = paper.Table("scheduling_literal", LITERAL, "Scores as printed in Table 3 against the methods that they name")
    at = {(budget, policy): point for policy, budget, point in parts(sweep, "drop")}
    for policy, original in (("H2O", "H2O h2o.sum"), ("StreamingLLM", "StreamingLLM streaming"), ("QUEST", "QUEST quest.evict")):
        for budget in drop.distinct("budget"):
            names = f"{policy} as printed", original
            if all((budget, name) in at for name in names):
                printed, plain = (drop.column("lost", budget=budget, policy=name)[0] for name in names)
                table.add(budget=budget, policy=policy, printed_over_original=printed / plain if plain > 0 else float("nan"), kept_more=kept_more(sweep, *(at[budget, name] for name in names)))
    return table


def kept_more(sweep, point, other):
    """Attention mass that one point keeps beyond another, of the same queries, with its interval over requests."""
    here, there = (sweep.record("probe", point=p) for p in (point, other))
    if any((here[c] != there[c]).any() for c in ("request", "position", "layer")):
        raise LookupError("points with other probes")
    return paper.stats.mean_interval(here["attn_mass_kept"] - there["attn_mass_kept"], here["request"])


def targets(sweep):
    """What AdaKV's hits make of two targets, and the hits between which fixed thresholds can choose."""
    table = paper.Table("scheduling_target", TARGET, "Does AdaKV's threshold bring hits nearer to their target? slope 1: wholly, 0: not at all, below: away from it")
    hits, fixed = {}, []
    for label, (point, *_) in paper.groups(sweep).items():
        kind, *rest = label.split("/")
        if kind == "fixed":
            fixed.append(float(sweep.metrics["hit_ratio"][point]))
        elif kind == "target":
            hits.setdefault(tuple(rest[:2]), {})[float(rest[2])] = float(sweep.metrics["hit_ratio"][point])
    for (sign, gain), found in hits.items():
        low, high = min(found), max(found)
        table.add(sign=sign, gain=gain, low_target=low, hits_at_low=found[low], high_target=high, hits_at_high=found[high], slope=(found[high] - found[low]) / (high - low),
                  least=min(fixed), most=max(fixed), room=min(low - min(fixed), max(fixed) - high))
    return table


def figures(named):
    drop, demote, bounds = named["scheduling_drop"], named["scheduling_demote"], named["scheduling_bounds"]
    figure, axes = paper.grid(1, 2, "page", 3.4)
    for panel, table, column, text in ((axes[0], drop, "lost", "mass lost (measured), victims dropped"), (axes[1], demote, "hit_ratio", "hits (counted), victims demoted")):
        names = [n for n in table.distinct("policy") if n not in ("full", "FlexGen flexgen.static")]  # without a budget
        for i, budget in enumerate(table.distinct("budget")):
            by_name = {row["policy"]: row for row in table.where(budget=budget)}
            paper.bars(panel, names, [by_name[n][column] for n in names], colour=i, offset=0.4 * i - 0.2, width=0.4, label=f"budget {budget}")
            best = bounds.column("value", budget=budget, bound="mass lost by the exact optimum") * len(names) if table is drop else [by_name[n]["optimum"] for n in names]
            panel.plot(best, [k + 0.4 * i - 0.2 for k in range(len(names))], "k|", markersize=5, label="optimum" if i == 0 else None)
        panel.set_xlabel(text)
    paper.shared_legend(figure, axes[0], 0.92)
    return {"scheduling": figure}


if __name__ == "__main__":
    paper.main(__file__, tables, figures)
