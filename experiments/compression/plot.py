#!/usr/bin/python3
"""Table 2: measured errors of every compression method beside the errors that theory gives, on recorded and on Gaussian keys."""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))
import bounds  # noqa: E402
import paper  # noqa: E402

SLOTS = 64  # of a page, where a configuration leaves them open
COLUMNS = {
    "source": ("key", ""), "codec": ("key", ""), "method": ("key", "row of Table 2"), "formula": ("derived", ""), "codes_x": ("counted", "x"), "pages_x": ("counted", "x"),
    "stored_x": ("counted", "x"), "bits": ("counted", "bit/value"), "k_err": ("measured", "1"), "k_err_theory": ("derived", "1"), "v_err": ("measured", "1"),
    "logit_err": ("measured", "1"), "out_err": ("measured", "1"),
}
PYRAMID = {"codec": ("key", ""), "reading": ("key", ""), "k_err": ("measured", "1"), "k_err_theory": ("derived", "1"), "measured_over_theory": ("measured", "x")}
METHODS = ("Lo", "Lo+", "Py", "Ch", "SVD", "F", "Dis", "Pr")


def error(sweep, chosen, column):
    """Mean over sampled pages of points that differ in the sample, with its interval over samples; NaN where nothing was sealed."""
    means, samples = [], []
    for sample, point in enumerate(chosen):
        n = int(sweep.record("codec", point=point)["sampled_pages"].sum())
        means += [float(sweep.metrics[column][point])] * n
        samples += [sample] * n
    return paper.stats.mean_interval(means, samples)


def tables(sweep):
    table = paper.Table("compression", COLUMNS, "Compression methods (Table 2 of PiKV): error of K measured and in theory")
    pyramid = paper.Table("compression_pyramid", PYRAMID, "What Table 2 prints for a pyramid, with P^(0) read in two ways, on recorded keys")
    for label, chosen in paper.groups(sweep).items():
        source, codec = label.split("/", 1)
        point = chosen[0]
        get = lambda metric: float(sweep.metrics[metric][point])  # noqa: E731
        params = {name: sweep.params[name][point] for name in ("model.d_k", "trace.path", "page.slots")}
        rank, maps = (paper.settings(sweep, point).get(f"compression.{name}") for name in ("rank", "maps_path"))
        known = str(params["trace.path"]), int(params["page.slots"]) or SLOTS, int(rank or 0), maps and (Path(__file__).parent / maps).resolve()
        theory = bounds.gaussian(codec, int(params["model.d_k"])) if source == "gaussian" else bounds.recorded(codec, *known)
        method = codec.split()[0] if codec.split()[0] in METHODS else "-"
        k_err = error(sweep, chosen, "k_reconstruction_err")
        table.add(source=source, codec=codec, method=method, formula=bounds.TEXT.get(codec, ""), codes_x=get("code_compression_factor"), pages_x=get("page_compression_factor"),
                  stored_x=get("compression_factor"), bits=get("bits_per_element"), k_err=k_err, k_err_theory=theory, v_err=error(sweep, chosen, "v_reconstruction_err"),
                  logit_err=error(sweep, chosen, "page_logit_err"), out_err=paper.fidelity(sweep, chosen))
        for first, reading in ((1, "the first pooling"), (0, "the identity")) if method == "Py" and source == "recorded" else ():
            printed = bounds.recorded(codec, *known, first)
            pyramid.add(codec=codec, reading=reading, k_err=k_err, k_err_theory=printed, measured_over_theory=paper.value_of(k_err) / printed)
    return [table, pyramid]


def figures(named):
    table = named["compression"]
    figure, axes = paper.grid(1, 2, "page", 3.6)
    names = [name for name in table.distinct("codec") if name != "bf16"]
    for i, source in enumerate(table.distinct("source")):
        rows = {row["codec"]: row for row in table.where(source=source)}
        paper.bars(axes[i], names, [rows[name]["k_err"] if name in rows else float("nan") for name in names], colour=i, label="measured")
        axes[i].plot([rows[name]["k_err_theory"] if name in rows else float("nan") for name in names], range(len(names)), "k|", markersize=5, label="its formula (TurboQuant: bound)")
        axes[i].set_xscale("log")
        axes[i].set_xlabel(f"relative error of K, {source} values")
    paper.shared_legend(figure, axes[0], 0.93)
    return {"compression": figure}


if __name__ == "__main__":
    paper.main(__file__, tables, figures)
