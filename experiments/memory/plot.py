#!/usr/bin/python3
"""F1 and F10: page memory of the fullest rank against ranks, length, experts and k, for every layout, beside the paper's O(L/G + L/E)."""
import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))
import paper  # noqa: E402

BASE = {"G": 4, "L": 512, "E": 16, "k": 2}
COLUMNS = {"layout": ("key", ""), "axis": ("key", ""), "G": ("key", ""), "L": ("key", ""), "E": ("key", ""), "k": ("key", ""), "tokens": ("counted", "tokens/rank and request"), "predicted": ("modelled", "tokens, moekv plan"),
           "paper": ("derived", "L/G + L/E"), "over_paper": ("counted", "x"), "copies": ("counted", "1"), "saving": ("counted", "x, best of local head token over this"),
           "saving_dense": ("counted", "x, E L over this")}
SLOPES = {"layout": ("key", ""), "axis": ("key", ""), "slope": ("counted", "d ln tokens / d ln axis"), "paper": ("derived", "slope of L/G + L/E")}
LONG = {"case": ("key", ""), "kv_gb": ("counted", "GB, 32 layers"), "predicted_gb": ("modelled", "GB, moekv plan"), "claim_gb": ("published", "GB")}
LAYERS = 32


def size(sweep, point):
    p = sweep.params
    lengths = int(p["trace.synthetic.prompt_tokens"][point]) + int(p["trace.synthetic.output_tokens"][point])
    return {"G": int(p["cluster.ranks"][point]), "L": lengths, "E": int(p["model.gate.n_experts"][point]), "k": int(p["model.gate.top_k"][point])}


def slope(rows, axis, value):
    """Least squares of ln value over ln axis."""
    x, y = ([math.log(f(row)) for row in rows] for f in (lambda r: float(r[axis]), value))
    mx, my = sum(x) / len(x), sum(y) / len(y)
    return sum((a - mx) * (b - my) for a, b in zip(x, y)) / sum((a - mx) ** 2 for a in x)


def tables(sweep):
    table = paper.Table("memory", COLUMNS, "Page memory of the fullest rank in tokens of one request")
    long = paper.Table("memory_128k", LONG, "One request of 131072 tokens, 32 layers")
    for label, (point, *_) in paper.groups(sweep).items():
        if label.startswith("128K"):
            long.add(case=label, kv_gb=float(sweep.metrics["kv_peak_bytes"][point]) * LAYERS / 1e9,
                     predicted_gb=paper.predicted(sweep, point, "kv_peak_bytes") * LAYERS / 1e9, claim_gb=24)
            continue
        layout, case = label.split("/")
        at = size(sweep, point)
        unit = paper.token_bytes(sweep, point) * int(sweep.params["trace.synthetic.n_requests"][point])
        tokens, predicted = paper.rank_peak(sweep, point) / unit, paper.predicted(sweep, point, "rank_peak_bytes_max") / unit
        formula = at["L"] / at["G"] + at["L"] / at["E"]
        for axis in [case[0]] if case != "base" else list(BASE):
            table.add(layout=layout, axis=axis, **{k: str(v) for k, v in at.items()}, tokens=tokens, predicted=predicted, paper=formula, over_paper=tokens / formula,
                      copies=float(sweep.metrics["replication_factor"][point]))
    order = table.distinct("layout")
    table.rows.sort(key=lambda r: (order.index(r["layout"]), r["axis"], float(r[r["axis"]])))
    for row in table.rows:
        same = {r["layout"]: r["tokens"] for r in table.rows if all(r[c] == row[c] for c in ("axis", *BASE))}
        row["saving"] = min(same[layout] for layout in ("local", "head", "token")) / row["tokens"]
        row["saving_dense"] = float(row["E"]) * float(row["L"]) / row["tokens"]
    slopes = paper.Table("memory_slopes", SLOPES, "How memory of the fullest rank grows")
    for layout in table.distinct("layout"):
        for axis in BASE:
            rows = table.where(layout=layout, axis=axis)
            slopes.add(layout=layout, axis=axis, slope=slope(rows, axis, lambda r: r["tokens"]), paper=slope(rows, axis, lambda r: r["paper"]))
    return [table, slopes, long]


def figures(named):
    table = named["memory"]
    figure, axes = paper.grid(1, 4, "page", 2.4)
    for panel, axis in zip(axes, BASE):
        numbered = table.numbered(axis, axis=axis)
        paper.lines(panel, numbered, axis, "tokens", "layout")
        paper.crosses(panel, numbered, axis, "predicted", "layout")
        rows = numbered.where(layout="expert")
        panel.plot([r[axis] for r in rows], [r["paper"] for r in rows], "k:", label="paper")
        panel.set_xscale("log", base=2)
        panel.set_yscale("log", base=2)
        panel.set_xlabel({"G": "ranks G", "L": "tokens L", "E": "experts E", "k": "experts per token k"}[axis])
    axes[0].set_ylabel("tokens per rank and request")
    paper.shared_legend(figure, axes[0])
    return {"memory": figure}


if __name__ == "__main__":
    paper.main(__file__, tables, figures)
