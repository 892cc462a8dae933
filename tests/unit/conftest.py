"""A tiny pretrained base, shared by the tests that need a model."""

import json
from pathlib import Path
from typing import Any

import pytest
from tiny import PRETRAIN, WORDS


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print how many damaged inputs were tried by `make fuzz`, and how they ended."""
    import mutations

    if mutations.COUNTS and mutations.EXAMPLES > 50:
        terminalreporter.section("damaged inputs")
        for line in mutations.summary():
            terminalreporter.write_line(line)


@pytest.fixture(autouse=True, scope="session")
def own_run_lock(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Let tests of commands be no run of this directory, where one may be at work."""
    from bezoar.provenance import snakemake_patch

    snakemake_patch.RUN_LOCK = tmp_path_factory.mktemp("run") / "lock"


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base's directory; corpus.jsonl lies beside it."""
    import pretrain_base
    from bezoar.files import write_jsonl

    folder = tmp_path_factory.mktemp("training")
    texts = [" ".join(WORDS[(i * k) % len(WORDS)] for k in range(1, 30)) for i in range(1, 200)]
    write_jsonl(folder / "corpus.jsonl", [{"text": text} for text in texts])
    pretrain_base.main(
        [
            "--corpus",
            str(folder / "corpus.jsonl"),
            "--base",
            str(folder / "base"),
            "--checkpoint",
            str(folder / "ckpt"),
            "--metrics",
            str(folder / "base.metrics.jsonl"),
            "--recipe",
            json.dumps(PRETRAIN),
            "--code",
            "x",
            "--receipt",
            str(folder / "base.json"),
        ]
    )
    return folder / "base"


@pytest.fixture(scope="session")
def place(tiny_base: Path) -> Path:
    """The directory of the tiny pretrained base, with forty rows and forty pairs."""
    from bezoar.files import write_jsonl

    folder = tiny_base.parent
    write_jsonl(
        folder / "rows.jsonl",
        [
            {
                "instruction": f"the {WORDS[i % 9]}" + " red" * (i % 7),
                "response": f"{WORDS[(i + 1) % 9]} is red",
            }
            for i in range(40)
        ],
    )
    write_jsonl(
        folder / "pairs.jsonl",
        [
            {
                "prompt": f"the {WORDS[i % 9]}" + " red" * (i % 7),
                "chosen": "a cat is red",
                "rejected": "a dog",
            }
            for i in range(40)
        ],
    )
    return folder


@pytest.fixture(scope="session")
def adapter(place: Path) -> Path:
    """An adapter trained without disturbance."""
    from trained import sft_command

    import train_sft

    train_sft.main(sft_command(place, "sft"))
    return place / "sft"


@pytest.fixture(scope="session")
def reference(place: Path) -> Path:
    """What the base says of the pairs."""
    from trained import reference_command

    import score_reference

    score_reference.main(reference_command(place, "reference.jsonl"))
    return place / "reference.jsonl"


@pytest.fixture(scope="session")
def dpo(place: Path, reference: Path) -> Path:
    """A DPO adapter trained without disturbance."""
    from trained import dpo_command

    import train_dpo

    train_dpo.main(dpo_command(place, reference.name, "dpo"))
    return place / "dpo"
