"""Any modern base can be trained: three families go through SFT, merge, DPO and both
benchmarks.
"""

import json
import shutil
from pathlib import Path

import pytest
from families import LORA, snapshot
from trained import DPO, REFERENCE, SFT, TEMPLATE

import answer_mtbench
import collect_lm_eval
import import_base
import merge_adapter
import run_lm_eval
import score_reference
import train_dpo
import train_sft
from bezoar.errors import UserError
from bezoar.evaluation import generation
from bezoar.evaluation.generation import generate, log_probabilities
from bezoar.evaluation.models import load
from bezoar.files import write_jsonl
from bezoar.readers import read_json, read_jsonl
from bezoar.training import qlora
from bezoar.training.template import OwnTemplate
from bezoar.training.tokenizer import encode, load_tokenizer

FAMILIES = ("llama", "qwen2", "gpt_neox")
MERGE = {
    "merge_onto": "base",
    "probe_rows": 4,
    "max_length": 64,
    "max_kl": 1.0,
    "threads": 1,
    "seed": 0,
}
HARNESS = {
    "tasks": ["sums"],
    "versions": {"sums": "v2"},
    "task_files": [],
    "data": {},
    "num_fewshot": 0,
    "batch_size": 4,
    "dtype": "float32",
    "max_length": 128,
    "limit": None,
    "bootstrap_iters": 0,
    "threads": 1,
    "seed": 0,
}
ANSWERS = {
    "temperatures": {},
    "default_temperature": 0.0,
    "top_k": 0,
    "max_new_tokens": 4,
    "stop": [],
    "batch_size": 4,
    "dtype": "float32",
    "threads": 1,
    "seed": 0,
}
TASK = """
task: sums
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: multiple_choice
doc_to_text: '{{question}}'
doc_to_choice: ['red', 'blue']
doc_to_target: 0
metric_list: [{metric: acc}, {metric: acc_norm}]
metadata: {version: v2}
"""


def run(program: object, out: Path, recipe: dict, **paths: object) -> dict:
    """Run a program's main with a recipe; return its receipt."""
    options = [
        text
        for name, path in paths.items()
        for text in (
            f"--{name.replace('_', '-')}",
            *([str(path)] if not isinstance(path, list) else map(str, path)),
        )
    ]
    receipt = out / f"{program.__name__}.receipt.json"
    program.main(
        [*options, "--recipe", json.dumps(recipe), "--code", "x", "--receipt", str(receipt)]
    )
    return read_json(receipt)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_base_of_any_family_is_trained_merged_aligned_and_evaluated(
    family: str, place: Path, tmp_path: Path
) -> None:
    source = place / "base" if family == "llama" else snapshot(tmp_path / "snapshot", family)
    counted = "tokenizer.model" if family == "llama" else "tokenizer.json"
    base, lora = tmp_path / "base", SFT["lora"] | {"targets": LORA[family]}
    small = {"lora": lora, "epochs": 1, "eval_steps": 4, "max_length": 160}
    imported = {"dtype": "bfloat16", "tokenizer": counted, "seed": 0}
    run(import_base, tmp_path, imported, snapshot=source, base=base)
    rows, pairs = place / "rows.jsonl", place / "pairs.jsonl"
    facts = run(
        train_sft,
        tmp_path,
        SFT | small,
        stage="sft",
        data=rows,
        base=base,
        template=TEMPLATE,
        adapter=tmp_path / "sft",
    )["facts"]
    assert facts["training"] == 32 and facts["largest_change"] > 0
    merged = tmp_path / "merged"
    run(
        merge_adapter,
        tmp_path,
        MERGE,
        base=base,
        adapter=tmp_path / "sft",
        probe=rows,
        template=TEMPLATE,
        model=merged,
    )
    assert (merged / counted).read_bytes() == (source / counted).read_bytes()
    limits = {"max_prompt_length": 120, "max_length": 160}
    run(
        score_reference,
        tmp_path,
        REFERENCE | limits,
        pairs=pairs,
        base=merged,
        template=TEMPLATE,
        reference=tmp_path / "logps.jsonl",
    )
    facts = run(
        train_dpo,
        tmp_path,
        DPO | small | limits,
        pairs=pairs,
        reference=tmp_path / "logps.jsonl",
        base=merged,
        template=TEMPLATE,
        adapter=tmp_path / "dpo",
    )["facts"]
    assert facts["rows"] == 40 and facts["largest_change"] > 0 and not facts["too_long"]
    write_jsonl(tmp_path / "sums.jsonl", [{"question": f"number {i} is"} for i in range(6)])
    (tmp_path / "sums.yaml").write_text(TASK.replace("DATA", str(tmp_path / "sums.jsonl")))
    run(
        run_lm_eval,
        tmp_path,
        HARNESS,
        model=merged,
        name=family,
        task_files=[tmp_path / "sums.yaml", tmp_path / "sums.jsonl"],
        results=tmp_path / f"{family}.json",
        samples=tmp_path / f"{family}.samples.jsonl",
    )
    table = {"metric": {}, "pairs": [], "published_base": None, "tolerance": 0.02, "seed": 0}
    run(
        collect_lm_eval,
        tmp_path,
        table,
        results=tmp_path / f"{family}.json",
        samples=tmp_path / f"{family}.samples.jsonl",
        output=tmp_path / "table.json",
    )
    assert read_json(tmp_path / "table.json")["models"][family]["sums"]["n"] == 6
    questions = [{"question_id": 81, "category": "writing", "turns": ["the red", "a </s> cat"]}]
    write_jsonl(tmp_path / "questions.jsonl", questions)
    for template in (TEMPLATE, *(["tokenizer"] if family != "llama" else [])):
        run(
            answer_mtbench,
            tmp_path,
            ANSWERS,
            model=merged,
            name=family,
            questions=tmp_path / "questions.jsonl",
            template=template,
            answers=tmp_path / "answers.jsonl",
        )
        assert len(read_jsonl(tmp_path / "answers.jsonl")[0]["choices"][0]["turns"]) == 2


