#!/usr/bin/python3
"""F6: does attention speed up as the compression factor? Measured decode time against rho, with the roof of the bandwidth that the same run measured."""
import sys
from pathlib import Path

import numpy

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))
import paper  # noqa: E402

COLUMNS = {"context": ("key", "tokens"), "codec": ("key", ""), "rho": ("counted", "x, raw over page bytes"), "page_kib": ("counted", "KiB"), "page_kib_plan": ("modelled", "KiB, moekv plan"), "paper_speedup": ("derived", "x, rho over that of bf16"),
           "line_us": ("modelled", "us, page bytes over memory bandwidth"), "attend_us": ("time", "us/decode step"), "speedup": ("time", "x"), "gb_s": ("time", "GB/s"),
           "roof_us": ("time", "us, page bytes over the largest gb_s of this context and run")}


def decode_times(sweep, chosen):
    """Attend times of single decode steps in us."""
    steps = [sweep.record("step", point=p) for p in chosen]
    return numpy.concatenate([step["t_attend"][(step["decode_tokens"] > 0) & (step["prefill_tokens"] == 0)] / 1e3 for step in steps])


def tables(sweep):
    table = paper.Table("latency", COLUMNS, "Decode attention against the compression factor, one layer, one thread")
    for context in dict.fromkeys(str(int(v)) for v in sweep.params["trace.synthetic.prompt_tokens"]):
        rows, quiet = [], {}
        for codec in dict.fromkeys(str(c) for c in sweep.settings["compression.codec"] if c):
            chosen = [p for p in paper.points(sweep, **{"compression.codec": codec}) if str(int(sweep.params["trace.synthetic.prompt_tokens"][p])) == context]
            if not chosen:
                continue
            low, high = numpy.percentile(decode_times(sweep, chosen), (5, 50))
            quiet[codec] = low
            get = lambda metric: float(sweep.metrics[metric][chosen[0]])  # noqa: E731
            steps = sweep.record("step", point=chosen[0])
            read = float(steps["kv_bytes_stored"].max())
            rows.append((codec, get("page_compression_factor"), read, paper.predicted(sweep, chosen[0], "kv_peak_bytes"), low, high))
        base = next(r for r in rows if r[0] == "bf16")
        for codec, rho, read, planned, low, high in rows:
            bandwidth = float(sweep.params["cluster.network.memory_bandwidth_gb_s"][0])
            table.add(context=context, codec=codec, rho=rho, page_kib=read / 1024, page_kib_plan=planned / 1024, paper_speedup=rho / base[1], line_us=read / bandwidth / 1e3,
                      attend_us=(float(low), float(low), float(high)), speedup=quiet["bf16"] / low, gb_s=read / low / 1e3)
    for row in table.rows:
        row["roof_us"] = row["page_kib"] * 1.024 / max(table.column("gb_s", context=row["context"]))
    return [table]


def figures(named):
    table = named["latency"]
    figure, axes = paper.grid(1, 2, "page", 2.3)
    for i, context in enumerate(table.distinct("context")):
        rows = table.where(context=context)
        axes[0].plot([r["rho"] for r in rows], [paper.value_of(r["attend_us"]) for r in rows], label=f"{context}, measured", **{**paper.look(i), "linestyle": "none"})
        order = sorted(rows, key=lambda r: r["rho"])
        axes[0].plot([r["rho"] for r in order], [r["roof_us"] for r in order], color=paper.look(i)["color"], label=f"{context}, roof")
        axes[0].plot([r["rho"] for r in order], [r["line_us"] for r in order], color=paper.look(i)["color"], linestyle=":", label=f"{context}, predicted")
        axes[1].plot([r["paper_speedup"] for r in rows], [r["speedup"] for r in rows], label=f"{context} tokens", **{**paper.look(i), "linestyle": "none"})
        for r in rows if i == len(table.distinct("context")) - 1 else []:
            below = any(0.95 < o["paper_speedup"] / r["paper_speedup"] < 1.05 and o["speedup"] > r["speedup"] for o in rows)  # another label is above
            axes[1].annotate(r["codec"].replace("_token", "").replace(".token", ""), (r["paper_speedup"], r["speedup"]), fontsize=5, xytext=(5, -2) if below else (0, 4),
                             textcoords="offset points", ha="left" if below else "center", va="top" if below else "bottom")
    top = max(table.column("paper_speedup"))
    axes[1].plot([1, top], [1, top], "k:", linewidth=0.7, label="the paper: equal")
    axes[0].set_yscale("log")
    axes[0].set_xlabel("compression factor of pages (counted)")
    axes[0].set_ylabel("us per decode step and layer")
    axes[1].set_xlabel("rho over rho of bf16")
    axes[1].set_ylabel("measured speed-up (host CPU)")
    for scale in (axes[1].set_xscale, axes[1].set_yscale):
        scale("log", base=2)
    axes[1].set_xlim(0.8, 1.6 * top)
    axes[1].set_ylim(0.4 * min(table.column("speedup")), 1.6 * top)
    axes[0].set_ylim(top=100 * max(paper.value_of(r["attend_us"]) for r in table.rows))  # room for the legend
    axes[0].legend(ncol=2, fontsize=5.5, title="tokens of context", title_fontsize=5.5)
    axes[1].legend(loc="upper left")
    return {"latency": figure}


if __name__ == "__main__":
    paper.main(__file__, tables, figures)
