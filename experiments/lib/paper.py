"""What every plot.py of the experiments shares: reading a merged sweep, writing tables and stamped figures, and checking them against what is committed.

A plot.py has  tables(sweep) -> [Table]  and  figures({name: Table}) -> {name: figure}  and ends with  paper.main(__file__, tables, figures).
Figures see tables only, so that the CSV beside a figure is all that it shows.
"""
import argparse
import json
import sys
from pathlib import Path

import numpy

SOURCE = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(SOURCE / "scripts"))
import moekv_results  # noqa: E402
import plot_style  # noqa: E402
import stats  # noqa: E402
from tables import Table, differences, read_csv, value_of  # noqa: E402, F401

LISTED = 6  # points named in a message

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")
DASHES = ("-", "--", "-.", ":")


class Unusable(ValueError):
    """A file from which tables cannot be made; the text says which and why."""


def read(path, partial=False, model=True):
    """The points of a merged file. Raises OSError or Unusable: where points failed or did not run, unless partial; where none has a result, always.

    model: whether model.h5 beside it is about the same model and trace (in_the_loop).
    """
    try:
        sweep = moekv_results.load_sweep(path)
    except ValueError as error:
        raise Unusable(str(error)) from error
    sweep.partial, sweep.model = partial, model
    bad = [int(i) for i in numpy.flatnonzero(~sweep.ok)]
    if bad and not (partial and sweep.ok.any()):
        names = ", ".join(point_name(sweep, i) for i in bad[:LISTED]) + (f" and {len(bad) - LISTED} more" if len(bad) > LISTED else "")
        remedy = "; --partial goes on without them" if sweep.ok.any() else ""
        raise Unusable(f"{path}: {len(bad)} of {sweep.n} points have no result: {names}; the first: {reason(sweep, bad[0])}{remedy}")
    for i in bad:
        print(f"{path}: without point {point_name(sweep, i)}: {reason(sweep, i)}", file=sys.stderr)
    return sweep


def in_the_loop(sweep):
    """The same points with the model in the loop: model.h5 beside the sweep, read as strictly; None where the command line leaves it out."""
    return read(Path(sweep.path).with_name("model.h5"), sweep.partial) if sweep.model else None


def point_name(sweep, point):
    """A point in a message: its label, or what the axes chose where it has none, and which repeat."""
    text = str(sweep.label[point]) or " ".join(f"{k}={v}" for k, v in settings(sweep, point).items()) or f"point {point}"
    return text + (f" (repeat {sweep.repeat[point]})" if sweep.repeat.any() else "")


def reason(sweep, point):
    """Why a point has no result."""
    return (str(sweep.errors[point]).splitlines() or ["no reason is recorded"])[0] if sweep.status[point] != "pending" else "it did not run"


def points(sweep, **wanted):
    """Indices of finished points with these settings or labels."""
    return [int(i) for i in numpy.flatnonzero(sweep.ok & sweep.select(**wanted))]


def groups(sweep):
    """Label -> finished points with it (the repeats), in the order of the sweep file."""
    found = {}
    for point in points(sweep):
        found.setdefault(str(sweep.label[point]), []).append(point)
    return found


def mean(sweep, chosen, metric, scale=1.0):
    """Mean of a metric over points, with its interval where they differ."""
    return stats.over_repeats([sweep.metrics[metric][p] * scale for p in chosen])


def predicted(sweep, point, metric):
    """What `moekv plan` predicts for a metric, from lengths alone; NaN where it predicts nothing."""
    return float(sweep.models.get(metric, {point: numpy.nan})[point])


def fidelity(sweep, chosen, column="attn_out_err"):
    """Mean of a fidelity column over all probes of points, with its interval over requests; those of another repeat are others."""
    rows = [sweep.record("probe", point=p) for p in chosen]
    requests = [r["request"] + 1_000_000 * int(sweep.repeat[p]) for r, p in zip(rows, chosen)]
    return stats.mean_interval(numpy.concatenate([r[column] for r in rows]), numpy.concatenate(requests))


def bounds(sweep):
    """What lib/with_bounds.py found: a function (point, metric) -> value, NaN for points without bounds. Raises Unusable where it did not run."""
    path = Path(sweep.path).parent / "bounds.json"
    if not path.is_file():
        raise Unusable(f"{path} is absent: run experiments/lib/with_bounds.py first, as scripts/reproduce.sh does")
    found = json.loads(path.read_text(encoding="utf-8"))
    return lambda point, metric: float(numpy.nan if (value := found.get(str(sweep.point_id[point]), {}).get(metric)) is None else value)


