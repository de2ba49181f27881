#!/usr/bin/python3
"""Loss of tinymoe under every eviction policy, codec and router, with intervals, beside the open-loop fidelity of the same setting. README.md says how.

Names come from the program (moekv list), so a new rule is included without a change here."""
import argparse
import concurrent.futures
import os
import re
import subprocess
import sys
from pathlib import Path


import table

HERE = Path(__file__).resolve().parent
SOURCE = HERE.parents[1]
COMMON = """\
model: {model}
trace: {trace}
cluster: {{ranks: 4}}
placement: {{layout: local}}
page: {{slots: 16}}
eviction: {{protect: {{sinks: 4, recent: 16}}}}
payload: {{element: fp32}}
prefill: {{queries: all}}
batch: {{load: concurrency(64), max_num_batched_tokens: 4096}}
probe: {{samples: 2048}}
"""
# Tried in this order until the program accepts one: what a rule needs beside the common settings.
MAPS = SOURCE / "experiments/pikv_table"
EXTRAS = ([], ["eviction.trigger=prefill_end", "prefill.queries=last:32"], ["eviction.action=demote"], ["eviction.policy=h2o.sum", "eviction.budget=100%"],
          *([f"compression.maps_path={MAPS / name}_{rank}.h5", f"compression.rank={rank}"] for name, rank in (("linear", 8), ("affine", 16))),
          *([f"payload.element={element}"] for element in ("bf16", "fp16")))
BUDGET = {"flexgen.static": "eviction.percent={}"}  # the others: eviction.budget
PROMPT = {("snapkv", 50): 384, ("chunk_retain", 50): 384}  # once, at the end of the prompt: the common one, half of a text, fits the budget
EVICTION = "eviction.policy=h2o.sum"  # under a router that listens to what is missed


class Program:
    def __init__(self, path, work):
        self.path, self.work = path, work

    def __call__(self, *arguments):
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.run([str(self.path), *map(str, arguments)], capture_output=True, text=True, cwd=self.work, env=env)

    def names(self, kind):
        """[(name, what it reads)]"""
        return re.findall(r"(?m)^  ([a-z][\w.+]*) .*\n((?:      reads [^;\n]*)?)", self("list", kind).stdout)

    def recording(self, prompt):
        """Of the dense model, with prompts of `prompt` tokens or half of each text."""
        path = self.work / f"dense{f'_{prompt}' if prompt else ''}.moekv.h5"
        if not path.is_file():
            done = self("score", "score.yaml", "score.reference=none", *([f"trace.prompt_tokens={prompt}"] if prompt else []), "--quiet", "--record", path,
                        "--out", self.work / path.name.replace(".moekv", ""))
            if done.returncode != 0:
                sys.exit(done.stderr)
        return path


def settings(program, kinds, budgets, pattern):
    """(kind, rule, budget or None, overrides that name rule and budget, further ones)"""
    for kind in kinds:
        for rule, reads in program.names(kind):
            if not re.search(pattern, rule) or rule in ("full", "recorded"):
                continue
            listens = "cache misses" in reads
            if kind == "policies":
                for b in budgets:
                    prompt = [f"trace.prompt_tokens={PROMPT[rule, b]}"] if (rule, b) in PROMPT else []
                    yield kind, rule, b, [f"eviction.policy={rule}", BUDGET.get(rule, "eviction.budget={}%").format(b)], prompt
            elif kind == "codecs":
                yield kind, rule, None, [f"compression.codec={rule}", "page.slots=32"], []
            elif not listens:
                yield kind, rule, None, [f"routing.router={rule}"], []
            if kind == "routers" and (listens or rule == "topk"):
                yield from ((kind, rule, b, [f"routing.router={rule}", f"eviction.budget={b}%"], [EVICTION]) for b in budgets)


def stem_of(kind, rule, budget):
    return re.sub(r"[^\w.+]", "_", f"{kind}_{rule}_{budget or ''}")


