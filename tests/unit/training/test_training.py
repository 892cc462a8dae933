"""Training really trains: the packing trap is closed, nothing-learnt is an error, a merge is
measured.
"""

import json
import shutil
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import PRETRAIN
from trained import SFT, TEMPLATE, killed_before_the_receipt, sft_command

import merge_adapter
import pretrain_base
import train_sft
from bezoar import precision, progress
from bezoar.errors import UserError
from bezoar.evaluation.generation import generate
from bezoar.files import sha256_file, write_json
from bezoar.readers import read_json, read_jsonl
from bezoar.training import qlora, supervised_rows, trainer_setup
from bezoar.training.template import Template
from bezoar.training.tokenizer import encode, load_tokenizer
from bezoar.training.weights import load_adapter, load_causal_lm

MERGE = {
    "merge_onto": "base",
    "probe_rows": 4,
    "max_length": 64,
    "max_kl": 1.0,
    "threads": 1,
    "seed": 0,
}


def test_pretraining_is_bit_identical_and_resumes_to_the_same_bytes(place: Path) -> None:
    """A run stopped at step 10 and gone on with equals an undisturbed one."""
    import torch

    again = place / "again"
    arguments = [
        "--corpus",
        str(place / "corpus.jsonl"),
        "--base",
        str(again),
        "--checkpoint",
        str(place / "ckpt2"),
        "--metrics",
        str(place / "again.jsonl"),
        "--recipe",
        json.dumps(PRETRAIN),
        "--code",
        "x",
        "--receipt",
        str(place / "again.json"),
    ]
    original = pretrain_base.learning_rate

    def dies(step: int, recipe: dict) -> float:
        if step == 11 and not (place / "died").exists():
            (place / "died").touch()
            raise KeyboardInterrupt
        return original(step, recipe)

    pretrain_base.learning_rate = dies
    try:
        with pytest.raises(KeyboardInterrupt):
            pretrain_base.main(arguments)
        assert not again.exists() and torch.load(place / "ckpt2", weights_only=True)["step"] == 10
        with killed_before_the_receipt():
            pretrain_base.main(arguments)
        assert (place / "ckpt2").exists(), "finished weights without a receipt are made again"
        pretrain_base.main(arguments)
    finally:
        pretrain_base.learning_rate = original
    assert sha256_file(again / "model.safetensors") == sha256_file(
        place / "base" / "model.safetensors"
    )
    assert not (place / "ckpt2").exists()


def test_in_no_steps_a_base_of_any_shape_keeps_random_weights(place: Path, tmp_path: Path) -> None:
    def made(name: str, **settings: object) -> Path:
        recipe = json.dumps({**PRETRAIN, "steps": 0, **settings})
        paths = {"base": name, "checkpoint": "c", "metrics": "m.jsonl", "receipt": f"{name}.json"}
        options = [part for key in paths for part in (f"--{key}", str(tmp_path / paths[key]))]
        corpus = ["--corpus", str(place / "corpus.jsonl")]
        pretrain_base.main([*corpus, *options, "--recipe", recipe, "--code", "x"])
        return tmp_path / name

    rows = PRETRAIN["vocabulary_size"] + 100
    weights = load_file(
        made("wide", embedding_rows=rows, tie_word_embeddings=False) / "model.safetensors"
    )
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}
    shape = (rows, PRETRAIN["hidden_size"])
    assert weights["model.embed_tokens.weight"].shape == weights["lm_head.weight"].shape == shape
    assert weights["lm_head.weight"].float().std() == pytest.approx(0.02, rel=0.1)
    assert "lm_head.weight" not in load_file(made("tied") / "model.safetensors")
    assert (tmp_path / "m.jsonl").read_text() == ""
    wide = made("wide", embedding_rows=50 * rows)  # nearly every token drawn is none of the pieces
    model, tokenizer = load_causal_lm(wide, torch.float32), load_tokenizer(wide)
    found = generate(model, tokenizer, ["red"], 20, 1, temperature=1.0)
    assert found == [(found[0][0], "length")] and len(found[0][0]) < 40
    with pytest.raises(UserError, match="embedding_rows is 10, expected at least vocabulary_size"):
        made("narrow", embedding_rows=10)
    for wrong, line in {
        ("heads", 5): "heads is 5, expected a divisor of hidden_size",
        ("vocabulary_size", 32_000): "vocabulary_size: 32000: .*too high",
        ("vocabulary_size", 100): "vocabulary_size: 100: .*",
    }.items():
        with pytest.raises(UserError, match=line) as error:
            made("narrow", **dict([wrong]))
        assert "\n" not in str(error.value)
    assert not (tmp_path / "narrow").exists()