def settings(sweep, point):
    """What the axes chose for a point, as text."""
    return {name: values[point] for name, values in sweep.settings.items() if values[point] not in ("",) and values[point] == values[point]}


def rank_peak(sweep, point):
    """Page bytes of the fullest rank at its peak."""
    load = sweep.record("load", point=point)
    return float(load["peak_bytes"][load["entity"] == moekv_results.ENTITIES.index("rank")].max())


def token_bytes(sweep, point):
    """Raw bytes of K and V of a token in one layer, in elements of two bytes."""
    shape = {name: int(sweep.params[f"model.{name}"][point]) for name in ("n_kv_heads", "d_k", "d_v")}
    return shape["n_kv_heads"] * (shape["d_k"] + shape["d_v"]) * 2


def grid(rows=1, columns=1, width="column", height=2.2):
    """Figure and a list of its axes; width: column or page of a two-column paper."""
    plot_style.apply()
    inches = plot_style.COLUMN_INCHES if width == "column" else plot_style.PAGE_INCHES
    figure, axes = plot_style.plt.subplots(rows, columns, figsize=(inches, height), constrained_layout=True, squeeze=False)
    figure.get_layout_engine().set(rect=(0, 0.03, 1, 0.97))
    return figure, list(axes.flat)


def look(i):
    """Colour, marker and dash of the i-th series: the same in every figure, told apart without colour."""
    colours = [c for c in plot_style.OKABE_ITO if c != "#F0E442"]
    return {"color": colours[i % len(colours)], "marker": MARKERS[i % len(MARKERS)], "linestyle": DASHES[i // len(colours) % len(DASHES)], "markersize": 3.5}


def lines(axes, table, x, y, by):
    """A line for every value of column `by`, with the interval of y as bars where it has one."""
    for i, name in enumerate(table.distinct(by)):
        rows = [row for row in table.where(**{by: name}) if numpy.isfinite(value_of(row[y]))]
        if rows:
            values = [value_of(row[y]) for row in rows]
            bars = numpy.abs([[value_of(r[y]) - (r[y][k] if isinstance(r[y], tuple) else value_of(r[y])) for r in rows] for k in (1, 2)])
            axes.errorbar([value_of(row[x]) for row in rows], values, yerr=bars if bars.any() else None, label=str(name), elinewidth=0.6, capsize=1.5, **look(i))


def crosses(axes, table, x, y, by):
    """Predictions of y beside what `lines` draws: a cross in the colour of each series, one entry in the legend."""
    for i, name in enumerate(table.distinct(by)):
        rows = [row for row in table.where(**{by: name}) if numpy.isfinite(value_of(row[y]))]
        axes.plot([value_of(row[x]) for row in rows], [value_of(row[y]) for row in rows], linestyle="none", marker="+", markersize=6, markeredgewidth=0.7,
                  color=look(i)["color"], label="predicted" if i == 0 else None)


def bars(axes, labels, values, colour=0, offset=0.0, width=0.8, label=None):
    """Horizontal bars, the first on top; values may be (value, low, high)."""
    places = numpy.arange(len(labels))
    plain = [value_of(v) for v in values]
    span = numpy.abs([[value_of(v) - (v[k] if isinstance(v, tuple) else value_of(v)) for v in values] for k in (1, 2)])
    axes.barh(places + offset, plain, height=width, color=plot_style.FILLS[colour], hatch=plot_style.HATCHES[colour], edgecolor="black", linewidth=0.4,
              xerr=numpy.where(span.max(axis=0) > 0, span, numpy.nan) if numpy.nansum(span) > 0 else None, error_kw={"elinewidth": 0.6, "capsize": 1.5}, label=label)
    axes.set_yticks(places)
    axes.set_yticklabels(labels)
    if not axes.yaxis_inverted():
        axes.invert_yaxis()


def shared_legend(figure, axes, top=0.87):
    """One row of legend above all panels."""
    handles, texts = axes.get_legend_handles_labels()
    figure.legend(handles, texts, loc="upper center", ncol=len(texts), bbox_to_anchor=(0.5, 1.0), handlelength=1.6, columnspacing=0.8)
    figure.get_layout_engine().set(rect=(0, 0.03, 1, top))


def machine(sweep):
    """Where the numbers come from, for the foot of a figure."""
    backends = sorted(set(map(str, sweep.params.get("backend", ["?"]))))
    return "backend " + "+".join(backends)


def commit(sweep):
    found = sweep.attrs.get("git_commit")
    if found is None:
        found = "/".join(sorted({str(c)[:7] for c in sweep.point_facts.get("git_commit", ["unknown"])}))
    return str(found)[:16] if "/" in str(found) else str(found)[:10]


def stamp(figure, sweep, tables):
    data = "+".join(table.sha()[:8] for table in tables)
    figure.text(0.995, 0.004, f"{machine(sweep)}   commit {commit(sweep)}   data {data}", ha="right", va="bottom", fontsize=4.5, color="0.35")


def write(sweep, tables, figures, out):
    """Tables as CSV and LaTeX, figures as PDF and PNG. Equal input gives equal bytes."""
    out.mkdir(parents=True, exist_ok=True)
    for table in tables:
        (out / f"{table.name}.csv").write_text(table.csv(), encoding="utf-8")
        (out / f"{table.name}.tex").write_text(table.latex(), encoding="utf-8")
    named = {table.name: table for table in tables}
    for name, figure in figures(named).items():
        stamp(figure, sweep, [named[name]] if name in named else tables)
        plot_style.save(figure, out / f"{name}.pdf", close=False)
        plot_style.save(figure, out / f"{name}.png", dpi=200)


def check(tables, expected, times=False):
    """Lines that say which numbers differ from the committed tables."""
    problems = []
    for table in tables:
        path = expected / f"{table.name}.csv"
        if not path.is_file():
            problems.append(f"{table.name}: {path} is absent (--accept writes it)")
            continue
        problems += [f"{table.name}: {line}" for line in differences(read_csv(path, table.name), table, times)]
    made = {table.name for table in tables}
    problems += [f"{path.stem}: no table is called so, {path} is stale (delete it)" for path in sorted(expected.glob("*.csv")) if path.stem not in made]
    return problems


def main(file, tables, figures):
    """The command line of a plot.py. Exit 1: --check found changed numbers; 2: the sweep cannot be read, lacks points, or nothing can be written."""
    here = Path(file).resolve().parent
    parser = argparse.ArgumentParser(description=f"Tables and figures of experiment {here.name} from its merged sweep (see README.md)")
    parser.add_argument("merged", type=Path, help="file written by moekv merge")
    parser.add_argument("--out", type=Path, help="folder for tables and figures; default: that of the merged file")
    parser.add_argument("--check", action="store_true", help="compare the tables with expected/ instead of writing")
    parser.add_argument("--times", action="store_true", help="with --check: this machine's times too")
    parser.add_argument("--accept", action="store_true", help="write the tables to expected/")
    parser.add_argument("--partial", action="store_true", help="go on without points that failed or did not run")
    parser.add_argument("--expected", type=Path, default=here / "expected")
    parser.add_argument("--no-model", action="store_true", help="leave out what model.h5 says, where the sweep is of another model or trace")
    options = parser.parse_args()
    if options.accept and (options.partial or options.no_model):
        parser.error("--accept takes the tables of whole sweeps only, not with --partial or --no-model")
    try:
        sys.exit(make(here.name, tables, figures, options))
    except (OSError, Unusable) as error:
        print(f"error: {here.name}: {error}", file=sys.stderr)
    except (LookupError, ValueError, ArithmeticError, StopIteration, TypeError) as error:
        print(f"error: {here.name}: {options.merged} lacks what the tables and figures need: {type(error).__name__}: {error}", file=sys.stderr)
    sys.exit(2)


def make(experiment, tables, figures, options):
    """Does what the command line asks for; the exit code."""
    sweep = read(options.merged, options.partial, not options.no_model)
    made = tables(sweep)
    if options.accept:
        options.expected.mkdir(parents=True, exist_ok=True)
        for table in made:
            (options.expected / f"{table.name}.csv").write_text(table.csv(), encoding="utf-8")
    elif options.check:
        problems = check(made, options.expected, options.times)
        print("\n".join(f"{experiment}: {line}" for line in problems) or f"{experiment}: {len(made)} tables agree with {options.expected.name}/")
        return 1 if problems else 0
    else:
        write(sweep, made, figures, options.out or options.merged.parent)
    return 0
