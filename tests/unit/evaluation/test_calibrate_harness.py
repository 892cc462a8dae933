"""This project's evaluation beside the plain `lm_eval` command, on items that no run has."""

import json
from pathlib import Path
from typing import Any

import pytest

import calibrate_harness
from bezoar.errors import UserError
from bezoar.readers import read_jsonl

QUESTIONS = """\
Type,Category,Question,Best Answer,Correct Answers,Incorrect Answers,Source
A,B,what is red?,the cat,the cat; a cat,the dog; a hen,https://example.org
A,B,what is blue?,two hens,two hens,the cat,https://example.org
"""


@pytest.fixture
def results(tmp_path: Path) -> Path:
    root = tmp_path / "results"
    (root / "receipts").mkdir(parents=True)
    recipe = {"tasks": ["hellaswag"], "versions": {"hellaswag": 1.0}, "limit": 100, "seed": 0}
    (root / "receipts/lm_eval_base.json").write_text(json.dumps({"recipe": recipe}))
    (tmp_path / "TruthfulQA.csv").write_text(QUESTIONS)
    return root


def test_items_that_no_run_has_are_read_by_both(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    task, seen = "truthfulqa_mc2", []

    def answered(
        model: Path, task: str, data: Path, recipe: dict[str, Any], folder: Path
    ) -> dict[int, dict[str, Any]]:
        given = json.loads(calibrate_harness.definition(task, data))
        rows = read_jsonl(Path(given["dataset_path"]) / f"{given['validation_split']}.jsonl")
        seen.append([row["question"] for row in rows])
        assert recipe["versions"].keys() >= {"hellaswag", task} and recipe["limit"] == 5
        return {n: {"acc": 0.25 + n / 2, "loglikelihoods": [-1.0]} for n in range(len(rows))}

    monkeypatch.setattr(calibrate_harness, "ours", answered)
    monkeypatch.setattr(calibrate_harness, "plain", answered)
    calibrate_harness.main(
        [
            *("--results", str(results), "--tasks", task, "--limit", "5"),
            *("--items", f"{task}={results.parent / 'TruthfulQA.csv'}"),
            *("--published", f"{task}:acc=0.4"),
        ]
    )
    assert seen[0] == seen[1] and sorted(seen[0]) == ["what is blue?", "what is red?"]
    cells = [
        cell.strip() for cell in capsys.readouterr().out.splitlines()[-1].strip("|").split("|")
    ]
    assert cells[:3] == [task, "acc", "2"] and cells[5:8] == ["equal", "0.4", "0"]


def test_items_of_a_task_that_is_not_asked_for_are_one_line(results: Path) -> None:
    line = ["--results", str(results), "--items", "truthfulqa_mc2=x.csv"]
    with pytest.raises(UserError, match=r"^--items truthfulqa_mc2=x\.csv: expected hellaswag="):
        calibrate_harness.main(line)
