#!/usr/bin/python3
"""What a point of a sweep costs besides its steps: policy-only points of hardly any step (what every point costs: files, fsyncs, prediction, start of the
program) and of a million accesses (with what goes on between steps), beside the loops that their cost is judged by."""
import argparse
import csv
import io
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SWEEP = """
name: overhead
base:
  model: deepseek-v2-lite
  backend: count
  trace: {{synthetic: {{preset: uniform, n_requests: {requests}, prompt_tokens: {prompt}, output_tokens: {output}}}, layers: [1-2]}}
  cluster: {{ranks: 4}}
  placement: {{layout: expert}}
  page: {{slots: 8}}
  eviction: {{policy: lru, budget: 50%}}
axes:
  - eviction.policy: [{policies}]
  - eviction.budget: {{range: {{from: 20, to: 80, step: 20, unit: "%"}}}}
  - seed: {{range: {{from: 1, to: {seeds}, step: 1}}}}
"""
# 9 points of about a second with keys and values, on one thread: of one seed, so that the first makes q, k, v and exact attention, which the others
# share; of five repeats; or of a seed each, so that each makes its own.
PAYLOAD = f"""
name: payload
base:
  model: deepseek-v2-lite
  threads: 1
  trace: {{path: "{Path(__file__).resolve().parents[2] / "configs/traces/dsv2lite_esft_cut.moekv.h5"}", layers: [1-12]}}
  cluster: {{ranks: 4}}
  placement: {{layout: expert}}
  eviction: {{policy: lru, budget: 50%}}
axes:
"""
ONE_SEED = PAYLOAD + "  - eviction.policy: [lru, h2o.sum, streaming]\n  - compression.codec: [bf16, int8_token, fp8_e4m3.token]\n"
SEEDS = PAYLOAD + "  - seed: {range: {from: 1, to: 9, step: 1}}\n"
# Sixty points with five repeats, as sweeps are: those of a repeat share what the first of it makes.
REPEATS = PAYLOAD + "  - eviction.policy: [lru, h2o.sum, streaming, sieve]\n  - compression.codec: [bf16, int8_token, fp8_e4m3.token]\nrepeats: 5\n"
# Requests, tokens of a prompt and of an answer, seeds (4 points each and policy).
MILLION = {"requests": 2, "prompt": 1024, "output": 1792, "seeds": 15, "policies": "lru, fifo, clock, sieve"}
FEW = {"requests": 1, "prompt": 256, "output": 2, "seeds": 15, "policies": "lru, fifo, clock, sieve"}
SECOND = {"requests": 8, "prompt": 1024, "output": 4608, "seeds": 1, "policies": "lru, sieve"}


def run(*command, folder=None):
    done = subprocess.run([str(word) for word in command], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def loops(build):
    """Seconds for a million accesses: of the eviction rule lru alone, and of a plain array LRU."""
    done = subprocess.run([str(build / "experiments/bench/policy_bench"), "--rounds", "3", "--rules", "lru"], capture_output=True, text=True, check=False)
    per_s = {name: float(re.search(rf"^{name} +([\d.]+)", done.stdout, re.M)[1]) for name in ("lru", "plain array LRU")}  # million
    return 1 / per_s["lru"], 1 / per_s["plain array LRU"]


def sweep(program, text):
    """Facts of one sweep in a process of its own, timed from its start to its end: seconds a point, accesses a point."""
    with tempfile.TemporaryDirectory(prefix="moekv-overhead-") as folder:
        (Path(folder) / "overhead.yaml").write_text(text)
        start = time.monotonic()
        said = run(program, "sweep", "overhead.yaml", "--out", "s", folder=folder)
        wall = time.monotonic() - start
        run(program, "merge", "s", "--out", "s.h5", folder=folder)
        rows = list(csv.DictReader(io.StringIO(run(program, "export", "s.h5", folder=folder))))
        size = sum(path.stat().st_size for path in Path(folder).glob("s/points/*"))
    n = len(rows)

    def per_point(name):
        return sum(float(row[name]) for row in rows) / n

    steps = per_point("t_step") * 1e-9
    return {"points": n, "accesses": per_point("n_req"), "wall": wall / n, "steps": steps, "replay": per_point("wall_time"),
            "cpu_outside": float(re.search(r"([\d.]+) ms a point outside replays", said)[1]) * 1e-3, "useful": steps * n / wall,
            "useful_of_sweep": float(re.search(r"([\d.]+) of it inside steps", said)[1]), "bytes": size / n}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", type=Path, default=Path("build/release"), help="build folder with moekv and policy_bench")
    parser.add_argument("--program", type=Path, action="append", help="moekv to measure instead; several take turns")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    build = args.build.resolve()
    programs = [path.resolve() for path in args.program or [build / "moekv"]]
    texts = [SWEEP.format(**shape) for shape in (MILLION, SECOND, FEW)] + [ONE_SEED, REPEATS, SEEDS]
    found = {program: tuple([] for _ in texts) for program in programs}
    judged = []
    for _ in range(args.rounds):
        for program in programs:
            judged.append(loops(build))
            for runs, text in zip(found[program], texts):
                runs.append(sweep(program, text))
    rule, plain = (statistics.median(values) for values in zip(*judged))
    print(f"a million accesses: rule lru alone {1e3 * rule:.1f} ms, plain array LRU {1e3 * plain:.1f} ms (medians of {len(judged)})")
    for program, (million, second, few, one_seed, repeats, seeds) in found.items():
        def middle(key, runs=million):
            return statistics.median(one[key] for one in runs)

        overhead = statistics.median(one["wall"] - one["steps"] for one in million)
        count = statistics.median(one["steps"] / one["accesses"] for one in million) * 1e6
        print(f"{program}: {million[0]['points']} points of {middle('accesses') / 1e6:.2f} M accesses, {1e3 * middle('wall'):.0f} ms each, "
              f"{1e3 * count:.0f} ms of steps for a million")
        print(f"  besides steps {1e3 * overhead:.1f} ms a point: inside replays "
              f"{1e3 * statistics.median(one['replay'] - one['steps'] for one in million):.1f}, "
              f"outside {1e3 * statistics.median(one['wall'] - one['replay'] for one in million):.1f} (CPU {1e3 * middle('cpu_outside'):.1f}), "
              f"{middle('bytes') / 1024:.0f} KiB a result")
        print(f"  of the time of a million accesses: count replay {overhead / count:.3f}, rule alone {overhead / rule:.3f}, plain array {overhead / plain:.3f}")
        fixed = statistics.median(one["wall"] - one["steps"] for one in few)
        print(f"  {few[0]['points']} points of {middle('accesses', few):.0f} accesses: {1e3 * fixed:.2f} ms a point besides steps, "
              f"of the time of a million accesses: rule alone {fixed / rule:.3f}, plain array {fixed / plain:.3f}")
        for what, runs in (("", second), (" with payload, of one seed,", one_seed), (" with payload, five repeats,", repeats), (" with payload, of a seed each,", seeds)):
            print(f"  {runs[0]['points']} points{what} of {middle('wall', runs):.2f} s: inside steps {middle('useful_of_sweep', runs):.3f} of the sweep's "
                  f"time, {middle('useful', runs):.3f} of the process's")


if __name__ == "__main__":
    main()
