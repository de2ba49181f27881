#!/usr/bin/env bash
# Runs clang-tidy-16 with .clang-tidy over the sources. Exit code: 0 when there is no finding.
# usage: scripts/tidy.sh [REGEX...]      only the sources whose path matches, e.g. scripts/tidy.sh src/engine
set -euo pipefail
# shellcheck source=scripts/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
command -v run-clang-tidy-16 >/dev/null || {
  echo "tidy: clang-tidy-16 is not installed; scripts/setup.sh --full installs it" >&2
  exit 3
}
# All of them are checked as they compile together, each header once for many sources.
unity=ON
[ "$#" -eq 0 ] || unity=OFF
cmake --preset tidy -DMOEKV_UNITY=$unity >/dev/null
cmake --build build/tidy --target moekv_build_info >/dev/null # a source that the build writes
# clang-16 has no omp.h without another package; g++'s serves, less an attribute that clang does not know.
mkdir -p build/tidy/openmp
rm -f build/tidy/openmp/omp.h
sed 's/__malloc__ ([a-z_]*)/__malloc__/' "$(g++ -print-file-name=include/omp.h)" >build/tidy/openmp/omp.h
tidy() { # checks that are off, regex...
  local off=$1
  shift
  run-clang-tidy-16 -quiet -p build/tidy -j "$(build_jobs)" "-checks=$off" -extra-arg="-isystem$PWD/build/tidy/openmp" -extra-arg=-Wno-unknown-warning-option -extra-arg=-Qunused-arguments "$@"
}
sources_together=-bugprone-suspicious-include
# Tests hold long tables and oracles of one formula after another, step through exact fractions, and count what operator new gives.
tests=-readability-function-size,-clang-analyzer-security.FloatLoopCounter,-cppcoreguidelines-no-malloc,-cppcoreguidelines-avoid-non-const-global-variables
if [ "$#" -gt 0 ]; then
  tidy "$sources_together" "$@"
else
  clean=yes
  tidy "$sources_together" "$PWD/src/" "$PWD/build/tidy/src/.*/Unity/" || clean=no
  tidy "$sources_together,$tests" "$PWD/tests/" "$PWD/build/tidy/tests/.*/Unity/" || clean=no
  [ "$clean" = yes ]
fi
