#!/usr/bin/env bash
# Set-up, Release build, a replay of the shipped recorded trace on four ranks; prints the summary and leaves a result file and a figure in results/.
# usage: scripts/quickstart.sh [key.path=value ...]      e.g. scripts/quickstart.sh eviction.policy=lru
set -euo pipefail
# shellcheck source=scripts/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

case " $* " in *' -h '* | *' --help '*) sed -n '2,3s/^# //p' scripts/quickstart.sh && exit ;; esac
scripts/setup.sh
say "build (Release)"
build release moekv
mkdir -p results
threads=$(($(nproc) / 4))
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$((threads > 1 ? threads : 1))}"
say "replay configs/quickstart.yaml on 4 ranks"
mpirun -n 4 build/release/moekv run configs/quickstart.yaml --out results/quickstart.h5 "$@"
"$python" scripts/plot_run.py results/quickstart.h5 results/quickstart.png
say "result: results/quickstart.h5   figure: results/quickstart.png"
