#!/usr/bin/env bash
# Packs a relocatable folder: the program, its GPU tests and benchmark, Open MPI and every library but glibc and the NVIDIA driver's, traces and
# configurations. Runs from anywhere on an x86-64 Linux whose glibc is at least this machine's: bin/moekv doctor.
# usage: scripts/bundle.sh [BUILD_FOLDER [OUT.tar.gz]]      default: build/release results/moekv-bundle.tar.gz
set -euo pipefail
# shellcheck source=scripts/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

build_folder=${1:-build/release}
out=${2:-results/moekv-bundle.tar.gz}
[ -x "$build_folder/moekv" ] || {
  echo "bundle.sh: no program in $build_folder; build it first: cmake --preset release && cmake --build --preset release --target all benchmarks" >&2
  exit 2
}
mkdir -p "$(dirname "$out")"
stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
root=$stage/moekv
mkdir -p "$root"/{bin,lib,libexec,share,scripts}

# Programs. Tests and benchmark are there where the build made them.
for program in moekv experiments/bench/gpu_bench tests/parity_device tests/parity_replay; do
  [ ! -x "$build_folder/$program" ] || install -s -m 755 "$build_folder/$program" "$root/libexec/"
done
for program in orterun orted; do
  path=$(command -v "$program" || true)
  [ -z "$path" ] || install -m 755 "$(readlink -f "$path")" "$root/libexec/$program"
done

# Open MPI finds its plugins, help texts and settings below one folder; those for networks that need their own libraries stay out.
mpi_lib=$(dirname "$(ldd "$build_folder/moekv" | awk '/libmpi\.so/ {print $3}' | xargs readlink -f)")
for plugins in "$mpi_lib/openmpi3" "$mpi_lib/openmpi" "$mpi_lib/openmpi/lib/openmpi3" "$mpi_lib/../openmpi/lib/openmpi3"; do
  compgen -G "$plugins/mca_*.so" >/dev/null || continue
  mkdir -p "$root/lib/openmpi3"
  find "$plugins/" -maxdepth 1 -name 'mca_*.so' | grep -Ev 'openib|ofi|psm|ucx|usnic|verbs|monitoring|oshmem|memheap|scoll|spml|sshmem' |
    xargs -r cp -Lt "$root/lib/openmpi3"
  break
done
for plugins in /usr/lib/*/pmix2 "$mpi_lib/pmix2"; do
  if [ -d "$plugins" ]; then
    cp -rL "$plugins" "$root/lib/" 2>/dev/null || true
    break
  fi
done
for texts in /usr/share/openmpi "$mpi_lib/../share/openmpi"; do
  if [ -d "$texts" ]; then
    cp -rL "$texts" "$root/share/openmpi"
    break
  fi
done
mkdir -p "$root/etc"
[ ! -d /etc/openmpi ] || cp -rL /etc/openmpi "$root/etc/openmpi"

# Everything those load, but glibc and what belongs to the driver.
find "$root/libexec" "$root/lib" -type f -print0 | { xargs -0 -n1 ldd 2>/dev/null || true; } | awk '$3 ~ /^\// {print $3}' | sort -u |
  grep -Ev '/(ld-linux[-a-z0-9_]*|lib(c|m|dl|rt|pthread|resolv|util|nsl)(-[0-9.]+)?|libcuda|libnvidia[-a-z]*)\.so' | xargs -r cp -Lnt "$root/lib"

cp -r configs "$root/"
cp -r scripts/gpu_check.sh scripts/mpi_env.sh scripts/moekv_results.py scripts/slurm "$root/scripts/"
cp README.md LICENSE "$root/"

cat >"$root/bin/environment" <<'ENVIRONMENT'
# shellcheck shell=bash
# Sourced by what starts a program of this folder: the libraries and the Open MPI that lie in it. MOEKV_SITE_MPI=1 leaves the environment of Open MPI as
# it is, for the site's own.
root=$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")
export PATH="$root/bin:$PATH" LD_LIBRARY_PATH="$root/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
if [ "${MOEKV_SITE_MPI:-0}" != 1 ]; then
  export OPAL_PREFIX="$root" OPAL_BINDIR="$root/libexec" OPAL_LIBDIR="$root/lib" OPAL_PKGLIBDIR="$root/lib/openmpi3" OPAL_DATADIR="$root/share"
  export OPAL_PKGDATADIR="$root/share/openmpi" OPAL_SYSCONFDIR="$root/etc/openmpi" OMPI_MCA_mca_base_component_path="$root/lib/openmpi3"
  export PMIX_INSTALL_PREFIX="$root" PMIX_MCA_mca_base_component_path="$root/lib/pmix2/lib/pmix"
  if [ -z "${SLURM_JOB_ID-}" ] && ! command -v ssh rsh >/dev/null; then export OMPI_MCA_plm="${OMPI_MCA_plm:-isolated}"; fi
fi
ENVIRONMENT
for program in moekv mpirun; do
  cat >"$root/bin/$program" <<'WRAPPER'
#!/usr/bin/env bash
# bin/moekv run ..., or bin/mpirun -n 2 bin/moekv run ...
folder=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
. "$folder/environment"
WRAPPER
done
# shellcheck disable=SC2016
echo 'exec "$root/libexec/moekv" "$@"' >>"$root/bin/moekv"
# shellcheck disable=SC2016
echo 'exec "$root/libexec/orterun" "$@"' >>"$root/bin/mpirun"
chmod +x "$root/bin/moekv" "$root/bin/mpirun"
tar -C "$stage" -czf "$out" moekv
say "bundle: $out ($(du -h "$out" | cut -f1)); unpack it anywhere, then bin/moekv doctor and scripts/gpu_check.sh"
