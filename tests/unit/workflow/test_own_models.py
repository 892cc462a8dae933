"""README's lines under "Your own models": any base and any teacher in place of the trial's."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import yaml
from loopback_hub import serving
from peer import Peer

import doctor
import fetch_source
import generate_orca
import import_base
from bezoar.readers import read_json, read_jsonl
from bezoar.workflow import recipes, served
from bezoar.workflow.configuration import resolved
from bezoar.workflow.layout import Layout, models_asked

ROOT = Path(__file__).parents[3]
BLOCK = re.compile(r"### Your own models.*?```yaml\n(.*?)```", re.DOTALL)
TEXT = BLOCK.findall((ROOT / "README.md").read_text(encoding="utf-8"))[0]


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.fixture
def peer() -> Iterator[Peer]:
    started = Peer()
    yield started
    started.stop()


def own(tmp_path: Path, **base: str) -> Layout:
    """README's lines over the trial, with another base."""
    mine: dict[str, Any] = yaml.safe_load(TEXT)
    assert len(TEXT.splitlines()) == 8 and mine["sources"].keys() == {"base_model"}
    mine["sources"] = base
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(mine), encoding="utf-8")
    layout = Layout(resolved(["config/trial.yaml", str(path)]))
    assert layout.results == "results/mine", "beside the trial's"
    return layout


def imported(snapshot: str, tmp_path: Path, tokenizer: str) -> int:
    """Import a base; return its parameters."""
    import_base.main(
        [
            *("--snapshot", snapshot, "--base", str(tmp_path / "made"), "--code", "x"),
            *("--recipe", json.dumps({"dtype": "bfloat16", "tokenizer": tokenizer, "seed": 0})),
            *("--receipt", str(tmp_path / "base.receipt.json")),
        ]
    )
    return int(read_json(tmp_path / "base.receipt.json")["facts"]["parameters"])


def test_a_base_can_be_a_directory(tmp_path: Path, tiny_base: Path) -> None:
    layout = own(tmp_path, base_model=str(tiny_base))
    assert layout.source("base_model") == str(tiny_base)
    assert f"{tiny_base}/model.safetensors" in layout.base_files()
    card = recipes.model_card(layout, "openbezoar-sft", ["config/trial.yaml"])
    assert card["base_model"] == "results/mine/base"
    assert imported(str(tiny_base), tmp_path, "tokenizer.model") > 0


def test_a_base_can_be_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.gguf"
    file.touch()
    layout = own(tmp_path, base_model=str(file))
    assert layout.base_files() == [str(file)] and layout.tokenizer == "tokenizer.json"


