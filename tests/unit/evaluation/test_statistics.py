"""Intervals cover what they promise, tests keep their level, corrections never lower a p value. All
of it by simulation, seeded.
"""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from scipy.stats import binom

import score_mtbench
from bezoar.evaluation import statistics

RUNS = 1000
# A count outside this region has a chance of 1 in 1,000 if the promise holds exactly.
COVERED = (binom.ppf(0.0005, RUNS, 0.95), binom.ppf(0.9995, RUNS, 0.95))
REJECTED = binom.ppf(0.9995, RUNS, 0.05)


def covered(draw: Callable[[np.random.Generator], np.ndarray], truth: float) -> int:
    """How many of RUNS intervals hold the truth."""
    generator = np.random.default_rng(11)
    found = (statistics.bootstrap_mean(draw(generator), run, resamples=1000) for run in range(RUNS))
    return sum(interval["low"] <= truth <= interval["high"] for interval in found)


@pytest.mark.parametrize("n", [10, 80], ids=["a category of MT-Bench", "all of MT-Bench"])
def test_a_judge_that_scores_at_random_gets_intervals_that_cover_its_mean(n: int) -> None:
    assert COVERED[0] <= covered(lambda generator: generator.integers(1, 11, n), 5.5) <= COVERED[1]


def random_judgments(generator: np.random.Generator, questions: int) -> Iterator[dict]:
    """Two turns, two repeats, a question of its own difficulty, one rating in twenty missing: true
    mean 5.5.
    """
    hardness = generator.integers(-2, 3, questions)
    for number in range(questions):
        for turn in (1, 2):
            for repeat in range(2):
                lost = generator.random() < 0.05
                score = -1 if lost else int(generator.choice([4, 5, 6, 7]) + hardness[number])
                yield {
                    "question_id": number,
                    "turn": turn,
                    "repeat": repeat,
                    "score": score,
                    "state": "no_rating" if lost else "rated",
                }


def test_intervals_of_the_score_cover_although_turns_and_repeats_go_together() -> None:
    generator = np.random.default_rng(5)
    hits = naive = 0
    for run in range(RUNS):
        rows = list(random_judgments(generator, 40))
        found = score_mtbench.summary(rows, run, resamples=1000)
        hits += found["low"] <= 5.5 <= found["high"]
        flat = statistics.bootstrap_mean(
            [row["score"] for row in rows if row["state"] == "rated"], run, resamples=200
        )
        naive += flat["low"] <= 5.5 <= flat["high"]
    assert COVERED[0] <= hits <= COVERED[1]
    assert naive < COVERED[0], (
        "an interval that ignores questions would promise too much; this test would see it"
    )


def test_pairing_narrows_the_interval_of_a_difference() -> None:
    generator = np.random.default_rng(1)
    hard = generator.normal(0, 3, 200)
    a, b = hard + 0.5 + generator.normal(0, 0.2, 200), hard
    found = statistics.paired_difference(a, b, 0)
    assert found["low"] > 0.4 and found["high"] < 0.6
    with pytest.raises(ValueError, match="same items"):
        statistics.paired_difference([1], [1, 2], 0)


def equals(generator: np.random.Generator, binary: bool) -> tuple[np.ndarray, np.ndarray]:
    """Two models of the same skill on the same 60 items."""
    skill = generator.random(60)
    if binary:
        return (generator.random(60) < skill).astype(float), (generator.random(60) < skill).astype(
            float
        )
    return skill + generator.normal(0, 0.3, 60), skill + generator.normal(0, 0.3, 60)


@pytest.mark.parametrize("binary", [True, False], ids=["right or wrong", "scores"])
def test_two_equal_models_are_told_apart_in_at_most_5_of_100_runs(binary: bool) -> None:
    generator, rejected, intervals = np.random.default_rng(3), 0, 0
    for run in range(RUNS):
        a, b = equals(generator, binary)
        name, p = (
            (statistics.paired_p(a, b, run)[0], statistics.mcnemar(a, b))
            if binary
            else ("sign flips", statistics.sign_flip(a, b, run, flips=500))
        )
        assert name == ("McNemar, exact" if binary else "sign flips")
        rejected += p <= 0.05
        interval = statistics.bootstrap_mean(a - b, run, resamples=1000)
        intervals += interval["low"] <= 0 <= interval["high"]
    assert rejected <= REJECTED, "the exact test may reject less often, never more"
    assert COVERED[0] <= intervals <= COVERED[1]


