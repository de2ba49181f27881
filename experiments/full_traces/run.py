#!/usr/bin/python3
"""Every router and every eviction rule over the full recorded traces with every fourth layer; one table. README.md says how to run it.

Names come from the program (moekv list), so a new rule is included without a change here."""
import argparse
import concurrent.futures
import csv
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOURCE = HERE.parents[1]

# Rules of payload (attention mass, keys, values) replay `host` = (first, number) requests of a large trace: attention of all would take hours. They
# do so with one copy of a token: of k copies only one is read, so where rules see masses, 40 % of the entries can hold every token.
ONE_COPY = ["placement.layout=token", "page.slots=8"]
SHORT_GROUPS = {"lagkv": ["eviction.lag=16"]}  # a shard's part of a request is shorter than two lags of the default
TRACES = {
    "dsv2lite_law": {"file": "traces/routing/dsv2lite_esft_law.npz", "model": "deepseek-v2-lite", "layers": list(range(1, 27, 4)), "host": (0, 4)},
    "dsv2lite_summary": {"file": "traces/routing/dsv2lite_esft_summary.npz", "model": "deepseek-v2-lite", "layers": list(range(1, 27, 4)), "host": (6, 2)},
    "gptoss20b": {"file": "traces/routing/gptoss20b_fingerprint_72seq.npz", "model": "gpt-oss-20b", "layers": list(range(0, 24, 4)), "host": (0, 4)},
    "tinymoe": {"file": "traces/tinymoe/trace.npz", "model": "tinymoe", "layers": [0, 1, 2, 3], "host": None},  # it has four layers in all
}
COMMON = """\
model: {model}
trace: {{path: {path}, layers: {layers}}}
cluster: {{ranks: 4}}
placement: {{layout: expert}}
eviction: {{policy: lru, budget: {budget}, protect: {{sinks: 4, recent: 16}}}}
batch: {{load: concurrency(8)}}
"""
# Tried in this order until the program accepts one: what a rule needs beside the common settings.
EXTRAS = (
    [],
    ["eviction.trigger=prefill_end", "prefill.queries=last:32"],
    ["eviction.action=demote"],
    ["eviction.action=demote", "eviction.budget=unlimited"],
)
KINDS = {"routers": ("router", "routing.router"), "policies": ("policy", "eviction.policy")}  # as moekv list says it, as the table does, key
PAYLOAD = re.compile(r"attention|\bkeys?\b|\bvalues?\b|quer(y|ies)|codec")  # in what a policy reads: backend count has none of it
COLUMNS = ["trace", "kind", "rule", "settings", "backend", "requests", "digest", "lookups", "hit_ratio", "mass_kept", "evictions", "routing_change",
           "labels", "seconds", "note", "program"]
BAD = re.compile("DIFFER|broken|failed|NEVER EVICTED|KEPT EVERYTHING")  # notes of rows that the exit code tells of
PROCESSES_EVERY = 5  # of the rules of a large trace; all of the smallest one


def mpi_environment():
    """The settings of scripts/mpi_env.sh, as a shell would leave them."""
    text = subprocess.run(["bash", "-c", f". {SOURCE}/scripts/mpi_env.sh; env -0"], capture_output=True, text=True, check=True).stdout
    return dict(line.split("=", 1) for line in text.split("\0") if "=" in line)


class Program:
    def __init__(self, path, work):
        self.path, self.work, self.env = path, work, {**mpi_environment(), "OMP_NUM_THREADS": "1"}
        self.commit = re.search(r"commit (\w+)", self("doctor").stdout)[1][:12]

    def __call__(self, *arguments, ranks=None):
        launcher = ["mpirun", "-n", str(ranks)] if ranks else []
        return subprocess.run([*launcher, str(self.path), *map(str, arguments)], capture_output=True, text=True, cwd=self.work, env=self.env)

    def rules(self, kind):
        """Name -> what it reads."""
        blocks = re.split(r"(?m)^  (?=\S)", self("list", kind).stdout)[1:]
        return {block.split()[0]: re.search(r"(?m)^ +reads (.*?);", block)[1] for block in blocks}


