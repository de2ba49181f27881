#!/usr/bin/python3
"""The tables of single, double and triple techniques: every row of published.csv beside what its mapping measures, compared by rank order."""
import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))
import paper  # noqa: E402
import rows as published_rows  # noqa: E402

COLUMNS = {
    "group": ("key", ""), "row": ("key", ""), "testable": ("published", "yes, or why not"),
    "fidelity_loss": ("measured", "relative output error"), "published_drop": ("published", "%"), "loss_change": ("measured", "nat/token of tinymoe, positions from 256 on"),
    "codes_x": ("counted", "x"), "pages_x": ("counted", "x"), "stored_x": ("counted", "x"), "memory_x": ("counted", "x, peak of the row none over this"), "published_x": ("published", "x"),
    "evictions": ("counted", ""), "memory_kib": ("counted", "KiB"), "published_gb": ("published", "GB"), "hit_ratio": ("counted", "1"), "published_hit": ("published", "%"),
    "step_us": ("modelled", "us"), "step_ms": ("time", "ms"), "published_ms": ("published", "ms"),
}
PAIRS = (("fidelity_loss", "published_drop"), ("loss_change", "published_drop"), ("memory_x", "published_x"), ("codes_x", "published_x"), ("memory_kib", "published_gb"), ("hit_ratio", "published_hit"),
         ("step_us", "published_ms"))
ALSO_RANKED = (("pages_x", "published_x"), ("stored_x", "published_x"))    # what stays in pages, and with metadata: the paper's "Compression"
RANKS = {"group": ("key", ""), "measured": ("key", ""), "published": ("key", ""), "rows": ("counted", ""), "rank_correlation": ("measured", "Spearman")}


def middle(text):
    """Middle of a published number or range such as 2.6-3.7."""
    parts = [float(p) for p in str(text).split("-")]
    return sum(parts) / len(parts)


def loss_changes(sweep):
    """Label -> change of tinymoe's loss per token with that cache in the loop, with its interval over texts; None where model.yaml's results are left out."""
    scored = paper.in_the_loop(sweep)
    if scored is None:
        return None
    return {label: tuple(float(scored.metrics[f"nll_change{end}_tail"][points[0]]) for end in ("", "_low", "_high")) for label, points in paper.groups(scored).items()}


def pairs_of(table, pairs=PAIRS):
    """The pairs of columns that a table has."""
    return [pair for pair in pairs if pair[0] in table.columns]


def tables(sweep):
    changes = loss_changes(sweep)
    columns = {name: about for name, about in COLUMNS.items() if name != "loss_change" or changes is not None}
    table = paper.Table("pikv_table", columns, "Published rows (Mistral-7B, one A100) beside moekv on tinymoe (4 x 160 tokens, 4 layers, 4 ranks)")
    found, names = paper.groups(sweep), published_rows.mapping()
    base = float(sweep.metrics["kv_peak_bytes"][found["none"][0]])

    def measured(label):
        point, *_ = chosen = found[label]
        get = lambda metric: float(sweep.metrics[metric][point])  # noqa: E731
        steps = [sweep.metrics["t_step"][p] / sweep.metrics["n_steps"][p] / 1e6 for p in chosen]
        loop = {} if changes is None else {"loss_change": changes.get(label, math.nan)}
        return dict(testable="yes", fidelity_loss=paper.fidelity(sweep, [point]), **loop, codes_x=get("code_compression_factor"),
                    pages_x=get("page_compression_factor"), stored_x=get("compression_factor"), memory_x=base / get("kv_peak_bytes"),
                    evictions=get("evictions"), memory_kib=get("kv_peak_bytes") / 1024,
                    hit_ratio=get("hit_ratio"), step_us=get("t_step_model") / get("n_steps") / 1e3, step_ms=paper.stats.mean_interval(steps, least=0))

    table.add(group="reference", row="none", **measured("none"))
    for row in published_rows.published():
        settings, reason = published_rows.settings(row, names)
        values = measured(row["label"]) if settings is not None else {"testable": reason}
        table.add(group=row["group"], row=row["label"], **values, published_drop=(float(row["accuracy_drop_lo_pct"]) + float(row["accuracy_drop_hi_pct"])) / 2,
                  published_x=middle(row["compression_x"]), published_gb=float(row["kv_mem_gb"]), published_hit=float(row["kv_hit_pct"]), published_ms=float(row["latency_ms"]))
    ranks = paper.Table("pikv_ranks", RANKS, "Does the order of the rows agree? 1: the same order, 0: none, -1: the reverse")
    parts = {"routers": lambda r: r["group"] == "single" and "Router" in r["row"], "compressors": lambda r: r["group"] == "single" and "Compressor" in r["row"],
             "schedulers": lambda r: r["group"] == "single" and "Scheduler" in r["row"], "pairs": lambda r: "+" in r["group"], "triples": lambda r: r["group"] == "triple",
             "all rows": lambda r: True}
    for part, test in parts.items():
        rows = [r for r in table.rows if r["testable"] == "yes" and r["group"] != "reference" and test(r)]
        for ours, theirs in pairs_of(table, PAIRS + ALSO_RANKED):
            pairs = [(paper.value_of(r[ours]), r[theirs]) for r in rows]
            ranks.add(group=part, measured=ours, published=theirs, rows=len(pairs), rank_correlation=paper.stats.spearman_interval(*zip(*pairs)))
    return [table, ranks]


def figures(named):
    table = named["pikv_table"]
    figure, axes = paper.grid(2, 4, "page", 3.8)
    groups = [g for g in table.distinct("group") if g != "reference"]
    pairs = pairs_of(table)
    for panel, (ours, theirs) in zip(axes, pairs):
        for i, group in enumerate(groups):
            rows = [row for row in table.where(group=group) if row["testable"] == "yes"]
            panel.plot([row[theirs] for row in rows], [paper.value_of(row[ours]) for row in rows], label=group, **{**paper.look(i), "linestyle": "none", "markerfacecolor": "none"})
        rho = paper.value_of(named["pikv_ranks"].where(group="all rows", measured=ours, published=theirs)[0]["rank_correlation"])
        panel.set_title(f"rank correlation {rho:.2f}", fontsize=7)
        for name, write in ((theirs, panel.set_xlabel), (ours, panel.set_ylabel)):
            text = name
            for end, word in (("_x", " compression"), ("_kib", ""), ("_gb", " memory"), ("_us", " time"), ("_ms", " time"), ("_", " ")):
                text = text.replace(end, word)
            write(f"{text} ({table.columns[name][1].split(',')[0]})")
    for panel in axes[len(pairs):]:
        panel.axis("off")
    axes[-1].legend(*axes[0].get_legend_handles_labels(), loc="center")
    return {"pikv_table": figure}


if __name__ == "__main__":
    paper.main(__file__, tables, figures)
