"""Intervals that resample whole clusters (requests, repeats), never single tokens; the same data gives the same interval."""
import math
from statistics import NormalDist

import numpy

RESAMPLES = 2000


def mean_interval(values, clusters=None, least=-math.inf):
    """(mean, low, high): 95 % interval of the mean over clusters; the mean alone where there is one cluster.

    The percentile bootstrap, widened as Student's t is wider than the normal law: alone it is far too sure of few clusters, as `moekv report` is not.
    It ends at `least`, below which no mean can lie: 0 for times, 1 for max/mean."""
    values = numpy.asarray(values, dtype=float)
    clusters = numpy.arange(values.size) if clusters is None else numpy.asarray(clusters)
    keep = numpy.isfinite(values)
    values, clusters = values[keep], clusters[keep]
    if values.size == 0:
        return float("nan")
    mean = float(values.mean())
    _, index = numpy.unique(clusters, return_inverse=True)
    sums, counts = numpy.bincount(index, weights=values), numpy.bincount(index)
    n = sums.size
    if n < 2:
        return mean
    draws = numpy.random.RandomState(1).randint(n, size=(RESAMPLES, n))
    low, high = numpy.percentile(sums[draws].sum(axis=1) / counts[draws].sum(axis=1), (2.5, 97.5))
    wider = student_t_975(n - 1) * math.sqrt(n / (n - 1)) / NormalDist().inv_cdf(0.975)
    return mean, max(least, mean + wider * (float(low) - mean)), mean + wider * (float(high) - mean)


def student_t_975(freedom):
    """Quantile of Student's t above which 2.5 % lie (Abramowitz and Stegun 26.7.3 and 26.7.4)."""
    def central(t):
        angle = math.atan(t / math.sqrt(freedom))
        first = 3 if freedom % 2 else 2
        terms = numpy.cumprod([math.cos(angle) if freedom % 2 else 1.0, *(math.cos(angle) ** 2 * (k - 1) / k for k in range(first, freedom, 2))])
        total = (0.0 if freedom == 1 else float(terms.sum())) * math.sin(angle)
        return (angle + total) * 2 / math.pi if freedom % 2 else total

    low, high = 1.0, 16.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if central(middle) < 0.95 else (low, middle)
    return low


def over_repeats(values, least=-math.inf):
    """(mean, low, high) over repeats; a plain number where all are equal, so that counted values stay exact."""
    values = [float(v) for v in values]
    return values[0] if len(set(values)) == 1 else mean_interval(values, least=least)


def spearman(a, b):
    """Rank correlation of two lists, ties by mean rank; NaN where one side does not vary. Values that agree in four digits are ties: what tables print."""
    ranks = [_ranks(numpy.asarray([float(f"{v:.4g}") for v in x])) for x in (a, b)]
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
