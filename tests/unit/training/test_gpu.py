"""What a GPU computes is what a CPU computes, up to its precision. Skipped where there is none."""

from pathlib import Path
from typing import Any

import pytest
import torch
from test_shared_prompts import made
from trained import sft_command

from bezoar.training import padding_free, qlora, shared_prompts

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
IDS = torch.arange(5, 45).reshape(2, 20)


def on_gpu(batch: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value.cuda() if torch.is_tensor(value) else value for name, value in batch.items()
    }


def outcome(model: Any) -> tuple[Any, dict[str, Any]]:
    """Log-probabilities of a batch of pairs on the GPU, and the gradients of their DPO loss."""
    from test_shared_prompts import batch

    model.zero_grad()
    found = model(**on_gpu(batch())).log_probs
    chosen, rejected = found.sum(dim=1).chunk(2)
    (-torch.nn.functional.logsigmoid(0.1 * (chosen - rejected)).mean()).backward()
    return found.detach(), {
        n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None
    }


def test_a_prompt_computed_once_has_the_gradients_of_one_computed_twice() -> None:
    model = made("llama").cuda()
    twice, slopes = outcome(model)
    assert shared_prompts.share(model)
    once, found = outcome(model)
    assert torch.allclose(once, twice, atol=1e-4)
    for name, slope in slopes.items():
        assert torch.allclose(found[name], slope, atol=1e-4), name


def test_rows_without_padding_have_the_gradients_of_padded_ones() -> None:
    import test_padding_free as there

    model = made("llama").cuda()
    theirs = there.outcome(model, on_gpu(there.padded(there.rows())))
    assert padding_free.prepare(model)
    ours = there.outcome(model, on_gpu(padding_free.collate(there.rows())))
    assert torch.allclose(ours[0], theirs[0], atol=1e-4)
    for name, slope in theirs[1].items():
        assert torch.allclose(ours[1][name], slope, atol=1e-4), name


def test_a_4_bit_base_answers_as_it_does_on_a_cpu(place: Path, monkeypatch: Any) -> None:
    ours = qlora.load_4bit(place / "base").eval()
    assert ours.device.type == "cuda"
    with torch.inference_mode():
        found = ours(input_ids=IDS.cuda()).logits.float().log_softmax(-1).cpu()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    there = qlora.load_4bit(place / "base").eval()
    with torch.inference_mode():
        expected = there(input_ids=IDS).logits.log_softmax(-1)
    assert float((expected.exp() * (expected - found)).sum(-1).max()) < 0.01  # bfloat16 rounds


def test_kept_weights_multiply_as_unpacked_ones(place: Path) -> None:
    plain, kept = (qlora.load_4bit(place / "base", keep).eval() for keep in (False, True))
    with torch.inference_mode():
        assert torch.equal(plain(input_ids=IDS.cuda()).logits, kept(input_ids=IDS.cuda()).logits)


def test_a_training_repeats_itself(place: Path) -> None:
    import train_sft

    for name in ("gpu-first", "gpu-second"):
        train_sft.main(sft_command(place, name))
    first, second = (
        place / name / "adapter_model.safetensors" for name in ("gpu-first", "gpu-second")
    )
    assert first.read_bytes() == second.read_bytes()