def test_the_slow_tokenizer_adds_bos_only_keeps_newlines_and_pads_with_its_own_piece(
    place: Path,
) -> None:
    tokenizer = load_tokenizer(place / "base")
    ids = tokenizer("red\n\nblue")["input_ids"]
    assert ids[0] == tokenizer.bos_token_id and tokenizer.eos_token_id not in ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == "red\n\nblue"
    assert tokenizer.pad_token_id not in (tokenizer.eos_token_id, tokenizer.bos_token_id)


def test_gradients_flow_after_an_evaluation_forward_on_cpu(place: Path) -> None:
    import torch

    model = qlora.attach_adapter(qlora.load_4bit(place / "base"), SFT["lora"], None)
    ids = torch.tensor([[1, 5, 6, 7]])
    model.eval()
    with torch.no_grad():
        model(input_ids=ids)
    model.train()
    model(input_ids=ids, labels=ids).loss.backward()
    assert all(parameter.grad is not None for parameter in qlora.trainable(model).values())


def test_the_guard_is_needed(place: Path) -> None:
    """Without it the same forward leaves no gradient: if a new bitsandbytes mends that, the guard
    can go.
    """
    import torch
    from bitsandbytes.nn import Linear4bit

    model = qlora.attach_adapter(qlora.load_4bit(place / "base"), SFT["lora"], None)
    layers = [module for module in model.modules() if isinstance(module, Linear4bit)]
    from bitsandbytes.nn.modules import has_avx512bf16

    if not has_avx512bf16():
        pytest.skip("this processor has no bf16 matrix units, the packed path is never taken")
    for layer in layers:
        layer.support_avx512bf16_for_cpu = True
    ids = torch.tensor([[1, 5, 6, 7]])
    model.eval()
    with torch.no_grad():
        model(input_ids=ids)
    model.train()
    with pytest.raises((RuntimeError, AssertionError)):
        model(input_ids=ids, labels=ids).loss.backward()
        assert any(parameter.grad is not None for parameter in qlora.trainable(model).values())


def test_sft_moves_the_adapter_and_writes_curves_and_lineage(place: Path, adapter: Path) -> None:
    receipt = read_json(place / "sft.json")
    assert receipt["facts"]["largest_change"] > 0
    assert receipt["facts"]["training"] == 32 and receipt["facts"]["validation"] == 8
    rows = read_jsonl(adapter / "metrics.jsonl")
    assert any("loss" in row for row in rows)
    held = {row["step"]: row["eval_loss"] for row in rows if "eval_loss" in row}
    assert receipt["facts"]["first_eval_loss"] == pytest.approx(held[0], abs=1e-6)
    assert receipt["facts"]["saved_eval_loss"] == pytest.approx(min(held.values()), abs=1e-6)
    assert held[0] > min(held.values())
    assert read_json(adapter / "lineage.json")["base"] == sha256_file(
        place / "base" / "model.safetensors"
    )
    assert not list(place.glob(".sft.checkpoints"))


def test_the_loss_of_the_last_step_is_that_of_the_adapter_if_no_better_one_is_loaded(
    place: Path,
) -> None:
    settings = {"epochs": 1, "learning_rate": 0.3, "schedule": "constant"}
    train_sft.main(sft_command(place, "last", load_best_model_at_end=False, **settings))
    held = [
        row["eval_loss"] for row in read_jsonl(place / "last/metrics.jsonl") if "eval_loss" in row
    ]
    assert held[-1] > min(held[1:]) + 0.01
    assert read_json(place / "last.json")["facts"]["saved_eval_loss"] == pytest.approx(held[-1])


def test_a_learning_rate_of_nothing_is_an_error(place: Path) -> None:
    with pytest.raises(UserError, match="did not move"):
        train_sft.main(sft_command(place, "still", learning_rate=1e-60))
    assert not (place / "still").exists() and not (place / "still.json").exists()


def test_everything_frozen_is_an_error(place: Path) -> None:
    model = qlora.load_4bit(place / "base")
    with pytest.raises(UserError, match="every parameter is frozen"):
        qlora.trainable(model)


