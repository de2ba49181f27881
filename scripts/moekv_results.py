#!/usr/bin/python3
"""Reads moekv result files (HDF5, schema moekv-sweep/1) into plain Python: numpy arrays, dicts, and pandas frames where pandas is there.

    import moekv_results
    run = moekv_results.load("results/quickstart.h5")
    print(run.status, run.digest, run.params["eviction.policy"])
    m = run.metrics["hit_ratio"]
    print(m.value, "=", m.numerator, "/", m.denominator, m.claim_class, "-", m.definition)
    print(run.metrics["bytes_wire"].value, "predicted:", run.metrics["bytes_wire"].model)     # by moekv plan, from lengths alone
    steps = run.record("step")                  # dict: column name -> numpy array, one row per window of steps
    print(steps["kv_bytes_stored"].max(), run.units("step", "kv_bytes_stored"))
    frame = run.frame("load")                   # pandas.DataFrame
    frame[frame.entity == moekv_results.ENTITIES.index("rank")].groupby("index").load.sum()

A merged sweep (moekv merge) is the same in columns, one value per point:

    sweep = moekv_results.load_sweep("evict.h5")
    lru = sweep.ok & sweep.select(**{"eviction.policy": "lru"})      # masks
    print(sweep.settings["eviction.budget"][lru], sweep.metrics["hit_ratio"][lru])
    sweep.frame().pivot_table("hit_ratio", "eviction.budget", "eviction.policy")

Damaged files are an OSError or a ValueError; what crashes inside libhdf5 ends the process, which no reader in Python can prevent: read files that you do not
trust in a process of their own.

As a program it prints the metrics of a file:  moekv_results.py results/quickstart.h5 [name ...]
"""
import contextlib
import dataclasses
import sys

import h5py
import numpy

SCHEMA = "moekv-sweep/1"
ENTITIES = ("expert", "shard", "rank", "node")  # values of column `entity` of record `load`
PHASES = ("replan", "read", "route", "place", "dispatch", "admit", "attend", "combine", "touch", "record")  # t_* of record `step`, as a step runs them
WIRE_CLASSES = ("kv", "q", "partial", "headers", "notices", "lse", "pages")  # wire_* of record `step`, columns of record `traffic`


@dataclasses.dataclass(frozen=True)
class Metric:
    """A number the run reports once. numerator and denominator are None where it is no ratio; claim_class says what stands behind it."""

    value: float
    units: str
    definition: str
    claim_class: str  # counted, measured, modelled or derived
    numerator: float = None
    denominator: float = None
    model: float = None  # what moekv plan predicts for it, None where it predicts nothing


class Run:
    """One run, read completely when it is made; the file is closed afterwards.

    Example: Run("results/quickstart.h5").metrics["hit_ratio"].value
    """

    def __init__(self, path):
        self.path = str(path)
        with _result_file(self.path) as file:
            if file["point"].shape[0] != 1:
                raise ValueError(f"{self.path}: holds {file['point'].shape[0]} points; this class reads the file of one run")
            self.attrs = dict(file.attrs)
            self.provenance = dict(file["provenance"].attrs)
            self.params = {name: _scalar(data) for name, data in _datasets(file["param"]).items()}
            others = [_datasets(file.get(group)) for group in ("metric_numerator", "metric_denominator", "model")]
            self.metrics = {name: _metric(data, name, others) for name, data in _datasets(file["metric"]).items()}
            self._records, self._about = {}, {}
            for kind, group in file.get("record", {}).items():  # absent after merge --without-records
                datasets = _datasets(group)
                self._records[kind] = {name: _column(data) for name, data in datasets.items() if name != "row"}
                self._about[kind] = {name: _attributes(data) for name, data in datasets.items()}
            self.hosts = {name: _column(data) for name, data in _datasets(file["provenance/host"]).items() if name != "row"}
            self.status = file["status"].attrs["flag_meanings"].split()[int(file["status"][0])]
            self.digest = _scalar(file["digest"])
            self.labels = _scalar(file["labels"]).split()
            self.notes = _scalar(file["notes"]).splitlines()
            self.violations = _scalar(file["error"]).splitlines()

    def record_kinds(self):
        """Names of the records: step, layer, load, layer_load, histogram, codec, traffic, allocation, request, gap, probe,
        token, drift, bound and mass_bound (moekv oracle), digest. None where they were left out of a merged file."""
        return list(self._records)

    def record(self, kind):
        """All columns of a record as numpy arrays of one length. Example: run.record("traffic")["kv"].sum()"""
        return self._records[kind]

    def units(self, kind, column):
        """UDUNITS text of a column. Example: run.units("step", "t_attend") == "ns" """
        return self._about[kind][column]["units"]

    def about(self, kind, column):
        """All attributes of a column: units, definition, window, scope, claim_class, version."""
        return self._about[kind][column]

    def frame(self, kind):
        """A record as a pandas.DataFrame. Example: run.frame("request").e2e_ns.describe()"""
        import pandas  # optional: only this method needs it

        return pandas.DataFrame(self._records[kind])


