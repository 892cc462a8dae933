"""Which quantiles of a bootstrap distribution bound an interval. Apart from the statistics, so that
a change of these makes no filtered rows stale.
"""

import math

RESAMPLES = 10_000
LEVEL = 0.95  # of the intervals


def tails(n: int) -> list[float]:
    """Return the two quantiles of the bootstrap distribution that bound an interval from `n`
    values.
    """
    from scipy.special import ndtr, stdtrit

    if n < 2:
        return [0.0, 1.0]
    low = float(ndtr(math.sqrt(n / (n - 1)) * stdtrit(n - 1, (1 - LEVEL) / 2)))
    return [low, 1 - low]