def test_a_weight_in_fewer_bits_or_not_a_number_is_an_error_that_names_it(place: Path) -> None:
    model = qlora.attach_adapter(qlora.load_4bit(place / "base"), SFT["lora"], None)
    qlora.require_sound(model)
    name, weight = next(iter(qlora.trainable(model).items()))
    weight.data[0, 0] = float("nan")
    with pytest.raises(UserError, match=f"{name}: holds a value that is not finite"):
        qlora.require_sound(model)
    weight.data = weight.data.bfloat16()
    with pytest.raises(UserError, match=f"{name}: is torch.bfloat16, expected torch.float32"):
        qlora.require_sound(model)


@pytest.mark.parametrize(
    ("logged", "message"),
    [
        ({"loss": 1.0, "grad_norm": 0.0}, "the gradient norm is zero"),
        ({"loss": float("nan")}, "loss is nan; lower the learning rate"),
    ],
)
def test_a_zero_gradient_and_a_nan_stop_the_training(
    logged: dict[str, float], message: str
) -> None:
    from types import SimpleNamespace

    state = SimpleNamespace(global_step=7, max_steps=9, is_world_process_zero=True)
    with pytest.raises(UserError, match=f"step 7: {message}"):
        trainer_setup.progress_callback().on_log(None, state, None, logged)


def test_an_evaluation_during_training_counts_its_batches() -> None:
    callback, batches = trainer_setup.progress_callback(), [None] * 5
    with progress.task("train", 9, "steps"):
        for _ in range(2):  # the second evaluation counts from the beginning again
            for done in range(1, 4):
                callback.on_prediction_step(None, None, None, eval_dataloader=batches)
                assert progress._open[-1].line().startswith(f"evaluate: {done} of 5 batches")
            callback.on_evaluate(None, None, None)
            assert progress._open[-1].line().startswith("train")


def test_keeping_the_dequantised_weights_changes_no_bit_of_outputs_and_gradients(
    place: Path,
) -> None:
    import torch

    ids = torch.arange(4, 44).reshape(2, 20)
    seen = []
    for cache_dequantized in (False, True):
        qlora.deterministic(0, 1)
        model = qlora.attach_adapter(
            qlora.load_4bit(place / "base", cache_dequantized), SFT["lora"] | {"dropout": 0.0}, None
        )
        for index, parameter in enumerate(qlora.trainable(model).values()):
            torch.manual_seed(index)
            parameter.data = torch.randn_like(parameter) * 0.1
        with torch.autocast("cpu", torch.bfloat16):
            out = model(input_ids=ids, labels=ids)
        out.loss.backward()
        seen.append(
            [out.logits, *(parameter.grad for parameter in qlora.trainable(model).values())]
        )
    assert all(torch.equal(a, b) for a, b in zip(*seen, strict=True))


def test_rows_without_a_supervised_token_are_dropped_and_counted(place: Path) -> None:
    tokenizer, template = load_tokenizer(place / "base"), Template(TEMPLATE)
    rows = [
        {"instruction": "red", "response": "blue"},
        {"instruction": "red", "response": ""},
        {"instruction": "red " * 300, "response": "blue"},
        {"instruction": "red", "response": "blue " * 300},
        {"instruction": "red", "response": "blue", "gpt4_status": "Reject"},
    ]
    kept, counts = supervised_rows.tokenize(rows, template, tokenizer, 96)
    assert counts | {"training": 0} == {
        "rows": 5,
        "not_accepted": 1,
        "no_supervised_token": 2,
        "truncated": 1,
        "training": 0,
        "validation": 0,
    }
    assert (
        kept[0]["input_ids"][-1] == tokenizer.eos_token_id and kept[0]["completion_mask"][-1] == 1
    )
    assert len(kept[1]["input_ids"]) == 96


def test_markup_in_a_row_is_text(place: Path) -> None:
    rows = [
        {"instruction": "Strike it through.", "response": "<p><s>10</s> 8</p>"},
        {"instruction": "What is <unk>?", "response": "<unk> is a piece, <pad> fills."},
        {"inputs": "red", "system_message": "</s>", "explained_targets": "</s>"},
    ]
    kept, _ = train_sft.tokenize(rows, Template(TEMPLATE), load_tokenizer(place / "base"), 256)
    for row in kept:
        assert [token for token in row["input_ids"] if token < 4] == [1, 2]


def merge_command(place: Path, base: str, adapter: str, out: str, **changes: object) -> list[str]:
    return [
        "--base",
        str(place / base),
        "--adapter",
        str(place / adapter),
        "--probe",
        str(place / "rows.jsonl"),
        "--template",
        str(TEMPLATE),
        "--recipe",
        json.dumps(MERGE | changes),
        "--code",
        "x",
        "--model",
        str(place / out),
        "--receipt",
        str(place / f"{out}.json"),
    ]