class Sweep:
    """Many runs in one file, a row per point: the output of `moekv merge` (a file of one run is a sweep of one point).

    Example: Sweep("evict.h5").metrics["hit_ratio"] is an array along the points, NaN where a point has no result.
    """

    def __init__(self, path):
        self.path = str(path)
        with _result_file(self.path) as file:
            self.attrs = dict(file.attrs)
            self.provenance = dict(file["provenance"].attrs)
            self.n = file["point"].shape[0]
            words = file["status"].attrs["flag_meanings"].split()
            self.status = numpy.array([words[i] for i in file["status"][:]], dtype=object)
            self.point_id, self.label, self.errors, self.digests = (_column(file[name]) for name in ("point_id", "label", "error", "digest"))
            self.repeat, self.wall_time, self.attempts = (_column(file[name]) for name in ("repeat", "wall_time", "attempts"))
            self.labels = [text.split() for text in _column(file["labels"])]  # of every point, as Run.labels: acausal, not_exercised, ...
            self.settings, self.metrics, self.numerators, self.denominators, self.models = (
                {name: _column(data) for name, data in _datasets(file.get(group)).items()}
                for group in ("setting", "metric", "metric_numerator", "metric_denominator", "model"))
            parameters = _datasets(file["param"])
            self.params = {name: _column(data) for name, data in parameters.items()}
            self.swept = [name for name, data in parameters.items() if data.attrs.get("swept", 0)]
            self.point_facts = {name: _column(data) for name, data in _datasets(file["provenance"].get("point")).items()}
            self._records = {kind: {name: _column(data) for name, data in _datasets(group).items() if name != "row"} for kind, group in file.get("record", {}).items()}

    @property
    def ok(self):
        """Mask of the points that finished without a complaint."""
        return self.status == "ok"

    def select(self, **wanted):
        """Mask of the points with these settings, parameters or labels. Example: sweep.select(**{"eviction.policy": "lru", "label": "base"})"""
        mask = numpy.ones(self.n, dtype=bool)
        for name, value in wanted.items():
            column = self.label if name == "label" else self.repeat if name == "repeat" else self.settings.get(name, self.params.get(name))
            if column is None:
                raise KeyError(name)
            mask &= column == value
        return mask

    def about(self, name):
        """Attributes of a metric or parameter: units, definition, claim_class ... Read when asked for: all of them take as long as all columns."""
        if name not in self.metrics and name not in self.params:
            raise KeyError(name)
        with _damage_named(self.path), h5py.File(self.path, "r") as file:
            return _attributes(file["metric" if name in self.metrics else "param"][name])

    def record(self, kind, point=None):
        """Columns of a record as in Run.record; all points with column `point_index`, or the rows of one point."""
        columns = self._records[kind]
        if point is None or "point_index" not in columns:
            return columns
        rows = columns["point_index"] == point
        return {name: values[rows] for name, values in columns.items()}

    def frame(self):
        """pandas.DataFrame with a row per point: id, label, repeat, status, what was swept, metrics."""
        import pandas  # optional: only this method needs it

        columns = {"point_id": self.point_id, "label": self.label, "repeat": self.repeat, "status": self.status}
        columns.update({name: self.params[name] for name in self.swept})
        columns.update(self.settings)
        columns.update(self.metrics)
        return pandas.DataFrame(columns)


