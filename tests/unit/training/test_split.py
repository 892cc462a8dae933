"""Which rows are held out."""

from bezoar.training.split import split


def numbered(rows: range) -> list[dict]:
    return [{"row": row} for row in rows]


def test_a_share_of_the_rows_is_held_out_in_their_order() -> None:
    training, validation = split(numbered(range(1, 41)), 40, 0.2, seed=42)
    assert (len(training), len(validation)) == (32, 8)
    assert sorted(training + validation, key=lambda row: row["row"]) == numbered(range(1, 41))
    assert validation == sorted(validation, key=lambda row: row["row"])
    assert validation != split(numbered(range(1, 41)), 40, 0.2, seed=43)[1]


def test_what_one_stage_holds_out_another_of_a_larger_share_does_not_train_on() -> None:
    hh_sft = [row for row in numbered(range(1, 2001)) if row["row"] % 2]
    dpo = [row for row in numbered(range(1, 2001)) if row["row"] % 10 in (1, 2, 3)]
    trained = {row["row"] for row in split(hh_sft, 2000, 0.6, seed=0)[0]}
    held = {row["row"] for row in split(dpo, 2000, 0.5, seed=0)[1]}
    assert len(held) == 300 and not trained & held
