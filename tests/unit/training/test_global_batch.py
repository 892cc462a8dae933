"""The global batch is a constant: micro-batches, accumulation and processes do not change what is
learnt.
"""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from trained import ROOT, dpo_command, sft_command

import train_dpo
import train_sft
from bezoar.errors import UserError
from bezoar.files import read_jsonl
from bezoar.training.qlora import length_grouped_order

TOLERANCE = 0.02  # nats, of a loss that falls from 6: bfloat16 sums in another order


def losses(adapter: Path) -> list[float]:
    return [row["loss"] for row in read_jsonl(adapter / "metrics.jsonl") if "loss" in row]


def test_the_order_holds_every_row_once_an_epoch_and_like_lengths_together() -> None:
    """Sixteen batches of eight: two windows, of an epoch each."""
    draw = random.Random(0)
    lengths = [draw.randint(10, 200) for _ in range(64)]
    order = length_grouped_order(lengths, 8, 2, seed=0)
    assert sorted(order[:64]) == sorted(order[64:]) == list(range(64))
    batches = [[lengths[index] for index in order[start : start + 8]] for start in range(0, 128, 8)]
    assert all(held == sorted(held, reverse=True) for held in batches)
    assert all(max(held) - min(held) < 60 for held in batches), "rows of like length share a batch"
    first = [held[0] for held in batches[:8]]
    assert first != sorted(first) and first != sorted(first, reverse=True), (
        "batches come in no order of length"
    )
    assert (
        order[:64] != order[64:]
        and order != length_grouped_order(lengths, 8, 2, seed=1)
        and order == length_grouped_order(lengths, 8, 2, seed=0)
    )


def test_a_last_batch_that_is_not_full_stays_last() -> None:
    order = length_grouped_order(list(range(20)), 8, 1, seed=0)
    assert sorted(order) == list(range(20))
    for batch in (order[:8], order[8:16]):
        assert batch == list(range(batch[0], batch[0] - 8, -1)), (
            "full batches hold neighbours in length, the four left over come last"
        )


def test_half_an_epoch_is_half_the_rows() -> None:
    assert len(set(length_grouped_order([1] * 40, 4, 0.5, seed=0))) == 20


@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_one_batch_of_eight_and_eight_of_one_give_the_same_curve(
    stage: str, place: Path, reference: Path
) -> None:
    """Dropout is off: its draws follow the shape of a batch."""
    changes = {
        "batch_size": 8,
        "lora": {"r": 8, "alpha": 8, "dropout": 0.0, "targets": ["q_proj", "k_proj", "v_proj"]},
    }
    for micro in (8, 2, 1):
        if stage == "sft":
            train_sft.main(sft_command(place, f"sft-{micro}", micro_batch_size=micro, **changes))
        else:
            train_dpo.main(
                dpo_command(
                    place, reference.name, f"dpo-{micro}", micro_batch_size=micro, **changes
                )
            )
    whole = losses(place / f"{stage}-8")
    assert len(whole) == 8
    for micro in (2, 1):
        assert losses(place / f"{stage}-{micro}") == pytest.approx(whole, abs=TOLERANCE)


@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_one_process_and_two_give_the_same_curve(stage: str, place: Path, reference: Path) -> None:
    changes = {
        "batch_size": 8,
        "micro_batch_size": 2,
        "lora": {"r": 8, "alpha": 8, "dropout": 0.0, "targets": ["q_proj", "k_proj", "v_proj"]},
    }
    arguments = (
        sft_command(place, "{}", **changes)
        if stage == "sft"
        else dpo_command(place, reference.name, "{}", **changes)
    )
    environment = os.environ | {
        "PYTHONPATH": str(ROOT / "scripts"),
        "PYTHONWARNINGS": "ignore",
        "OMP_NUM_THREADS": "1",
    }
    launched = [
        "accelerate",
        "launch",
        "--config_file",
        str(ROOT / "profiles" / "accelerate" / "cpu.yaml"),
        "--num_processes",
    ]
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
    assert losses(place / f"{stage}-two") == pytest.approx(
        losses(place / f"{stage}-alone"), abs=TOLERANCE
    )
    assert (place / f"{stage}-two.json").is_file(), "the first process writes the receipt"


def test_a_batch_that_the_processes_cannot_share_is_refused(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(
        UserError, match="batch_size 8: expected a multiple of micro_batch_size x processes, 6"
    ):
        train_sft.main(sft_command(place, "uneven", batch_size=8, micro_batch_size=2))
