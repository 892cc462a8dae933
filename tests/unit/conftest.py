"""A tiny pretrained base, shared by the tests that need a model."""

import json
from pathlib import Path

import pytest
from tiny import PRETRAIN, WORDS


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base's directory; corpus.jsonl lies beside it."""
    import pretrain_base
    from bezoar.files import write_jsonl

    folder = tmp_path_factory.mktemp("training")
    texts = [" ".join(WORDS[(i * k) % len(WORDS)] for k in range(1, 30)) for i in range(1, 200)]
    write_jsonl(folder / "corpus.jsonl", [{"text": text} for text in texts])
    pretrain_base.main([
        "--corpus", str(folder / "corpus.jsonl"), "--base", str(folder / "base"), "--checkpoint", str(folder / "ckpt"),
        "--metrics", str(folder / "base.metrics.jsonl"), "--recipe", json.dumps(PRETRAIN), "--code", "x", "--receipt", str(folder / "base.json"),
    ])  # fmt: skip
    return folder / "base"
