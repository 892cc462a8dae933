"""Concatenated rows have the log-probabilities and gradients of padded ones, and share a forward
pass by their tokens.
"""

import random
from typing import Any

import pytest
import torch
from test_global_batch import losses
from test_shared_prompts import PAD, WORDS, made
from trained import SFT, sft_command
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

import train_sft
from bezoar import precision
from bezoar.errors import UserError
from bezoar.readers import read_json
from bezoar.training import output_layer, padding_free, qlora
from bezoar.training.forward_pass import ROUNDED
from bezoar.training.sharing import balanced_passes

SIZES = (9, 1, 14, 6, 2)  # tokens of rows


def rows() -> list[dict[str, list[int]]]:
    draw = random.Random(0)
    ids = [[draw.randrange(2, WORDS) for _ in range(size)] for size in SIZES]
    return [
        {"input_ids": row, "labels": [-100] * (len(row) // 3) + row[len(row) // 3 :]} for row in ids
    ]


def padded(rows: list[dict[str, list[int]]]) -> dict[str, Any]:
    batch: dict[str, Any] = DataCollatorForLanguageModeling(pad_token_id=PAD)(rows)
    return batch


def outcome(model: Any, batch: dict[str, Any]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return the log-probabilities of what has a label, and the gradients of their sum."""
    model.zero_grad()
    found = model(**batch, use_cache=False, fused_lm_head=True)
    found.log_probs.sum().backward()
    slopes = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return found.log_probs[found.label_mask].detach(), slopes


def require_same(theirs: Any, ours: Any) -> None:
    assert torch.allclose(ours[0], theirs[0], atol=1e-5)
    assert ours[1].keys() == theirs[1].keys()
    for name, slope in theirs[1].items():
        assert torch.allclose(ours[1][name], slope, atol=1e-5), name


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt_neox", "gpt2"])
def test_log_probabilities_and_gradients_are_those_of_padded_rows(family: str) -> None:
    model = made(family)
    theirs = outcome(model, padded(rows()))
    assert padding_free.prepare(model)
    batch = padding_free.collate(rows())
    assert batch["input_ids"].shape == (1, sum(SIZES)), "nothing is padded"
    require_same(theirs, outcome(model, batch))
    require_same(theirs, outcome(model, padded(rows())))


def test_the_output_layer_serves_rows_without_padding() -> None:
    model = made("llama")
    model.get_output_embeddings().weight.requires_grad_(False)
    theirs = outcome(model, padded(rows()))
    assert padding_free.prepare(model)
    assert output_layer.lighten(model)
    require_same(theirs, outcome(model, padding_free.collate(rows())))


def test_a_row_sees_nothing_of_the_row_before() -> None:
    model = made("llama")
    assert padding_free.prepare(model)
    changed = rows()
    changed[0]["input_ids"] = changed[0]["labels"] = [5] * SIZES[0]
    before, after = (
        model(**padding_free.collate(held), use_cache=False, fused_lm_head=True).log_probs[0]
        for held in (rows(), changed)
    )
    assert torch.equal(before[SIZES[0] :], after[SIZES[0] :])
    assert not torch.equal(before[: SIZES[0]], after[: SIZES[0]])


@pytest.mark.parametrize(
    "attributes",
    [
        {"sliding_window": 16},
        {"layer_types": ["full_attention", "sliding_attention"]},
        {"output_router_logits": False},
    ],
)
def test_a_model_that_needs_its_padding_keeps_it(attributes: dict) -> None:
    model = made("llama")
    for name, value in attributes.items():
        setattr(model.config, name, value)
    assert not padding_free.prepare(model)
    assert model.config._attn_implementation == "sdpa"
    assert not padding_free.prepare(made("llama", "eager"))


@pytest.mark.parametrize("fault", ["sees the row before", "takes no lengths"])
def test_a_model_that_answers_otherwise_keeps_its_padding(fault: str) -> None:
    model = made("llama").train()
    forward = model.forward

    def otherwise(row_lengths: Any = None, **given: Any) -> Any:
        if fault == "takes no lengths":
            raise TypeError("row_lengths")
        return forward(**given)

    model.forward = otherwise
    assert not padding_free.prepare(model)
    assert model.config._attn_implementation == "sdpa"
    assert model.training


@pytest.mark.parametrize("sees", ["the row before", "what follows"])
def test_an_attention_is_refused_however_little_it_changes_the_answer(
    sees: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One layer of a model that has learnt nothing, beside the rounding of bfloat16."""
    model, by_row = made("llama"), padding_free._by_row
    model.get_output_embeddings().weight.data /= 50

    def otherwise(module: Any, *states: Any, row_lengths: Any = None, **more: Any) -> Any:
        if module.layer_idx == 0 and sees == "the row before":
            row_lengths = None
        if module.layer_idx == 0 and row_lengths and sees == "what follows":
            more["is_causal"] = False
        return by_row(module, *states, row_lengths=row_lengths, **more)

    monkeypatch.setattr(padding_free, "tolerance", lambda: ROUNDED)
    monkeypatch.setattr(padding_free, "_by_row", otherwise)
    assert not padding_free.prepare(model)
    assert model.config._attn_implementation == "sdpa"
    monkeypatch.setattr(padding_free, "_by_row", by_row)
    assert padding_free.prepare(model)


def test_a_model_that_takes_positions_and_ignores_them_keeps_its_padding(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = made("gpt2")
    model.get_output_embeddings().weight.data /= 50
    forward = model.forward
    monkeypatch.setattr(padding_free, "tolerance", lambda: ROUNDED)
    model.forward = lambda position_ids=None, **given: forward(**given)
    assert not padding_free.prepare(model)
    assert model.config._attn_implementation == "sdpa"
    model.forward = forward
    assert padding_free.prepare(model)


def test_a_model_that_numbers_padded_rows_otherwise_keeps_its_padding() -> None:
    """RoBERTa's positions begin at 2, unless they are given."""
    from transformers import RobertaConfig, RobertaForCausalLM

    torch.manual_seed(0)
    shape = RobertaConfig(
        vocab_size=WORDS,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=1,
        num_attention_heads=4,
        is_decoder=True,
        pad_token_id=1,
    )
    model = RobertaForCausalLM._from_config(shape, attn_implementation="sdpa")
    assert not padding_free.prepare(model)
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("cached", [False, True])
def test_an_adapter_over_4_bits_does_without_padding(
    dtype: torch.dtype, cached: bool, place: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "compute_dtype", lambda: dtype)
    model = qlora.attach_adapter(qlora.load_4bit(place / "base", cached), SFT["lora"], None)
    for weight in qlora.trainable(model).values():
        torch.nn.init.normal_(weight, std=0.1)
    assert padding_free.prepare(model.train())


@pytest.mark.parametrize("processes", [1, 2, 4])
@pytest.mark.parametrize(("count", "batch", "most"), [(64, 16, 4), (61, 16, 4), (12, 16, 1)])
def test_passes_hold_every_row_once_and_no_more_tokens_than_there_is_room(
    count: int, batch: int, most: int, processes: int
) -> None:
    draw = random.Random(count)
    lengths = [draw.randint(3, 100) for _ in range(count)]
    steps, shares = balanced_passes(lengths, batch, most * 100, processes)
    assert len({len(share) for share in shares}) == 1, "as many passes for each"
    held = [row for share in shares for cell in share for row in cell]
    assert sorted(held) == list(range(count))
    tokens = [sum(lengths[row] for row in cell) for share in shares for cell in share]
    assert min(tokens) > 0 and max(tokens) <= most * 100
    for start in range(count // batch):
        together = [
            row for share in shares for cell in share[start * steps :][:steps] for row in cell
        ]
        assert sorted(together) == list(range(start * batch, (start + 1) * batch))
    if batch <= count:
        assert steps <= batch // processes
        fewer = (steps - 1) * processes
        totals = [sum(lengths[at : at + batch]) for at in range(0, count, batch)]
        assert max(totals) > 0.7 * fewer * most * 100, "few passes, well filled"


def test_rows_of_full_length_take_as_many_passes_as_padded_ones() -> None:
    assert balanced_passes([100] * 32, 8, 200, 2)[0] == 2
    assert balanced_passes([100] * 5, 8, 200, 1) == (3, [[[0, 3], [1, 4], [2]]])


@pytest.mark.parametrize("last", [1, 5])
def test_a_last_batch_that_cannot_be_shared_is_refused(last: int) -> None:
    with pytest.raises(UserError, match=f"make a batch of {last}, which 2 processes cannot share"):
        balanced_passes([100] * (8 + last), 8, 100, 2)


def test_training_without_padding_gives_the_curve_of_padded_rows(
    place: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {
        "batch_size": 8,
        "micro_batch_size": 1,
        "max_eval_samples": 3,
        "epochs": 35 / 32,
        "lora": {"r": 8, "alpha": 8, "dropout": 0.0, "targets": ["q_proj", "k_proj", "v_proj"]},
    }
    train_sft.main(sft_command(place, "without-padding", gradient_checkpointing=True, **changes))
    monkeypatch.setattr(padding_free, "prepare", lambda model: False)
    train_sft.main(sft_command(place, "with-padding", **changes))
    theirs = losses(place / "with-padding")
    assert losses(place / "without-padding") == pytest.approx(theirs, abs=1e-3)
    assert len(theirs) == 5
    facts = read_json(place / "with-padding.json")["facts"]
    assert (facts["validation"], facts["evaluated"]) == (8, 3)
