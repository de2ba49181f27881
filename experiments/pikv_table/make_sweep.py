#!/usr/bin/python3
"""Writes sweep.yaml: a point for every testable row of published.csv, as mapping.yaml says. A test compares the file with what this writes."""
import json
import sys
from pathlib import Path

import rows

HEAD = """\
# Written by make_sweep.py from published.csv and mapping.yaml.
name: pikv_table
base: ../base/tinymoe.yaml
set: {eviction.protect: {sinks: 4, recent: 16}}
axes:
  - cases:
      - {label: none, routing.router: recorded}
"""


def text():
    """Rows without a scheduler evict nothing: a budget of 100 % lets cache_aware, which listens to misses, run in them too."""
    names, lines = rows.mapping(), [HEAD]
    for row in rows.published():
        found, _ = rows.settings(row, names)
        if found is None:
            continue
        if not row["scheduling"]:
            found = {**found, "eviction.policy": "h2o.sum", "eviction.budget": "100%"}
        inside = ", ".join(f"{key}: {json.dumps(value)}" for key, value in found.items())
        lines.append(f"      - {{label: {json.dumps(row['label'])}, {inside}}}\n")
    return "".join(lines)


if __name__ == "__main__":
    (Path(sys.argv[1]) if len(sys.argv) > 1 else rows.HERE / "sweep.yaml").write_text(text(), encoding="utf-8")
