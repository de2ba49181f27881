#!/usr/bin/python3
"""F12: 2^4 factorial of routing, compression, scheduling and sharding; is the joint gain more than the sum of the single gains?"""
import itertools
import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))
import paper  # noqa: E402

FACTORS = {"R": "routing", "C": "compression", "S": "scheduling", "E": "sharding"}
RESPONSES = ("memory", "step time", "output error")  # largest peak of page bytes of a rank, modelled time of a step, 1 + error of attention outputs
CELLS = {"factors": ("key", ""), "memory_kib": ("counted", "KiB/rank"), "evictions": ("counted", ""), "step_us": ("modelled", "us"), "wire_kib": ("counted", "KiB/token"), "out_err": ("measured", "1"), "step_ms": ("time", "ms")}
EFFECTS = {"response": ("key", ""), "effect": ("key", ""), "gain": ("measured", "ln of the reduction")}


def response(sweep, point):
    get = lambda metric: float(sweep.metrics[metric][point])  # noqa: E731
    return {"memory": paper.rank_peak(sweep, point), "step time": get("t_step_model") / get("n_steps"), "output error": 1.0 + get("attn_out_err_mean")}


def tables(sweep):
    cells = paper.Table("ablation", CELLS, "2^4 factorial: R routing, C compression, S scheduling, E sharding")
    effects = paper.Table("synergy", EFFECTS, "Gains (ln of base over value) and synergy = joint gain less the sum of single gains")
    found = {}
    for label, chosen in paper.groups(sweep).items():
        name = label.replace("/", "").replace("-", "") or "none"
        for p in chosen:
            found[name, int(sweep.repeat[p])] = response(sweep, p)
        steps = [sweep.metrics["t_step"][p] / sweep.metrics["n_steps"][p] / 1e6 for p in chosen]
        cells.add(factors=name, evictions=paper.mean(sweep, chosen, "evictions"), memory_kib=paper.stats.over_repeats([found[name, int(sweep.repeat[p])]["memory"] / 1024 for p in chosen]),
                  step_us=paper.stats.over_repeats([found[name, int(sweep.repeat[p])]["step time"] / 1e3 for p in chosen]),
                  wire_kib=paper.mean(sweep, chosen, "bytes_wire_per_token", 1 / 1024), out_err=paper.fidelity(sweep, chosen), step_ms=paper.stats.mean_interval(steps, least=0))
    repeats = sorted({r for _, r in found})
    joint = ["".join(c) for n in (2, 3, 4) for c in itertools.combinations(FACTORS, n)]
    for kind in RESPONSES:
        gains = {name: [math.log(found["none", r][kind] / found[name, r][kind]) for r in repeats] for name in [*FACTORS, *joint]}
        for name in [*FACTORS, *joint]:
            effects.add(response=kind, effect="gain of " + name, gain=paper.stats.mean_interval(gains[name]))
        for name in joint:
            synergy = [gains[name][i] - sum(gains[f][i] for f in name) for i in range(len(repeats))]
            effects.add(response=kind, effect="synergy of " + name, gain=paper.stats.mean_interval(synergy))
    return [cells, effects]


def figures(named):
    table = named["synergy"]
    figure, axes = paper.grid(1, len(RESPONSES), "page", 3.6)
    for i, kind in enumerate(RESPONSES):
        rows = table.where(response=kind)
        paper.bars(axes[i], [row["effect"] if i == 0 else "" for row in rows], [row["gain"] for row in rows], colour=i)
        axes[i].axvline(0, color="black", linewidth=0.5)
        axes[i].set_xlabel(f"{'1 + ' if kind == 'output error' else ''}{kind}: ln of its reduction")
    return {"synergy": figure}


if __name__ == "__main__":
    paper.main(__file__, tables, figures)
