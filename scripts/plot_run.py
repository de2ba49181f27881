#!/usr/bin/python3
"""Draws one run: memory, traffic and phase times over its windows, fidelity, and the load of experts, shards and ranks.

usage: plot_run.py RESULT.h5 FIGURE.png      (or .pdf, .svg)

Every panel says whether its values are counted, measured or modelled. The same file gives the same bytes.
"""
import sys
from pathlib import Path

import numpy as np

import moekv_results
import plot_style


def scaled(values, unit):
    """(largest value, unit text, divisor) in a size that reads well: bytes to KiB, MiB, GiB; ns to us, ms, s."""
    step, names = (1024.0, ("B", "KiB", "MiB", "GiB", "TiB")) if unit == "byte" else (1000.0, ("ns", "us", "ms", "s"))
    top, i = float(np.max(values, initial=0)), 0
    while top >= 10 * step and i + 1 < len(names):
        top, i = top / step, i + 1
    return top, names[i], step**i


def nothing(axes, text):
    """An empty panel that says why it is empty."""
    axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes)
    axes.set_xticks([])
    axes.set_yticks([])


def windows(run):
    """Edges of the windows, steps in each, and a function that repeats the last value so that each window is drawn up to its end."""
    step = run.record("step")
    n_steps = np.maximum(step["n_steps"], 1)
    return np.append(step["first_step"], step["first_step"][-1] + n_steps[-1]), n_steps, lambda values: np.append(values, values[-1])


def stack(axes, run, columns, unit, title):
    """Stacked areas of {label: column of record step}, per step; parts below 1 % of the whole are drawn together as 'other'."""
    edges, n_steps, repeat = windows(run)
    axes.set_title(title)
    totals = {label: run.record("step")[column] for label, column in columns.items()}
    whole = sum(int(values.sum()) for values in totals.values())
    if whole == 0:
        return nothing(axes, "nothing")
    parts = {label: values / n_steps for label, values in totals.items() if values.sum() >= 0.01 * whole}
    small = sum(values for label, values in totals.items() if label not in parts)
    if np.any(small):
        parts["other"] = small / n_steps
    _, name, factor = scaled(np.sum(list(parts.values()), axis=0), unit)
    areas = axes.stackplot(edges, [repeat(v) / factor for v in parts.values()], labels=list(parts), step="post", linewidth=0.3, edgecolor="black")
    for area, color, hatch in zip(areas, plot_style.FILLS * 2, plot_style.HATCHES * 2):
        area.set_facecolor(color)
        area.set_hatch(hatch)
    axes.set_ylabel(f"{name} per step")
    axes.legend(ncol=3, loc="upper left", handlelength=1.2, columnspacing=0.8)
    axes.set_ylim(0, np.max(np.sum(list(parts.values()), axis=0)) / factor * 1.5)
    axes.set_xlabel("step")


def draw_memory(axes, run):
    """Page blocks and metadata at the end of each window, and the peak within it."""
    edges, _, repeat = windows(run)
    step = run.record("step")
    lines = (("peak of page blocks", "kv_peak_bytes", "-"), ("page blocks", "kv_bytes_stored", "--"), ("live entries, raw size", "kv_bytes_raw", "-."),
             ("metadata", "metadata_bytes", ":"))
    top, name, factor = scaled(np.concatenate([step[column] for _, column, _ in lines]), "byte")
    for label, column, dash in lines:
        axes.plot(edges, repeat(step[column]) / factor, dash, label=label, drawstyle="steps-post")
    axes.set_ylim(0, max(top, 1) * 1.4)
    axes.set_title("memory (counted)")
    axes.set_ylabel(name)
    axes.set_xlabel("step")
    axes.legend(loc="upper left", ncol=2, handlelength=1.8, columnspacing=0.8)


def draw_fidelity(axes, run):
    """Histogram of the attention output error, with the mass kept beside it in the title."""
    probe = run.record("probe")
    errors = probe["attn_out_err"][np.isfinite(probe["attn_out_err"])] if len(probe["attn_out_err"]) else np.array([])
    axes.set_title("attention output error (measured)")
    if errors.size == 0:
        return nothing(axes, "no probes with a finite error")
    positive = errors[errors > 0]
    if positive.size:
        edges = np.logspace(np.floor(np.log10(positive.min())), np.ceil(np.log10(positive.max()) + 1e-9), 25)
        axes.hist(positive, bins=edges, color=plot_style.OKABE_ITO[0], edgecolor="black", linewidth=0.3)
        axes.set_xscale("log")
    kept = probe["attn_mass_kept"][np.isfinite(probe["attn_mass_kept"])]
    text = f"{errors.size} queries, {errors.size - positive.size} exact\nmedian error {np.median(errors):.2g}"
    text += f"\nmass kept {kept.mean():.3f}" if kept.size else ""
    axes.text(0.03, 0.97, text, ha="left", va="top", transform=axes.transAxes, fontsize=7)
    axes.set_ylim(top=axes.get_ylim()[1] * 1.5)
    axes.set_xlabel("norm(o - exact) / norm(exact)")
    axes.set_ylabel("queries")


