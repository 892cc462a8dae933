"""Intervals cover what they promise, tests agree with the binomial, corrections never lower a p value."""

import numpy as np
import pytest

from bezoar import stats


def test_the_bootstrap_interval_covers_the_true_mean_in_about_95_of_100_runs() -> None:
    generator = np.random.default_rng(11)
    covered = 0
    for run in range(300):
        found = stats.bootstrap_mean(generator.normal(5, 2, 80), run, resamples=1000)
        covered += found["low"] <= 5 <= found["high"]
    assert 0.90 <= covered / 300 <= 0.98  # 95 % less the percentile bootstrap's known small-sample shortfall, 3 standard errors


def test_pairing_narrows_the_interval_of_a_difference() -> None:
    generator = np.random.default_rng(1)
    hard = generator.normal(0, 3, 200)
    a, b = hard + 0.5 + generator.normal(0, 0.2, 200), hard
    found = stats.paired_difference(a, b, 0)
    assert found["low"] > 0.4 and found["high"] < 0.6
    with pytest.raises(ValueError, match="same items"):
        stats.paired_difference([1], [1, 2], 0)


@pytest.mark.parametrize(("better", "worse", "p"), [(0, 0, 1.0), (5, 0, 2 / 32), (6, 1, 2 * 8 / 128), (3, 3, 1.0)])
def test_mcnemar_is_the_exact_binomial(better: int, worse: int, p: float) -> None:
    child = [1.0] * better + [0.0] * worse + [1.0] * 4
    parent = [0.0] * better + [1.0] * worse + [1.0] * 4
    assert stats.mcnemar(child, parent) == pytest.approx(p)


def test_holm_keeps_the_order_given_and_is_monotone() -> None:
    assert stats.holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert stats.holm([0.9, 0.9]) == [1.0, 1.0]


def test_large_data_are_resampled_in_blocks() -> None:
    found = stats.bootstrap_mean(np.arange(50_000.0), 0, resamples=200)
    assert found["low"] < 24_999.5 < found["high"]
