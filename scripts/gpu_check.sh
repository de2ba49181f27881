#!/usr/bin/env bash
# Proves the CUDA backend on the GPU of this machine: parity tests, a subset of them under compute-sanitizer, gpu_bench, three replays on host and
# cuda. Runs in a source tree that was built, or in an unpacked bundle. A short table comes last; everything lies in one folder and one JSON file.
# usage: scripts/gpu_check.sh [--build FOLDER] [--out FOLDER] [--quick]
# Exit code: 0 all good, 1 something failed, 2 bad usage or no build, 3 no GPU here.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 2
build=build/release out=results/gpu_check quick=()
while [ $# -gt 0 ]; do
  case "$1" in
    --build) build=$2 && shift 2 ;;
    --out) out=$2 && shift 2 ;;
    --quick) quick=(--quick) && shift ;;
    *)
      echo "usage: scripts/gpu_check.sh [--build FOLDER] [--out FOLDER] [--quick]" >&2
      exit 2
      ;;
  esac
done
if [ -x bin/moekv ] && [ -d libexec ]; then
  program() { bin/moekv --exec "$@"; }
  exists() { [ -x "libexec/$1" ]; }
else
  where() { case "$1" in moekv) echo "$build/moekv" ;; gpu_bench) echo "$build/experiments/bench/gpu_bench" ;; *) echo "$build/tests/$1" ;; esac }
  program() { local name=$1 && shift && "$(where "$name")" "$@"; }
  exists() { [ -x "$(where "$1")" ]; }
fi
exists moekv || {
  echo "gpu_check.sh: no program; build it (cmake --preset cuda && cmake --build --preset cuda --target all benchmarks) or unpack a bundle" >&2
  exit 2
}
doctor=$(program moekv doctor)
if ! grep -q '^ok  *GPU driver' <<<"$doctor" || ! grep -q '^ok  *CUDA build' <<<"$doctor"; then
  grep -A1 -E '(CUDA build|GPU driver)' <<<"$doctor"
  echo "gpu_check.sh: there is no GPU to check here (or this build has no CUDA); nothing was run"
  exit 3
fi

mkdir -p "$out"
out=$(cd "$out" && pwd)
printf '%s\n' "$doctor" >"$out/doctor.txt"
command -v nvidia-smi >/dev/null && nvidia-smi -q -d CLOCK,POWER,TEMPERATURE >"$out/nvidia-smi.txt" 2>&1
names=() verdicts=() details=()
note() { # name, verdict, detail
  names+=("$1") verdicts+=("$2") details+=("$3")
  printf '%-8s%-36s%s\n' "$2" "$1" "$3"
}
step() { # name, log, command...
  local name=$1 log=$out/$2 start=$SECONDS
  shift 2
  if "$@" >"$log" 2>&1; then note "$name" ok "$((SECONDS - start)) s"; else note "$name" FAILED "$((SECONDS - start)) s, see $log"; fi
}
parity() { # test, filter
  program "$1" "--gtest_filter=$2"
}
sanitized() { # tool, test, filter
  if [ -d libexec ] && [ -x bin/moekv ]; then
    LD_LIBRARY_PATH=$PWD/lib compute-sanitizer --tool "$1" --error-exitcode 9 "libexec/$2" "--gtest_filter=$3"
  else
    compute-sanitizer --tool "$1" --error-exitcode 9 "$(where "$2")" "--gtest_filter=$3"
  fi
}

for test in parity_device parity_replay; do
  if exists "$test"; then step "$test" "$test.log" parity "$test" '*/cuda'; else note "$test" missing "not built"; fi
done
if command -v compute-sanitizer >/dev/null && exists parity_device; then
  for tool in memcheck racecheck initcheck synccheck; do
    step "sanitizer $tool" "$tool.log" sanitized "$tool" parity_device '*TaskResults*/cuda:*StoredRows*/cuda:*Bounds*/cuda:*Leave*/cuda:*Audits*/cuda'
  done
else
  note "compute-sanitizer" missing "not on PATH"
fi
if exists gpu_bench; then
  step gpu_bench gpu_bench.txt program gpu_bench --json "$out/gpu_bench.json" "${quick[@]}"
else
  note gpu_bench missing "not built"
fi

# Replays whose decisions need no payload: host and cuda must decide alike.
replay() { # name, config
  local name=$1 config=$out/$1.yaml
  cat >"$config"
  for backend in host cuda; do
    step "replay $name on $backend" "$name-$backend.txt" program moekv run "$config" "backend=$backend" --out "$out/$name-$backend.h5"
  done
  step "replay $name: same decisions" "$name-diff.txt" program moekv diff --decisions "$out/$name-host.h5" "$out/$name-cuda.h5"
}
traces=$PWD/configs/traces
replay dsv2lite_mla <<CONFIG
model: deepseek-v2-lite
trace: {path: $traces/dsv2lite_esft_cut.moekv.h5, layers: [1-4]}
cluster: {ranks: 4}
placement: {layout: expert}
eviction: {policy: lru, budget: 50%}
compression: int8_token
batch: {load: concurrency(8)}
probe: {samples: 64}
CONFIG
replay gptoss_gqa <<CONFIG
model: gpt-oss-20b
trace: {path: $traces/gptoss20b_cut.moekv.h5}
cluster: {ranks: 2}
placement: {layout: token}
compression: fp8_e4m3.token
probe: {samples: 64}
CONFIG
replay qwen3_32k <<CONFIG
model: qwen3-30b-a3b
trace:
  synthetic: {preset: dsv2lite, n_requests: 2, prompt_tokens: 32768, output_tokens: 16}
  layers: [0-1]
cluster: {ranks: 1}
placement: {layout: local}
prefill: {queries: none}
CONFIG

python3 - "$out" "${#names[@]}" "${names[@]}" "${verdicts[@]}" "${details[@]}" <<'PYTHON'
import json, pathlib, sys
out, n = pathlib.Path(sys.argv[1]), int(sys.argv[2])
names, verdicts, details = (sys.argv[3 + i * n:3 + (i + 1) * n] for i in range(3))
bench = out / "gpu_bench.json"
report = {"doctor": (out / "doctor.txt").read_text().splitlines(),
          "steps": [{"name": a, "verdict": b, "detail": c} for a, b, c in zip(names, verdicts, details)],
          "bench": json.loads(bench.read_text()) if bench.exists() else None}
(out / "gpu_check.json").write_text(json.dumps(report, indent=2))
PYTHON
echo
[ ! -f "$out/gpu_bench.txt" ] || cat "$out/gpu_bench.txt"
failed=0
for i in "${!names[@]}"; do
  printf '%-8s%-36s%s\n' "${verdicts[$i]}" "${names[$i]}" "${details[$i]}"
  [ "${verdicts[$i]}" != FAILED ] || failed=1
done
echo "all of it: $out/gpu_check.json"
exit "$failed"
