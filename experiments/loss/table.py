"""Numbers of single runs, and the table and figure that are made of them."""
import csv
import sys
from pathlib import Path

import h5py
import numpy as np

SOURCE = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(SOURCE / "scripts"), str(SOURCE / "experiments/lib")]
import stats  # noqa: E402

RESAMPLES = 20000
COLUMNS = ("kind", "rule", "budget", "settings", "against", "change", "low", "high", "p_holm", "kl", "top1", "drift", "out_err", "mass_kept", "labels", "note")


def metric(file, name):
    return float(file["metric"][name][0]) if name in file["metric"] else float("nan")


def labels_of(file):
    return {label for label in file["labels"][0].decode().split() if label not in ("feedback",)}


def overrides_of(path):
    """Those of the command that made a result."""
    with h5py.File(path) as file:
        argv = [a.decode() if isinstance(a, bytes) else a for a in file["provenance"].attrs["argv"]]
    return [a for a in argv[3:] if "=" in a]


def losses_of(path):
    with h5py.File(path) as file:
        record = file["record/token"]
        return dict(zip(zip(record["request"][:], record["position"][:]), record["nll"][:]))


def closed_loop(path, other=None):
    """Change of the loss per sequence, tail positions, and its neighbours; against another result where one is given."""
    with h5py.File(path) as file:
        record = file["record/token"]
        request, position = record["request"][:], record["position"][:]
        losses = losses_of(other) if other else {}
        reference = np.array([losses[token] for token in zip(request, position)]) if other else record["nll_reference"][:]
        change = record["nll"][:] - reference
        prompts = dict(zip(file["record/request/request"][:], file["record/request/prompt_tokens"][:]))
        tail = position >= np.array([prompts[r] for r in request])
        sums = {r: (change[tail & (request == r)].sum(), int((tail & (request == r)).sum())) for r in sorted(prompts)}
        row = {"sequences": [s for s in sums.values() if s[1] > 0], "change": change[tail].mean(), "labels": " ".join(sorted(labels_of(file)))}
        if other:
            return row
        return {**row, "kl": metric(file, "kl_reference_tail"), "top1": metric(file, "top1_agreement_tail"),
                "drift": metric(file, "attention_drift_tail")}


def open_loop(path):
    with h5py.File(path) as file:
        return {"out_err": metric(file, "attn_out_err_mean"), "mass_kept": metric(file, "attn_mass_kept_mean")}


def add_intervals(rows):
    """95 % interval of the mean change per token and a two-sided p, from a bootstrap over sequences; p corrected after Holm.

    Both are of the plain bootstrap, without the widening of lib/stats.py: 6 % at 32 sequences, more for fewer."""
    random = np.random.default_rng(1)
    tested = [row for row in rows if "sequences" in row]
    for row in tested:
        sums, counts = np.array(row.pop("sequences")).T
        draws = random.integers(len(sums), size=(RESAMPLES, len(sums)))
        means = sums[draws].sum(axis=1) / counts[draws].sum(axis=1)
        row["low"], row["high"] = np.percentile(means, [2.5, 97.5])
        row["p"] = min(1.0, 2 * max(1, min((means <= 0).sum(), (means >= 0).sum())) / RESAMPLES)
    worst = 0.0
    for i, row in enumerate(sorted(tested, key=lambda row: row["p"])):
        worst = max(worst, min(1.0, (len(tested) - i) * row["p"]))
        row["p_holm"] = worst


def inversions(rows):
    """Policies whose larger budget costs more than the smaller one, beyond both intervals."""
    by_rule = {}
    for row in rows:
        if row["budget"] is not None and "low" in row:
            by_rule.setdefault((row["rule"], row["settings"]), []).append(row)
    for (rule, _), own in sorted(by_rule.items()):
        own.sort(key=lambda row: row["budget"])
        for small, large in zip(own, own[1:]):
            if large["low"] > small["high"]:
                yield f"{rule}: {small['budget']} % costs {small['change']:.4f}, {large['budget']} % costs {large['change']:.4f}"


def text(value):
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return ""
    return f"{value:.4g}" if isinstance(value, (float, np.floating)) else str(value)


def draw(rows, correlation, path):
    import plot_style
    plot_style.apply()
    figure, axis = plot_style.plt.subplots(figsize=(plot_style.COLUMN_INCHES, 2.4))
    for kind, marker in (("policies", "o"), ("codecs", "s")):
        own = [row for row in rows if row["kind"] == kind]
        axis.scatter([row["out_err"] for row in own], [row["kl"] for row in own], s=10, marker=marker, label=f"{kind} ({len(own)})")
    axis.set(xscale="log", yscale="log", xlabel="open loop: relative error of an attention output", ylabel="closed loop: KL per token (nat)",
             title=f"rank correlation {correlation:.2f}")
    axis.legend()
    figure.tight_layout()
    plot_style.save(figure, path)


def write(rows, out):
    add_intervals(rows)
    with open(out / "loss.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows([text(row.get(column)) for column in COLUMNS] for row in rows)
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    lines += ["| " + " | ".join(text(row.get(column)) for column in COLUMNS) + " |" for row in rows]
    both = [row for row in rows if row.get("out_err", 0) > 0 and row.get("kl", 0) > 0 and "not_exercised" not in row.get("labels", "")]
    if len(both) > 2:
        kl, change = (stats.spearman([row["out_err"] for row in both], [row[loss] for row in both]) for loss in ("kl", "change"))
        draw(both, kl, out / "loss.png")
        lines += ["", f"Rank correlation over {len(both)} settings of open-loop `out_err` with closed-loop KL: {kl:.3f}, with the change of the loss: {change:.3f}."]
    found = list(inversions(rows))
    lines += ["", "More budget that costs more, beyond both intervals: " + ("; ".join(found) if found else "nowhere") + "."]
    (out / "loss.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines[-3:]))
