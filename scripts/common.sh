# shellcheck shell=bash
# What the shell scripts beside it share: the repository root as working directory, the launch environment, one way to build.
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
# shellcheck source=scripts/mpi_env.sh
. scripts/mpi_env.sh
{ : <&0; } 2>/dev/null || exec </dev/null # mpirun needs a standard input, some runners give none
export PYTHONDONTWRITEBYTECODE=1

# Debian's python3 has h5py and matplotlib; another one first on PATH usually has not.
python=/usr/bin/python3
[ -x "$python" ] || python=python3

say() { printf '== %s\n' "$*"; }

# One compiler per core, but 1.5 GB of memory for each.
build_jobs() {
  local cores memory_mb
  cores=$(nproc)
  memory_mb=$(awk '/MemAvailable/ {print int($2 / 1024)}' /proc/meminfo 2>/dev/null || echo 4096)
  local by_memory=$((memory_mb / 1500))
  [ "$by_memory" -ge 1 ] || by_memory=1
  echo $((cores < by_memory ? cores : by_memory))
}

# build PRESET [TARGET...]: configures and builds build/PRESET.
build() {
  local preset=$1
  shift
  # Sources compiled together and precompiled headers make a fresh build faster.
  cmake --preset "$preset" -DMOEKV_UNITY=ON
  cmake --build --preset "$preset" --parallel "$(build_jobs)" ${1:+--target "$@"}
}
