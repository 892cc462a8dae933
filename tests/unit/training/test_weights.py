"""A directory that is no whole model is one line, before anything is computed."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from families import snapshot
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from bezoar.errors import UserError
from bezoar.files import write_json
from bezoar.readers import read_json
from bezoar.training import qlora
from bezoar.training.tokenizer import load_tokenizer
from bezoar.training.weights import load_adapter, load_causal_lm, positions, require_positions

Weights = dict[str, torch.Tensor]
EMBEDDING = "model.embed_tokens.weight"
NORM = "model.norm.weight"
FILE = "model.safetensors"


def edited(model: Path, change: Callable[[Weights], Weights]) -> None:
    held = {name: tensor.contiguous() for name, tensor in change(load_file(model / FILE)).items()}
    save_file(held, model / FILE, {"format": "pt"})


@pytest.fixture
def model(tiny_base: Path, tmp_path: Path) -> Path:
    shutil.copytree(tiny_base, tmp_path / "model")
    return tmp_path / "model"


def setting(model: Path, **changes: object) -> None:
    write_json(model / "config.json", read_json(model / "config.json") | changes)


def without(name: str) -> Callable[[Weights], Weights]:
    return lambda held: {key: tensor for key, tensor in held.items() if key != name}


def holding(name: str, value: float) -> Callable[[Weights], Weights]:
    def change(held: Weights) -> Weights:
        held[name] = held[name].float()
        held[name].view(-1)[0] = value
        return held

    return change


def quantised(held: Weights) -> Weights:
    return held | {NORM: held[NORM].to(torch.int8)}


def sharded(model: Path, extra: Weights | None = None) -> None:
    """Split the weights into two files, the second with `extra` besides."""
    held = load_file(model / FILE)
    (model / FILE).unlink()
    names = sorted(held)
    shards = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for file, chosen in shards.items():
        more = (extra or {}) if file == "model-2.safetensors" else {}
        save_file({n: held[n] for n in chosen} | more, model / file, {"format": "pt"})
    where = {name: file for file, chosen in shards.items() for name in chosen}
    write_json(model / f"{FILE}.index.json", {"metadata": {}, "weight_map": where})


def of_two_files(model: Path) -> None:
    held = load_file(model / FILE)
    name = min(held)
    sharded(model, {name: held[name] + 1})


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda m: edited(m, without(NORM)), "1 missing weights, the first model.norm"),
    "unexpected": (
        lambda m: edited(m, lambda held: held | {"model.extra.weight": held[NORM] + 1}),
        "1 unexpected weights, the first model.extra.weight",
    ),
    "renamed": (
        lambda m: edited(m, lambda held: {f"base_model.model.{k}": v for k, v in held.items()}),
        "missing weights",
    ),
    "mismatched": (
        lambda m: edited(m, lambda held: held | {NORM: held[NORM][:32].clone()}),
        "no model that transformers can load",
    ),
    "untied head": (
        lambda m: edited(m, lambda held: held | {"lm_head.weight": held[EMBEDDING] + 1}),
        "config.json ties lm_head.weight to other weights",
    ),
    "nan": (lambda m: edited(m, holding(NORM, float("nan"))), "is not finite"),
    "infinite": (lambda m: edited(m, holding(NORM, float("inf"))), "is not finite"),
    "too large": (lambda m: edited(m, holding(NORM, 7e4)), "beyond the range of torch.float16"),
    "integers": (lambda m: edited(m, quantised), f"{NORM} is stored as I8"),
    "whole numbers": (  # transformers would take them for the weight's values
        lambda m: edited(m, lambda held: held | {NORM: held[NORM].int()}),
        f"{NORM} is stored as I32",
    ),
    "quantised": (
        lambda m: setting(m, quantization_config={"quant_method": "gptq", "bits": 4}),
        r"quantised \(gptq\)",
    ),
    "adapter beside": (
        lambda m: (m / "adapter_config.json").write_text("{}"),
        "adapter_config.json lies beside the weights",
    ),
    "cut": (
        lambda m: (m / FILE).write_bytes((m / FILE).read_bytes()[:-100]),
        "not a whole safetensors file",
    ),
    "no weights": (lambda m: (m / FILE).unlink(), "no model that transformers can load"),
    "a shard missing": (
        lambda m: (sharded(m), (m / "model-2.safetensors").unlink()),
        r"model-2\.safetensors: no such file; model\.safetensors\.index\.json names it",
    ),
    "a weight in two shards": (
        of_two_files,
        r"is in model-1\.safetensors and in model-2\.safetensors",
    ),
    "a file beside shards": (
        lambda m: write_json(m / f"{FILE}.index.json", {"weight_map": {NORM: "model-1.x"}}),
        r"model\.safetensors lies beside model\.safetensors\.index\.json",
    ),
    "an index without files": (
        lambda m: (sharded(m), write_json(m / f"{FILE}.index.json", {"weight_map": [1]})),
        "expected the file of each weight",
    ),
    "no config": (lambda m: (m / "config.json").unlink(), "config.json: no such file"),
    "config a list": (lambda m: (m / "config.json").write_text("[]"), "expected a JSON object"),
    "remote code": (
        lambda m: setting(m, model_type="x", auto_map={"AutoConfig": "a.B"}),
        "no model that transformers can load",
    ),
    "unknown kind": (lambda m: setting(m, model_type="mystery"), "no model that transformers"),
    "odd shape": (
        lambda m: setting(m, num_attention_heads=3),
        "no model that transformers|weights",
    ),
    "end outside": (
        lambda m: write_json(m / "generation_config.json", {"eos_token_id": [2, 400]}),
        "token 400 ends an answer, and the model has 400 embeddings",
    ),
    "end no number": (
        lambda m: write_json(m / "generation_config.json", {"eos_token_id": [2, "</s>"]}),
        "eos_token_id: expected whole numbers .* found '</s>'",
    ),
    "ends cut short": (  # transformers passes over such a file, and the model's own ends with it
        lambda m: (m / "generation_config.json").write_text('{"eos_token_id": [2, 3'),
        "generation_config.json: expected JSON",
    ),
    "more layers than weights": (
        lambda m: setting(m, num_hidden_layers=10**9),
        "config.json describes 1000000000 layers, and the weights are",
    ),
    "token outside": (
        lambda m: (m / "added_tokens.json").write_text('{"<|im_end|>": 400}'),
        "gives '<|im_end|>' id 400, and the model has 400 embeddings",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_no_whole_model_is_one_line(case: str, model: Path) -> None:
    damage, message = BROKEN[case]
    damage(model)
    with pytest.raises(UserError) as error:
        load_causal_lm(model, torch.float16)
    text = str(error.value)
    assert str(model) in text and "\n" not in text and re.search(message, text)


@pytest.mark.parametrize("case", ["missing", "unexpected", "nan", "too large"])
def test_the_four_bit_model_is_checked_as_well(case: str, model: Path) -> None:
    BROKEN[case][0](model)
    with pytest.raises(UserError):
        qlora.load_4bit(model) if case != "too large" else load_causal_lm(model, torch.float16)


@pytest.mark.parametrize("changes", [{"num_attention_heads": 8}, {"intermediate_size": 192}])
def test_a_four_bit_weight_of_another_shape_is_one_line(changes: dict, model: Path) -> None:
    """transformers compares the shapes of weights that it does not quantise alone."""
    setting(model, **{"head_dim": 32, **changes})
    with pytest.raises(UserError, match=r"mismatched weights, the first model\.layers\.0\."):
        qlora.load_4bit(model)


def test_a_whole_model_loads_with_buffers_of_old_files_and_with_an_equal_head(model: Path) -> None:
    edited(
        model,
        lambda held: (
            held
            | {
                "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(16),
                "lm_head.weight": held[EMBEDDING].clone(),
            }
        ),
    )
    assert load_causal_lm(model, torch.float16).dtype == torch.float16


def test_a_model_in_two_files_is_the_model(model: Path) -> None:
    whole = load_causal_lm(model, torch.float32).state_dict()
    sharded(model)
    found = load_causal_lm(model, torch.float32).state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in whole.items())


def test_an_index_that_names_the_one_file_is_no_second_place(model: Path) -> None:
    named = dict.fromkeys(load_file(model / FILE), FILE)
    write_json(model / f"{FILE}.index.json", {"metadata": {}, "weight_map": named})
    load_causal_lm(model, torch.float32)


def test_a_token_for_an_image_needs_no_embedding_also_beside_tokenizer_model(model: Path) -> None:
    write_json(model / "added_tokens.json", {"<image>": 407})
    write_json(model / "tokenizer_config.json", {})
    with pytest.raises(UserError, match=r"gives '<image>' id 407, and the model has 400"):
        load_causal_lm(model, torch.float32)
    for config in ({"image_token": "<image>"}, {"extra_special_tokens": {"boi_token": "<image>"}}):
        write_json(model / "tokenizer_config.json", config)
        load_causal_lm(model, torch.float32)
    write_json(model / "tokenizer_config.json", {"image_token": "<image>", "eos_token": "<image>"})
    with pytest.raises(UserError, match=r"gives '<image>' id 407, and the model has 400"):
        load_causal_lm(model, torch.float32)


def test_a_padding_token_without_an_embedding_is_not_used(model: Path) -> None:
    """Many a published fine-tune has a [PAD] that was added and never given an embedding."""
    write_json(model / "added_tokens.json", {"[PAD]": 400})
    write_json(model / "tokenizer_config.json", {"pad_token": "[PAD]"})
    load_causal_lm(model, torch.float32)
    tokenizer = load_tokenizer(model)
    assert tokenizer.pad_token == tokenizer.unk_token and tokenizer.pad_token_id < 400
    write_json(model / "tokenizer_config.json", {"pad_token": "[PAD]", "eos_token": "[PAD]"})
    with pytest.raises(UserError, match=r"gives '\[PAD\]' id 400"):
        load_causal_lm(model, torch.float32)
    setting(model, vocab_size=401)
    assert load_tokenizer(model).pad_token == "[PAD]"


def test_a_file_system_that_fails_damages_no_weights(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object, **__: object) -> None:
        raise SafetensorError("Error while reading: Input/output error (os error 5)")

    monkeypatch.setattr("safetensors.safe_open", failing)
    with pytest.raises(SafetensorError, match="os error 5"):
        load_causal_lm(model, torch.float32)


def test_pickled_weights_are_checked_as_well(model: Path) -> None:
    held = load_file(model / FILE)
    (model / FILE).unlink()
    torch.save(held, model / "pytorch_model.bin")
    load_causal_lm(model, torch.float32)
    torch.save(holding(NORM, float("inf"))(held), model / "pytorch_model.bin")
    with pytest.raises(UserError, match="is not finite"):
        load_causal_lm(model, torch.float32)


@pytest.mark.parametrize("kind", [torch.int8, torch.int32, torch.float8_e4m3fn, torch.complex64])
def test_pickled_weights_without_16_bits_or_a_fraction_are_one_line(
    kind: torch.dtype, model: Path
) -> None:
    held = load_file(model / FILE)
    (model / FILE).unlink()
    path, name = model / "pytorch_model.bin", str(kind).removeprefix("torch.")
    torch.save(held | {NORM: held[NORM].to(kind)}, path)
    with pytest.raises(UserError, match=f"{path}: {NORM} is stored as {name}"):
        load_causal_lm(model, torch.float32)


def test_pickles_may_hold_masks_and_be_of_the_old_format(model: Path) -> None:
    held = load_file(model / FILE)
    (model / FILE).unlink()
    mask = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(16, dtype=torch.uint8)}
    torch.save(held | mask, model / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    load_causal_lm(model, torch.float32)


def test_of_pickled_weights_in_two_places_none_is_taken(model: Path) -> None:
    held = load_file(model / FILE)
    (model / FILE).unlink()
    single, index = model / "pytorch_model.bin", model / "pytorch_model.bin.index.json"
    shards = [f"pytorch_model-0000{number}-of-00002.bin" for number in (1, 2)]
    torch.save(held, model / shards[0])
    torch.save({NORM: held[NORM] * 3}, model / shards[1])
    where = dict.fromkeys(held, shards[0])
    write_json(index, {"metadata": {}, "weight_map": where})
    load_causal_lm(model, torch.float32)
    write_json(index, {"metadata": {}, "weight_map": where | {EMBEDDING: shards[1]}})
    with pytest.raises(UserError, match=f"{NORM} is in {shards[0]} and in {shards[1]}"):
        load_causal_lm(model, torch.float32)
    torch.save(held, single)
    with pytest.raises(
        UserError, match=r"pytorch_model\.bin lies beside pytorch_model\.bin\.index"
    ):
        load_causal_lm(model, torch.float32)


def damaged(adapter: Path, to: Path, change: Callable[[Weights], Weights]) -> Path:
    shutil.copytree(adapter, to)
    held = change(load_file(to / "adapter_model.safetensors"))
    save_file(held, to / "adapter_model.safetensors", {"format": "pt"})
    return to


def test_an_adapter_that_is_not_whole_is_one_line(
    place: Path, adapter: Path, tmp_path: Path
) -> None:
    base = load_causal_lm(place / "base", torch.float32)
    name = min(load_file(adapter / "adapter_model.safetensors"))
    cases: list[tuple[Callable[[Weights], Weights], str]] = [
        (without(name), "1 weights do not fit the model, the first "),
        (lambda held: held | {"extra.weight": held[name].clone()}, "do not fit|no adapter of"),
        (lambda held: held | {name: held[name][:, :32].clone()}, "no adapter of this model"),
        (holding(name, float("nan")), f"{name} holds a value that is not finite"),
        (lambda held: held | {name: held[name].int()}, f"{name} is stored as I32"),
    ]
    for number, (change, message) in enumerate(cases):
        folder = damaged(adapter, tmp_path / str(number), change)
        with pytest.raises(UserError, match=message) as error:
            load_adapter(base, folder)
        assert "\n" not in str(error.value)
        base = load_causal_lm(place / "base", torch.float32)
    for missing in ("adapter_model.safetensors", "adapter_config.json"):
        folder = damaged(adapter, tmp_path / missing, dict)
        (folder / missing).unlink()
        with pytest.raises(UserError, match=f"{missing}: no such file"):
            load_adapter(base, folder)
    whole = load_adapter(base, adapter)
    assert json.loads((adapter / "adapter_config.json").read_text())["r"] == 8 and whole


def test_an_adapter_that_acts_on_some_tokens_alone_is_one_line(
    place: Path, adapter: Path, tmp_path: Path
) -> None:
    base = load_causal_lm(place / "base", torch.float32)
    folder = damaged(adapter, tmp_path / "alora", dict)
    path = folder / "adapter_config.json"
    write_json(path, read_json(path) | {"alora_invocation_tokens": [5]})
    with pytest.raises(UserError, match="sets alora_invocation_tokens"):
        load_adapter(base, folder)


@pytest.mark.parametrize("content", ["[]", "{", '{"base": 7}', "{}"])
def test_a_lineage_that_says_nothing_is_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "lineage.json").write_text(content)
    with pytest.raises(UserError, match=r"lineage\.json") as error:
        qlora.check_lineage(tmp_path, tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        "{",
        "{}",
        '{"r": true}',
        '{"r": 1, "target_modules": 7}',
        '{"target_modules": [1, "x"]}',
    ],
)
def test_an_adapters_configuration_that_says_something_else_is_one_line(
    tmp_path: Path, content: str
) -> None:
    (tmp_path / "adapter_config.json").write_text(content)
    with pytest.raises(UserError, match=str(tmp_path)) as error:
        qlora.require_same_lora(tmp_path, {"r": 1, "alpha": 1, "dropout": 0.0, "targets": ["x"]})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("family", ["qwen2", "gpt_neox"])
def test_a_trained_model_has_no_dropout_of_its_own(family: str, tmp_path: Path) -> None:
    model, ids = snapshot(tmp_path / "model", family), torch.arange(2, 26).reshape(1, 24)
    setting(model, hidden_dropout=0.5, attention_dropout=0.5)
    torch.manual_seed(0)
    own = load_causal_lm(model, torch.float32).train()
    assert not torch.equal(own(ids).logits, own(ids).logits)
    trained = qlora.load_4bit(model).train()
    assert torch.equal(trained(ids).logits, trained(ids).logits)


def test_rows_longer_than_the_models_context_are_one_line(place: Path) -> None:
    model = load_causal_lm(place / "base", torch.float32)
    require_positions("rows", model, [3, 256])
    with pytest.raises(UserError, match="rows: the longest has 257 tokens and the model was made"):
        require_positions("rows", model, [3, 257])


@pytest.mark.parametrize(
    ("rope", "expected"),
    [
        ({}, 256),
        ({"rope_type": "linear", "factor": 4.0}, 1024),
        ({"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 32}, 256),
        ({"full_attention": {"factor": 2.0}, "sliding_attention": {"factor": None}}, 512),
        ([{"factor": 4.0}], 256),
        ({"factor": 1e308, "original_max_position_embeddings": "x"}, 256),
        ({"factor": 1e308}, 256),
        ({"factor": True}, 256),
    ],
)
def test_a_stretched_rotary_embedding_lengthens_the_context(rope: dict, expected: int) -> None:
    from types import SimpleNamespace

    config = SimpleNamespace(max_position_embeddings=256, rope_parameters=rope)
    config.get_text_config = lambda: config
    assert positions(SimpleNamespace(config=config)) == expected
    config.max_position_embeddings = None
    assert positions(SimpleNamespace(config=config)) is None