def test_a_base_can_be_a_repository_of_the_hub(
    tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "BEZOAR_MIRROR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "0")
    with serving() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        constants, form = huggingface_hub.constants, "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.address + form)
        files = {path.name: path.read_bytes() for path in tiny_base.iterdir()}
        commit = hub.add("model", "Some-One/tiny.1", files).head
        layout = own(tmp_path, base_model=f"Some-One/tiny.1@{commit}")
        name = layout.config["sources"]["base_model"]
        assert layout.base_files() == [f"data/hub/some_one_tiny_1_{commit}/manifest.json"]
        mine = resolved(["config/trial.yaml", str(tmp_path / "mine.yaml")])
        assert "Some-One/tiny.1" in [one.get("hub") for one in doctor.wanted(mine)]
        manifest = tmp_path / "hub" / "manifest.json"
        entry = ["--entry", json.dumps(layout.registry[name]), "--output", str(manifest)]
        fetch_source.main([*entry, "--lock", str(tmp_path / "sources.lock")])
    card = recipes.model_card(layout, "openbezoar-sft", ["config/trial.yaml"])
    assert card["base_model"] == "Some-One/tiny.1"
    assert imported(str(manifest), tmp_path, "tokenizer.model") > 0


@pytest.mark.parametrize(
    ("preferences", "named"),
    [
        (["hh_rlhf_harmless_base_test"], ["hh-rlhf"]),
        (["mine/pairs.jsonl", "hh_rlhf_helpful_base_test"], ["hh-rlhf", "mine/pairs.jsonl"]),
        (["mine/pairs.jsonl"], ["mine/pairs.jsonl"]),
    ],
)
def test_a_card_names_the_preferences_that_a_model_was_tuned_on(
    preferences: list[str], named: list[str]
) -> None:
    config = resolved(["config/trial.yaml"])
    config["sources"]["preferences"] = preferences
    card = recipes.model_card(Layout(config), "openbezoar-hh-rlhf-dpo", ["config/trial.yaml"])
    assert card["datasets"] == named


def test_no_model_keeps_what_only_the_trials_server_knows(tmp_path: Path) -> None:
    trial = resolved(["config/trial.yaml"])
    served_there = {settings["model"] for _, settings in models_asked(trial)}
    asked = dict(models_asked(own(tmp_path, base_model="models/mine").config))
    assert asked.keys() == {"teacher", "evaluator", "rater", "judge"}
    assert {settings["model"] for settings in asked.values()} & served_there == set()
    assert [role for role, settings in asked.items() if settings.get("extra")] == []
    cut = [role for role, settings in asked.items() if settings["max_tokens"] < 256]
    assert cut == ["evaluator"], "which answers with one word"


def test_a_teacher_can_be_any_server_of_the_protocol(
    tmp_path: Path, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = own(tmp_path, base_model="models/mine")
    teacher = layout.config["teacher"]
    (settings,) = re.findall(r"# (TEACHER_BASE_URL=\S+ TEACHER_API_KEY=\S+)", TEXT)
    for setting in settings.split():
        monkeypatch.setenv(*setting.split("=", 1))
    assert served.before(layout, "generate-orca", teacher) == "", "nothing is started"
    assert served.files(layout, "generate-orca", teacher) == []
    monkeypatch.setenv(teacher["base_url_env"], f"{peer.url}/v1")
    peer.script = lambda prompt, turn: {"text": "Because a cat is no dog."}
    (tmp_path / "flan.tsv").write_text("Is a cat a dog?\tno\tthey differ\n", encoding="utf-8")
    recipe = recipes.generation(layout, "orca") | {"quotas": {"cot": 1}, "rows_per_task": 1}
    generate_orca.main(
        [
            *("--flan", str(tmp_path / "flan.tsv"), "--concurrency", "1", "--code", "x"),
            *("--prompts", "prompts/orca_system_messages.yaml", "--recipe", json.dumps(recipe)),
            *("--store", str(tmp_path / "s.sqlite"), "--rows", str(tmp_path / "rows.jsonl")),
            *("--counts", str(tmp_path / "c.json"), "--receipt", str(tmp_path / "r.json")),
        ]
    )
    assert [row["explained_targets"] for row in read_jsonl(tmp_path / "rows.jsonl")] == [
        "Because a cat is no dog."
    ]
    assert {(asked["model"], asked["path"]) for asked in peer.seen} == {
        (yaml.safe_load(TEXT)["teacher"]["model"], "/v1/chat/completions")
    }


@pytest.mark.parametrize("base", ["models/mine", f"Some-One/tiny.1@{'0' * 40}"])
def test_the_values_published_of_a_base_calibrate_it_and_no_other(
    tmp_path: Path, base: str
) -> None:
    trial = Layout(resolved(["config/trial.yaml"]))
    of_trial = {"hellaswag": {"acc_norm": 0.4299}}
    assert recipes.harness_table(trial, [])["published_base"] == of_trial
    values = {"boolq": {"acc": 0.7}}
    for known in ({}, {base: values}):
        mine = {"sources": {"base_model": base}, "lm_eval_table": {"published_base": known}}
        (tmp_path / "mine.yaml").write_text(yaml.safe_dump(mine), encoding="utf-8")
        layout = Layout(resolved(["config/trial.yaml", str(tmp_path / "mine.yaml")]))
        assert recipes.harness_table(layout, [])["published_base"] == known.get(base)
