"""A GGUF file becomes a plain checkpoint: the same weights in the right places, its own tokenizer,
and nothing that is partly random.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import import_base
from bezoar.errors import UserError
from bezoar.training.gguf import plain
from bezoar.training.tokenizer import load_tokenizer
from bezoar.training.weights import load_causal_lm

UNIT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def gguf(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tiny_base, tmp_path_factory.mktemp("gguf"))


def written(base: Path, folder: Path, times: float = 1) -> Path:
    """A base as a GGUF file in a folder; its last layer's norm is multiplied."""
    path, whole = folder / "tiny.gguf", folder / "base"
    shutil.copytree(base, whole)
    weights = {key: value.float() for key, value in load_file(base / "model.safetensors").items()}
    weights["model.norm.weight"] *= times
    save_file(weights, whole / "model.safetensors")
    command = [sys.executable, str(UNIT / "to_gguf.py"), str(whole), str(path)]
    subprocess.run(command, check=True)
    shutil.rmtree(whole)
    return path


def imported(snapshot: Path, base: Path, **changes: Any) -> dict[str, Any]:
    recipe = {"dtype": "float32", "tokenizer": "tokenizer.json", "seed": 0} | changes
    line = ["--snapshot", str(snapshot), "--base", str(base), "--recipe", json.dumps(recipe)]
    receipt = base.with_suffix(".receipt.json")
    import_base.main([*line, "--code", "c", "--receipt", str(receipt)])
    found: dict[str, Any] = json.loads(receipt.read_text())
    return found


def test_a_gguf_file_becomes_the_checkpoint_that_it_was_made_from(
    gguf: Path, tiny_base: Path, tmp_path: Path
) -> None:
    receipt = imported(gguf, tmp_path / "base")
    assert receipt["facts"]["parameters"] > 0 and str(gguf) in json.dumps(receipt["inputs"])
    ours = load_causal_lm(tmp_path / "base", torch.float32)
    theirs = load_causal_lm(tiny_base, torch.float32)
    assert "quantization_config" not in json.loads((tmp_path / "base/config.json").read_text())
    for name, weight in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], weight, rtol=0, atol=0)
    ids = torch.tensor([[5, 9, 20, 11]])
    with torch.no_grad():
        torch.testing.assert_close(ours(ids).logits, theirs(ids).logits)
    mine, own = load_tokenizer(tmp_path / "base"), load_tokenizer(tiny_base)
    for text in ("red cat", "two  blue hens\nAnswer: the dog"):
        assert mine(text)["input_ids"] == own(text)["input_ids"]
    assert mine.eos_token_id == own.eos_token_id


def test_weights_that_were_read_are_saved_without_a_copy(tiny_base: Path, tmp_path: Path) -> None:
    read, ids = load_causal_lm(tiny_base, torch.float32), torch.tensor([[5, 9, 20, 11]])
    copied = type(read)(read.config)
    copied.load_state_dict(read.state_dict())
    copied.save_pretrained(tmp_path / "copied")
    model = plain(read)
    held = model.state_dict()
    for name, weight in read.state_dict().items():
        assert held[name].data_ptr() == weight.data_ptr(), name
    assert torch.equal(model(ids).logits, read(ids).logits)
    model.save_pretrained(tmp_path / "plain")
    for name in ("model.safetensors", "config.json", "generation_config.json"):
        assert (tmp_path / "plain" / name).read_bytes() == (tmp_path / "copied" / name).read_bytes()


def test_the_weights_have_the_precision_that_is_asked_for(gguf: Path, tmp_path: Path) -> None:
    imported(gguf, tmp_path / "half", dtype="float16")
    kinds = {tensor.dtype for tensor in load_file(tmp_path / "half/model.safetensors").values()}
    assert kinds == {torch.float16}


def test_a_weight_beyond_the_precision_names_the_file_and_what_to_take(
    tiny_base: Path, tmp_path: Path
) -> None:
    large = written(tiny_base, tmp_path, times=1e6)
    line = r"tiny\.gguf: model\.norm\.weight holds .*beyond the range of torch\.float16; choose"
    with pytest.raises(UserError, match=f"{line} bfloat16 or float32$"):
        imported(large, tmp_path / "half", dtype="float16")
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.gguf"]
    imported(large, tmp_path / "wide", dtype="bfloat16")


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (lambda raw: b"", "expected a GGUF file; fetch it again"),
        (lambda raw: b"<!DOCTYPE html>" + raw, "expected a GGUF file; fetch it again"),
        (lambda raw: raw[: len(raw) // 2], "no model that transformers can read"),
        (lambda raw: raw[:900], "no model that transformers can read"),
        (
            lambda raw: raw.replace(b"blk.1.ffn_up.weight", b"blk.1.ffn_ip.weight"),
            r"1 weights are missing, the first model\.layers\.1\.mlp\.up_proj\.weight",
        ),
    ],
)
def test_a_broken_file_is_one_line_and_leaves_nothing(
    gguf: Path, tmp_path: Path, damage: Any, line: str
) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(damage(gguf.read_bytes()))
    with pytest.raises(UserError, match=line):
        imported(broken, tmp_path / "base")
    assert [path.name for path in tmp_path.iterdir()] == ["broken.gguf"]


def test_the_tokenizer_that_counts_is_the_one_that_is_made(gguf: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"set base\.tokenizer: tokenizer\.json$"):
        imported(gguf, tmp_path / "base", tokenizer="tokenizer.model")


def test_a_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.gguf: no such file; expected weights in GGUF"):
        imported(tmp_path / "none.gguf", tmp_path / "base")
