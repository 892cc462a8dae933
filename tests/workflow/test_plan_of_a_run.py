"""What `make plan` says before a run is what the run sends, request by request."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from smallest import CONFIG, RESULTS, SNAKEMAKE, snakemake
from test_layout import SECOND_RATER

import plan_requests
from bezoar.readers import read_jsonl
from bezoar.workflow.configuration import merge, resolved

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
EVALUATE = ["--model", f"{RESULTS}/merge/openbezoar-sft", "--name", "again"]
JUDGED = 2 * 16  # turns of two questions in each of eight categories


@pytest.fixture
def project(
    finished: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A copy of the finished rehearsal, to run more of it in."""
    folder = Path(shutil.copytree(finished, tmp_path_factory.mktemp("plan") / "project"))
    monkeypatch.chdir(folder)
    return folder


def planned(tmp_path: Path, *more: Path, evaluation: bool = False) -> dict[str, tuple[int, int]]:
    """Stage -> (pending, stored) requests of the smallest rehearsal under further settings."""
    config = resolved([*CONFIG, *map(str, more)])
    if evaluation:
        _, model, _, name = EVALUATE
        config = merge(config, plan_requests.extra_models.with_model(config, model, "", "", name))
    scratch = tmp_path / f"world {len(list(tmp_path.iterdir()))}"
    plan = plan_requests.Plan(config, scratch, evaluation)
    plan.whole()
    return {stage: (load.requests, load.stored) for stage, load in plan.loads.items()}


def requests() -> dict[str, int]:
    """Store -> requests that were ever sent for it, as the stores hold them."""
    counted = {}
    for path in sorted(Path(RESULTS, "store").glob("*.sqlite")):
        with closing(sqlite3.connect(path)) as store:
            counted[path.stem] = store.execute("select count(*) from answers").fetchone()[0]
    return counted


@contextmanager
def sent() -> Iterator[dict[str, int]]:
    """What is sent within, by store; each answer was asked for once, says the receipt's meter."""
    before, new = requests(), {}
    yield new
    new |= {
        name: count - before.get(name, 0)
        for name, count in requests().items()
        if count != before.get(name, 0)
    }


def metered(stage: str) -> int:
    receipt = json.loads(Path(RESULTS, "receipts", f"{stage}.json").read_text())
    return int(receipt["facts"]["sent"])


def overlay(folder: Path, name: str, settings: dict[str, Any]) -> Path:
    path = folder / name
    path.write_text(yaml.safe_dump(settings))
    return path


def test_from_nothing_with_a_second_rater_every_request_is_foreseen(
    project: Path, tmp_path: Path
) -> None:
    shutil.rmtree(RESULTS)
    mine = overlay(project, "second-rater.yaml", SECOND_RATER)
    plan = planned(tmp_path, mine)
    targets = [f"{RESULTS}/filter/{scheme}.jsonl" for scheme in ("lamini", "orca", "evol")]
    with sent() as new:
        done = snakemake(project, *targets, more=[mine.name])
    assert done.returncode == 0, done.stderr[-3000:]
    labels = {"evol-evaluator": "evol: evaluator"}
    for store, count in new.items():
        kind, _, name = store.partition("-")
        label = labels.get(name, name.replace("-second", ": second"))
        assert plan[f"{kind} {label}"] == (count, 0), store
        if not store.endswith(("-evaluator", "-second")):
            assert metered(f"{kind}_{name}") == count
    assert len(new) == 10
    assert plan["judge"] == (4 * JUDGED, 0) and plan["judge: strict"] == (4 * JUDGED, 0)
    after = planned(tmp_path, mine)
    assert all(
        after[stage] == (0, plan[stage][0]) for stage in plan if not stage.startswith("judge")
    )


def test_an_evaluation_and_then_further_judges_of_it_are_foreseen(
    project: Path, tmp_path: Path
) -> None:
    plan = planned(tmp_path, evaluation=True)
    assert plan == {"judge": (JUDGED, 0)}
    command = [sys.executable, "scripts/commands/evaluate_model.py", *EVALUATE]
    environment = os.environ | {
        "PYTHONPATH": "scripts",
        "PATH": f"{SNAKEMAKE.parent}:{os.environ['PATH']}",
    }
    with sent() as new:
        done = subprocess.run(
            [*command, "--config", *CONFIG, "--cores", "2"],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr[-3000:]
    assert new == {"judge-again": JUDGED} and metered("mtbench_judgments_again") == JUDGED
    assert planned(tmp_path, evaluation=True) == {"judge": (0, JUDGED)}

    # The same model in the tables of the run, and a third column with a corrected reference answer.
    references = read_jsonl(Path(RESULTS, "world/references.jsonl"))
    number, turns = references[0]["question_id"], references[0]["choices"][0]["turns"]
    override = {"question_id": number, "turn": 2, "wrong": turns[1], "right": f"{turns[1]} Right."}
    Path("config/reference_overrides.yaml").write_text(yaml.safe_dump({"overrides": [override]}))
    judge = resolved(CONFIG)["mtbench"]["judgments"]["judge"]
    corrected = {"mtbench": {"rejudge": {"corrected": {"references": "corrected", "judge": judge}}}}
    more = [Path(RESULTS, "evaluate/models.yaml"), overlay(project, "corrected.yaml", corrected)]
    plan = planned(tmp_path, *more)
    assert plan["judge"] == (0, 5 * JUDGED)
    assert plan["judge: strict"] == (JUDGED, 4 * JUDGED)
    assert all(pending == 0 for stage, (pending, _) in plan.items() if "judge" not in stage)
    targets = [f"{RESULTS}/bridge/{column}.json" for column in ("strict", "corrected")]
    with sent() as new:
        done = snakemake(project, *targets, more=[str(path) for path in more])
    assert done.returncode == 0, done.stderr[-3000:]
    assert new.pop("rejudge-strict.again") == plan["judge: strict"][0]
    assert len(new) == 5 and sum(new.values()) == plan["judge: corrected"][0] > 0
    assert all(
        metered(f"mtbench_rejudge_corrected_{store.split('.', 1)[1]}") == count
        for store, count in new.items()
    )
