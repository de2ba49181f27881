#!/usr/bin/env bash
# Installs the Debian 12 / Ubuntu packages that moekv is built and tested with. Does nothing, and needs no network, where all are there.
# usage: scripts/setup.sh [--full]      --full adds what scripts/test.sh --full needs
# exit 0: everything is installed; 2: usage; 3: something is missing and cannot be installed here (the text names it).
set -euo pipefail

packages=(
  cmake ninja-build g++ make pkg-config git
  libopenmpi-dev openmpi-bin openssh-client # mpirun looks for ssh even on one machine
  libhdf5-dev hdf5-tools zlib1g-dev
  libcli11-dev libyaml-cpp-dev libfmt-dev nlohmann-json3-dev
  libeigen3-dev librandom123-dev libxxhash-dev libhwy-dev
  libgtest-dev libgmock-dev libbenchmark-dev
  python3-h5py python3-numpy python3-matplotlib python3-yaml python3-xarray python3-h5netcdf netcdf-bin
  slurm-wlm munge # a real Slurm for the tests of scripts/slurm; nothing of it is started
)
full_packages=(clang-tidy-16 clang-format-16 shellcheck)

case "${1-}" in
  "") ;;
  --full) packages+=("${full_packages[@]}") ;;
  *)
    echo "usage: scripts/setup.sh [--full]" >&2
    exit 2
    ;;
esac

missing_packages() {
  local name
  for name in "${packages[@]}"; do
    [ "$(dpkg-query -W -f='${db:Status-Status}' "$name" 2>/dev/null)" = installed ] || echo "$name"
  done
}

cannot_install() { # reason, packages...
  local reason=$1
  shift
  echo "setup: $reason. Install these packages, then start again:" >&2
  echo "  apt-get update && apt-get install -y --no-install-recommends $*" >&2
  exit 3
}

command -v dpkg-query >/dev/null || cannot_install "this is not Debian or Ubuntu (no dpkg), the names are Debian's" "${packages[@]}"
mapfile -t missing < <(missing_packages)
[ "${#missing[@]}" -gt 0 ] || exit 0

if [ "$(id -u)" -eq 0 ]; then
  as_root=()
elif command -v sudo >/dev/null && { sudo -n true 2>/dev/null || [ -t 0 ]; }; then
  as_root=(sudo)
else
  cannot_install "packages are missing, and neither root nor sudo is at hand" "${missing[@]}"
fi

echo "setup: installing ${#missing[@]} packages: ${missing[*]}" >&2
apt_get() { "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 "$@" >&2; }
apt_get update || echo "setup: apt-get update failed; trying with the package lists that are here" >&2
apt_get install -y --no-install-recommends "${missing[@]}" || cannot_install "apt-get could not install them (see above)" "${missing[@]}"
