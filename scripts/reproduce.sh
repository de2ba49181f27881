#!/usr/bin/env bash
# Runs the experiments: sweeps, merge, bounds, tables and figures, then the audit of the paper's claims and a page to browse.
# usage: scripts/reproduce.sh [--quick|--full] [--only ID]... [--check|--accept] [--partial] [--out FOLDER] [--program PATH] [-- key=value ...]
#   --quick    (default) the shipped traces, two cores, no GPU: minutes
#   --full     the same sweeps with the settings of experiments/*/full.args: every layer, more requests; for a cluster
#   --only ID  one experiment (a folder of experiments/), or those of a claim (F1 ... F12); may be repeated
#   --check    compare tables with experiments/*/expected, exit 1 where a number changed; --accept writes them there
#   --partial  tables and figures without the points that failed, where none is what others are compared with; otherwise one is an error
#   --out      default: results/reproduce of the repository; finished points there are kept, so that a broken run goes on
#   -- key=value ...  the same points of your own model or trace: --only scheduling --out results/mine -- model=my.yaml trace.path=my.moekv.h5
#                     paths are from where you are; with settings of model or trace, what tinymoe in the loop says is left out
set -euo pipefail
caller=$PWD
# shellcheck source=scripts/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

mode=quick action=() partial=() only=() own=() out=$PWD/results/reproduce program=$PWD/build/release/moekv
from_caller() { case "$1" in /*) printf '%s' "$1" ;; *) printf '%s' "$caller/$1" ;; esac; }
usage() {
  sed -n '3,11p' scripts/reproduce.sh >&2
  exit 2
}
while [ $# -gt 0 ]; do
  case "$1" in
    --quick) mode=quick ;;
    --full) mode=full ;;
    --check | --accept) action=("$1") ;;
    --partial) partial=("$1") ;;
    --only) [ $# -gt 1 ] && only+=("$2") && shift || usage ;;
    --out) [ $# -gt 1 ] && out=$(from_caller "$2") && shift || usage ;;
    --program) [ $# -gt 1 ] && program=$(from_caller "$2") && shift || usage ;;
    --) own=("${@:2}") && break ;;
    *) usage ;;
  esac
  shift
done
if [ "${action[*]}" = --accept ] && { [ "${#own[@]}" -gt 0 ] || [ "$mode" = full ]; }; then
  echo "reproduce: --accept takes the quick experiments as they are, without --full and settings of your own" >&2
  exit 2
fi
if [ "${#only[@]}" -eq 0 ]; then
  for file in experiments/*/sweep.yaml; do only+=("$(basename "$(dirname "$file")")"); done
fi
ids=()
for id in "${only[@]}"; do # a claim stands for its experiments
  claimed=$(awk -v id="$id" '/^- id:/ { here = $3 == id } here && sub(/^  experiments: /, "") { gsub(/[][,]/, " "); print }' experiments/claims.yaml)
  for found in ${claimed:-$id}; do case " ${ids[*]} " in *" $found "*) ;; *) ids+=("$found") ;; esac; done
done
only=("${ids[@]}")
for id in "${only[@]}"; do
  [ -f "experiments/$id/sweep.yaml" ] || { echo "reproduce: no experiment is called $id: $(cd experiments && printf "%s " */sweep.yaml)" >&2; exit 2; }
done
[ -x "$program" ] || { build release moekv; }
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

root=$PWD replay_only=no
for setting in "${own[@]}"; do
  case "$setting" in model[.=]* | trace[.=]*) replay_only=yes ;; esac
done

# points SWEEP FOLDER MERGED: runs and merges a sweep of experiments/ with the settings of this call. Points that fail are left to plot.py.
points() {
  local resume=()
  [ ! -d "$folder/$2" ] || resume=(--resume)
  (cd "$caller" && "$program" sweep "$root/experiments/$1" "${overrides[@]}" "${own[@]}" "${resume[@]}" -q --out "$folder/$2") || [ $? -eq 1 ] || return 1
  "$program" merge "$folder/$2" --out "$folder/$3" || [ $? -eq 1 ] || return 1
}

failed=()
reproduce() { # id
  local id=$1 folder=$out/$1 overrides=() line
  local plot=("$python" "experiments/$1/plot.py" "$out/$1/merged.h5" "${partial[@]}")
  mkdir -p "$folder"
  rm -f "$folder/merged.h5" "$folder/model.h5"
  if [ "$mode" = full ] && [ -f "experiments/$id/full.args" ]; then read -r -a overrides <"experiments/$id/full.args"; fi
  points "$id/sweep.yaml" points merged.h5 || return 1
  if [ -f "experiments/$id/model.yaml" ] && [ "$replay_only" = yes ]; then
    echo "$id: settings of model or trace are of the replay: without the model in the loop"
    plot+=(--no-model)
  elif [ -f "experiments/$id/model.yaml" ]; then # the same points with the model in the loop
    points "$id/model.yaml" model model.h5 || return 1
  fi
  if [ -f "experiments/$id/bounds.args" ]; then
    rm -f "$folder/bounds.json"
    while read -r line; do
      # shellcheck disable=SC2086
      "$python" experiments/lib/with_bounds.py "$folder/merged.h5" --program "$program" $line || return 1
    done <"experiments/$id/bounds.args"
  fi
  "${plot[@]}" || return 1
  if [ "${#action[@]}" -gt 0 ]; then "${plot[@]}" "${action[@]}" || return 1; fi
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
  for table in "$folder"/*.csv; do
    if [ ! -f "$folder/merged.h5" ] || [ "$table" -ot "$folder/merged.h5" ]; then complete=no; fi
  done
done
if [ "$complete" = yes ]; then
  say "audit"
  if "$python" scripts/audit.py --data "$out" >"$out/audit.md"; then echo "$out/audit.md"; else failed+=(audit); fi
  if "$python" scripts/report.py "$out"/*/merged.h5 --out "$out/report.html"; then echo "$out/report.html"; else failed+=(report); fi
fi
[ "${#failed[@]}" -eq 0 ] || {
  printf 'failed or changed: %s\n' "${failed[@]}" >&2
  exit 1
}