def test_layers_that_are_not_linear_are_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="gpt2 has Conv1D layers, whose transposed weights"):
        qlora.load_4bit(snapshot(tmp_path / "gpt2", "gpt2"))


def test_a_model_without_layers_has_nothing_to_train_and_any_size_of_layers_will_do(
    tmp_path: Path,
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, Qwen2Config

    model = snapshot(tmp_path / "qwen2", "qwen2")
    described = read_json(model / "config.json")

    def reshaped(**changes: object) -> None:
        made = AutoModelForCausalLM.from_config(Qwen2Config(**described | changes))
        made.save_pretrained(model)

    reshaped(num_hidden_layers=0, layer_types=[])
    with pytest.raises(UserError, match="no linear layer to quantise to 4 bits; train a model"):
        qlora.load_4bit(model)
    reshaped(hidden_size=48, intermediate_size=100)
    lora = SFT["lora"] | {"targets": ["q_proj"]}
    adapted = qlora.attach_adapter(qlora.load_4bit(model), lora, None).train()
    ids = torch.tensor([[1, 2, 3]])
    adapted(ids, labels=ids).loss.backward()
    gradients = [weight.grad for weight in qlora.trainable(adapted).values()]
    assert gradients and all(gradient is not None for gradient in gradients)


def test_a_target_that_the_family_does_not_have_is_refused_with_those_it_has(
    tmp_path: Path,
) -> None:
    model = qlora.load_4bit(snapshot(tmp_path / "neox", "gpt_neox"))
    with pytest.raises(UserError, match=r"no layer q_proj; it has dense, .*query_key_value"):
        qlora.attach_adapter(model, SFT["lora"], None)


def test_the_file_whose_tokenizer_counts_is_the_settings(place: Path, tmp_path: Path) -> None:
    both = tmp_path / "both"
    shutil.copytree(place / "base", both)
    from families import tokenizer

    tokenizer(both)
    recipe = {"dtype": "bfloat16", "tokenizer": "tokenizer.model", "seed": 0}
    facts = run(import_base, tmp_path, recipe, snapshot=both, base=tmp_path / "in")["facts"]
    assert facts["probes_split_otherwise"] > 0
    assert not (tmp_path / "in/tokenizer.json").exists()
    assert load_tokenizer(tmp_path / "in")("red")["input_ids"] == [1, 263]
    recipe = {"dtype": "bfloat16", "tokenizer": "tokenizer.json", "seed": 0}
    run(import_base, tmp_path, recipe, snapshot=both, base=tmp_path / "own")
    assert load_tokenizer(tmp_path / "own").eos_token == "<|endoftext|>"
    with pytest.raises(UserError, match=r"tokenizer\.json: no such file; base\.tokenizer names"):
        run(import_base, tmp_path, recipe, snapshot=place / "base", base=tmp_path / "no")


@pytest.mark.parametrize("bos", [False, True])
def test_a_chat_template_gives_the_ids_that_the_model_brings(bos: bool, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    model = snapshot(tmp_path / "qwen2", "qwen2", bos)
    if bos:
        config = read_json(model / "tokenizer_config.json")
        config["chat_template"] = "{{ bos_token }}" + config["chat_template"]
        (model / "tokenizer_config.json").write_text(json.dumps(config))
    own, tokenizer, template = (
        AutoTokenizer.from_pretrained(model),
        load_tokenizer(model),
        OwnTemplate(model),
    )
    for text in ("the red cat", " two  lines\n", ""):
        messages = [{"role": "user", "content": text}]
        right = own.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        found = encode(tokenizer, template.pieces([("Human", text)]), add_beginning=False)
        assert found == right and right.count(own.convert_tokens_to_ids("<|begin|>")) == int(bos)
    marked = template.pieces([("Human", "a <|im_end|> in <|endoftext|> text")])
    ids = encode(tokenizer, marked, add_beginning=False)
    end = own.convert_tokens_to_ids("<|im_end|>")
    assert ids.count(end) == 1 and own.eos_token_id not in ids, "the template's own, and no other"
    assert "a <|im_end|> in <|endoftext|> text" in tokenizer.decode(ids)
    turns = [("Human", "hello"), ("Assistant", " <|im_end|>"), ("Human", "go")]
    pieces = template.pieces(turns)
    assert [text.strip() for text, own in pieces if not own] == ["hello", "<|im_end|>", "go"]
    assert encode(tokenizer, pieces, add_beginning=False).count(end) == 3, "one after each turn"


@pytest.mark.parametrize("begins", ["with BOS", "with another token", "with none"])
def test_the_harness_begins_a_text_as_the_trainings_do(begins: str, tmp_path: Path) -> None:
    model = snapshot(tmp_path / "qwen2", "qwen2", bos=begins != "with none")
    if begins == "with another token":
        config = read_json(model / "tokenizer_config.json")
        del config["bos_token"]
        (model / "tokenizer_config.json").write_text(json.dumps(config))
    expected = encode(load_tokenizer(model), "red cat")
    assert run_lm_eval.backend(model, HARNESS).tok_encode("red cat") == expected
    assert len(expected) == len(encode(load_tokenizer(model), "red cat", False)) + (
        begins != "with none"
    )


def test_a_template_that_cannot_be_rendered_or_hides_markup_is_one_line(tmp_path: Path) -> None:
    model = snapshot(tmp_path / "qwen2", "qwen2")
    config = read_json(model / "tokenizer_config.json")

    def written(template: str) -> OwnTemplate:
        (model / "tokenizer_config.json").write_text(
            json.dumps(config | {"chat_template": template})
        )
        return OwnTemplate(model)

    with pytest.raises(UserError, match="its chat template cannot be rendered"):
        written("{{ raise_exception('roles must alternate') }}").pieces([("Human", "a")])
    last = written("<|im_start|>{{ messages[-1]['content'] }}<|im_end|>")
    turns = [("Human", "red <b>"), ("Assistant", "cat"), ("Human", "blue <|im_end|>")]
    assert last.pieces(turns) == [
        ("<|im_start|>", True),
        ("blue <|im_end|>", False),
        ("<|im_end|>", True),
    ]
    with pytest.raises(UserError, match="the model brings no chat template; name a template file"):
        written("")
    shouting = written("<|im_start|>{{ messages[0]['content'] | upper }}")
    assert shouting.pieces([("Human", "red")]) == [("<|im_start|>RED", True)]
    with pytest.raises(UserError, match="its chat template rewrites the turn"):
        shouting.pieces([("Human", "red <|im_end|>")])


def test_an_answer_ends_at_every_end_that_the_model_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights are scripted: after any prompt `A`, then <|im_end|>, after that `B` for ever."""
    import torch

    model = snapshot(tmp_path / "qwen2", "qwen2")
    network, tokenizer = load(model, "float32", 1)
    end, first, then = (
        tokenizer.convert_tokens_to_ids(token) for token in ("<|im_end|>", "A", "B")
    )
    network.generation_config.eos_token_id = [tokenizer.eos_token_id, end]
    following, calls = {first: end, end: then, then: then}, 0

    def scripted(*_: object, **named: torch.Tensor) -> object:
        nonlocal calls
        calls += 1
        out = real(**named)
        out.logits[:] = 0
        for row, token in enumerate(named["input_ids"][:, -1].tolist()):
            out.logits[row, -1, following.get(token, first)] = 9
        return out

    real, network.forward = network.forward, scripted
    assert generate(network, tokenizer, ["red"], 6, 1) == [("A", "eos")]
    network.generation_config.eos_token_id = tokenizer.eos_token_id
    assert generate(network, tokenizer, ["red"], 4, 1) == [("ABB", "length")]
    asked = calls
    monkeypatch.setattr(generation, "ASKED", 2)
    looked = []

    def complete(text: str) -> bool:
        looked.append(text)
        return "BB" in text

    ended = generate(network, tokenizer, ["red"], 20, 1, complete=complete)
    assert ended == [("ABB", "length")] and calls - asked == 4, "A, the end of a turn, B, B"
    assert looked == ["A", "ABB"]


def test_answers_end_where_the_models_context_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network, tokenizer = load(snapshot(tmp_path / "gpt2", "gpt2"), "float32", 1)
    network.generation_config.eos_token_id = None
    long, short = "red " * 28, "red"
    used = len(encode(tokenizer, long))
    found = generate(network, tokenizer, [long, short, long, short], 30, 4)
    assert "2 of 4 prompts leave fewer than max_new_tokens 30 of the model's 64" in (
        capsys.readouterr().out
    )
    assert 64 - 30 < used < 64 and len(found) == 4
    alone = generate(network, tokenizer, [short], 30, 4)
    assert found[1] == found[3] == alone[0], "a long neighbour cuts no short answer"
    with pytest.raises(UserError, match=r"prompt 2 has \d+ tokens, and the model was made for 64"):
        generate(network, tokenizer, [short, "red " * 80], 30, 4)


@pytest.mark.parametrize(
    "settings",
    [
        {"repetition_penalty": 5.0, "no_repeat_ngram_size": 2},
        {"num_beams": 3, "num_return_sequences": 2},
        {"return_dict_in_generate": True, "min_new_tokens": 5},
        {"suppress_tokens": [*range(20)], "temperature": 0.3, "do_sample": True},
    ],
)
def test_nothing_but_the_ends_of_a_models_own_generation_settings_counts(
    settings: dict[str, object], tmp_path: Path
) -> None:
    model = snapshot(tmp_path / "qwen2", "qwen2")
    plain = generate(*load(model, "float32", 1), ["red", "blue blue"], 8, 2)
    path = model / "generation_config.json"
    held = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({**held, **settings}))
    assert generate(*load(model, "float32", 1), ["red", "blue blue"], 8, 2) == plain


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_model_that_sees_the_tokens_to_come_is_refused(tmp_path: Path, dtype: str) -> None:
    """transformers loads BERT as a causal language model, with a warning."""
    from transformers import BertConfig, BertLMHeadModel

    folder = snapshot(tmp_path / "bert", "qwen2")
    (folder / "model.safetensors").unlink()
    shape = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1}
    for is_decoder in (True, False):
        made = BertConfig(vocab_size=384, num_attention_heads=2, is_decoder=is_decoder, **shape)
        BertLMHeadModel(made).save_pretrained(folder)
        if is_decoder:
            load(folder, dtype, 1)
    with pytest.raises(UserError, match="BertLMHeadModel looks at the tokens after the one"):
        load(folder, dtype, 1)


def test_numbers_that_overflow_are_one_line_and_no_answer(tmp_path: Path) -> None:
    network, tokenizer = load(snapshot(tmp_path / "qwen2", "qwen2"), "float32", 1)
    for layer in network.model.layers:
        layer.mlp.up_proj.weight.data *= 1e25
        layer.mlp.gate_proj.weight.data *= 1e25
    for temperature in (0.0, 0.7):
        with pytest.raises(UserError, match="next token is not a number: the model overflows"):
            generate(network, tokenizer, ["red"], 4, 1, temperature=temperature)
    with pytest.raises(UserError, match="a log-probability is not a number"):
        log_probabilities(network, tokenizer, [("red", "blue")], 1)


def test_a_chat_template_that_asks_for_the_day_writes_the_same_one_every_day(
    tmp_path: Path,
) -> None:
    model = snapshot(tmp_path / "qwen2", "qwen2")
    config = json.loads((model / "tokenizer_config.json").read_text())
    template = "{{ strftime_now('%d %b %Y') }} {{ messages[0]['content'] }}"
    (model / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": template}))
    assert OwnTemplate(model).dialogue([("Human", "red")]) == "26 Jul 2024 red"


def test_layers_that_no_adapter_fits_are_one_line(tmp_path: Path) -> None:
    model = qlora.load_4bit(snapshot(tmp_path / "qwen2", "qwen2"))
    for targets, line in {
        ("mlp",): "no layer mlp; it has down_proj",
        ("input_layernorm",): "no layer input_layernorm",
        (): "lora.targets: expected some of down_proj, .*, found none",
        ("lm_head",): "lm_head is the embedding and the output layer at once",
        ("q_proj", "embed_tokens"): "embed_tokens is the embedding and the output layer",
    }.items():
        with pytest.raises(UserError, match=line) as error:
            qlora.attach_adapter(model, SFT["lora"] | {"targets": list(targets)}, None)
        assert "\n" not in str(error.value)


def test_an_output_layer_of_its_own_gets_no_adapter(tmp_path: Path) -> None:
    model = qlora.load_4bit(snapshot(tmp_path / "gpt_neox", "gpt_neox"))
    for targets in (["lm_head"], ["query_key_value", "lm_head"]):
        lora = SFT["lora"] | {"targets": targets}
        with pytest.raises(UserError, match="lm_head is the output layer, whose adapter would"):
            qlora.attach_adapter(model, lora, None)
    config = {"r": lora["r"], "lora_alpha": lora["alpha"], "lora_dropout": lora["dropout"]}
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, "target_modules": targets}))
    with pytest.raises(UserError, match="lm_head is the output layer"):
        qlora.attach_adapter(model, lora, tmp_path)
    qlora.attach_adapter(model, SFT["lora"] | {"targets": ["embed_in"]}, None)


def test_a_token_of_another_medium_needs_no_embedding(tmp_path: Path) -> None:
    model = snapshot(tmp_path / "qwen2", "qwen2")
    made = json.loads((model / "tokenizer.json").read_text())
    rows = json.loads((model / "config.json").read_text())["vocab_size"]
    sides = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    first = len(load_tokenizer(model))
    names = [*(f"<unused{number}>" for number in range(first, rows)), "<image>"]
    made["added_tokens"] += [
        {"id": number, "content": name, "special": True, **sides}
        for number, name in enumerate(names, start=first)
    ]
    (model / "tokenizer.json").write_text(json.dumps(made))
    with pytest.raises(UserError, match="gives '<image>' id"):
        load(model, "float32", 1)
    config = json.loads((model / "tokenizer_config.json").read_text())
    (model / "tokenizer_config.json").write_text(json.dumps({**config, "image_token": "<image>"}))
    load(model, "float32", 1)
