"""Every product with weights is computed in the precision that this kind of machine is quick at."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import PRETRAIN
from torch.utils._python_dispatch import TorchDispatchMode
from trained import ROOT, SFT, TEMPLATE, dpo_command, reference_command, sft_command

from bench_precision import AVX2_ONLY
from bezoar import precision
from bezoar.workflow import machine


class Products(TorchDispatchMode):
    """Counts matrix products by the precision of their operands."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[torch.dtype, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in ("mm", "bmm", "addmm", "baddbmm", "linear"):
            dtype = args[-1].dtype
            self.seen[dtype] = self.seen.get(dtype, 0) + 1
        return func(*args, **(kwargs or {}))


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> dict[str, bool]:
    """A machine whose GPU can be described."""
    found = {"there": True, "bfloat16": True}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: found["there"])
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: found["bfloat16"])
    return found


def test_a_cpu_computes_in_float32_whatever_the_configuration_stores(gpu: dict[str, bool]) -> None:
    gpu["there"] = False
    assert precision.compute_dtype() == torch.float32
    assert precision.evaluation_dtype("float16") == torch.float32


def test_a_gpu_computes_in_bfloat16_where_it_has_the_units(gpu: dict[str, bool]) -> None:
    assert precision.compute_dtype() == torch.bfloat16
    assert precision.evaluation_dtype("float16") == torch.float16
    gpu["bfloat16"] = False
    assert precision.compute_dtype() == torch.float32


def test_the_base_is_pretrained_in_float32_beside_a_gpu_too(
    gpu: dict[str, bool], tmp_path: Path
) -> None:
    import pretrain_base

    recipe = PRETRAIN | {"steps": 1}
    windows = torch.arange(recipe["batch_size"] * recipe["window"]).view(-1, recipe["window"])
    with Products() as products:
        pretrain_base.pretrain(windows, pretrain_base.build(recipe, 3), recipe, tmp_path / "c", {})
    assert set(products.seen) == {torch.float32}


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU computes in bfloat16")
def test_no_training_on_a_cpu_forms_a_product_in_bfloat16(place: Path, reference: Path) -> None:
    import score_reference
    import train_dpo
    import train_sft

    with Products() as products:
        train_sft.main(sft_command(place, "counted", epochs=1))
        score_reference.main(reference_command(place, "counted_logps.jsonl"))
        train_dpo.main(dpo_command(place, reference.name, "counted_dpo", epochs=1))
    assert set(products.seen) == {torch.float32}
    assert products.seen[torch.float32] > 1000


@pytest.mark.skipif(not machine.bfloat16(), reason="all tests run on such a processor here")
def test_training_and_evaluation_end_on_a_processor_without_bfloat16_units(
    place: Path, tmp_path: Path
) -> None:
    """The receipts say float32. Emulated bfloat16 would take some sixty times as long here."""
    measured = tmp_path / "measured.json"
    held = {"instruction": "the red", "system_message": "", "answer": "one"}
    for name in ("lamini", "orca", "evol"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(held) + "\n", encoding="utf-8")
    pair = {"prompt": "the red", "chosen": "a cat", "rejected": "a dog"}
    (tmp_path / "preferences.jsonl").write_text(json.dumps(pair) + "\n", encoding="utf-8")
    recipe = {"max_new_tokens": 4, "batch_size": 4, "threads": 1, "seed": 0}
    commands = {
        "train_sft.py": sft_command(place, "avx2", epochs=1),
        "measure_learning.py": [
            *("--base", str(place / "base"), "--adapter", str(place / "avx2")),
            *("--heldout", *map(str, sorted(tmp_path.glob("*.jsonl")))),
            *("--template", str(TEMPLATE), "--output", str(measured)),
            *("--recipe", json.dumps(recipe), "--code", "x"),
            *("--receipt", str(tmp_path / "receipt.json")),
        ],
    }
    for program, arguments in commands.items():
        subprocess.run(
            [sys.executable, str(ROOT / "scripts" / program), *arguments],
            env=os.environ | AVX2_ONLY | {"PYTHONPATH": str(ROOT / "scripts")},
            check=True,
            timeout=300,
        )
    for receipt in (place / "avx2.json", tmp_path / "receipt.json"):
        assert json.loads(receipt.read_text())["facts"]["compute_dtype"] == "float32"
    assert SFT["threads"] == recipe["threads"]
    assert json.loads(measured.read_text())["lamini"]["loss"][0] > 0
