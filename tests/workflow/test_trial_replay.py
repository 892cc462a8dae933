"""The published trial: its stored answers make its data again, byte for byte, without a model."""

import json
import os
import shutil
from pathlib import Path

import pytest

import filter_rows
import generate_lamini
from bezoar.files import sha256_file
from bezoar.readers import read_json
from bezoar.workflow import recipes
from bezoar.workflow.configuration import resolved
from bezoar.workflow.layout import Layout
from exchange_answers import take_in

ROOT = Path(__file__).parents[2]
PUBLISHED = ROOT / "docs" / "trial"
SEEDS = Path(os.environ.get("BEZOAR_MIRROR") or ROOT / "data") / "alpaca" / "seed_tasks.jsonl"
COMMON = ["--mode", "replay", "--concurrency", "4", "--code", "x"]


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trial") / "store"
    held, new = take_in(folder, PUBLISHED / "answers.jsonl.xz")
    assert held == new > 900
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


def test_the_filter_judges_the_published_rows_as_it_did(
    stores: Path, trial: Layout, tmp_path: Path
) -> None:
    rows = PUBLISHED / "lamini.jsonl"
    assert sha256_file(rows) == digest("generate/lamini.jsonl")
    filter_rows.main(
        [
            *("--data", str(rows), "--prompts", "prompts/filter.txt"),
            *("--store", str(stores / "filter-lamini.sqlite")),
            *("--recipe", json.dumps(recipes.rating(trial))),
            *COMMON,
            *outputs(tmp_path, "lamini"),
        ]
    )
    assert sha256_file(tmp_path / "lamini.jsonl") == digest("filter/lamini.jsonl")
    assert read_json(tmp_path / "receipt.json")["facts"]["sent"] == 0


@pytest.mark.skipif(not SEEDS.is_file(), reason="no upstream files: set MIRROR to their folder")
def test_lamini_is_made_again_from_the_seeds(stores: Path, trial: Layout, tmp_path: Path) -> None:
    seeds = shutil.copy(SEEDS, tmp_path / "seed_tasks.jsonl")
    generate_lamini.main(
        [
            *("--seeds", str(seeds), "--topics", "prompts/topics.txt"),
            *("--prompts", "prompts/lamini_example.txt", "prompts/lamini_topic.txt"),
            *("--store", str(stores / "generate-lamini.sqlite")),
            *("--recipe", json.dumps(recipes.generation(trial, "lamini"))),
            *COMMON,
            *outputs(tmp_path, "lamini"),
        ]
    )
    assert sha256_file(tmp_path / "lamini.jsonl") == digest("generate/lamini.jsonl")
