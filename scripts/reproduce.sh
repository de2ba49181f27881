#!/usr/bin/env bash
# Runs the experiments: sweeps, merge, bounds, tables and figures, then the audit of the paper's claims and a page to browse.
# usage: scripts/reproduce.sh [--quick|--full] [--only ID]... [--check|--accept|--partial] [--out FOLDER] [--program PATH] [-- key=value ...]
#   --quick    (default) the shipped traces, two cores, no GPU: minutes
#   --full     the same sweeps with the settings of experiments/*/full.args: every layer, more requests; for a cluster
#   --only ID  one experiment (a folder of experiments/); may be repeated
#   --check    compare tables with experiments/*/expected, exit 1 where a number changed; --accept writes them there
#   --partial  tables and figures without the points that failed; otherwise an experiment with one is an error
#   --out      default: results/reproduce; finished points there are kept, so that a broken run goes on
#   -- key=value ...  the same points of your own model or trace: --only scheduling --out results/mine -- model=my.yaml trace.path=my.moekv.h5
set -euo pipefail
# shellcheck source=scripts/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

mode=quick action=() partial=() only=() own=() out=results/reproduce program=build/release/moekv
usage() {
  sed -n '3,10p' scripts/reproduce.sh >&2
  exit 2
}
while [ $# -gt 0 ]; do
  case "$1" in
    --quick) mode=quick ;;
    --full) mode=full ;;
    --check | --accept) action=("$1") ;;
    --partial) partial=("$1") ;;
    --only) [ $# -gt 1 ] && only+=("$2") && shift || usage ;;
    --out) [ $# -gt 1 ] && out=$2 && shift || usage ;;
    --program) [ $# -gt 1 ] && program=$2 && shift || usage ;;
    --) own=("${@:2}") && break ;;
    *) usage ;;
  esac
  shift
done
if [ "${#only[@]}" -eq 0 ]; then
  for file in experiments/*/sweep.yaml; do only+=("$(basename "$(dirname "$file")")"); done
fi
for id in "${only[@]}"; do
  [ -f "experiments/$id/sweep.yaml" ] || { echo "reproduce: no experiment is called $id: $(cd experiments && printf "%s " */sweep.yaml)" >&2; exit 2; }
done
[ -x "$program" ] || { build release moekv; }
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

failed=()
reproduce() { # id
  local id=$1 folder=$out/$1 overrides=() line
  mkdir -p "$folder"
  rm -f "$folder/merged.h5" "$folder/model.h5"
  if [ "$mode" = full ] && [ -f "experiments/$id/full.args" ]; then read -r -a overrides <"experiments/$id/full.args"; fi
  overrides+=("${own[@]}")
  local resume=()
  [ ! -d "$folder/points" ] || resume=(--resume)
  "$program" sweep "experiments/$id/sweep.yaml" "${overrides[@]}" "${resume[@]}" -q --out "$folder/points" || [ $? -eq 1 ] || return 1
  "$program" merge "$folder/points" --out "$folder/merged.h5" || [ $? -eq 1 ] || return 1
  if [ -f "experiments/$id/model.yaml" ]; then # the same points with the model in the loop
    resume=()
    [ ! -d "$folder/model" ] || resume=(--resume)
    "$program" sweep "experiments/$id/model.yaml" "${resume[@]}" -q --out "$folder/model" || [ $? -eq 1 ] || return 1
    "$program" merge "$folder/model" --out "$folder/model.h5" || [ $? -eq 1 ] || return 1
  fi
  if [ -f "experiments/$id/bounds.args" ]; then
    rm -f "$folder/bounds.json"
    while read -r line; do
      # shellcheck disable=SC2086
      "$python" experiments/lib/with_bounds.py "$folder/merged.h5" --program "$program" $line || return 1
    done <"experiments/$id/bounds.args"
  fi
  "$python" "experiments/$id/plot.py" "$folder/merged.h5" "${partial[@]}" || return 1
  if [ "${#action[@]}" -gt 0 ]; then "$python" "experiments/$id/plot.py" "$folder/merged.h5" "${partial[@]}" "${action[@]}" || return 1; fi
}
for id in "${only[@]}"; do
  say "$id"
  begin=$SECONDS
  reproduce "$id" || failed+=("$id")
  echo "$id: $((SECONDS - begin)) s, $out/$id"
done

complete=yes # every experiment has a merged file, and tables that were made of it
for file in experiments/*/sweep.yaml; do
  folder=$out/$(basename "$(dirname "$file")")
  for table in "$folder"/*.csv; do [ -f "$folder/merged.h5" ] && [ ! "$table" -ot "$folder/merged.h5" ] || complete=no; done
done
if [ "$complete" = yes ]; then
  say "audit"
  "$python" scripts/audit.py --data "$out" >"$out/audit.md" && echo "$out/audit.md"
  "$python" scripts/report.py "$out"/*/merged.h5 --out "$out/report.html" && echo "$out/report.html"
fi
[ "${#failed[@]}" -eq 0 ] || {
  printf 'failed or changed: %s\n' "${failed[@]}" >&2
  exit 1
}
