#!/usr/bin/python3
"""Writes the maps that lora (linear_8.h5), ae_loaded (affine_8.h5) and lora++ (affine_16.h5) load: principal axes of tinymoe's recorded keys and values.

They are fitted on the very requests that are replayed, so no loaded linear map of that rank can do better there: the best case of the claim.
usage: make_maps.py [FOLDER]
"""
import sys
from pathlib import Path

import h5py
import numpy

HERE = Path(__file__).resolve().parent
TRACE = HERE.parents[1] / "configs/traces/tinymoe_cut.moekv.h5"


def axes_of(rows, rank, centred):
    """(mean or 0, the `rank` leading axes about it), signs fixed so that equal data gives equal bytes."""
    mean = rows.mean(axis=0) if centred else numpy.zeros(rows.shape[1])
    _, vectors = numpy.linalg.eigh((rows - mean).T @ (rows - mean))
    leading = vectors[:, ::-1][:, :rank].T
    signs = numpy.sign(leading[numpy.arange(rank), numpy.abs(leading).argmax(axis=1)])
    return mean, leading * signs[:, None]


def main(folder):
    with h5py.File(TRACE, "r") as trace:
        planes = {"k": trace["kv/k"][:].astype(float), "v": trace["kv/v"][:].astype(float)}
    for kind, rank in (("linear", 8), ("affine", 8), ("affine", 16)):
        with h5py.File(folder / f"{kind}_{rank}.h5", "w", libver="earliest") as out:
            for name, rows in planes.items():
                _, layers, heads, width = rows.shape
                fits = [[axes_of(rows[:, layer, head], rank, kind == "affine") for head in range(heads)] for layer in range(layers)]
                down = numpy.array([[axes for _, axes in line] for line in fits])
                mean = numpy.array([[m for m, _ in line] for line in fits])
                # the bias is added after U D x, so it is what the axes leave of the mean
                bias = mean - numpy.einsum("lhrd,lhre,lhe->lhd", down, down, mean)
                for part, values in (("down", down), ("up", down), ("bias", bias))[: 3 if kind == "affine" else 2]:
                    out.create_dataset(f"{name}/{part}", data=values.astype(numpy.float16), track_times=False)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE))
