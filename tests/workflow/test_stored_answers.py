"""After a run: nothing is pending, an export replays it elsewhere without a network, and a row that
was never asked is named.
"""

import shutil
from pathlib import Path

import pytest
from smallest import CONFIG, MODELS, RESULTS, SCHEMES, snakemake

import exchange_answers
import plan_requests

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


def test_after_a_run_nothing_is_pending(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(finished)
    plan_requests.main(["--config", *CONFIG])
    lines = capsys.readouterr().out.splitlines()
    rows = {
        line[:28].strip(): line[28:].replace(",", "").split()
        for line in lines
        if line.startswith(("generate", "filter", "judge"))
    }
    assert {name for name in rows if not name.startswith("judge")} == {
        *("generate lamini", "generate orca", "generate evol", "generate evol: evaluator"),
        *("filter lamini", "filter orca", "filter evol"),
    }
    assert sum(name.startswith("judge") for name in rows) == 2
    assert {stage: row[0] for stage, row in rows.items() if row[0] != "0"} == {}, (
        "no request is pending, none is on an assumed input"
    )
    assert all(int(row[1]) > 0 for row in rows.values())


@pytest.fixture(scope="module")
def reviewer(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reviewer's copy: somebody else's generated rows, models' answers and bundle of stored
    answers, no simulator that could be asked.
    """
    folder = tmp_path_factory.mktemp("reviewer")
    exchange_answers.export(finished / RESULTS / "store", folder / "answers.xz")
    shutil.copytree(finished, folder / "project", symlinks=True)
    shutil.rmtree(folder / "project" / RESULTS / "store")
    exchange_answers.take_in(folder / "project" / RESULTS / "store", folder / "answers.xz")
    (folder / "project/scripts/serve_simulator.py").write_text(
        "raise SystemExit('a replay asks nobody')"
    )
    return folder / "project"


def replayed(reviewer: Path, finished: Path, targets: list[str]) -> None:
    """Delete the targets, have them made again, and compare."""
    for target in targets:
        (reviewer / target).unlink()
    done = snakemake(reviewer, *targets)
    assert done.returncode == 0, done.stderr[-3000:]
    for target in targets:
        assert (reviewer / target).read_bytes() == (finished / target).read_bytes()


def test_both_judges_are_replayed_from_the_bundle_to_the_same_scores(
    finished: Path, reviewer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BEZOAR_MODE", "replay")
    models = ("base", *MODELS)
    judged = [
        f"{RESULTS}/mtbench/{model}/{name}.jsonl"
        for model in models
        for name in ("judgments", "strict.judgments")
    ]
    replayed(reviewer, finished, [*judged, f"{RESULTS}/mtbench.json"])


def test_the_filter_is_replayed_from_an_export_and_a_missing_row_is_named(
    finished: Path, reviewer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BEZOAR_MODE", "replay")
    replayed(reviewer, finished, [f"{RESULTS}/filter/{scheme}.jsonl" for scheme in SCHEMES])
    (reviewer / RESULTS / "store/filter-orca.sqlite").unlink()
    (reviewer / RESULTS / "filter/orca.jsonl").unlink()
    done = snakemake(reviewer, f"{RESULTS}/filter/orca.jsonl")
    assert done.returncode != 0
    assert (
        "no stored answer for results/smallest/generate/orca.jsonl:1" in done.stdout + done.stderr
    )
