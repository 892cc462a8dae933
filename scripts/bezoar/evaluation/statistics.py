"""Intervals and tests for evaluation results: bootstrap over items, exact McNemar, sign flips,
Holm. Seeded and vectorised.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bezoar.evaluation.intervals import RESAMPLES, tails

SHARES = (0.0, 1.0)  # right and wrong, and accuracies
RATINGS = (1.0, 10.0)
BETWEEN_RATINGS = RATINGS[1] - RATINGS[0]  # the largest difference of two
FEW = 1 / 32  # distinct values, as a share of all, up to which counting is faster than drawing


def bootstrap_mean(
    values: Sequence[float],
    seed: int,
    resamples: int = RESAMPLES,
    weights: Sequence[float] | None = None,
    bounds: tuple[float, float] | None = None,
) -> dict[str, float]:
    """Return {mean, low, high, n} of independent values, by the expanded percentile bootstrap
    (Hesterberg 2015, American Statistician 69:371).

    `values` has shape (n,). For clustered data give one mean per cluster, and the clusters' sizes
    as `weights`. The plain percentile interval is too narrow for few values, by the factor sqrt((n
    - 1) / n) and by the normal quantile where Student's belongs: with ten ratings, a category of
    MT-Bench, it covers the mean in 92 cases of 100. The tails are chosen to correct both.

    Equal values, or a single one, give an interval of no width, unless `bounds` are the least and
    the largest value that there can be: then it is as wide as `_unseen` says.
    """
    data = np.asarray(values, dtype=float)
    if data.size == 0:
        raise ValueError("bootstrap_mean: expected at least one value")
    size = np.ones(data.size) if weights is None else np.asarray(weights, dtype=float)
    generator = np.random.default_rng(seed)
    means = _resampled(data * size, size, generator, resamples)
    low, high = np.quantile(means, tails(data.size))
    mean = float((data * size).sum() / size.sum())
    if bounds and not _varies([data]):
        low, high = _unseen([data], mean, *bounds)
    return {"mean": mean, "low": float(low), "high": float(high), "n": int(data.size)}


def _varies(groups: Sequence[Any]) -> bool:
    """Whether the values of any group differ; means of equal ratings do, by rounding."""
    return any(np.ptp(values) > 1e-9 for values in groups)


def _unseen(groups: Sequence[Any], mean: float, least: float, most: float) -> tuple[float, float]:
    """Return (low, high) of the mean of groups whose values do not vary.

    Of n equal values, up to 3 / n of all others can differ, with 95 % confidence (the rule of
    three: Hanley and Lippman-Hand 1983), and be as small as `least` or as large as `most`. They
    count most in one of the groups.
    """
    means = [float(np.mean(values)) for values in groups]
    shares = [min(1.0, 3 / len(values)) / len(groups) for values in groups]
    low = max(share * (one - least) for share, one in zip(shares, means, strict=True))
    high = max(share * (most - one) for share, one in zip(shares, means, strict=True))
    return mean - low, mean + high


def _resampled(
    sums: np.ndarray, sizes: np.ndarray, generator: np.random.Generator, resamples: int
) -> np.ndarray:
    """Return `resamples` means, each of as many clusters as there are, drawn with replacement.

    Where clusters take few values (right or wrong, better or worse), how often each is drawn is
    multinomial: the same distribution, without drawing 10,000 times 10,000 items.
    """
    kinds, counts = np.unique(np.stack([sums, sizes], axis=1), axis=0, return_counts=True)
    if len(kinds) <= FEW * sums.size:
        drawn = generator.multinomial(sums.size, counts / sums.size, size=resamples)
        return (drawn @ kinds[:, 0]) / (drawn @ kinds[:, 1])
    means = []
    for rows in _blocks(resamples, sums.size):
        chosen = generator.integers(0, sums.size, (rows, sums.size))
        means.append(sums[chosen].sum(axis=1) / sizes[chosen].sum(axis=1))
    return np.concatenate(means)


def _blocks(resamples: int, size: int) -> list[int]:
    """Split the resamples so that a block of indices stays below about 4 million numbers (32
    MB).
    """
    rows = max(1, min(resamples, 4_000_000 // max(size, 1)))
    return [rows] * (resamples // rows) + ([resamples % rows] if resamples % rows else [])


def paired_difference(
    candidate: Sequence[float], baseline: Sequence[float], seed: int, most: float | None = 1.0
) -> dict[str, Any]:
    """Return {mean, low, high, n} of candidate - baseline over the same items, resampling items
    (paired bootstrap), and its `detectability`, for which `most` is the largest difference that an
    item can have: 1 of shares, None where there is none.
    """
    if len(candidate) != len(baseline):
        raise ValueError(
            f"paired_difference: {len(candidate)} and {len(baseline)} items; expected the same"
            " items in both"
        )
    gaps = np.asarray(candidate, dtype=float) - np.asarray(baseline, dtype=float)
    found = bootstrap_mean(gaps, seed)
    return {**found, **detectability([gaps], found, most)}


def clustered_difference(
    gaps: Mapping[Any, Sequence[float]], seed: int, most: float | None = 1.0
) -> dict[str, Any]:
    """Return the same of gaps that are grouped, cluster -> its gaps, resampling clusters: the turns
    and repeats of one question are not independent.
    """
    means = [float(np.mean(values)) for values in gaps.values()]
    found = bootstrap_mean(means, seed, weights=[len(values) for values in gaps.values()])
    return {**found, **detectability([means], found, most)}


def mcnemar(candidate: Sequence[float], baseline: Sequence[float]) -> float:
    """Return the two-sided exact p value of McNemar's test on paired right/wrong items (binomial on
    the discordant ones).
    """
    from scipy.special import bdtr

    better = sum(1 for a, b in zip(candidate, baseline, strict=True) if a > b)
    worse = sum(1 for a, b in zip(candidate, baseline, strict=True) if a < b)
    n = better + worse
    if n == 0:
        return 1.0
    return min(1.0, 2 * float(bdtr(min(better, worse), n, 0.5)))


def sign_flip(
    candidate: Sequence[float], baseline: Sequence[float], seed: int, flips: int = RESAMPLES
) -> float:
    """Return the two-sided p value of the paired randomisation test on the mean difference (Fisher
    1935), for scores that are not 0 or 1.

    Under the null each difference is as likely with the other sign. The observed signs count as one
    flip, so p is never 0.
    """
    gaps = np.subtract(candidate, baseline, dtype=float)
    gaps = gaps[gaps != 0]
    if gaps.size == 0:
        return 1.0
    generator = np.random.default_rng(seed)
    sums = np.concatenate(
        [
            generator.choice((-1.0, 1.0), (rows, gaps.size)) @ gaps
            for rows in _blocks(flips, gaps.size)
        ]
    )
    return float((1 + np.sum(np.abs(sums) >= abs(gaps.sum()) * (1 - 1e-12))) / (flips + 1))


def paired_p(candidate: Sequence[float], baseline: Sequence[float], seed: int) -> tuple[str, float]:
    """Return (name of the test, p value): exact McNemar for right and wrong, sign flips for
    anything finer.
    """
    if set(candidate) | set(baseline) <= {0.0, 1.0}:
        return "McNemar, exact", mcnemar(candidate, baseline)
    return "sign flips", sign_flip(candidate, baseline, seed)


def mean_of_means(
    groups: Sequence[Sequence[float]],
    seed: int,
    resamples: int = RESAMPLES,
    bounds: tuple[float, float] | None = None,
) -> dict[str, float]:
    """Return {mean, low, high, n} of the unweighted mean of the groups' means, resampling within
    each group (stratified bootstrap).

    A leaderboard's average over tasks is of this kind: a task of 300 items counts as much as one of
    10,000. `n` counts all values; `bounds` are those of `bootstrap_mean`.
    """
    generator = np.random.default_rng(seed)
    total = np.zeros(resamples)
    for group in groups:
        data = np.asarray(group, dtype=float)
        total += _resampled(data, np.ones(data.size), generator, resamples)
    smallest = min(len(group) for group in groups)
    low, high = np.quantile(total / len(groups), tails(smallest))
    mean = float(np.mean([np.mean(group) for group in groups]))
    if bounds and not _varies(groups):
        low, high = _unseen(groups, mean, *bounds)
    return {
        "mean": mean,
        "low": float(low),
        "high": float(high),
        "n": sum(len(group) for group in groups),
    }


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p values in the given order (Holm 1979): family-wise error over all of
    them.
    """
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted, running = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted


def detectable_difference(spread: float, n: int) -> float:
    """Return the true difference seen with 80 % power at the 5 % level: (1.96 + 0.84) * spread /
    sqrt(n).

    `spread` is the standard deviation of the per-item differences, `n` the number of items (Cohen
    1988, ch. 2).
    """
    return (1.959964 + 0.841621) * spread / math.sqrt(n)


def detectability(
    groups: Sequence[Sequence[float]], interval: dict[str, float], most: float | None = 1.0
) -> dict[str, Any]:
    """Return {low, high, spread, detectable, excludes_zero}: what a difference of these paired gaps
    could have shown, and whether it did.

    `groups` is one list of gaps, or one a task where the difference is the mean over tasks;
    `interval` has its bootstrap's {mean, low, high}. `spread` is the standard deviation of a gap,
    in the unit of the score (over groups: what makes the interval, times the root of n);
    `detectable` is None where all gaps are equal, for then their spread is not known;
    `excludes_zero` is whether the interval excludes 0.

    Equal gaps give a bootstrap interval of no width; `low` and `high` are then those of `_unseen`,
    with gaps from -`most` to `most`. Where `most` is None, nothing bounds them: `low` and `high`
    stay, and exclude nothing.
    """
    n = sum(len(gaps) for gaps in groups)
    low, high, spread, detectable = interval["low"], interval["high"], None, None
    varies = _varies(groups)
    if all(len(gaps) > 1 for gaps in groups):
        spread = math.sqrt(
            n * math.fsum(float(np.var(gaps, ddof=1)) / len(gaps) for gaps in groups)
        ) / len(groups)
        detectable = detectable_difference(spread, n) if varies else None
    if not varies and most is not None:
        low, high = _unseen(groups, interval["mean"], -most, most)
    return {
        "low": low,
        "high": high,
        "spread": spread,
        "detectable": detectable,
        "excludes_zero": (varies or most is not None) and (low > 0 or high < 0),
    }


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Return Kendall's tau-b of two ratings of the same things (Kendall 1945), or None where either
    never varies.
    """
    from scipy.stats import kendalltau

    found = float(kendalltau(first, second).statistic) if len(first) > 1 else math.nan
    return None if math.isnan(found) else found