def loads_of(run, entity, column="load"):
    """Totals of a column over the run, by index."""
    load = run.record("load")
    chosen = load["entity"] == moekv_results.ENTITIES.index(entity)
    return np.bincount(load["index"][chosen].astype(int), weights=load[column][chosen]) if np.any(chosen) else np.array([])


def draw_expert_load(axes, run):
    """Choices per expert, hottest first, over their mean."""
    loads = loads_of(run, "expert")
    axes.set_title("expert load (counted)")
    if loads.sum() == 0:
        return nothing(axes, "no expert was chosen")
    axes.plot(np.arange(1, loads.size + 1), np.sort(loads)[::-1] / loads.mean(), drawstyle="steps-mid", color=plot_style.OKABE_ITO[5])
    axes.axhline(1.0, color="black", linewidth=0.6, linestyle=":")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("expert, hottest first")
    axes.set_ylabel("choices / mean")


def draw_shard_load(axes, run):
    """Entries scanned per shard and rank, over their mean."""
    axes.set_title("entries scanned (counted)")
    drawn = False
    for entity, color, marker in (("shard", plot_style.OKABE_ITO[2], "o"), ("rank", plot_style.OKABE_ITO[1], "s")):
        loads = loads_of(run, entity)
        if loads.sum() == 0:
            continue
        position = (np.arange(loads.size) + 0.5) / loads.size
        axes.plot(position, loads / loads.mean(), marker, color=color, markersize=4, label=f"{loads.size} {entity}s", markerfacecolor="none")
        drawn = True
    if not drawn:
        return nothing(axes, "nothing was read")
    axes.axhline(1.0, color="black", linewidth=0.6, linestyle=":")
    axes.set_ylim(bottom=0, top=axes.get_ylim()[1] * 1.25)
    axes.set_xticks([])
    axes.set_xlabel("shards and ranks, in order of id")
    axes.set_ylabel("entries / mean")
    axes.legend(loc="upper left", ncol=2)


def draw(run):
    """The figure of a run. Raises ValueError where it has no records."""
    if not run.record_kinds():
        raise ValueError(f"{run.path}: has no records: it was merged with --without-records")
    plot_style.apply()
    step = run.record("step")
    figure, axes = plot_style.plt.subplots(2, 3, figsize=(plot_style.PAGE_INCHES * 1.25, 4.6), constrained_layout=True)
    if len(step["first_step"]) == 0:
        for panel in axes.flat[:3]:
            nothing(panel, "no steps")
    else:
        draw_memory(axes[0, 0], run)
        stack(axes[0, 1], run, {c: "wire_" + c for c in moekv_results.WIRE_CLASSES}, "byte", "bytes between ranks (counted)")
        stack(axes[0, 2], run, {p: "t_" + p for p in moekv_results.PHASES}, "ns", "host time by phase, KV path only (measured)")
    draw_fidelity(axes[1, 0], run)
    draw_expert_load(axes[1, 1], run)
    draw_shard_load(axes[1, 2], run)
    settings = (run.attrs["model"], run.params.get("placement.layout"), run.params.get("eviction.policy"), f"backend {run.attrs['backend']}", *run.labels)
    figure.suptitle(f"{run.attrs['title']}: " + ", ".join(str(s) for s in settings if s), fontsize=9)
    source = Path(run.provenance.get("trace_path", "")).name
    figure.text(0.995, 0.002, f"{source}   commit {run.attrs['git_commit'][:10]}   digest {run.digest[:16]}", ha="right", va="bottom", fontsize=5, color="0.4")
    return figure


def main(argv):
    """Draws argv[1] into argv[2]; exit code 2 with one line where that is not possible."""
    if len(argv) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        plot_style.save(draw(moekv_results.load(argv[1])), argv[2])
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (LookupError, AttributeError, TypeError, OverflowError, MemoryError) as error:
        print(f"error: {argv[1]}: is damaged or not complete: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
