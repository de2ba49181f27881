"""Relative errors of K that theory gives for the codecs of Table 2: closed forms for independent Gaussian values, and the printed formulas on recorded K."""
import functools
import math
from pathlib import Path

import h5py
import numpy

GROUP = 32  # tokens or channels that share a scale in int4_g32 and kivi
TEXT = {
    "fp8_e4m3": "0.42 2^-(m+1)", "int8 asym": "E[R^2]/(12 (2^8-1)^2)", "int4": "E[R^2]/(12 (2^4-1)^2)", "int4 hadamard": "as int4",
    "int4 g32": "E[R_32^2]/(12 (2^4-1)^2)", "kivi4": "E[R_32^2]/(12 (2^4-1)^2)", "kivi2": "E[R_32^2]/(12 (2^2-1)^2)", "turboquant4": "at most sqrt(3) pi/2 4^-4",
    "turboquant3": "at most sqrt(3) pi/2 4^-3", "Py pyramid_res 1/2": "sum |P K - K|^2", "Py pyramid_res 1/4": "sum |P K - K|^2", "F crop 1/2": "|K_(r:d)|^2",
    "Pr magnitude 1/2": "sum of the pruned K_j^2", "SVD 1/2": "sum over i > r of sigma_i^2", "SVD 1/4": "sum over i > r of sigma_i^2", "Ch block_pca": "the same over blocks",
}


@functools.lru_cache(maxsize=None)
def range_squared(n):
    """E[(max - min)^2] of n standard normal values, from the joint density of both; 17.62 for n = 32."""
    x, step = numpy.linspace(-8, 8, 1601, retstep=True)
    density = numpy.exp(-x * x / 2) / math.sqrt(2 * math.pi)
    below = numpy.array([0.5 * math.erfc(-v / math.sqrt(2)) for v in x])
    between = numpy.clip(below[None, :] - below[:, None], 0, None) ** (n - 2)
    return float(n * (n - 1) * numpy.sum(density[:, None] * density[None, :] * between * numpy.clip(x[None, :] - x[:, None], 0, None) ** 2) * step**2)


def gaussian(codec, head):
    """Relative root mean square error for independent standard normal values, `head` channels a head; NaN where no closed form is used."""
    def minmax(bits, values):
        return range_squared(values) / (12 * (2**bits - 1) ** 2)

    squared = {
        "fp8_e4m3": (0.42 * 2**-4) ** 2, "int8 asym": minmax(8, head), "int4": minmax(4, head), "int4 hadamard": minmax(4, head),
        "int4 g32": minmax(4, GROUP), "kivi4": minmax(4, GROUP), "kivi2": minmax(2, GROUP),
        "turboquant4": math.sqrt(3) * math.pi / 2 * 4.0**-4, "turboquant3": math.sqrt(3) * math.pi / 2 * 4.0**-3,
        "Py pyramid_res 1/2": 1 / 2, "Py pyramid_res 1/4": 3 / 4, "F crop 1/2": 1 / 2, "Pr magnitude 1/2": 1 / 2, "SVD 1/2": 1 / 2, "SVD 1/4": 3 / 4,
    }
    return math.sqrt(squared[codec]) if codec in squared else math.nan


@functools.lru_cache(maxsize=None)
def recorded_keys(path):
    """Keys of every (request, layer, head): a list of [tokens, channels], without the four sinks that codecs leave raw."""
    if not Path(path).is_file():
        return []
    with h5py.File(path, "r") as trace:
        if "kv" not in trace:
            return []
        keys, offsets = trace["kv/k"][:].astype(float), trace["requests/token_offset"][:]
    return [keys[a + 4:b, layer, head] for a, b in zip(offsets[:-1].astype(int), offsets[1:].astype(int))
            for layer in range(keys.shape[1]) for head in range(keys.shape[2])]


def recorded(codec, path, rank=None, block=60):
    """Relative root mean square error of the printed formula on the keys of a trace; NaN for codecs without one, and where the trace has no keys."""
    def share(part):
        keys = recorded_keys(str(path))
        return math.sqrt(numpy.mean([part(k) / numpy.sum(k * k) for k in keys]))

    def minmax(bits, k, group):
        grouped = k[:, : k.shape[1] // group * group].reshape(k.shape[0], -1, group)
        return numpy.sum(numpy.ptp(grouped, axis=2) ** 2) * group / (12 * (2**bits - 1) ** 2)

    def coarse(k, width):
        blocks = k.reshape(k.shape[0], -1, width)
        return numpy.sum((blocks - blocks.mean(axis=2, keepdims=True)) ** 2)

    def tail(k, r):
        return numpy.sum(numpy.linalg.svd(k, compute_uv=False)[r:] ** 2)

    if not recorded_keys(str(path)):
        return math.nan
    width = recorded_keys(str(path))[0].shape[1]
    formulas = {
        "int8 asym": lambda k: minmax(8, k, width), "int4": lambda k: minmax(4, k, width), "int4 g32": lambda k: minmax(4, k, GROUP),
        "Py pyramid_res 1/2": lambda k: coarse(k, 2), "Py pyramid_res 1/4": lambda k: coarse(k, 4), "F crop 1/2": lambda k: numpy.sum(k[:, width // 2:] ** 2),
        "Pr magnitude 1/2": lambda k: numpy.sort(numpy.sum(k * k, axis=0))[: width // 2].sum(), "SVD 1/2": lambda k: tail(k, rank), "SVD 1/4": lambda k: tail(k, rank),
        "Ch block_pca": lambda k: sum(tail(k[i:i + block], rank) for i in range(0, len(k) - block + 1, block)) * len(k) / (len(k) // block * block),
    }
    return share(formulas[codec]) if codec in formulas else math.nan
