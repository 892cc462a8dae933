"""The global batch is a constant: micro-batches, accumulation and processes do not change what is learnt."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from trained import ROOT, dpo_command, sft_command

import train_dpo
import train_sft
from bezoar.errors import UserError
from bezoar.files import read_jsonl
from bezoar.training import in_order

TOLERANCE = 0.02  # nats, of a loss that falls from 6: bfloat16 sums in another order


def losses(adapter: Path) -> list[float]:
    return [row["loss"] for row in read_jsonl(adapter / "metrics.jsonl") if "loss" in row]


def test_the_order_holds_every_row_once_an_epoch_and_like_lengths_together() -> None:
    lengths = [(7 * index) % 31 for index in range(40)]
    order = in_order(lengths, 8, 3, seed=0)
    assert len(order) == 120
    for start in range(0, 120, 40):
        assert sorted(order[start : start + 40]) == list(range(40))
    for start in range(0, 120, 8):
        held = [lengths[index] for index in order[start : start + 8]]
        assert held == sorted(held, reverse=True)
    assert order[:40] != order[40:80] and order != in_order(lengths, 8, 3, seed=1) and order == in_order(lengths, 8, 3, seed=0)


def test_half_an_epoch_is_half_the_rows() -> None:
    assert len(set(in_order([1] * 40, 4, 0.5, seed=0))) == 20


@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_one_batch_of_eight_and_eight_of_one_give_the_same_curve(stage: str, place: Path, reference: Path) -> None:
    """Dropout is off: its draws follow the shape of a batch."""
    changes = {"batch_size": 8, "lora": {"r": 8, "alpha": 8, "dropout": 0.0, "targets": ["q_proj", "k_proj", "v_proj"]}}
    for micro in (8, 2, 1):
        if stage == "sft":
            train_sft.main(sft_command(place, f"sft-{micro}", micro_batch_size=micro, **changes))
        else:
            train_dpo.main(dpo_command(place, reference.name, f"dpo-{micro}", micro_batch_size=micro, **changes))
    whole = losses(place / f"{stage}-8")
    assert len(whole) == 8
    for micro in (2, 1):
        assert losses(place / f"{stage}-{micro}") == pytest.approx(whole, abs=TOLERANCE)


@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_one_process_and_two_give_the_same_curve(stage: str, place: Path, reference: Path) -> None:
    changes = {"batch_size": 8, "micro_batch_size": 2, "lora": {"r": 8, "alpha": 8, "dropout": 0.0, "targets": ["q_proj", "k_proj", "v_proj"]}}
    arguments = sft_command(place, "{}", **changes) if stage == "sft" else dpo_command(place, reference.name, "{}", **changes)
    environment = os.environ | {"PYTHONPATH": str(ROOT / "scripts"), "PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1"}
    launched = ["accelerate", "launch", "--config_file", str(ROOT / "profiles" / "accelerate" / "cpu.yaml"), "--num_processes"]
    for start, out in (
        ([sys.executable], f"{stage}-alone"),
        ([str(Path(sys.executable).with_name(launched[0])), *launched[1:], "2"], f"{stage}-two"),
    ):
        command = [
            *start,
            str(ROOT / "scripts" / f"train_{stage}.py"),
            *(text.replace("{}", out) if text != json.dumps({}) else text for text in arguments),
        ]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
    assert losses(place / f"{stage}-two") == pytest.approx(losses(place / f"{stage}-alone"), abs=TOLERANCE)
    assert (place / f"{stage}-two.json").is_file(), "the first process writes the receipt"


def test_a_batch_that_the_processes_cannot_share_is_refused(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(UserError, match="batch_size 8: expected a multiple of micro_batch_size x processes, 6"):
        train_sft.main(sft_command(place, "uneven", batch_size=8, micro_batch_size=2))
