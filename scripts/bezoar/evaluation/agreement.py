"""How far two raters agree on yes or no."""

from collections.abc import Sequence

import numpy as np

from bezoar.evaluation.intervals import RESAMPLES, tails


def cohen_kappa(pairs: Sequence[tuple[bool, bool]], seed: int) -> dict[str, float] | None:
    """Return {mean, low, high, n} of Cohen's kappa (Cohen 1960) of two raters' yes or no, with a
    expanded percentile bootstrap interval over rows (see `statistics.bootstrap_mean`).

    None where it is undefined: no rows, or one verdict on all of them. Raters who never disagree
    leave nothing to resample: they may on up to 3 / n of all rows (the rule of three: Hanley and
    Lippman-Hand 1983). Only the four counts matter, so whole tables are drawn.
    """
    counts = np.array(
        [pairs.count((first, second)) for first in (True, False) for second in (True, False)]
    )
    value = _kappa(counts[None].astype(float))[0] if len(pairs) else np.nan
    if np.isnan(value):
        return None
    drawn = np.random.default_rng(seed).multinomial(len(pairs), counts / len(pairs), RESAMPLES)
    low, high = np.nanquantile(_kappa(drawn.astype(float)), tails(len(pairs)))
    if not counts[1:3].any():
        unseen = min(1.0, 3 / len(pairs))
        low = _kappa((1 - unseen) * counts[None] / len(pairs) + [[0, unseen / 2, unseen / 2, 0]])[0]
    return {"mean": float(value), "low": float(low), "high": float(high), "n": len(pairs)}


def _kappa(tables: np.ndarray) -> np.ndarray:
    """Return (observed - expected) / (1 - expected) agreement of tables of shape (n, 4): both yes,
    first alone, second alone, both no.
    """
    shares = tables / tables.sum(axis=1, keepdims=True)
    first, second = shares[:, 0] + shares[:, 1], shares[:, 0] + shares[:, 2]
    expected = first * second + (1 - first) * (1 - second)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(
            expected < 1, (shares[:, 0] + shares[:, 3] - expected) / (1 - expected), np.nan
        )
