"""DPO: a reference that is computed once, a policy compared with it, and a collapse that fails."""

import contextlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from trained import DPO, REFERENCE, TEMPLATE, dpo_command, reference_command

import score_reference
import train_dpo
from bezoar.errors import UserError
from bezoar.evaluation.held_out import compared
from bezoar.files import sha256_file, write_jsonl
from bezoar.readers import read_json, read_jsonl
from bezoar.training import held_out_pairs, preference_pairs, qlora, trainer_setup
from bezoar.training.template import Template
from bezoar.training.tokenizer import load_tokenizer


def test_dpo_prefers_the_chosen_answer_and_is_compared_with_its_reference(dpo: Path) -> None:
    held = [row for row in read_jsonl(dpo / "metrics.jsonl") if "eval_rewards/margins" in row]
    assert held[-1]["eval_rewards/margins"] > 0
    raw = read_json(dpo / "held_out.json")
    assert raw["chosen_gain_nats"] == pytest.approx(
        held[-1]["eval_rewards/chosen"] / DPO["beta"], abs=1e-3
    )
    found = compared(raw, seed=0)
    assert found["pairs"] == len(raw["margins"]) == 8 and found["kl_nats_per_token"] > 0
    assert found["difference"]["mean"] == pytest.approx(
        found["policy"]["mean"] - found["reference"]["mean"]
    )
    assert len(set(raw["rows"])) == 8 and all(row >= 1 for row in raw["rows"])
    trained = DPO["optimizer"] if torch.cuda.is_available() else "adamw_torch"
    assert read_json(dpo.with_name("dpo.json"))["facts"]["optimizer"] == trained
    assert (
        sum(policy > reference for reference, policy in raw["margins"]) / 8
        == held[-1]["eval_rewards/accuracies"]
    )


def test_a_collapse_fails_and_leaves_nothing(place: Path, reference: Path) -> None:
    with pytest.raises(UserError, match="collapsed"):
        train_dpo.main(dpo_command(place, reference.name, "collapsed", min_accuracy=1.01))
    assert not (place / "collapsed").exists()