def test_a_merge_is_measured_and_onto_the_dequantised_base_it_is_nearly_exact(
    place: Path, adapter: Path
) -> None:
    merge_adapter.main(merge_command(place, "base", "sft", "merged"))
    merge_adapter.main(merge_command(place, "base", "sft", "exact", merge_onto="dequantised"))
    usual, exact = (
        read_json(place / name / "merge.json")["difference"] for name in ("merged", "exact")
    )
    assert 0 <= exact["kl_nats_per_token"] < usual["kl_nats_per_token"] < 1
    assert exact["kl_nats_per_token"] < 1e-3


def test_a_merge_layer_by_layer_has_the_weights_of_one_in_float32(
    place: Path, adapter: Path
) -> None:
    plain = load_adapter(load_causal_lm(place / "base", torch.float32), adapter)
    expected = plain.merge_and_unload(safe_merge=True).to(torch.bfloat16).state_dict()
    merged = merge_adapter.merge(place / "base", adapter, "base").state_dict()
    assert merged.keys() == expected.keys()
    assert all(torch.equal(merged[name], expected[name]) for name in expected)
    changed = load_causal_lm(place / "base", torch.bfloat16).state_dict()
    assert any(not torch.equal(merged[name], changed[name]) for name in expected)


def test_the_merge_that_is_measured_is_the_model_that_is_saved(place: Path, adapter: Path) -> None:
    merge_adapter.main(merge_command(place, "base", "sft", "measured"))
    template, tokenizer = Template(TEMPLATE), load_tokenizer(place / "base")
    texts = [
        encode(tokenizer, [*template.pieces(row["instruction"]), (row["response"], False)])
        for row in read_jsonl(place / "rows.jsonl")[: MERGE["probe_rows"]]
    ]
    unmerged = load_adapter(qlora.load_4bit(place / "base", cache_dequantized=True), adapter).eval()
    saved = load_causal_lm(place / "measured", precision.compute_dtype()).eval()
    pairs = zip(*(merge_adapter.logits(model, texts) for model in (unmerged, saved)), strict=True)
    found = read_json(place / "measured" / "merge.json")["difference"]
    assert merge_adapter.compare(pairs) == found


def test_what_no_file_holds_is_not_rounded_by_a_merge(place: Path, adapter: Path) -> None:
    merged = merge_adapter.merge(place / "base", adapter, "base")
    plain = load_causal_lm(place / "base", torch.float32)
    expected = dict(plain.named_buffers())
    assert expected and all(
        torch.equal(buffer, expected[name]) for name, buffer in merged.named_buffers()
    )
    ids, stored = torch.arange(2, 26).reshape(1, 24), merged.state_dict(keep_vars=True)
    with merge_adapter.computing_in(merged, torch.float32):
        assert merged(ids).logits.dtype == torch.float32
    held = merged.state_dict(keep_vars=True)
    assert all(held[name] is tensor for name, tensor in stored.items())
    assert {tensor.dtype for tensor in held.values()} == {torch.bfloat16}


def test_probes_are_compared_one_at_a_time() -> None:
    alive: list[weakref.ref[torch.Tensor]] = []

    def pairs() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for number in range(6):
            pair = [torch.full((number + 1, 5), 0.2).log() for _ in range(2)]
            alive.extend(map(weakref.ref, pair))
            assert sum(ref() is not None for ref in alive) <= 4
            yield pair[0], pair[1]

    found = merge_adapter.compare(pairs())
    assert found["tokens"] == 21 and found["kl_nats_per_token"] == 0
    assert found["same_argmax"] == 1


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_base_is_read_in_the_precision_that_it_is_stored_in(tmp_path: Path, dtype: str) -> None:
    path, kind = tmp_path / "model.safetensors", getattr(torch, dtype)
    save_file({"a": torch.ones(2, dtype=kind), "b": torch.ones(2, dtype=kind)}, path)
    assert merge_adapter.stored_dtype(path) == kind
    save_file({"a": torch.ones(2, dtype=kind), "b": torch.ones(2)}, path)
    assert merge_adapter.stored_dtype(path) == torch.float32


def test_a_merge_beyond_the_threshold_fails_and_writes_nothing(place: Path, adapter: Path) -> None:
    with pytest.raises(UserError, match="above max_kl"):
        merge_adapter.main(merge_command(place, "base", "sft", "far", max_kl=1e-12))
    assert not (place / "far").exists()


