"""A GGUF file in another type: the numbers that its quantised weights stand for, up to the type's
rounding, and everything else as it was.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bezoar.errors import UserError
from bezoar.llm.requantization import requantize

gguf = pytest.importorskip("gguf")
TYPES = gguf.GGMLQuantizationType


def value(tensor: Any) -> Any:
    return gguf.quants.dequantize(np.asarray(tensor.data), tensor.tensor_type)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    draw = np.random.default_rng(0)
    writer = gguf.GGUFWriter(tmp_path / "w.gguf", "llama")
    writer.add_context_length(64)
    writer.add_token_list([b"<s>", "é".encode(), b"cat"])
    writer.add_token_scores([0.0, -1.5, -2.0])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_1)
    for name, kind in (("a", TYPES.Q4_1), ("b", TYPES.Q8_0), ("c", TYPES.F16), ("norm", TYPES.F32)):
        plain = draw.normal(size=(3, 64)).astype(np.float32)
        writer.add_tensor(f"{name}.weight", gguf.quants.quantize(plain, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tmp_path / "w.gguf"


def test_a_copy_that_cannot_be_written_is_no_fault_of_the_weights(
    weights: Path, tmp_path: Path
) -> None:
    with pytest.raises(FileNotFoundError):
        requantize(weights, tmp_path / "not made" / "copy.gguf", "Q8_0")


def test_only_quantised_weights_of_another_type_change(weights: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.gguf"
    assert requantize(weights, copy, "Q8_0") == 1
    old, new = gguf.GGUFReader(weights), gguf.GGUFReader(copy)
    kinds = {tensor.name: tensor.tensor_type.name for tensor in new.tensors}
    assert list(kinds.values()) == ["Q8_0", "Q8_0", "F16", "F32"]
    for before, after in zip(old.tensors, new.tensors, strict=True):
        assert before.name == after.name and before.shape.tolist() == after.shape.tolist()
        if before.tensor_type == after.tensor_type:
            assert before.data.tobytes() == after.data.tobytes()
        else:
            most = np.abs(value(before)).max()
            assert 0 < np.abs(value(before) - value(after)).max() < most / 127
    described = [
        {name: field.contents() for name, field in file.fields.items()} for file in (old, new)
    ]
    assert described[1].pop("general.file_type") == gguf.LlamaFileType.MOSTLY_Q8_0
    assert described[0].pop("general.file_type") == gguf.LlamaFileType.MOSTLY_Q4_1
    assert described[0] == described[1]


@pytest.mark.parametrize("damage", [lambda raw: b"", lambda raw: raw[:200], lambda raw: raw[:-300]])
def test_a_broken_file_is_one_line_and_leaves_nothing(
    weights: Path, tmp_path: Path, damage: Any
) -> None:
    weights.write_bytes(damage(weights.read_bytes()))
    with pytest.raises(UserError, match=r"w\.gguf: cannot be requantised to Q8_0 \(.*fetch it"):
        requantize(weights, tmp_path / "copy.gguf", "Q8_0")
    assert [path.name for path in tmp_path.iterdir()] == ["w.gguf"]
