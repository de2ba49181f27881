"""Tables behind figures: typed columns, intervals, CSV and LaTeX text, and the comparison that says whether their data changed.

A column's kind decides how it is written and compared:
  key        names the row; exactly equal
  counted    exact on every machine; also modelled, derived (from counted) and published: exactly equal
  measured   an error of attention outputs and the like: a (value, low, high) triple is its 95 % interval; the new value must lie inside, and
             both ends must be within a quarter of the old width
  time       this machine's clock: compared only where times are asked for, by its value inside the old interval
"""
import csv
import hashlib
import io
import math

EXACT = ("key", "counted", "modelled", "derived", "published")
KINDS = EXACT + ("measured", "time")
SLACK = 0.02  # relative, where a measured value has no interval or one of no width
END_SLACK = 0.25  # of the old interval's width, by which an end may move


class Table:
    """Rows of one figure or table. columns: name -> (kind, unit). Example:

    t = Table("hits", {"policy": ("key", ""), "hit_ratio": ("counted", "1"), "error": ("measured", "1")})
    t.add(policy="lru", hit_ratio=0.5, error=(0.1, 0.08, 0.12))
    """

    def __init__(self, name, columns, caption=""):
        self.name, self.columns, self.caption, self.rows = name, dict(columns), caption, []
        for column, (kind, _) in self.columns.items():
            if kind not in KINDS:
                raise ValueError(f"table {name}, column {column}: no such kind: {kind}")

    def add(self, **values):
        unknown = set(values) - set(self.columns)
        if unknown:
            raise KeyError(f"table {self.name} has no column {sorted(unknown)}")
        self.rows.append({column: values.get(column, math.nan) for column in self.columns})

    def keys(self):
        return [column for column, (kind, _) in self.columns.items() if kind == "key"]

    def where(self, **wanted):
        """Rows with these values, in order."""
        return [row for row in self.rows if all(text_of(row[c]) == text_of(v) for c, v in wanted.items())]

    def column(self, name, **wanted):
        """Values of a column (without intervals) in the rows with these values."""
        return [value_of(row[name]) for row in self.where(**wanted)]

    def distinct(self, name, **wanted):
        """Different values of a column in order of appearance."""
        return list(dict.fromkeys(value_of(row[name]) for row in self.where(**wanted)))

    def numbered(self, column, **wanted):
        """The rows with these values as a table in which this key is a number, as an axis needs it."""
        table = Table(self.name, self.columns, self.caption)
        table.rows = [{**row, column: float(row[column])} for row in self.where(**wanted)]
        return table

    def csv(self):
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        triples = self._with_interval()
        header = []
        for column, (kind, unit) in self.columns.items():
            header.append(f"{column} [{kind}, {unit}]" if unit else f"{column} [{kind}]")
            header += [f"{column}.low", f"{column}.high"] if column in triples else []
        writer.writerow(header)
        for row in self.rows:
            line = []
            for column in self.columns:
                parts = row[column] if isinstance(row[column], tuple) else (row[column],) + ((math.nan,) * 2 if column in triples else ())
                line += [text_of(part, self.columns[column][0]) for part in parts]
            writer.writerow(line)
        return out.getvalue()

    def sha(self):
        """Hash of the data behind the figure: names, values and intervals of its columns without times, which no two runs share."""
        kept = [c for c, (kind, _) in self.columns.items() if kind != "time"]
        lines = [kept] + [[text_of(part, self.columns[c][0]) for c in kept for part in _triple(row[c])] for row in self.rows]
        return hashlib.sha256("\n".join(map(",".join, lines)).encode()).hexdigest()

    def latex(self):
        """A tabular environment (needs booktabs), kinds and units below the names; intervals in small brackets."""
        names = list(self.columns)
        lines = [f"% {self.caption}"] if self.caption else []
        lines += ["\\begin{tabular}{" + "".join("l" if self.columns[n][0] == "key" else "r" for n in names) + "}", "\\toprule"]
        lines.append(" & ".join(_tex(n.replace("_", " ")) for n in names) + r" \\")
        lines.append(" & ".join("{\\scriptsize " + _tex(", ".join(filter(None, (kind, short_unit(unit))))) + "}" for kind, unit in self.columns.values()) + r" \\")
        lines.append("\\midrule")
        for row in self.rows:
            lines.append(" & ".join(_tex_cell(row[n]) for n in names) + r" \\")
        return "\n".join(lines + ["\\bottomrule", "\\end{tabular}", ""])

    def _with_interval(self):
        return {c for c in self.columns if any(isinstance(row[c], tuple) for row in self.rows)}


def read_csv(path, name=""):
    """A table from the text that Table.csv wrote."""
    with open(path, newline="", encoding="utf-8") as file:
        lines = list(csv.reader(file))
    heads = [head for head in lines[0] if not head.endswith((".low", ".high"))]
    columns = {}
    for head in heads:
        column, _, rest = head.rpartition(" [")
        kind, _, unit = rest[:-1].partition(", ")
        columns[column] = (kind, unit)
    table = Table(name or str(path), columns)
    for line in lines[1:]:
        cells = dict(zip(lines[0], line))
        row = {}
        for head, column in zip(heads, columns):
            value = _parse(cells[head], columns[column][0])
            if f"{column}.low" in cells and isinstance(value, float) and not math.isnan(value) and cells[f"{column}.low"]:
                value = (value, float(cells[f"{column}.low"]), float(cells[f"{column}.high"]))
            row[column] = value
        table.add(**row)
    return table


