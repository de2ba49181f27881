#!/usr/bin/python3
"""Table 3: attention that scheduling methods keep where victims are lost, and hits where they go to host memory, beside optima that know the future."""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))
import paper  # noqa: E402

DROP = {"budget": ("key", ""), "policy": ("key", ""), "mass_kept": ("measured", "1"), "lost": ("measured", "1"), "lost_over_optimum": ("measured", "x"),
        "out_err": ("measured", "1"), "evictions": ("counted", ""), "unit_labels": ("published", "")}
DEMOTE = {"budget": ("key", ""), "policy": ("key", ""), "hit_ratio": ("counted", "1"), "recalled_kib": ("counted", "KiB/token"), "premature": ("counted", "1"),
          "out_err": ("measured", "1"), "host_ms": ("modelled", "ms")}


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
    bounds = paper.Table("scheduling_bounds", {"budget": ("key", ""), "bound": ("key", ""), "value": ("measured", "1")}, "What no policy can beat")
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
        demote.add(budget=budget, policy=policy, hit_ratio=get("hit_ratio"), recalled_kib=get("recalled_bytes") / get("tokens") / 1024,
                   premature=get("premature_eviction_ratio"), out_err=paper.fidelity(sweep, [point]), host_ms=get("t_host_model") / 1e6)
    for label, (point, *_) in paper.groups(sweep).items():
        if label.startswith("optimum"):
            value = 1.0 - of(point, "opt_miss_ratio")
            bounds.add(budget=label.split("/")[1], bound="hit ratio of Belady's optimum", value=value)
    literal = paper.Table("scheduling_literal", {"budget": ("key", ""), "policy": ("key", ""), "printed_over_original": ("measured", "x, attention mass lost")},
                          "Scores as printed in Table 3 against the methods that they name")
    for policy, original in (("H2O", "H2O h2o.sum"), ("StreamingLLM", "StreamingLLM streaming"), ("QUEST", "QUEST quest.evict"), ("AdaKV", "AdaKV corrected, target 0.6")):
        for budget in drop.distinct("budget"):
            printed, plain = (drop.column("lost", budget=budget, policy=name) for name in (f"{policy} as printed" + original.partition(",")[1] + original.partition(",")[2], original))
            if printed and plain:
                literal.add(budget=budget, policy=policy, printed_over_original=printed[0] / plain[0] if plain[0] > 0 else float("nan"))
    target = paper.Table("scheduling_target", {"budget": ("key", ""), "sign": ("key", ""), "hits_at_0_4": ("counted", "1"), "hits_at_0_6": ("counted", "1"), "slope": ("counted", "hits over target")},
                         "Does AdaKV's threshold bring hits to their target? 1: it does, 0: they ignore it")
    for budget in demote.distinct("budget"):
        for sign in ("corrected", "as printed"):
            low, high = (demote.column("hit_ratio", budget=budget, policy=f"AdaKV {sign}, target {at}")[0] for at in (0.4, 0.6))
            target.add(budget=budget, sign=sign, hits_at_0_4=low, hits_at_0_6=high, slope=(high - low) / 0.2)
    return [drop, demote, bounds, literal, target]


def figures(named):
    drop, demote, bounds = named["scheduling_drop"], named["scheduling_demote"], named["scheduling_bounds"]
    figure, axes = paper.grid(1, 2, "page", 3.0)
    for panel, table, column, text, bound in ((axes[0], drop, "lost", "mass lost (measured), victims dropped", "mass lost by the exact optimum"),
                                              (axes[1], demote, "hit_ratio", "hits (counted), victims demoted", "hit ratio of Belady's optimum")):
        budgets = table.distinct("budget")
        names = [n for n in table.distinct("policy") if n not in ("full", "FlexGen flexgen.static") and not n.endswith("target 0.4")]  # without a budget; as with 0.6
        for i, budget in enumerate(budgets):
            by_name = {row["policy"]: row[column] for row in table.where(budget=budget)}
            paper.bars(panel, names, [by_name.get(n, float("nan")) for n in names], colour=i, offset=0.4 * i - 0.2, width=0.4, label=f"budget {budget}")
            for value in bounds.column("value", budget=budget, bound=bound):
                panel.axvline(value, color=paper.look(i)["color"], linestyle=":", linewidth=1)
        panel.set_xlabel(text + "; dotted: optimum")
        panel.legend(loc="lower right", frameon=True, framealpha=0.9)
    return {"scheduling": figure}


if __name__ == "__main__":
    paper.main(__file__, tables, figures)
