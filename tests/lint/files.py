"""File lint: short files that begin with a sentence, headers with one guard, no machine's paths, nothing left to do."""
import re

import source_tree

MAX_LINES = 300
MAX_COLUMNS = 160  # the formatter aims at 150; this is where the lint draws the line

# File -> why it is longer than MAX_LINES.
LONG = {
    "src/device/host_simd.inc": "the loops of one instruction set, compiled once for each",
    "src/engine/records.hpp": "tables: a metric is one line",
    "tests/unit/evict_group_test.cpp": "one fixture and its slow oracle's cases, rule by rule",
    "tests/unit/select_replay_test.cpp": "one fixture and its slow oracle's cases, layout by layout",
}
# Rows of a table that are read as one line each (metrics, parameters) may be wider.
TABLE_ROW = re.compile(r"\s*(?:Metric|Param|Field)\{")

MACHINE_PATH = re.compile(r"(?<![\w.~$}*-])/(?:work|home|root|Users|mnt|scratch)/\w")
UNFINISHED = re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME|XX" + r"X)\b")
TEXT_SUFFIXES = source_tree.CODE_SUFFIXES | {".py", ".sh", ".cmake", ".md", ".yaml", ".yml", ".json", ".txt", ""}


def code_findings(path, source):
    lines = source.splitlines()
    if not source.startswith(("// ", "/* ")):
        yield f"{path}:1: the first line says in one sentence what this file is and why it exists"
    if path.suffix in {".hpp", ".cuh"} and source.count("#pragma once") != 1:
        yield f"{path}: a header has #pragma once, one time"
    if len(lines) > MAX_LINES and path.as_posix() not in LONG:
        yield f"{path}: {len(lines)} lines, more than {MAX_LINES} need a reason in tests/lint/files.py"
    for number, line in enumerate(lines, 1):
        if len(line) > MAX_COLUMNS and not TABLE_ROW.match(line):
            yield f"{path}:{number}: {len(line)} columns, more than {MAX_COLUMNS}"


def check(root):
    findings = []
    for path in source_tree.files(root):
        if path.suffix not in TEXT_SUFFIXES:
            continue
        source = source_tree.text(root, path)
        if path.suffix in source_tree.CODE_SUFFIXES:
            findings += code_findings(path, source)
        for number, line in enumerate(source.splitlines(), 1):
            if MACHINE_PATH.search(line):
                findings.append(f"{path}:{number}: path of one machine: {line.strip()[:100]}")
            if UNFINISHED.search(line):
                findings.append(f"{path}:{number}: unfinished: {line.strip()[:100]}")
    findings += [f"tests/lint/files.py: {name} is listed but does not exist" for name in LONG if not (root / name).is_file()]
    return findings


if __name__ == "__main__":
    source_tree.main(check)
