#!/usr/bin/env bash
# Proves the CUDA backend on the GPU of this machine: parity tests with NCCL's self-exchange, a subset under compute-sanitizer, gpu_bench, three replays on
# host and cuda, several processes on one GPU, and a model in the loop. Runs in a source tree that was built, or in an unpacked bundle; wants no Python.
# A short table comes last; everything lies in one folder and one JSON file.
# usage: scripts/gpu_check.sh [--build FOLDER] [--out FOLDER] [--limit SECONDS] [--quick]
#   --limit: no step runs beyond it (default 600), and each has a limit of its own; what is cut off or left out has failed. --quick: shorter replays and fewer cases.
# Exit code: 0 all good, 1 something failed, 2 bad usage or no build, 3 no GPU here.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 2
build=build/release out=results/gpu_check quick=() limit=600
usage() {
  echo "usage: scripts/gpu_check.sh [--build FOLDER] [--out FOLDER] [--limit SECONDS] [--quick]" >&2
  exit 2
}
while [ $# -gt 0 ]; do
  case "$1" in
    --build | --out | --limit)
      [ $# -ge 2 ] || usage
      printf -v "${1#--}" '%s' "$2" && shift 2
      ;;
    --quick) quick=(--quick) && shift ;;
    *) usage ;;
  esac
done
[[ $limit =~ ^[0-9]+$ ]] || usage

# A launched program finds its libraries as bin/moekv sets them; compute-sanitizer and mpirun start the same files.
if [ -x bin/moekv ] && [ -d libexec ]; then
  # shellcheck source=/dev/null
  . bin/environment
  where() { echo "$PWD/libexec/$1"; }
  mpirun=$PWD/libexec/orterun
else
  where() { case "$1" in moekv) echo "$build/moekv" ;; gpu_bench) echo "$build/experiments/bench/gpu_bench" ;; *) echo "$build/tests/$1" ;; esac }
  mpirun=$(command -v mpirun || true)
fi
# shellcheck source=scripts/mpi_env.sh
. scripts/mpi_env.sh
{ : <&0; } 2>/dev/null || exec </dev/null # mpirun needs a standard input
exists() { [ -x "$(where "$1")" ]; }
exists moekv || {
  echo "gpu_check.sh: no program; build it (cmake --preset cuda && cmake --build --preset cuda --target all benchmarks) or unpack a bundle" >&2
  exit 2
}
moekv=$(where moekv)
doctor=$("$moekv" doctor) || {
  echo "gpu_check.sh: $moekv does not start" >&2
  exit 2
}
if ! grep -q '^ok  *GPU driver' <<<"$doctor" || ! grep -q '^ok  *CUDA build' <<<"$doctor"; then
  grep -A1 -E '(CUDA build|GPU driver)' <<<"$doctor"
  echo "gpu_check.sh: there is no GPU to check here (or this build has no CUDA); nothing was run"
  exit 3
fi

mkdir -p "$out"
out=$(cd "$out" && pwd)
printf '%s\n' "$doctor" >"$out/doctor.txt"
command -v nvidia-smi >/dev/null && nvidia-smi -q -d CLOCK,POWER,TEMPERATURE >"$out/nvidia-smi.txt" 2>&1
names=() verdicts=() details=() results=()
note() { # name, verdict, detail
  names+=("$1") verdicts+=("$2") details+=("$3")
  printf '%-8s%-44s%s\n' "$2" "$1" "$3"
}
step() { # name, log, seconds at most, command...
  local name=$1 log=$out/$2 start=$SECONDS left=$((limit - SECONDS)) most=$3
  shift 3
  [ "$most" -lt "$left" ] || most=$left
  if [ "$left" -le 0 ]; then
    note "$name" FAILED "no time left of --limit $limit"
    return 1
  fi
  timeout -k 5 "$most" "$@" >"$log" 2>&1
  local code=$?
  case $code in
    0) note "$name" ok "$((SECONDS - start)) s" ;;
    124 | 137) note "$name" FAILED "cut off after $((SECONDS - start)) s, see $log" ;;
    *) note "$name" FAILED "$((SECONDS - start)) s, exit code $code, see $log" ;;
  esac
  return "$code"
}
missing() { note "$1" missing "$2"; }
library() { grep -q "^ok  *$1 " <<<"$doctor"; } # name in moekv doctor

for test in parity_device parity_replay; do
  if exists "$test"; then step "$test" "$test.log" 100 "$(where "$test")" '--gtest_filter=*/cuda'; else missing "$test" "not built"; fi
done
if exists parity_device && ! library NCCL; then missing "NCCL self-exchange" "no libnccl.so.2: parity_device left it out"; fi
if command -v compute-sanitizer >/dev/null && exists parity_device; then
  for tool in memcheck racecheck initcheck synccheck; do
    step "sanitizer $tool" "$tool.log" 45 compute-sanitizer --tool "$tool" --error-exitcode 9 "$(where parity_device)" \
      '--gtest_filter=*TaskResults*/cuda:*StoredRows*/cuda:*Bounds*/cuda:*Leave*/cuda:*Audits*/cuda:*Decisions*/cuda:*GeneratedRows*/cuda'
  done
else
  missing "compute-sanitizer" "not on PATH"
fi
if exists gpu_bench; then
  step gpu_bench gpu_bench.txt 150 "$(where gpu_bench)" --json "$out/gpu_bench.json" "${quick[@]}"
else
  missing gpu_bench "not built"
fi

