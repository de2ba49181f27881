"""Intervals that resample whole clusters (requests, repeats), never single tokens; the same data gives the same interval."""
import numpy

RESAMPLES = 2000


def mean_interval(values, clusters=None):
    """(mean, low, high): 95 % bootstrap interval of the mean over clusters; no width where there is one cluster."""
    values = numpy.asarray(values, dtype=float)
    clusters = numpy.arange(values.size) if clusters is None else numpy.asarray(clusters)
    keep = numpy.isfinite(values)
    values, clusters = values[keep], clusters[keep]
    if values.size == 0:
        return float("nan")
    _, index = numpy.unique(clusters, return_inverse=True)
    sums, counts = numpy.bincount(index, weights=values), numpy.bincount(index)
    draws = numpy.random.RandomState(1).randint(sums.size, size=(RESAMPLES, sums.size))
    means = sums[draws].sum(axis=1) / counts[draws].sum(axis=1)
    low, high = numpy.percentile(means, (2.5, 97.5))
    return float(values.mean()), float(low), float(high)


def over_repeats(values):
    """(mean, low, high) over repeats; a plain number where all are equal, so that counted values stay exact."""
    values = [float(v) for v in values]
    return values[0] if len(set(values)) == 1 else mean_interval(values)


def spearman(a, b):
    """Rank correlation of two lists, ties by mean rank; NaN where one side does not vary."""
    ranks = [_ranks(numpy.asarray(x, dtype=float)) for x in (a, b)]
    if ranks[0].size < 3 or any(numpy.ptp(r) == 0 for r in ranks):
        return float("nan")
    return float(numpy.corrcoef(*ranks)[0, 1])


def spearman_interval(a, b):
    """(rank correlation, low, high): 95 % bootstrap interval over the pairs."""
    a, b = (numpy.asarray(x, dtype=float) for x in (a, b))
    keep = numpy.isfinite(a) & numpy.isfinite(b)
    a, b = a[keep], b[keep]
    whole = spearman(a, b)
    if not numpy.isfinite(whole):
        return whole
    draws = numpy.random.RandomState(1).randint(a.size, size=(RESAMPLES // 4, a.size))
    found = [rho for rho in (spearman(a[d], b[d]) for d in draws) if numpy.isfinite(rho)]
    low, high = numpy.percentile(found, (2.5, 97.5))
    return whole, float(low), float(high)


def _ranks(values):
    _, index, counts = numpy.unique(values, return_inverse=True, return_counts=True)
    ends = numpy.cumsum(counts)
    return ((ends - counts + 1 + ends) / 2.0)[index]
