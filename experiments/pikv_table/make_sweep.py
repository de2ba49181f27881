#!/usr/bin/python3
"""Writes sweep.yaml and model.yaml: a point for every testable row of published.csv, as mapping.yaml says, on a recording and with the model in the loop.
A test compares the files with what this writes."""
import json
import sys
from pathlib import Path

import rows

HEAD = """\
# Written by make_sweep.py from published.csv and mapping.yaml.
name: {name}
base: ../base/{base}.yaml
set: {{eviction: {{policy: lru, budget: {{tokens: 100000}}, protect: {{sinks: 4, recent: 16}}}}{more}}}
axes:
  - cases:
      - {{label: none, routing.router: recorded}}
"""


# With a model in the loop all prompt tokens attend; in a replay those that a policy asks for, unless all do: rows are compared over the same queries.
FILES = {"sweep.yaml": ("pikv_table", "tinymoe", ", prefill: {chunk_tokens: 16, evict: chunk, queries: all}"), "model.yaml": ("pikv_table_model", "tinymoe_model", "")}


def text(file):
    """Rows without a scheduler evict nothing, but have a policy, which cache_aware asks for: lru, whose state is the smallest and which sends nothing. Under
    layout expert a token counts under each of its experts, so that 100 % would evict."""
    (name, base, more), names = FILES[file], rows.mapping()
    lines = [HEAD.format(name=name, base=base, more=more)]
    for row in rows.published():
        found, _ = rows.settings(row, names)
        if found is None:
            continue
        inside = ", ".join(f"{key}: {json.dumps(value)}" for key, value in found.items())
        lines.append(f"      - {{label: {json.dumps(row['label'])}, {inside}}}\n")
    return "".join(lines)


if __name__ == "__main__":
    for file in FILES:
        ((Path(sys.argv[1]) if len(sys.argv) > 1 else rows.HERE) / file).write_text(text(file), encoding="utf-8")