# Replays whose decisions need no payload: host and cuda must decide alike.
run() { # name of the step, of the result, arguments...
  local name=$1 result=$2
  shift 2
  step "$name" "$result.txt" 100 "$@" --out "$out/$result.h5" && results+=("$result")
}
same() { # name of the step, two results
  step "$1" "$3-diff.txt" 20 "$moekv" diff --decisions "$out/$2.h5" "$out/$3.h5"
}
replay() { # name; the configuration comes on standard input
  cat >"$out/$1.yaml"
  for backend in host cuda; do run "replay $1 on $backend" "$1-$backend" "$moekv" run "$out/$1.yaml" "backend=$backend"; done
  same "replay $1: same decisions" "$1-host" "$1-cuda"
}
traces=$PWD/configs/traces requests=0 output=0 mla=1-4 gqa=0-7 prompt=32768 counts=(2 4)
[ ${#quick[@]} -eq 0 ] || requests=1 output=32 mla=1 gqa=0-1 prompt=256 counts=(2)
replay dsv2lite_mla <<CONFIG
model: deepseek-v2-lite
trace: {path: $traces/dsv2lite_esft_cut.moekv.h5, layers: [$mla], max_requests: $requests, max_output_tokens: $output}
cluster: {ranks: 4}
placement: {layout: expert}
eviction: {policy: lru, budget: 50%}
compression: int8_token
batch: {load: concurrency(8)}
probe: {samples: 64}
CONFIG
replay gptoss_gqa <<CONFIG
model: gpt-oss-20b
trace: {path: $traces/gptoss20b_cut.moekv.h5, layers: [$gqa], max_requests: $requests, max_output_tokens: $output}
cluster: {ranks: 2}
placement: {layout: token}
compression: fp8_e4m3.token
probe: {samples: 64}
CONFIG
replay qwen3_32k <<CONFIG
model: qwen3-30b-a3b
trace:
  synthetic: {preset: dsv2lite, n_requests: 1, prompt_tokens: $prompt, output_tokens: 16}
  layers: [0-1]
cluster: {ranks: 1}
placement: {layout: local}
prefill: {queries: none}
CONFIG

# Several processes, on one GPU where there is one: the decisions of one process.
if [ -n "$mpirun" ] && [ -x "$mpirun" ]; then
  for transport in mpi ipc; do
    for n in "${counts[@]}"; do
      result=dsv2lite_mla-$transport-$n
      run "$n processes by $transport" "$result" "$mpirun" -n "$n" "$moekv" run "$out/dsv2lite_mla.yaml" backend=cuda "transport=$transport" threads=2
      same "$n processes by $transport: same decisions" dsv2lite_mla-cuda "$result"
    done
  done
else
  missing "several processes" "no mpirun"
fi

# A model in the loop: its weights' products by cuBLAS, the same for any number of processes, and the loss of the host.
# shellcheck disable=SC2317  # called through bash -c
column() { # result, column of moekv export --csv
  "$moekv" export "$out/$1.h5" --csv | awk -F, -v name="$2" 'NR == 1 {for (i = 1; i <= NF; i++) if ($i == name) c = i} NR == 2 {print $c}'
}
# shellcheck disable=SC2317
near() { # column, two results, largest difference
  local a b
  a=$(column "$2" "$1") b=$(column "$3" "$1")
  echo "$1: $a in $2, $b in $3"
  awk -v a="$a" -v b="$b" -v most="$4" 'BEGIN {exit !(a != "" && b != "" && a - b <= most && b - a <= most)}'
}
export -f near column
export moekv out
if library cuBLAS; then
  score=(score "$PWD/configs/examples/score.yaml" eviction=null)
  [ ${#quick[@]} -eq 0 ] || score+=(trace.max_requests=2)
  for backend in host cuda; do run "score tinymoe on $backend" "score-$backend" "$moekv" "${score[@]}" "backend=$backend"; done
  step "score: the host's loss within 2e-4 nats" score-nll.txt 20 bash -c 'near nll score-host score-cuda 2e-4'
  if [ -n "$mpirun" ] && [ -x "$mpirun" ]; then
    run "score on 2 processes" score-cuda-2 "$mpirun" -n 2 "$moekv" "${score[@]}" backend=cuda threads=2
    same "score on 2 processes: same decisions" score-cuda score-cuda-2
  fi
else
  missing "score on cuda" "no cuBLAS"
fi

text() { sed -e 's/\\/\\\\/g' -e 's/"/\\"/g' -e 's/[[:cntrl:]]/ /g' -e 's/.*/"&"/' <<<"$1"; }
list() { sed '$!s/$/,/'; } # lines to the members of a JSON array
{
  echo '{"doctor": ['
  while IFS= read -r line; do text "$line"; done <"$out/doctor.txt" | list
  echo '], "steps": ['
  for i in "${!names[@]}"; do
    echo "{\"name\": $(text "${names[$i]}"), \"verdict\": $(text "${verdicts[$i]}"), \"detail\": $(text "${details[$i]}")}"
  done | list
  echo '], "results": {'
  for result in "${results[@]}"; do
    [ "$result" = "${results[0]}" ] || echo ,
    echo "$(text "$result"): $("$moekv" show --json "$out/$result.h5")"
  done
  echo '}, "bench":'
  cat "$out/gpu_bench.json" 2>/dev/null || echo null
  echo '}'
} >"$out/gpu_check.json"
echo
[ ! -f "$out/gpu_bench.txt" ] || cat "$out/gpu_bench.txt"
failed=0
for i in "${!names[@]}"; do
  printf '%-8s%-44s%s\n' "${verdicts[$i]}" "${names[$i]}" "${details[$i]}"
  [ "${verdicts[$i]}" != FAILED ] || failed=1
done
echo "all of it, $SECONDS s: $out/gpu_check.json"
exit "$failed"
