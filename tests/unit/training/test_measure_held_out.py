"""What a run's trainings did on rows that they did not use, beside its repetitions."""

import copy
from pathlib import Path
from typing import Any

import pytest

import measure_held_out
from bezoar.errors import UserError
from bezoar.files import write_json
from bezoar.readers import read_json, read_jsonl
from bezoar.training.split import evaluated, split
from measure_held_out import Comparison, measured, of_responses, right


@pytest.fixture
def receipts(place: Path, adapter: Path, dpo: Path) -> dict[str, Any]:
    made = {
        "sft": ("sft", "train_sft.py"),
        "dpo_reference": ("reference.jsonl", "score_reference.py"),
        "dpo": ("dpo", "train_dpo.py"),
    }
    return {
        stage: read_json(place / f"{name}.json") | {"command": [command]}
        for stage, (name, command) in made.items()
    }


def test_responses_are_more_likely_after_a_training(receipts: dict[str, Any]) -> None:
    (before, after, most), chose = of_responses(receipts["sft"], 5)
    assert len(before) == len(after) == 5 and most is None and chose
    assert sum(after) < sum(before)


def test_rows_that_chose_the_checkpoint_are_left_out(
    receipts: dict[str, Any], monkeypatch: pytest.MonkeyPatch, place: Path
) -> None:
    receipt = receipts["sft"]
    receipt["recipe"]["max_eval_samples"] = 3
    scored: list[list[tuple[Any, str]]] = []

    def score(
        _: object, __: object, pairs: list[tuple[Any, str]], ___: int
    ) -> list[tuple[float, int]]:
        scored.append(pairs)
        return [(-6.0, 3)] * len(pairs)

    monkeypatch.setattr("bezoar.evaluation.generation.log_probabilities", score)
    (before, _, _), chose = of_responses(receipt, 100)
    assert before == [2.0] * 5 and not chose, "8 rows validate, 3 of them while training"
    rows = [
        {"row": number, **row} for number, row in enumerate(read_jsonl(place / "rows.jsonl"), 1)
    ]
    _, validation = split(rows, len(rows), 0.2, 42)
    used = {row["row"] for row in evaluated(validation, receipt["recipe"])}
    unused = [row["response"] for row in validation if row["row"] not in used]
    assert sorted(text for _, text in scored[0]) == sorted(unused)


def test_a_model_is_scored_as_the_training_scored_it(receipts: dict[str, Any], dpo: Path) -> None:
    found = read_json(dpo / "held_out.json")
    values = right(dpo.with_name("base"), receipts["dpo"], receipts["dpo_reference"], found["rows"])
    assert values == [float(reference > 0) for reference, _ in found["margins"]]


def test_each_run_is_a_column_and_the_last_is_over_rows_of_all(
    receipts: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for run, margin in {"a": -0.5, "b": 0.5}.items():
        (tmp_path / run / "dpo").mkdir(parents=True)
        margins = {"rows": [1, 2], "margins": [[-1, 1], [1, margin]]}
        write_json(tmp_path / run / "dpo/held_out.json", margins)
    monkeypatch.setattr(measure_held_out, "trainings", lambda _: receipts)
    losses = {"a": [2.0, 1.0], "b": [1.0, 1.0]}

    def responses(_: object, most: int) -> Any:
        assert most == 7
        return Comparison([3.0, 2.0], losses[made[-1]], None), False

    made: list[str] = []

    def run_of(results: Path, *more: Any) -> Any:
        made.append(results.name)
        return measured(results, *more)

    monkeypatch.setattr(measure_held_out, "of_responses", responses)
    monkeypatch.setattr(measure_held_out, "measured", run_of)
    measure_held_out.main(["--results", str(tmp_path / "a"), str(tmp_path / "b"), "--rows", "7"])
    lines = [line.split(" | ") for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["| measure", "rows", "a", "b", "all |"]
    assert lines[2] == [
        *("| sft: loss of a response", "2", "2.500 → 1.500", "2.500 → 1.000", "2.500 → 1.250 |")
    ]
    assert lines[3][1].startswith("| -1.000 (") and lines[3][3].startswith("-1.250 (")
    assert lines[4] == [
        *("| preference accuracy, base → DPO", "2"),
        *("0.500 → 0.500", "0.500 → 1.000", "0.500 → 0.750 |"),
    ]
    assert not list(tmp_path.rglob("*.parts")), "what was kept for a killed run is removed"


def test_runs_on_other_rows_are_refused(
    receipts: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = copy.deepcopy(receipts)
    other["sft"]["inputs"]["data"] = {"rows.jsonl": "0" * 64}
    monkeypatch.setattr(
        measure_held_out, "trainings", lambda results: other if results.name == "b" else receipts
    )
    with pytest.raises(UserError, match=r"^b: trained on other rows than a; measure it alone"):
        measure_held_out.main(["--results", "a", "b"])
