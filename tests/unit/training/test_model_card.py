"""A model card: what it is made of, and that a lineage with a gap is refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from test_training import merge_command

import merge_adapter
import write_model_card
from bezoar.errors import UserError
from bezoar.files import sha256_file
from bezoar.readers import read_json

RECIPE = {
    "model": "tiny",
    "scale": "rehearsal",
    "title": "A tiny one.",
    "licence": "apache-2.0",
    "base_model": "base",
    "datasets": ["lamini"],
    "tags": {"sft": {"learning_rate": "ours", "lora": "paper"}},
    "seed": 0,
}


def command(place: Path, *adapters: str) -> list[str]:
    return [
        "--model",
        str(place / "carded"),
        "--receipts",
        *(str(place / f"{name}.json") for name in adapters),
        "--merge-receipt",
        str(place / "carded.json"),
        "--adapters",
        *(str(place / name) for name in adapters),
        "--card",
        str(place / "card.md"),
        "--recipe",
        json.dumps(RECIPE),
        "--code",
        "x",
        "--receipt",
        str(place / "card.json"),
    ]


@pytest.fixture(scope="module")
def merged(place: Path, adapter: Path) -> Path:
    merge_adapter.main(merge_command(place, "base", "sft", "carded"))
    return place / "carded"


def test_a_card_holds_the_lineage_the_settings_with_their_tags_and_the_losses(
    place: Path, merged: Path
) -> None:
    write_model_card.main(command(place, "sft"))
    _, front, body = (place / "card.md").read_text().split("---\n", 2)
    assert yaml.safe_load(front)["base_model"] == "base" and yaml.safe_load(front)["datasets"] == [
        "lamini"
    ]
    for path in (
        "base/model.safetensors",
        "sft/adapter_model.safetensors",
        "carded/model.safetensors",
    ):
        assert sha256_file(place / path) in body
    assert "| sft | learning_rate | 0.003 | ours |" in body and "| sft | training | 32 |" in body
    trained = "" if torch.cuda.is_available() else '"adamw_torch", for '
    assert f'| sft | optimizer | {trained}"paged_adamw_8bit" |' in body
    assert (
        "| kl nats per token |"
        f" {read_json(merged / 'merge.json')['difference']['kl_nats_per_token']} |" in body
    )
    best = min(
        row["eval_loss"]
        for row in map(json.loads, (place / "sft" / "metrics.jsonl").read_text().splitlines())
        if "eval_loss" in row
    )
    assert f"| {best:.4f} |" in body


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"base": "0" * 64}, "trained over 000000000000…, but merged onto"),
        ({"parent_adapter": "1" * 64}, "does not continue the adapter before it"),
    ],
)
def test_a_lineage_with_a_gap_is_refused(
    place: Path, merged: Path, change: dict[str, str], message: str
) -> None:
    shutil.copytree(place / "sft", place / "gap", dirs_exist_ok=True)
    shutil.copyfile(place / "sft.json", place / "gap.json")
    (place / "gap" / "lineage.json").write_text(
        json.dumps(read_json(place / "sft" / "lineage.json") | change)
    )
    (place / "card.md").unlink(missing_ok=True)
    with pytest.raises(UserError, match=message):
        write_model_card.main(command(place, "gap"))
    assert not (place / "card.md").exists()


def test_the_rows_of_a_card_are_those_of_each_training(place: Path, merged: Path) -> None:
    shutil.copytree(place / "sft", place / "orca")
    receipt = read_json(place / "sft.json")
    receipt["facts"] |= {"training": 31}
    (place / "orca.json").write_text(json.dumps(receipt))
    before = {"parent_adapter": sha256_file(place / "sft/adapter_model.safetensors")}
    lineage = read_json(place / "sft/lineage.json") | before
    (place / "orca/lineage.json").write_text(json.dumps(lineage))
    write_model_card.main(command(place, "sft", "orca"))
    body = (place / "card.md").read_text()
    assert "| sft | training | 32 |" in body and "| orca | training | 31 |" in body