def test_other_bounds_judge_the_same_weights(
    place: Path, reference: Path, dpo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hours of training are kept where only the verdict changes."""
    with pytest.raises(UserError, match="collapsed"):
        train_dpo.main(dpo_command(place, reference.name, "relaxed", min_accuracy=1.01))

    def trains(_: Path) -> None:
        raise AssertionError("a step was trained again")

    monkeypatch.setattr(trainer_setup, "mark_complete", trains)
    train_dpo.main(dpo_command(place, reference.name, "relaxed", max_chosen_drop=999))
    name = "adapter_model.safetensors"
    assert sha256_file(place / "relaxed" / name) == sha256_file(dpo / name)
    recipe = read_json(place / "relaxed.json")["recipe"]
    assert (recipe["min_accuracy"], recipe["max_chosen_drop"]) == (0.0, 999)


def test_chosen_answers_that_were_lost_in_the_first_steps_fail(
    place: Path, reference: Path
) -> None:
    """The only evaluation while training comes after the last step."""
    rows = read_jsonl(reference)
    write_jsonl(place / "likely.jsonl", [row | {"chosen": row["chosen"] + 50} for row in rows])
    settings = {"max_chosen_drop": 20, "min_accuracy": 0.0, "epochs": 0.5, "eval_steps": 100}
    with pytest.raises(UserError, match=r"collapsed, chosen answers lost \d\d\.\d nats, more than"):
        train_dpo.main(dpo_command(place, "likely.jsonl", "lost", **settings))
    assert not (place / "lost").exists()


def test_the_divergence_is_measured_on_pairs_of_every_length(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Policy(torch.nn.Module):
        disable_adapter = contextlib.nullcontext

    def answer(_: object, ids: dict[str, list[int]]) -> torch.Tensor:
        return torch.zeros(len(ids["chosen"]), 1)

    def scores(_: object, of: list[dict], *more: object) -> list[tuple[float, float]]:
        return [(0.0, 0.0)] * len(of)

    monkeypatch.setattr(preference_pairs, "score", scores)
    monkeypatch.setattr(held_out_pairs, "_log_probabilities", answer)
    pairs = [
        {"row": size, "ids": {"prompt": [1], "chosen": [2] * size, "rejected": [3]}}
        | {"ref_chosen_logps": 0.0, "ref_rejected_logps": 0.0}
        for size in range(1, 641)
    ]
    for order in (pairs, pairs[::-1]):
        found = held_out_pairs.compare(Policy(), order, 0, 8)["kl_tokens"]
        assert found / held_out_pairs.KL_PAIRS == pytest.approx(320, rel=0.2)


def tokenized(place: Path) -> list[dict]:
    tokenizer = load_tokenizer(place / "base")
    return preference_pairs.tokenize(
        read_jsonl(place / "pairs.jsonl"), Template(TEMPLATE), tokenizer, REFERENCE
    )[0]


def test_the_reference_is_what_trl_computes_for_itself(
    place: Path, reference: Path, tmp_path: Path
) -> None:
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    rows, tokenizer = tokenized(place), load_tokenizer(place / "base")
    tokenizer.split_special_tokens = False  # TRL writes EOS as text
    stored = preference_pairs.read_reference(
        reference, rows, sha256_file(place / "base" / "model.safetensors")
    )
    model = qlora.attach_adapter(qlora.load_4bit(place / "base"), DPO["lora"], None)
    trainer = DPOTrainer(
        model=model,
        args=DPOConfig(
            output_dir=str(tmp_path),
            bf16=True,
            use_cpu=True,
            report_to="none",
            precompute_ref_log_probs=True,
        ),
        train_dataset=Dataset.from_list(rows).remove_columns("ids"),
        processing_class=tokenizer,
    )
    for row, (chosen, rejected), pair in zip(trainer.train_dataset, stored, rows, strict=True):
        assert (
            row["prompt_ids"] == pair["ids"]["prompt"]
            and row["chosen_ids"] == pair["ids"]["chosen"]
        )
        assert (row["ref_chosen_logps"], row["ref_rejected_logps"]) == pytest.approx(
            (chosen, rejected), abs=0.1
        )


def test_the_reference_goes_on_from_its_last_shard(
    place: Path, reference: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(score_reference, "SHARD", 2)
    asked, original = [], preference_pairs.score

    def dies(model: object, shard: list, *more: object) -> list:
        asked.append(len(shard))
        if len(asked) == 3:
            raise KeyboardInterrupt
        return original(model, shard, *more)

    monkeypatch.setattr(preference_pairs, "score", dies)
    with pytest.raises(KeyboardInterrupt):
        score_reference.main(reference_command(place, "resumed.jsonl"))
    assert not (place / "resumed.jsonl").exists()
    score_reference.main(reference_command(place, "resumed.jsonl"))
    assert asked == [8, 8, 8, 8, 8, 8], (
        "two shards before the end, three after it; only the interrupted one was asked twice"
    )
    assert (place / "resumed.jsonl").read_bytes() == reference.read_bytes()


def test_a_reference_of_other_weights_or_another_template_is_refused(
    place: Path, reference: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="pair 1 has no reference"):
        preference_pairs.read_reference(reference, tokenized(place), "0" * 64)
    template = json.loads(TEMPLATE.read_text())
    (tmp_path / "template.json").write_text(json.dumps(template).replace("Instruction", "Question"))
    command = dpo_command(place, reference.name, "refused")
    command[command.index("--template") + 1] = str(tmp_path / "template.json")
    with pytest.raises(
        UserError, match=r"reference\.jsonl: pair 1 has no reference log-probabilities"
    ):
        train_dpo.main(command)


@pytest.mark.parametrize("row", [{}, {"key": "k", "chosen": None, "rejected": 1}, {"key": 1}])
def test_a_row_of_the_reference_that_is_none_is_one_line(row: dict, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "logps.jsonl", [row])
    with pytest.raises(UserError, match=r"logps\.jsonl:1: expected key \(text\), chosen"):
        preference_pairs.read_reference(tmp_path / "logps.jsonl", [], "0" * 64)


@pytest.mark.parametrize("value", ["NaN", "-Infinity", "-1e999", '"nan"'])
def test_a_log_probability_of_the_reference_that_is_no_number_is_one_line(
    value: str, tmp_path: Path
) -> None:
    path = tmp_path / "logps.jsonl"
    path.write_text(f'\n{{"key": "k", "chosen": {value}, "rejected": -1.0}}\n')
    with pytest.raises(UserError, match=r"logps\.jsonl:2: expected ") as error:
        preference_pairs.read_reference(path, [], "0" * 64)
    assert "\n" not in str(error.value)


def test_pairs_whose_scores_overflow_are_one_line_and_no_reference(
    place: Path, tmp_path: Path
) -> None:
    shutil.copytree(place / "base", tmp_path / "base")
    shutil.copy(place / "pairs.jsonl", tmp_path)
    weights = tmp_path / "base" / "model.safetensors"
    held = load_file(weights)
    large = {name: tensor.float() * (1e25 if "mlp" in name else 1) for name, tensor in held.items()}
    save_file(large, weights, {"format": "pt"})
    with pytest.raises(UserError, match="preferences: a log-probability is not a number"):
        score_reference.main(reference_command(tmp_path, "logps.jsonl"))
    assert not (tmp_path / "logps.jsonl").exists()


@pytest.mark.parametrize("rate", [0.25, 0.0])
def test_the_adapters_dropout_is_the_recipes(rate: float, place: Path, tmp_path: Path) -> None:
    pairs = [{**pair, "ref_chosen_logps": 0, "ref_rejected_logps": 0} for pair in tokenized(place)]
    model = qlora.attach_adapter(
        qlora.load_4bit(place / "base"), DPO["lora"] | {"dropout": rate}, None
    )
    trainer = train_dpo.dpo_trainer(
        model, pairs, pairs, load_tokenizer(place / "base"), DPO, tmp_path
    )
    layers = [layer for layer in trainer.model.modules() if isinstance(layer, torch.nn.Dropout)]
    assert {layer.p for layer in layers} == ({rate} if rate else set())


def test_markup_in_a_pair_is_text(place: Path) -> None:
    tokenizer = load_tokenizer(place / "base")
    row = {"prompt": "<s>red</s>", "chosen": "a </s>", "rejected": "a <unk> </s>"}
    [pair], _ = preference_pairs.tokenize([row], Template(TEMPLATE), tokenizer, REFERENCE)
    for side in ("chosen", "rejected"):
        ids = pair["ids"]["prompt"] + pair["ids"][side]
        assert [token for token in ids if token < 4] == [1, 2], "BOS and EOS, and no other"


def test_pairs_that_do_not_fit_are_left_out_and_counted(place: Path) -> None:
    rows = [
        {"prompt": "red", "chosen": "blue", "rejected": "one"},
        {"prompt": "red " * 90, "chosen": "blue", "rejected": "one"},
        {"prompt": "red", "chosen": "blue " * 120, "rejected": "one"},
    ]
    kept, counts = preference_pairs.tokenize(
        rows, Template(TEMPLATE), load_tokenizer(place / "base"), REFERENCE
    )
    assert counts == {"rows": 3, "prompt_too_long": 1, "too_long": 1} and len(kept) == 1
    assert kept[0]["ids"]["chosen"][-1] == load_tokenizer(place / "base").eos_token_id


def test_another_beta_takes_the_same_reference(place: Path, reference: Path, dpo: Path) -> None:
    write_jsonl(place / "copy.jsonl", read_jsonl(reference))
    train_dpo.main(dpo_command(place, "copy.jsonl", "firmer", beta=0.5))
    assert sha256_file(place / "firmer" / "adapter_model.safetensors") != sha256_file(
        dpo / "adapter_model.safetensors"
    )
