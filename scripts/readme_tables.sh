#!/usr/bin/env bash
# Writes the tables of README.md anew from the catalogues of a built program.
# usage: scripts/readme_tables.sh [PROGRAM]      PROGRAM defaults to build/release/moekv
set -euo pipefail
cd "$(dirname "$0")/.."
tables=$("${1:-build/release/moekv}" list --markdown)
tables="$tables" awk '
  /^<!-- moekv list --markdown -->$/ { print; print ENVIRON["tables"]; skip = 1; next }
  /^<!-- end of moekv list --markdown -->$/ { skip = 0 }
  !skip' README.md > README.md.new
cat README.md.new > README.md
rm README.md.new
