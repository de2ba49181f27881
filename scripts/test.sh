#!/usr/bin/env bash
# Set-up, Release build, all tests; ctest's summary comes last. Exit code: 0 when everything passed.
# usage: scripts/test.sh [--full]      --full adds: build and tests with ASan and UBSan, clang-tidy, every header compiled alone, the benchmarks' build
set -euo pipefail
full=no
case "${1-}" in
  "") ;;
  --full) full=yes ;;
  *)
    echo "usage: scripts/test.sh [--full]" >&2
    exit 2
    ;;
esac
# shellcheck source=scripts/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

labels='^(unit|every_rule|parity|mpi|golden|cli|slurm|lint)$'
failed=()
test_preset() { # preset, label expression
  # Two more than there are cores: some tests wait for Slurm or for processes that die, and those that may take a core from others are nice.
  ctest --test-dir "build/$1" --output-on-failure --no-tests=error --parallel "$(($(nproc) + 2))" -L "$2" -LE '^gpu$' || failed+=("tests of preset $1")
}

if [ "$full" = yes ]; then
  scripts/setup.sh --full
  say "every header alone"
  build release all benchmarks
  test_preset release '^headers$'
  say "clang-tidy"
  scripts/tidy.sh || failed+=("clang-tidy")
  say "ASan and UBSan"
  build dev
  test_preset dev "$labels"
else
  scripts/setup.sh
fi
say "Release"
build release
test_preset release "$labels"
[ "${#failed[@]}" -eq 0 ] || {
  printf 'failed: %s\n' "${failed[@]}" >&2
  exit 1
}
