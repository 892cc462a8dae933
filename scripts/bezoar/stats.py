"""Intervals and tests for evaluation results: bootstrap over items, exact McNemar, Holm. Seeded and vectorised."""

import math
from collections.abc import Sequence

import numpy as np

RESAMPLES = 10_000


def bootstrap_mean(values: Sequence[float], seed: int, level: float = 0.95, resamples: int = RESAMPLES) -> dict[str, float]:
    """Return {mean, low, high, n} of independent values, by the percentile bootstrap (Efron and Tibshirani 1993, ch. 13).

    `values` has shape (n,). For clustered data give one mean a cluster. A single value gets the interval it deserves: itself.
    """
    data = np.asarray(values, dtype=float)
    if data.size == 0:
        raise ValueError("bootstrap_mean: expected at least one value")
    generator = np.random.default_rng(seed)
    means = np.concatenate([
        data[generator.integers(0, data.size, (rows, data.size))].mean(axis=1)
        for rows in _blocks(resamples, data.size)
    ])  # fmt: skip
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return {"mean": float(data.mean()), "low": float(low), "high": float(high), "n": int(data.size)}


def _blocks(resamples: int, size: int) -> list[int]:
    """Split the resamples so that a block of indices stays below about 4 million numbers (32 MB)."""
    rows = max(1, min(resamples, 4_000_000 // max(size, 1)))
    return [rows] * (resamples // rows) + ([resamples % rows] if resamples % rows else [])


def paired_difference(child: Sequence[float], parent: Sequence[float], seed: int) -> dict[str, float]:
    """Return {mean, low, high, n} of child - parent over the same items, resampling items (paired bootstrap)."""
    if len(child) != len(parent):
        raise ValueError(f"paired_difference: {len(child)} and {len(parent)} items; expected the same items in both")
    return bootstrap_mean(np.asarray(child, dtype=float) - np.asarray(parent, dtype=float), seed)


def mcnemar(child: Sequence[float], parent: Sequence[float]) -> float:
    """Return the two-sided exact p value of McNemar's test on paired right/wrong items (binomial on the discordant ones)."""
    better = sum(1 for a, b in zip(child, parent, strict=True) if a > b)
    worse = sum(1 for a, b in zip(child, parent, strict=True) if a < b)
    n = better + worse
    if n == 0:
        return 1.0
    tail = sum(math.comb(n, k) for k in range(min(better, worse) + 1)) / 2**n
    return min(1.0, 2 * tail)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p values in the given order (Holm 1979): family-wise error over all of them."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted, running = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted


def detectable_difference(spread: float, n: int) -> float:
    """Return the true difference seen with 80 % power at the 5 % level: (1.96 + 0.84) * spread / sqrt(n).

    `spread` is the standard deviation of the per-item differences, `n` the number of items (Cohen 1988, ch. 2).
    """
    return (1.959964 + 0.841621) * spread / math.sqrt(n)