def load_sweep(path):
    """The points of a merged file. Raises OSError where it is no HDF5 file, ValueError where it is no result file; both name the file."""
    return _load(Sweep, path)


def load(path):
    """The run in a result file. Raises OSError where it is no HDF5 file, ValueError where it is no result file of one run; both name the file."""
    return _load(Run, path)


def _load(kind, path):
    with _damage_named(path):
        return kind(path)


@contextlib.contextmanager
def _result_file(path):
    """A file that says it has our schema, open."""
    with h5py.File(path, "r") as file:
        schema = file.attrs.get("schema", "none")
        if schema != SCHEMA:
            raise ValueError(f"{path}: is not a result file: schema is {schema!r}, expected {SCHEMA!r}")
        yield file


@contextlib.contextmanager
def _damage_named(path):
    """Whatever h5py and numpy raise over a damaged file becomes an OSError or a ValueError that names it."""
    try:
        yield
    except OSError as error:
        raise OSError(f"{path}: {error}") from error
    except ValueError as error:
        raise error if str(error).startswith(f"{path}: ") else ValueError(f"{path}: is damaged: {error}") from error
    except (LookupError, AttributeError, TypeError, RuntimeError, OverflowError, MemoryError) as error:
        raise ValueError(f"{path}: is damaged or not complete: {error}") from error


def _scalar(dataset):
    value = dataset.asstr()[0] if h5py.check_string_dtype(dataset.dtype) else dataset[0]
    return value if isinstance(value, str) else value.item()


def _column(dataset):
    return dataset.asstr()[:] if h5py.check_string_dtype(dataset.dtype) else dataset[:]


def _datasets(group):
    """The members of a group by name, {} for None. h5py's own group[name] takes longer to open a small dataset than to read it."""
    return {} if group is None else {name: h5py.Dataset(h5py.h5d.open(group.id, name.encode())) for name in group}


def _attributes(dataset):
    """What describes a column; not how HDF5 attaches it to its dimension."""
    return {name: _attribute(dataset, name) for name in dataset.attrs if name not in ("DIMENSION_LIST", "REFERENCE_LIST", "CLASS", "NAME")}


def _attribute(dataset, name):
    """dataset.attrs[name], faster for one text."""
    attribute = h5py.h5a.open(dataset.id, name.encode())
    if attribute.shape != () or attribute.dtype != object:
        return dataset.attrs[name]
    text = numpy.empty((), dtype=attribute.dtype)
    attribute.read(text)
    return text[()].decode()


def _metric(data, name, others):
    parts = [_scalar(columns[name]) if name in columns else None for columns in others]
    return Metric(_scalar(data), *(_attribute(data, about) for about in ("units", "definition", "claim_class")), *parts)


def main(argv):
    """Prints the metrics of a file: all, or those named."""
    if len(argv) < 2 or argv[1] in ("-h", "--help"):
        print(__doc__)
        return 0 if len(argv) > 1 else 2
    try:
        run = load(argv[1])
        chosen = {name: run.metrics[name] for name in argv[2:] or run.metrics}
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyError as error:
        print(f"error: {argv[1]}: has no metric {error}", file=sys.stderr)
        return 2
    for name, metric in chosen.items():
        print(f"{name}\t{metric.value:.10g}\t{metric.units}\t{metric.claim_class}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
