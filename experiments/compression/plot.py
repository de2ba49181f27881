#!/usr/bin/python3
"""Table 2: measured errors of every compression method beside the errors that theory gives, on recorded and on Gaussian keys."""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))
import bounds  # noqa: E402
import paper  # noqa: E402

COLUMNS = {
    "source": ("key", ""), "codec": ("key", ""), "formula": ("published", ""), "codes_x": ("counted", "x"), "pages_x": ("counted", "x"), "stored_x": ("counted", "x"),
    "bits": ("counted", "bit/value"), "k_err": ("measured", "1"), "k_err_theory": ("derived", "1"), "v_err": ("measured", "1"), "logit_err": ("measured", "1"),
    "out_err": ("measured", "1"),
}


def tables(sweep):
    table = paper.Table("compression", COLUMNS, "Compression methods (Table 2 of PiKV): error of K measured and in theory")
    for label, (point, *_) in paper.groups(sweep).items():
        source, codec = label.split("/", 1)
        get = lambda metric: float(sweep.metrics[metric][point])  # noqa: E731
        rank = paper.settings(sweep, point).get("compression.rank") or "0"
        param = lambda name: sweep.params[name][point]  # noqa: E731
        theory = bounds.gaussian(codec, int(param("model.d_k"))) if source == "gaussian" else bounds.recorded(codec, str(param("trace.path")), int(rank))
        table.add(source=source, codec=codec, formula=bounds.TEXT.get(codec, ""), codes_x=get("code_compression_factor"), pages_x=get("page_compression_factor"),
                  stored_x=get("compression_factor"), bits=get("bits_per_element"), k_err=get("k_reconstruction_err"), k_err_theory=theory,
                  v_err=get("v_reconstruction_err"), logit_err=get("page_logit_err"), out_err=paper.fidelity(sweep, [point]))
    return [table]


def figures(named):
    table = named["compression"]
    figure, axes = paper.grid(1, 2, "page", 2.8)
    for i, source in enumerate(table.distinct("source")):
        rows = [row for row in table.where(source=source) if row["codec"] != "bf16"]
        paper.bars(axes[i], [row["codec"] for row in rows], [row["k_err"] for row in rows], colour=i, label="measured")
        axes[i].plot([row["k_err_theory"] for row in rows], range(len(rows)), "k|", markersize=7, label="theory")
        axes[i].set_xscale("log")
        axes[i].set_xlabel(f"relative error of K, {source} values")
        axes[i].legend(loc="lower right")
    return {"compression": figure}


if __name__ == "__main__":
    paper.main(__file__, tables, figures)