def find_traces(shared, names):
    for name in names:
        file = shared / TRACES[name]["file"]
        if file.is_file():
            yield name, file
        else:
            print(f"{name}: skipped, {file} is absent (MOEKV_SHARED or --shared names the folder of recordings)", flush=True)


def import_trace(program, name, file):
    out = program.work / f"{name}.moekv.h5"
    if out.is_file():
        return out
    arguments = ["trace", "import", file, "-o", out, "--model", TRACES[name]["model"], "--prompt-share", "0.5", "--quiet"]
    if name != "tinymoe":  # it has recorded logits
        arguments.append("--pseudo-logits")
    done = program(*arguments)
    if done.returncode != 0:
        sys.exit(f"{name}: import failed\n{done.stderr}")
    return out


def jobs_of(program, names, pattern, budget):
    for name in names:
        count = 0
        host = TRACES[name]["host"]
        for plural, (kind, key) in KINDS.items():
            for rule, reads in program.rules(plural).items():
                if rule == "full" or not re.fullmatch(pattern, rule):
                    continue
                payload = kind == "policy" and PAYLOAD.search(reads) is not None
                settings = [f"{key}={rule}", f"eviction.budget={budget}", "backend=host" if payload else "backend=count",
                            "read.scope=all" if payload else "read.scope=routed"]
                own = [*ONE_COPY, *SHORT_GROUPS.get(rule, [])] if payload and host else []
                settings += ["probe.samples=64" if payload else "probe.samples=0"]
                if "codec" in reads:  # raw pages have no error
                    settings.append("compression.codec=int4_token")
                requests = "all"
                if payload and host:
                    settings += [f"trace.first_request={host[0]}", f"trace.max_requests={host[1]}"]
                    requests = f"{host[0]}-{sum(host) - 1}"
                count += 1
                yield {"trace": name, "kind": kind, "rule": rule, "payload": payload, "settings": settings, "own": own,
                       "requests": requests, "four": name == "tinymoe" or count % PROCESSES_EVERY == 0}


def replay(program, job):
    """One row of the table: the first settings that the program accepts."""
    config = program.work / f"{job['trace']}.yaml"
    stem = f"{job['trace']}.{job['kind']}.{job['rule']}"
    row = {**{c: "" for c in COLUMNS}, **{c: job[c] for c in ("trace", "kind", "rule", "requests")}, "backend": "host" if job["payload"] else "count",
           "program": program.commit}
    for needed in EXTRAS:
        extra = job["own"] + needed
        out = program.work / f"{stem}.h5"
        begin = time.monotonic()
        done = program("run", config, *job["settings"], *extra, "--out", out)
        row["seconds"] = f"{time.monotonic() - begin:.1f}"
        if done.returncode != 2:
            break
        row["note"] = row["note"] or "refused: " + re.sub(r"^.*?error: ", "", done.stderr.strip().splitlines()[0])[:150]
    if done.returncode != 0:
        row["note"] = row["note"] if done.returncode == 2 else f"failed: exit {done.returncode} {done.stderr.strip()[-200:]}"
        return row
    row["note"] = ""
    row["settings"] = " ".join(extra)
    result = json.loads(program("show", "--json", out).stdout)

    def value(name, form):
        found = result["metrics"].get(name, {}).get("value")
        return "" if found is None or found != found else form.format(found)

    row.update(digest=result["digest"][:16], lookups=value("n_req", "{:.0f}"), hit_ratio=value("hit_ratio", "{:.4f}"),
               mass_kept=value("attn_mass_kept_mean", "{:.4f}") if job["payload"] else "", evictions=value("evictions", "{:.0f}"),
               routing_change=value("routing_change_rate", "{:.4f}"), labels=" ".join(result["labels"]))
    if result["violations"]:
        row["note"] = f"{len(result['violations'])} laws broken"
    if job["kind"] == "policy":
        if row["evictions"] in ("", "0"):
            row["note"] += " NEVER EVICTED"
        if row["mass_kept"] == "1.0000":
            row["note"] += " KEPT EVERYTHING"
    if job["four"]:
        four = program.work / f"{stem}.n4.h5"
        again = program("run", config, *job["settings"], *extra, "--out", four, ranks=4)
        same = again.returncode == 0 and json.loads(program("show", "--json", four).stdout)["digest"] == result["digest"]
        row["note"] += " 1 = 4 processes" if same else " 4 PROCESSES DIFFER"
        four.unlink(missing_ok=True)
    out.unlink(missing_ok=True)
    return row


