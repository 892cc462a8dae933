"""Recipes and command lines of the smallest trainings."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bezoar.provenance.receipt import Receipt

ROOT = Path(__file__).parent.parent.parent
TEMPLATE = ROOT / "prompts" / "chat_template.json"
SFT = {
    "lora": {"r": 8, "alpha": 8, "dropout": 0.05, "targets": ["q_proj", "k_proj", "v_proj"]},
    "epochs": 2,
    "learning_rate": 0.003,
    "batch_size": 4,
    "micro_batch_size": 4,
    "max_length": 96,
    "schedule": "linear",
    "warmup_steps": 2,
    "optimizer": "paged_adamw_8bit",
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "validation_share": 0.2,
    "validation_seed": 42,
    "eval_steps": 2,
    "load_best_model_at_end": True,
    "completion_only": False,
    "gradient_checkpointing": False,
    "cache_dequantized": True,
    "threads": 1,
    "seed": 0,
}
DPO = {
    **{key: value for key, value in SFT.items() if key != "completion_only"},
    "beta": 0.1,
    "max_prompt_length": 64,
    "min_accuracy": 0.0,
    "max_chosen_drop": 1000,
    "load_best_model_at_end": False,
}
REFERENCE = {
    "max_prompt_length": 64,
    "max_length": 96,
    "batch_size": 4,
    "cache_dequantized": True,
    "threads": 1,
    "seed": 0,
}


def sft_command(place: Path, out: str, **changes: object) -> list[str]:
    """The arguments of train_sft.py for the adapter `out`."""
    return [
        "--stage",
        "sft",
        "--data",
        str(place / "rows.jsonl"),
        "--base",
        str(place / "base"),
        "--template",
        str(TEMPLATE),
        "--recipe",
        json.dumps(SFT | changes),
        "--code",
        "x",
        "--adapter",
        str(place / out),
        "--receipt",
        str(place / f"{out}.json"),
    ]


def reference_command(place: Path, out: str, **changes: object) -> list[str]:
    """The arguments of score_reference.py for the log-probabilities `out`."""
    return [
        "--pairs",
        str(place / "pairs.jsonl"),
        "--base",
        str(place / "base"),
        "--template",
        str(TEMPLATE),
        "--recipe",
        json.dumps(REFERENCE | changes),
        "--code",
        "x",
        "--reference",
        str(place / out),
        "--receipt",
        str(place / f"{out}.json"),
    ]


def dpo_command(place: Path, reference: str, out: str, **changes: object) -> list[str]:
    """The arguments of train_dpo.py for the adapter `out`."""
    return [
        "--pairs",
        str(place / "pairs.jsonl"),
        "--reference",
        str(place / reference),
        "--base",
        str(place / "base"),
        "--template",
        str(TEMPLATE),
        "--recipe",
        json.dumps(DPO | changes),
        "--code",
        "x",
        "--adapter",
        str(place / out),
        "--receipt",
        str(place / f"{out}.json"),
    ]


@contextmanager
def killed_before_the_receipt() -> Iterator[None]:
    """Let the stage within end like a killed one, once all is written but its receipt."""

    def dies(_: Receipt, kind: type[BaseException] | None, *__: object) -> None:
        if kind is None:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Receipt, "__exit__", dies)
        yield
