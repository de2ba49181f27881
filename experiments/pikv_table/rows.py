"""Rows of published.csv, and what mapping.yaml makes of their names."""
import csv
from pathlib import Path

import yaml

HERE = Path(__file__).resolve().parent
PARTS = (("routing", "routers"), ("compression", "compressors"), ("scheduling", "schedulers"))


def mapping():
    return yaml.safe_load((HERE / "mapping.yaml").read_text(encoding="utf-8"))


def published(path=HERE / "published.csv"):
    """Rows as dicts, with a label that names each."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row["label"] = " + ".join(row[column] for column, _ in PARTS if row[column])
    return rows


def settings(row, names):
    """(settings, "") of a row, or (None, reason) where a name is untestable. A name that the mapping lacks is a KeyError."""
    found = {}
    for column, group in PARTS:
        if row[column]:
            entry = names[group][row[column]]
            if "untestable" in entry:
                return None, entry["untestable"]
            found.update(entry["settings"])
    return found, ""
