"""Which rows are held out."""

import pytest
from trained import SFT

from bezoar.training.split import evaluated, split


def numbered(rows: range) -> list[dict]:
    return [{"row": row} for row in rows]


def test_a_share_of_the_rows_is_held_out_in_their_order() -> None:
    training, validation = split(numbered(range(1, 41)), 40, 0.2, seed=42)
    assert (len(training), len(validation)) == (32, 8)
    assert sorted(training + validation, key=lambda row: row["row"]) == numbered(range(1, 41))
    assert validation == sorted(validation, key=lambda row: row["row"])
    assert validation != split(numbered(range(1, 41)), 40, 0.2, seed=43)[1]


@pytest.mark.parametrize("shares", [(0.6, 0.5), (0.5, 0.5), (0.02, 0.02)])
def test_what_one_stage_holds_out_another_of_no_smaller_share_does_not_train_on(
    shares: tuple[float, float],
) -> None:
    hh_sft = [row for row in numbered(range(1, 2001)) if row["row"] % 2]
    dpo = [row for row in numbered(range(1, 2001)) if row["row"] % 10 in (1, 2, 3)]
    for seed in range(20):
        trained = {row["row"] for row in split(hh_sft, 2000, shares[0], seed)[0]}
        held = {row["row"] for row in split(dpo, 2000, shares[1], seed)[1]}
        # Rows that HH-RLHF SFT leaves out are in neither of its sides.
        assert held and not trained & held
        assert abs(len(held) - 600 * shares[1]) < 60


def test_a_few_rows_have_both_sides_wherever_they_stand_in_the_file() -> None:
    for seed in range(20):
        training, validation = split(numbered(range(1, 11)), 1000, 0.2, seed)
        assert training and validation


def test_evaluations_use_as_many_of_the_validation_rows_as_the_recipe_says() -> None:
    rows = numbered(range(1, 101))
    some = evaluated(rows, SFT | {"max_eval_samples": 20})
    assert len(some) == 20 and some != rows[:20] and some != rows[-20:]
    assert [row for row in rows if row in some] == some, "in their order"
    assert evaluated(rows, SFT | {"max_eval_samples": 20}) == some
    assert evaluated(rows, SFT | {"max_eval_samples": 500}) == evaluated(rows, SFT) == rows
