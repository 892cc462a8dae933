"""A pair whose prompt is computed once has the log-probabilities and gradients of one whose prompt
is computed twice.
"""

from typing import Any

import pytest
import torch
from families import config
from trl.trainer import add_fused_lm_head
from trl.trainer.dpo_trainer import DataCollatorForPreference

from bezoar.training import shared_prompts

WORDS, PAD = 320, 0
SIZES = [(9, 5, 3), (1, 1, 1), (4, 2, 7), (12, 1, 6)]  # tokens of prompt, chosen, rejected


def made(family: str, attention: str = "sdpa") -> Any:
    from transformers import AutoModelForCausalLM, LlamaConfig

    torch.manual_seed(0)
    shape: Any = (
        LlamaConfig(
            vocab_size=WORDS,
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
        )
        if family == "llama"
        else config(family, WORDS, 1)
    )
    model = AutoModelForCausalLM.from_config(shape, attn_implementation=attention)
    add_fused_lm_head(model, outputs=("log_probs", "entropy", "mean_logits", "is_top1"))
    return model.eval()


def batch() -> dict[str, Any]:
    draw = torch.Generator().manual_seed(1)
    pairs = [
        dict(
            zip(
                ("prompt_ids", "chosen_ids", "rejected_ids"),
                (torch.randint(2, WORDS, (n,), generator=draw).tolist() for n in sizes),
                strict=True,
            )
        )
        for sizes in SIZES
    ]
    rows = DataCollatorForPreference(pad_token_id=PAD)(pairs)
    labels = rows["input_ids"].masked_fill(rows.pop("completion_mask") == 0, -100)
    return {**rows, "labels": labels, "use_cache": False, "fused_lm_head": True}


def outcome(model: Any) -> tuple[Any, dict[str, Any]]:
    model.zero_grad()
    found = model(**batch())
    chosen, rejected = found.log_probs.sum(dim=1).chunk(2)
    (-torch.nn.functional.logsigmoid(0.1 * (chosen - rejected)).mean()).backward()
    return found, {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt_neox", "gpt2"])
def test_log_probabilities_and_gradients_are_those_of_two_rows(family: str) -> None:
    model = made(family)
    twice, slopes = outcome(model)
    assert shared_prompts.share(model)
    once, found = outcome(model)
    for name in ("log_probs", "entropy", "mean_logits"):
        assert once[name].shape == twice[name].shape
        assert torch.allclose(once[name], twice[name], atol=1e-5), name
    assert torch.equal(once.is_top1, twice.is_top1)
    assert found.keys() == slopes.keys()
    for name, slope in slopes.items():
        assert torch.allclose(found[name], slope, atol=1e-6), name


def test_the_prompt_is_in_the_batch_once() -> None:
    model, widths = made("llama"), []
    assert shared_prompts.share(model)
    model.model.register_forward_pre_hook(
        lambda _, args, given: widths.append(tuple(given["input_ids"].shape)), with_kwargs=True
    )
    model(**batch())
    assert widths == [(1, sum(p + c + 1 + r for p, c, r in SIZES))]


def test_other_uses_of_the_model_are_left_alone() -> None:
    model = made("llama")
    ids = torch.arange(2, 10).reshape(1, 8)
    expected = model(input_ids=ids).logits
    assert shared_prompts.share(model)
    assert torch.equal(model(input_ids=ids).logits, expected)
    assert model(input_ids=ids, labels=ids).loss is not None


@pytest.mark.parametrize(
    "attributes", [{"sliding_window": 16}, {"layer_types": ["full_attention", "sliding_attention"]}]
)
def test_a_model_that_sees_only_what_is_near_computes_both_rows(attributes: dict) -> None:
    model = made("llama")
    for name, value in attributes.items():
        setattr(model.config, name, value)
    forward = model.forward
    assert not shared_prompts.share(model)
    assert model.forward == forward


def test_a_model_that_answers_otherwise_computes_both_rows() -> None:
    model = made("llama")
    with torch.no_grad():
        for layer in model.model.layers:  # fresh weights hardly attend to anything
            layer.self_attn.q_proj.weight.mul_(100)
    backbone = model.model.forward

    def deaf(**given: Any) -> Any:
        return backbone(**{**given, "position_ids": None})

    model.model.forward = deaf
    before = model.forward
    assert not shared_prompts.share(model)
    assert model.forward == before


def test_an_attention_of_another_kind_computes_both_rows() -> None:
    model = made("llama")
    model.config._attn_implementation = "flash_attention_2"
    assert not shared_prompts.share(model)
    assert not shared_prompts.share(made("llama", "eager"))


def test_a_mixture_of_experts_computes_both_rows() -> None:
    model = made("llama")
    model.config.output_router_logits = False
    assert not shared_prompts.share(model)