def differences(expected, new, times=False):
    """Lines that say what changed from one table to another; empty where nothing did."""
    if list(expected.columns.items()) != list(new.columns.items()):
        return [f"columns differ: {list(expected.columns)} became {list(new.columns)}"]
    keys = expected.keys()
    found, problems = {_key(row, keys): row for row in new.rows}, []
    wanted = {_key(row, keys): row for row in expected.rows}
    problems += [f"{len(t.rows) - len(by_key)} {name} rows share their keys with others" for name, t, by_key in (("new", new, found), ("old", expected, wanted))
                 if len(by_key) != len(t.rows)]
    problems += [f"row {' '.join(k)} is missing" for k in wanted if k not in found]
    problems += [f"row {' '.join(k)} is new" for k in found if k not in wanted]
    for key, row in wanted.items():
        for column, (kind, _) in expected.columns.items() if key in found else ():
            if kind == "time" and not times:
                continue
            old, now = row[column], found[key][column]
            if not (_same(old, now, kind) if kind in EXACT else _inside(old, now) and (kind == "time" or _same_ends(old, now))):
                problems.append(f"row {' '.join(key)}: {column} was {_show(old, kind)}, is {_show(now, kind)}")
    return problems


def value_of(cell):
    return cell[0] if isinstance(cell, tuple) else cell


def short_unit(unit):
    """The unit without what explains it: KiB of `KiB, fullest rank`."""
    return unit.partition(",")[0]


def _triple(cell):
    """A cell with its interval; ends that are not there are NaN."""
    return cell if isinstance(cell, tuple) else (cell, math.nan, math.nan)


def text_of(value, kind="counted"):
    """What stands in the CSV: whole numbers whole, measured ones to four digits, nothing for what is missing."""
    if isinstance(value, str):
        return value
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    number = float(value)
    if number.is_integer() and abs(number) < 1e15:
        return str(int(number))
    return f"{number:.4g}" if kind in ("measured", "time") else f"{number:.10g}"


def _parse(text, kind):
    if text == "":
        return math.nan if kind != "key" else ""
    if kind == "key":
        return text
    try:
        return float(text)
    except ValueError:
        return text


def _key(row, keys):
    return tuple(text_of(value_of(row[k])) for k in keys)


def _same(old, now, kind):
    if isinstance(old, str) or isinstance(now, str):
        return text_of(value_of(old), kind) == text_of(value_of(now), kind)
    return all((math.isnan(a) and math.isnan(b)) or math.isclose(a, b, rel_tol=2e-9) for a, b in zip(_triple(old), _triple(now)))


def _inside(old, now):
    a, b = value_of(old), value_of(now)
    if isinstance(a, str) or isinstance(b, str):
        return a == b
    if math.isnan(a) or math.isnan(b):
        return math.isnan(a) and math.isnan(b)
    low, high = old[1:] if isinstance(old, tuple) else (a, a)
    margin = SLACK * max(abs(a), 1e-12)
    return low - margin <= b <= high + margin


def _same_ends(old, now):
    """Whether both have an interval or neither, and the ends moved little."""
    if not isinstance(old, tuple) or not isinstance(now, tuple):
        return isinstance(old, tuple) == isinstance(now, tuple)
    margin = END_SLACK * (old[2] - old[1]) + SLACK * max(abs(old[0]), 1e-12)
    return all(abs(a - b) <= margin for a, b in zip(old[1:], now[1:]))


def _show(cell, kind):
    return text_of(cell, kind) or "nothing" if not isinstance(cell, tuple) else "{} [{}, {}]".format(*(text_of(p, kind) for p in cell))


_TEX = {**{c: "\\" + c for c in "&%_#${}"}, "\\": r"\textbackslash{}", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}",
        ">": r"\textgreater{}", "|": r"\textbar{}"}


def _tex(text):
    """The text as LaTeX prints it. At the beginning of a row a bracket or star would be taken for an argument of the command before it."""
    return ("{}" if text.startswith(("[", "*")) else "") + "".join(_TEX.get(c, c) for c in text)


def brief(value):
    """Three digits, large numbers without an exponent: 0.0123, 32900."""
    text = f"{value:.3g}"
    return f"{float(text):.0f}" if "e+" in text else text


def _tex_cell(cell):
    if isinstance(cell, tuple):
        return "{} {{\\scriptsize[{}, {}]}}".format(*map(brief, cell))
    if isinstance(cell, str):
        return _tex(cell)
    if cell is None or math.isnan(cell):
        return "--"
    return str(int(cell)) if float(cell).is_integer() and abs(cell) < 1e6 else brief(cell)
