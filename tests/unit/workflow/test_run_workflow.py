"""Promises of the program that starts a run: no run takes the place of one of another scale."""

import json
from pathlib import Path

import pytest

import run_workflow
from bezoar.errors import UserError
from bezoar.workflow.configuration import resolved


@pytest.mark.parametrize("stage", ["data_card_orca", "model_card_openbezoar-sft", "claims"])
def test_a_run_of_another_scale_in_the_same_place_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    monkeypatch.chdir(Path(__file__).parents[3])
    results = tmp_path / "released"
    receipt = results / f"receipts/{stage}.json"
    receipt.parent.mkdir(parents=True)
    receipt.write_text(json.dumps({"recipe": {"scale": "paper"}}))
    (tmp_path / "mine.yaml").write_text(f"pathvars: {{results: {results}}}")
    files = ["config/rehearsal.yaml", "config/released.yaml", str(tmp_path / "mine.yaml")]
    assert resolved(files)["scale"] == "rehearsal"
    with pytest.raises(UserError, match="holds a run of the paper scale") as raised:
        run_workflow.main(["--config", *files])
    assert "\n" not in str(raised.value) and f"{results}-rehearsal" in str(raised.value)
    run_workflow.refuse_other_scale(results, "paper")
    run_workflow.refuse_other_scale(tmp_path / "new", "rehearsal")