def compared_with(program, row):
    """(result whose loss a row's is compared with, its name) where that is not the run's own reference: the dense model with the run's payload type."""
    if row["kind"] == "routers" and row["budget"] and row["rule"] != "topk":
        return program.work / f"{stem_of('routers', 'topk', row['budget'])}_score.h5", "topk"
    return (program.work / "dense.h5", "fp32") if "payload.element=" in row["settings"] else (None, "")


def measure(program, options, item):
    """One row: closed loop by moekv score, open loop by moekv run on the recording of the dense model."""
    kind, rule, budget, overrides, own = item
    row = {"kind": kind, "rule": rule, "budget": budget, "note": ""}
    stem = stem_of(kind, rule, budget)
    refusal = ""
    for extra in EXTRAS:
        closed = program.work / f"{stem}_score.h5"
        done = None
        if not closed.is_file():
            done = program("score", "score.yaml", *overrides, *own, *extra, "--quiet", "--out", closed)
        if done is None or done.returncode != 2:
            break
        refusal = refusal or done.stderr.strip().splitlines()[-1]
    else:
        row["note"] = refusal[:160]  # of the common settings; nothing helped
        return row
    if done is not None and done.returncode != 0:
        row["note"] = (done.stderr.strip().splitlines() or ["failed"])[-1][:160]
        return row
    extra = [a for a in table.overrides_of(closed) if a not in overrides]
    row["settings"] = " ".join(extra).replace(f"{SOURCE}/", "")
    other, row["against"] = compared_with(program, row)
    if other and not other.is_file():
        row["note"] = f"needs the row of {row['against']}"
        return row
    row.update(table.closed_loop(closed, other))
    opened = program.work / f"{stem}_run.h5"
    if kind == "routers":
        return row  # what an attention returns does not depend on which experts compute
    if not opened.is_file():
        recording = program.recording(PROMPT.get((rule, budget)))
        replayed = [a for a in extra if not a.startswith("trace.prompt_tokens=")]  # the recording has these prompts
        done = program("run", "run.yaml", f"trace.path={recording}", *overrides, *replayed, "--quiet", "--out", opened)
        if done.returncode != 0:
            row["note"] = "open loop: " + (done.stderr.strip().splitlines() or ["failed"])[-1][:140]
            return row
    row.update(table.open_loop(opened))
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", type=Path, default=SOURCE / "build/release/moekv")
    parser.add_argument("--model", type=Path, default=SOURCE / "configs/models/tinymoe.model.h5")
    parser.add_argument("--tokens", type=Path, default=SOURCE / "configs/traces/tinymoe_eval.npz")
    parser.add_argument("--sequences", type=int, default=0, help="of the token file; 0 = all")
    parser.add_argument("--budgets", type=int, nargs="+", default=[25, 50], help="percent of a sequence")
    parser.add_argument("--kinds", nargs="+", default=["policies", "codecs", "routers"], choices=["policies", "codecs", "routers"])
    parser.add_argument("--rules", default="", help="regular expression of the names to run")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--work", type=Path, default=SOURCE / "results/loss", help="results of single runs; those that are there are kept")
    parser.add_argument("--out", type=Path, default=SOURCE / "results/loss", help="folder of loss.md, loss.csv and loss.png")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    options.out.mkdir(parents=True, exist_ok=True)
    program = Program(options.program.resolve(), options.work.resolve())
    few = f", max_requests: {options.sequences}" if options.sequences else ""
    (program.work / "score.yaml").write_text(COMMON.format(model=f"{{path: {options.model.resolve()}}}", trace=f"{{tokens: {options.tokens.resolve()}{few}}}"))
    (program.work / "run.yaml").write_text(COMMON.format(model="tinymoe", trace="{path: dense.moekv.h5}"))
    program.recording(None)
    items = list(settings(program, options.kinds, options.budgets, options.rules))
    rows = []
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        for row in pool.map(lambda item: measure(program, options, item), items):
            rows.append(row)
            print(f"[{len(rows)}/{len(items)}] {row['rule']} {row['budget'] or ''} {row.get('change', '')} {row['note']}", flush=True)
    table.write(rows, options.out)


if __name__ == "__main__":
    main()