def test_ten_tasks_without_a_difference_give_one_after_correction_in_at_most_5_of_100_runs() -> (
    None
):
    generator = np.random.default_rng(4)
    found = sum(
        min(statistics.holm([statistics.mcnemar(*equals(generator, True)) for _ in range(10)]))
        <= 0.05
        for _ in range(RUNS)
    )
    assert found <= REJECTED


def test_a_difference_as_large_as_promised_is_seen_in_about_80_of_100_runs() -> None:
    generator, seen = np.random.default_rng(6), 0
    size = statistics.detectable_difference(2.0, 80)
    for run in range(RUNS):
        interval = statistics.bootstrap_mean(generator.normal(size, 2.0, 80), run, resamples=1000)
        seen += interval["low"] > 0
    assert binom.ppf(0.0005, RUNS, 0.8) <= seen <= binom.ppf(0.9995, RUNS, 0.8)


def test_the_mean_of_tasks_counts_each_task_once_and_its_interval_covers() -> None:
    generator, hits = np.random.default_rng(7), 0
    for run in range(RUNS):
        groups = [
            (generator.random(n) < share).astype(float) for n, share in ((40, 0.2), (400, 0.7))
        ]
        found = statistics.mean_of_means(groups, run, resamples=1000)
        hits += found["low"] <= 0.45 <= found["high"]
    assert (
        found["mean"] == pytest.approx(np.mean([np.mean(group) for group in groups]))
        and found["n"] == 440
    )
    assert COVERED[0] <= hits <= COVERED[1]


@pytest.mark.parametrize(
    ("better", "worse", "p"), [(0, 0, 1.0), (5, 0, 2 / 32), (6, 1, 2 * 8 / 128), (3, 3, 1.0)]
)
def test_mcnemar_is_the_exact_binomial(better: int, worse: int, p: float) -> None:
    candidate = [1.0] * better + [0.0] * worse + [1.0] * 4
    baseline = [0.0] * better + [1.0] * worse + [1.0] * 4
    assert statistics.mcnemar(candidate, baseline) == pytest.approx(p)


def test_sign_flips_agree_with_all_flips_of_a_small_sample() -> None:
    gaps = np.array([0.3, 0.1, 0.4, -0.2, 0.5])
    signs = np.array(np.meshgrid(*[[-1, 1]] * 5)).reshape(5, -1).T
    exact = np.mean(np.abs(signs @ gaps) >= gaps.sum() - 1e-12)
    assert statistics.sign_flip(gaps, np.zeros(5), 0) == pytest.approx(exact, abs=0.02)
    assert statistics.sign_flip([1.0, 2.0], [1.0, 2.0], 0) == 1.0


def test_rank_correlation_is_kendalls_tau_b() -> None:
    assert statistics.rank_correlation([1, 2, 2, 3], [1, 3, 2, 4]) == pytest.approx(
        5 / 30**0.5
    )  # 5 pairs agree, one is tied in the first
    assert statistics.rank_correlation([1, 1], [1, 2]) is None


def test_what_cannot_be_told_apart_is_called_so() -> None:
    assert (
        statistics.detectability([[1.0, -1.0, 1.0, -1.0]], {"mean": 0, "low": -0.5, "high": 0.5})[
            "excludes_zero"
        ]
        is False
    )
    found = statistics.detectability([[1.0, 1.1, 0.9, 1.0]], {"mean": 1, "low": 0.9, "high": 1.1})
    assert found["excludes_zero"] is True and found["detectable"] == pytest.approx(
        2.801585 * found["spread"] / 2
    )
    assert (found["low"], found["high"]) == (0.9, 1.1)
    a, b = np.random.default_rng(0).normal(1, 1, 50), np.random.default_rng(1).normal(1, 2, 200)
    both = statistics.detectability([a, b], statistics.mean_of_means([a, b], 0))
    assert both["detectable"] == pytest.approx(
        2.801585 * (a.var(ddof=1) / 50 + b.var(ddof=1) / 200) ** 0.5 / 2
    )


