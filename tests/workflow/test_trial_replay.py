"""The published trial: its stored answers make its data again, byte for byte, without a model."""

import json
import os
from pathlib import Path

import pytest

import filter_rows
import generate_evol
import generate_lamini
import generate_orca
from bezoar.files import sha256_file
from bezoar.readers import read_json
from bezoar.workflow import recipes
from bezoar.workflow.configuration import resolved
from bezoar.workflow.layout import Layout
from exchange_answers import take_in

ROOT = Path(__file__).parents[2]
TASKS = ("aqua", "creak", "qasc", "strategyqa")
PUBLISHED = ROOT / "docs" / "trial"
MIRROR = Path(os.environ.get("BEZOAR_MIRROR") or ROOT / "data")
SEEDS = str(MIRROR / "alpaca" / "seed_tasks.jsonl")
FLAN = [str(MIRROR / "flan_cot" / f"{task}_train.tsv") for task in TASKS]
INPUTS = {
    "lamini": ["--seeds", SEEDS, "--topics", "prompts/topics.txt"],
    "evol": ["--seeds", SEEDS, "--tokenizer"],
    "orca": ["--flan", *FLAN, "--streamed", "--tokenizer"],
}
PROMPTS = {"lamini": "lamini_*.txt", "evol": "evol_*.txt", "orca": "orca_system_messages.yaml"}
PROGRAMS = {"lamini": generate_lamini, "evol": generate_evol, "orca": generate_orca}
COMMON = ["--mode", "replay", "--concurrency", "4", "--code", "x"]


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trial") / "store"
    held, new = take_in(folder, PUBLISHED / "answers.jsonl.xz")
    assert held == new > 300
    return folder


@pytest.fixture
def trial(monkeypatch: pytest.MonkeyPatch) -> Layout:
    monkeypatch.chdir(ROOT)
    return Layout(resolved(["config/trial.yaml", "config/trial-without-dolly.yaml"]))


def digest(name: str) -> str:
    return read_json(PUBLISHED / "digests.json")[name]


def outputs(folder: Path, scheme: str) -> list[str]:
    return [
        *("--rows", str(folder / f"{scheme}.jsonl")),
        *("--counts", str(folder / f"{scheme}.counts.json")),
        *("--receipt", str(folder / "receipt.json")),
    ]


def judge_again(rows: Path, scheme: str, stores: Path, trial: Layout, folder: Path) -> None:
    filter_rows.main(
        [
            *("--data", str(rows), "--prompts", "prompts/filter.txt"),
            *("--store", str(stores / f"filter-{scheme}.sqlite")),
            *("--recipe", json.dumps(recipes.rating(trial))),
            *COMMON,
            *outputs(folder, scheme),
        ]
    )
    assert sha256_file(folder / f"{scheme}.jsonl") == digest(f"filter/{scheme}.jsonl")
    assert read_json(folder / "receipt.json")["facts"]["sent"] == 0


def test_the_filter_judges_the_published_rows_as_it_did(
    stores: Path, trial: Layout, tmp_path: Path
) -> None:
    rows = PUBLISHED / "lamini.jsonl"
    assert sha256_file(rows) == digest("generate/lamini.jsonl")
    judge_again(rows, "lamini", stores, trial, tmp_path)


@pytest.mark.skipif(
    not all(Path(file).is_file() for file in (SEEDS, *FLAN)),
    reason="no upstream files: set MIRROR to their folder",
)
@pytest.mark.parametrize("scheme", PROGRAMS)
def test_all_rows_are_made_again_from_the_sources(
    scheme: str, stores: Path, trial: Layout, tmp_path: Path
) -> None:
    prompts = sorted(str(path) for path in Path("prompts").glob(PROMPTS[scheme]))
    made, judged = tmp_path / "made", tmp_path / "judged"
    made.mkdir()
    judged.mkdir()
    PROGRAMS[scheme].main(
        [
            *INPUTS[scheme],
            *("--prompts", *prompts),
            *("--store", str(stores / f"generate-{scheme}.sqlite")),
            *("--recipe", json.dumps(recipes.generation(trial, scheme))),
            *COMMON,
            *("--dropped", str(made / f"{scheme}.dropped.jsonl")),
            *outputs(made, scheme),
        ]
    )
    assert sha256_file(made / f"{scheme}.jsonl") == digest(f"generate/{scheme}.jsonl")
    judge_again(made / f"{scheme}.jsonl", scheme, stores, trial, judged)