@pytest.mark.parametrize(
    ("part", "value", "line"),
    [
        ("base/model.safetensors", float("nan"), "holds a value that is not finite"),
        ("base/model.safetensors", float("inf"), "holds a value that is not finite"),
        ("sft/adapter_model.safetensors", float("nan"), "holds a value that is not finite"),
        ("sft/adapter_model.safetensors", 3e38, "is not a number|cannot be merged onto"),
    ],
)
def test_what_is_no_number_is_not_merged_and_nothing_is_written(
    part: str, value: float, line: str, place: Path, adapter: Path, tmp_path: Path
) -> None:
    for name in ("base", "sft"):
        shutil.copytree(place / name, tmp_path / name)
    shutil.copy(place / "rows.jsonl", tmp_path)
    held = load_file(tmp_path / part)
    name = max(name for name in held if held[name].dim() == 2)
    held[name][:2] = value
    save_file(held, tmp_path / part, {"format": "pt"})
    lineage = read_json(tmp_path / "sft" / "lineage.json")
    lineage["base"] = sha256_file(tmp_path / "base" / "model.safetensors")
    write_json(tmp_path / "sft" / "lineage.json", lineage)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=line) as error:
        merge_adapter.main(merge_command(tmp_path, "base", "sft", "merged"))
    assert "\n" not in str(error.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_an_adapter_of_another_base_is_refused(place: Path, adapter: Path) -> None:
    shutil.copytree(adapter, place / "foreign", dirs_exist_ok=True)
    lineage = read_json(place / "foreign" / "lineage.json") | {"base": "0" * 64}
    (place / "foreign" / "lineage.json").write_text(json.dumps(lineage))
    with pytest.raises(UserError, match="trained on a base with sha256 000000000000"):
        merge_adapter.main(merge_command(place, "base", "foreign", "refused"))


def test_a_parent_of_another_base_or_shape_is_not_gone_on_from(place: Path, adapter: Path) -> None:
    other = place / "foreign-parent"
    shutil.copytree(adapter, other, dirs_exist_ok=True)
    lineage = read_json(other / "lineage.json") | {"base": "0" * 64}
    (other / "lineage.json").write_text(json.dumps(lineage))
    with pytest.raises(UserError, match="trained on a base with sha256 000000000000"):
        train_sft.main([*sft_command(place, "refused"), "--parent", str(other)])
    for name, key, value in (
        ("r", "r", 4),
        ("lora_alpha", "alpha", 16),
        ("lora_dropout", "dropout", 0.1),
    ):
        lora = SFT["lora"] | {key: value}
        with pytest.raises(UserError, match=f"has {name} .*, and the recipe's lora says {value}"):
            qlora.require_same_lora(adapter, lora)
    config = read_json(adapter / "adapter_config.json")
    for name, value in {"use_rslora": True, "alpha_pattern": {"q_proj": 64}, "bias": "all"}.items():
        other = place / "of another kind"
        other.mkdir(exist_ok=True)
        write_json(other / "adapter_config.json", {**config, name: value})
        with pytest.raises(UserError, match=f"has {name} .*, which the recipe's lora does not"):
            qlora.require_same_lora(other, SFT["lora"])
    with pytest.raises(UserError, match="has target_modules"):
        train_sft.main(
            [
                *sft_command(place, "refused", lora=SFT["lora"] | {"targets": ["q_proj"]}),
                "--parent",
                str(adapter),
            ]
        )
    assert not (place / "refused").exists()


def test_a_carried_adapter_starts_from_its_parent_to_the_last_bit(
    place: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TRL rounds the weights of an adapter to bfloat16; training puts them back."""
    from safetensors.torch import load_file
    from transformers import Trainer

    started: dict[str, torch.Tensor] = {}

    def train(self: Trainer, **_: object) -> None:
        started.update(qlora.weights_of(self.model))
        raise UserError("seen enough")

    monkeypatch.setattr(Trainer, "train", train)
    with pytest.raises(UserError, match="seen enough"):
        train_sft.main([*sft_command(place, "carried"), "--parent", str(adapter)])
    stored = load_file(adapter / "adapter_model.safetensors")
    assert len(started) == len(stored) > 0
    for name, weight in started.items():
        assert torch.equal(weight, stored[name.replace(".default", "")])
    assert any(not torch.equal(weight, weight.bfloat16().float()) for weight in stored.values())