@pytest.mark.parametrize(
    ("gaps", "most", "low", "high"),
    [
        ([1.0] * 10, 9.0, 0.7 - 2.7, 0.7 + 2.7),  # 3 in 10 others could be 9 or -9
        ([0.1 + 0.2, *[0.3] * 99], 1.0, 0.291 - 0.03, 0.291 + 0.03),  # equal but for rounding
        ([0.0] * 100, 1.0, -0.03, 0.03),
        ([5.0], 9.0, -9, 9),
        ([0.5] * 5, None, 0.5, 0.5),
    ],
)
def test_an_interval_of_equal_gaps_holds_what_so_few_items_cannot_show(
    gaps: list[float], most: float | None, low: float, high: float
) -> None:
    paired = statistics.paired_difference(gaps, [0.0] * len(gaps), 0, most)
    clustered = statistics.clustered_difference({i: [g] for i, g in enumerate(gaps)}, 0, most)
    for found in (paired, clustered):
        assert (found["low"], found["high"]) == pytest.approx((low, high))
        assert found["detectable"] is None
        assert found["excludes_zero"] == (low > 0 and most is not None)


def test_the_turns_of_one_question_exclude_nothing() -> None:
    found = statistics.clustered_difference({81: [1.0, 3.0]}, 0, statistics.BETWEEN_RATINGS)
    assert (found["mean"], found["low"], found["high"]) == (2, -9, 9) and not found["excludes_zero"]


def test_in_a_mean_over_tasks_the_smallest_task_can_hide_most() -> None:
    gaps = [[0.0] * 1000, [0.0] * 100]
    found = statistics.detectability(gaps, statistics.mean_of_means(gaps, 0))
    unseen = 3 / 100 / 2
    assert found == {
        **{"low": -unseen, "high": unseen},
        **{"spread": 0.0, "detectable": None, "excludes_zero": False},
    }
    few = [[0.0, 0.0], [1.0, 1.0]]  # all others of one task can be -1, or 1
    found = statistics.detectability(few, statistics.mean_of_means(few, 0))
    assert (found["low"], found["high"]) == (-0.5, 1)


@pytest.mark.parametrize(
    ("values", "bounds", "low", "high"),
    [
        ([0.0] * 360, statistics.SHARES, 0, 3 / 360),
        ([1.0] * 3, statistics.SHARES, 0, 1),
        ([1.0] * 10, statistics.RATINGS, 1, 3.7),
        ([0.1 + 0.2, *[0.3] * 99], statistics.SHARES, 0.291, 0.321),  # equal but for rounding
    ],
)
def test_an_interval_of_equal_values_holds_what_so_few_items_cannot_show(
    values: list[float], bounds: tuple[float, float], low: float, high: float
) -> None:
    for found in (
        statistics.bootstrap_mean(values, 0, bounds=bounds),
        statistics.mean_of_means([values], 0, bounds=bounds),
    ):
        assert (found["low"], found["high"]) == pytest.approx((low, high))
        assert found["mean"] == pytest.approx(values[-1])


def test_bounds_change_no_interval_of_values_that_vary() -> None:
    values, tasks = [0.0, 1.0, 1.0], [[0.0, 1.0, 1.0], [1.0, 1.0, 1.0]]
    for of, given in ((statistics.bootstrap_mean, values), (statistics.mean_of_means, tasks)):
        assert of(given, 0) == of(given, 0, bounds=statistics.SHARES)


def test_holm_keeps_the_order_given_and_is_monotone() -> None:
    assert statistics.holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert statistics.holm([0.9, 0.9]) == [1.0, 1.0]


def test_large_data_are_resampled_in_blocks() -> None:
    found = statistics.bootstrap_mean(np.arange(50_000.0), 0, resamples=200)
    assert found["low"] < 24_999.5 < found["high"]


def test_counting_few_values_gives_the_interval_that_drawing_items_gives(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values = np.random.default_rng(2).integers(0, 2, 300).astype(float)
    counted = statistics.bootstrap_mean(values, 0)
    monkeypatch.setattr(statistics, "FEW", 0)
    drawn = statistics.bootstrap_mean(values, 0)
    assert counted["mean"] == drawn["mean"] and counted["n"] == drawn["n"]
    assert counted["low"] == pytest.approx(drawn["low"], abs=0.004) and counted[
        "high"
    ] == pytest.approx(drawn["high"], abs=0.004)


def test_a_single_value_is_its_own_interval() -> None:
    assert statistics.bootstrap_mean([3.0], 0) == {"mean": 3.0, "low": 3.0, "high": 3.0, "n": 1}
    assert statistics.bootstrap_mean([2.0, 4.0], 0, weights=[3, 1])["mean"] == 2.5
