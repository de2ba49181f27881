"""Relative errors of K that theory gives for the codecs of Table 2: closed forms for independent Gaussian values, and the printed formulas on recorded K."""
import functools
import math
from pathlib import Path

import h5py
import numpy

GROUP = 32  # tokens or channels that share a scale in kivi
SINKS, LEAST = 4, 16  # tokens that codecs leave raw, and entries with which a page that is not full is sealed when the prompt ends
TEXT = {
    "fp8_e4m3": "0.42 2^-(m+1)", "int8 asym": "E[R^2]/(12 (2^8-1)^2)", "int4": "E[R^2]/(12 (2^4-1)^2)", "int4 hadamard": "as int4", "kivi4": "E[R_32^2]/(12 (2^4-1)^2)",
    "kivi2": "E[R_32^2]/(12 (2^2-1)^2)", "turboquant4": "at most sqrt(3) pi/2 4^-4", "turboquant3": "at most sqrt(3) pi/2 4^-3",
    "Py pyramid_res 1/2": "sum of |P_l K - K|^2/4^l", "Py pyramid_res 1/4": "sum of |P_l K - K|^2/4^l", "F crop 1/2": "|K_(r:d)|^2", "Pr magnitude 1/2": "sum of the pruned K_j^2",
    "SVD of K 1/2": "sum over i > r of sigma_i^2", "SVD of K 1/4": "sum over i > r of sigma_i^2", "lowrank.pca 1/2": "as SVD of K", "lowrank.pca 1/4": "as SVD of K",
    "Ch block_pca": "the same over blocks", "Lo lora 1/4": "sum over i > r of sigma_i^2", "Lo+ lora++ 1/2": "|K - W_d W_u K - b|^2",
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
        "kivi4": minmax(4, GROUP), "kivi2": minmax(2, GROUP),
        "turboquant4": math.sqrt(3) * math.pi / 2 * 4.0**-4, "turboquant3": math.sqrt(3) * math.pi / 2 * 4.0**-3,
        "Py pyramid_res 1/2": 1 / 2, "Py pyramid_res 1/4": 1 / 2 + 3 / 4 / 4, "F crop 1/2": 1 / 2, "Pr magnitude 1/2": 1 / 2,
    }
    return math.sqrt(squared[codec]) if codec in squared else math.nan


@functools.lru_cache(maxsize=None)
def recorded_keys(path):
    """[(keys [tokens, layers, heads, channels], length of the prompt)] of every request; empty where the trace has none."""
    if not Path(path).is_file():
        return []
    with h5py.File(path, "r") as trace:
        if "kv" not in trace:
            return []
        keys, offsets, prompts = trace["kv/k"][:].astype(float), trace["requests/token_offset"][:].astype(int), trace["requests/prompt_len"][:].astype(int)
    return [(keys[begin:end], int(prompt)) for begin, end, prompt in zip(offsets[:-1], offsets[1:], prompts)]


def sealed(length, prompt, slots):
    """(begin, end) of the pages of a request that are sealed: full ones, and what the prompt leaves open where it is long enough."""
    begin, pages = SINKS, []
    while begin + LEAST <= length:
        end = begin + slots
        if begin + LEAST <= prompt < end:
            end = prompt
        if end > length:
            break
        pages.append((begin, end))
        begin = end
    return pages


def coarse(k, level):
    """|P_l K - K|^2 where P_l makes means of 2^l adjacent channels."""
    blocks = k.reshape(k.shape[0], -1, 2**level)
    return numpy.sum((blocks - blocks.mean(axis=2, keepdims=True)) ** 2)


def pyramid(k, level, first):
    """The sum that Table 2 prints for a pyramid that keeps means of 2^level channels; first: the level that its P^(0) stands for, the first pooling (1) or the identity (0)."""
    return sum(coarse(k, l) / 4 ** (l - first) for l in range(first, level + 1))


def recorded(codec, path, slots, rank=0, maps=None, first=1):
    """Relative error of the printed formula on the keys of a trace: mean over sealed pages, as moekv measures it; NaN for codecs without one, and where the trace has no keys."""
    requests = recorded_keys(str(path))
    if not requests:
        return math.nan
    width = requests[0][0].shape[3]

    def minmax(bits):
        return lambda k, *_: numpy.sum(numpy.ptp(k, axis=1) ** 2) * width / (12 * (2**bits - 1) ** 2)

    def tail(k, *_):
        return numpy.sum(numpy.linalg.svd(k, compute_uv=False)[rank:] ** 2)

    def affine(k, layer, head):
        with h5py.File(maps, "r") as file:
            down, up, bias = (file[f"k/{part}"][layer, head].astype(float) for part in ("down", "up", "bias"))
        return numpy.sum((k - k @ down.T @ up - bias) ** 2)

    formulas = {
        "int8 asym": minmax(8), "int4": minmax(4), "Py pyramid_res 1/2": lambda k, *_: pyramid(k, 1, first), "Py pyramid_res 1/4": lambda k, *_: pyramid(k, 2, first),
        "F crop 1/2": lambda k, *_: numpy.sum(k[:, width // 2:] ** 2), "Pr magnitude 1/2": lambda k, *_: numpy.sort(numpy.sum(k * k, axis=0))[: width // 2].sum(),
        "SVD of K 1/2": tail, "SVD of K 1/4": tail, "lowrank.pca 1/2": tail, "lowrank.pca 1/4": tail, "Ch block_pca": tail, "Lo lora 1/4": tail, "Lo+ lora++ 1/2": affine,
    }
    if codec not in formulas:
        return math.nan
    if codec.startswith("Lo "):  # the map is of all requests
        pages = [numpy.concatenate([keys for keys, _ in requests])]
    elif codec.startswith("lowrank"):  # the basis is of a sequence
        pages = [keys[min(b for b, _ in sealed(len(keys), prompt, slots)):max(e for _, e in sealed(len(keys), prompt, slots))] for keys, prompt in requests]
    else:
        pages = [keys[begin:end] for keys, prompt in requests for begin, end in sealed(len(keys), prompt, slots)]
    heads = range(requests[0][0].shape[2])
    return float(numpy.mean([math.sqrt(sum(formulas[codec](page[:, layer, head], layer, head) for head in heads) / numpy.sum(page[:, layer] ** 2))
                             for page in pages for layer in range(page.shape[1])]))
