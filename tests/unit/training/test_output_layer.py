"""The output layer on a CPU returns what TRL's fused head returns, numbers and gradients."""

from typing import Any

import pytest
import torch
from test_shared_prompts import WORDS, batch, made, outcome

from bezoar.training import output_layer, shared_prompts

NAMES = ("log_probs", "entropy", "mean_logits")


def frozen(family: str = "llama") -> Any:
    model = made(family)
    model.get_output_embeddings().weight.requires_grad_(False)
    return model


def require_same(theirs: Any, ours: Any) -> None:
    for name in NAMES:
        assert ours[0][name].shape == theirs[0][name].shape
        assert torch.allclose(ours[0][name], theirs[0][name], atol=1e-5), name
    assert torch.equal(ours[0].is_top1, theirs[0].is_top1)
    assert torch.equal(ours[0].label_mask, theirs[0].label_mask)
    assert torch.allclose(ours[0].loss, theirs[0].loss, atol=1e-5)
    assert ours[1].keys() == theirs[1].keys()
    for name, slope in theirs[1].items():
        assert torch.allclose(ours[1][name], slope, atol=1e-6), name


@pytest.mark.parametrize("tile", [3, 256])
@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt_neox", "gpt2"])
def test_numbers_and_gradients_are_trls(
    family: str, tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output_layer, "TILE", tile)
    model = frozen(family)
    theirs = outcome(model)
    assert output_layer.lighten(model)
    require_same(theirs, outcome(model))


def test_it_serves_pairs_whose_prompt_is_computed_once() -> None:
    model = frozen()
    theirs = outcome(model)
    assert output_layer.lighten(model)
    assert shared_prompts.share(model)
    ours = outcome(model)
    for name in NAMES:
        assert torch.allclose(ours[0][name], theirs[0][name], atol=1e-5), name
    for name, slope in theirs[1].items():
        assert torch.allclose(ours[1][name], slope, atol=1e-6), name


def test_the_loss_is_weighted_by_the_global_batch() -> None:
    model = frozen()
    theirs = model(**batch(), num_items_in_batch=7).loss
    assert output_layer.lighten(model)
    assert torch.allclose(model(**batch(), num_items_in_batch=7).loss, theirs)


def test_a_batch_without_labels_has_a_gradient_of_zero() -> None:
    model, given = frozen(), batch()
    given["labels"] = torch.full_like(given["labels"], -100)
    assert output_layer.lighten(model)
    loss = model(**given).loss
    loss.backward()
    assert float(loss.detach()) == 0
    assert all(not p.grad.any() for p in model.parameters() if p.grad is not None)


def test_without_gradients_none_is_kept() -> None:
    model = frozen()
    assert output_layer.lighten(model)
    with torch.no_grad():
        assert not model(**batch()).log_probs.requires_grad


def test_other_uses_of_the_model_are_left_alone() -> None:
    model, ids = frozen(), torch.arange(2, 10).reshape(1, 8)
    expected = model(input_ids=ids).logits
    assert output_layer.lighten(model)
    assert torch.equal(model(input_ids=ids).logits, expected)
    assert model(input_ids=ids, labels=ids).loss is not None


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.get_output_embeddings().weight.requires_grad_(True),
        lambda model: model.bfloat16(),
        lambda model: setattr(model.config, "final_logit_softcapping", 30.0),
        lambda model: setattr(model.config, "output_router_logits", False),
        lambda model: setattr(
            model, "lm_head", torch.nn.Linear(64, WORDS).requires_grad_(requires_grad=False)
        ),
    ],
)
def test_other_heads_stay_trls(change: Any) -> None:
    model = frozen()
    change(model)
    forward = model.forward
    assert not output_layer.lighten(model)
    assert model.forward == forward


def test_a_model_that_answers_otherwise_keeps_trls() -> None:
    model = frozen()
    backbone = model.forward

    def shifted(**given: Any) -> Any:
        found = backbone(**given)
        found.log_probs = found.log_probs - 0.01
        return found

    model.forward = shifted
    assert not output_layer.lighten(model)
    assert model.forward is shifted