def read_rows(files):
    """Key -> row of earlier tables, a later file's in place of an earlier one's; files that are not there hold none."""
    rows = {}
    for file in files:
        if file.is_file():
            with open(file, newline="", encoding="utf-8") as text:
                rows.update({key_of(row): {c: row.get(c, "") for c in COLUMNS} for row in csv.DictReader(text)})
    return rows


def key_of(row):
    return row["trace"], row["kind"], row["rule"]


def write_tables(rows, order, stem, budget):
    """Rows in the order of TRACES and of the program's lists; those of rules that it no longer has come last."""
    names = list(TRACES)
    table = sorted(rows.values(), key=lambda row: (names.index(row["trace"]), order.get((row["kind"], row["rule"]), len(order))))
    lines = ["# Every rule over the full traces", "",
             f"Every fourth layer, budget {budget}, four ranks; {len(table)} replays of {sum(float(row['seconds']) for row in table) / 60:.1f} minutes. "
             "Made by experiments/full_traces/run.py, whose README says what the columns are.", "",
             "| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    lines += ["| " + " | ".join(row[c].replace("|", "/").strip() for c in COLUMNS) + " |" for row in table]
    unfinished = stem.with_suffix(".part")
    with open(unfinished, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(table)
    unfinished.replace(stem.with_suffix(".csv"))
    unfinished.write_text("\n".join(lines) + "\n", encoding="utf-8")
    unfinished.replace(stem.with_suffix(".md"))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", type=Path, default=SOURCE / "build/release/moekv")
    parser.add_argument("--shared", type=Path, default=Path(os.environ.get("MOEKV_SHARED", SOURCE.parent / "shared")))
    parser.add_argument("--work", type=Path, default=SOURCE / "build/full_traces", help="imported traces; kept between runs")
    parser.add_argument("--out", type=Path, default=SOURCE / "experiments/results/full_traces", help="stem of the .csv and .md written")
    parser.add_argument("--traces", nargs="*", default=list(TRACES), choices=list(TRACES))
    parser.add_argument("--rules", default=".*", help="regular expression that names rules in full")
    parser.add_argument("--budget", default="40%")
    parser.add_argument("--resume", type=Path, nargs="+", default=[], metavar="CSV",
                        help="earlier tables: their rows are taken over, and those of this program are not run again")
    parser.add_argument("--jobs", type=int, default=2, help="replays at once, one thread each")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    program = Program(options.program.resolve(), options.work.resolve())
    ready = []
    for name, file in find_traces(options.shared.resolve(), options.traces):
        path = import_trace(program, name, file)
        (program.work / f"{name}.yaml").write_text(
            COMMON.format(model=TRACES[name]["model"], path=path, layers=TRACES[name]["layers"], budget=options.budget), encoding="utf-8")
        ready.append(name)
    rows = read_rows(options.resume)
    if not ready and not rows:
        print("no recording is here: nothing was run")
        return 0
    order = {(kind, rule): place for place, (kind, rule) in enumerate((KINDS[k][0], rule) for k in KINDS for rule in program.rules(k))}
    done = {key for key, row in rows.items() if row["program"] == program.commit and not BAD.search(row["note"])}
    jobs = [job for job in jobs_of(program, ready, options.rules, options.budget) if key_of(job) not in done]
    write_tables(rows, order, options.out, options.budget)
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        for row in pool.map(lambda job: replay(program, job), jobs):
            rows[key_of(row)] = row
            write_tables(rows, order, options.out, options.budget)  # whatever ends this, what is done stays
            print(f"{row['trace']:18} {row['rule']:22} {row['seconds']:>7} s  {row['digest'] or '-':16}  {row['note']}", flush=True)
    bad = sum(BAD.search(row["note"]) is not None for row in rows.values())
    refused = sum("refused" in row["note"] for row in rows.values())
    print(f"{len(jobs)} replayed; {len(rows)} rows, {bad} bad, {refused} refused: {options.out}.md, .csv")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
