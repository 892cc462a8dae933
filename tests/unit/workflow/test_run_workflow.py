"""Promises of the program that starts a run: no run takes the place of one of another scale, or of
another entry.
"""

import json
import re
import subprocess
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType

import pytest

import doctor
import evaluate_model
import run_workflow
from bezoar.errors import UserError
from bezoar.workflow import pending, start
from bezoar.workflow.configuration import resolved

ROOT = Path(__file__).parents[3]
SETTING = r'CONFIG=(?:"([^"]+)"|(config/\S+?\.yaml))'


@pytest.mark.parametrize("stage", ["data_card_orca", "model_card_openbezoar-sft", "claims"])
def test_a_run_of_another_scale_in_the_same_place_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    monkeypatch.chdir(ROOT)
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
    start.refuse_other_run(results, "paper", "released")
    start.refuse_other_run(tmp_path / "new", "rehearsal", "released")


def test_a_run_from_released_rows_and_one_that_generates_its_own_do_not_replace_each_other(
    tmp_path: Path,
) -> None:
    receipt = tmp_path / "receipts/filter_orca.json"
    receipt.parent.mkdir()
    for program, held, other in (
        ("import_released.py", "released", "generate"),
        ("filter_rows.py", "generate", "released"),
    ):
        receipt.write_text(json.dumps({"recipe": {}, "command": [program]}))
        with pytest.raises(UserError, match=f"holds a run with `entry: {held}`, and this one is"):
            start.refuse_other_run(tmp_path, "paper", other)
        start.refuse_other_run(tmp_path, "paper", held)
        start.refuse_other_run(tmp_path, "paper")


def test_a_report_reads_a_finished_run_and_starts_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    mine = tmp_path / "mine.yaml"
    places = ", ".join(f"{kind}: {tmp_path / kind}" for kind in ("results", "logs", "benchmarks"))
    mine.write_text(f"pathvars: {{{places}}}")
    files = ["config/rehearsal.yaml", str(mine)]
    with pytest.raises(UserError, match=r"results: \d\d stages that report reads are missing"):
        run_workflow.main(["--config", *files, "--finished", "--target", "report"])
    assert not (tmp_path / "results").exists()
    for jobs, refused in (({"report": 1, "data_card": 3}, False), ({"report": 1, "dpo": 1}, True)):
        monkeypatch.setattr(pending, "pending", lambda *_, jobs=jobs: pending.Pending([], jobs))
        with pytest.raises(UserError, match=r"1 stage .* is") if refused else nullcontext():
            pending.require_finished("results", files, ["report"])
    rules = "".join(file.read_text(encoding="utf-8") for file in Path("rules").glob("*.smk"))
    assert set(re.findall(r"^ *rule (\w+):", rules, re.MULTILINE)) > pending.TABLES


@pytest.mark.parametrize("jobs", ["0", "-1", "many"])
@pytest.mark.parametrize("command", [run_workflow, doctor, evaluate_model])
def test_a_run_without_a_core_is_refused(
    command: ModuleType, jobs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(UserError, match=rf"JOBS={jobs}: expected a whole number, at least 1"):
        command.main(["--config", "config/rehearsal.yaml", f"--cores={jobs}"])


@pytest.mark.parametrize("text", ["{", "[]", '{"recipe": [], "command": {}}', '{"command": []}'])
def test_a_damaged_receipt_ends_no_run(tmp_path: Path, text: str) -> None:
    (tmp_path / "receipts").mkdir()
    for stage in ("data_card_evol", "filter_evol"):
        (tmp_path / f"receipts/{stage}.json").write_text(text)
    start.refuse_other_run(tmp_path, "paper", "released")
    whole = {"recipe": {"scale": "trial"}}
    (tmp_path / "receipts/data_card_orca.json").write_text(json.dumps(whole))
    with pytest.raises(UserError, match="holds a run of the trial scale"):
        start.refuse_other_run(tmp_path, "paper", "released")


def test_no_two_documented_configurations_share_a_root_at_different_scales(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    pages = [*map(Path, ("README.md", "Makefile")), *Path("docs").glob("*.md")]
    pages += Path("config").glob("*.yaml")
    text = "\n".join(path.read_text(encoding="utf-8") for path in pages)
    named = {match[1] or match[2] for match in re.finditer(SETTING, text)}
    scales: dict[str, set[str]] = {}
    for files in (names.split() for names in sorted(named)):
        shipped = [name for name in files if Path(name).is_file()]
        if shipped:
            config = resolved(shipped)
            scales.setdefault(config["pathvars"]["results"], set()).add(config["scale"])
    assert len(scales) > 5
    assert {root: found for root, found in scales.items() if len(found) > 1} == {}


def test_a_small_run_is_never_the_papers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(UserError, match=r"of the paper's scale, which `make reproduce` runs") as no:
        run_workflow.main(["--small", "--config", "config/paper.yaml"])
    assert "\n" not in str(no.value)
    for target in ("rehearsal", "dress-rehearsal", "trial"):
        shown = subprocess.run(["make", "-n", target], capture_output=True, text=True, check=True)
        assert "--small --config config" in shown.stdout
