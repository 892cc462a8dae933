"""Direct Preference Optimisation (arXiv 2305.18290) of a LoRA adapter over the merged HH-RLHF-SFT model, with TRL's DPOTrainer.

Usage: train_dpo.py --pairs results/preferences/pairs.jsonl --base results/merge/openbezoar-hh-rlhf-sft --template template.json \\
           --recipe '{"beta": 0.1, …}' --code … --adapter results/dpo --receipt results/dpo/receipt.json

The reference is the base itself (the adapter switched off); its log-probabilities are computed once, before training.
A run whose held-out accuracy ends below `min_accuracy`, or whose chosen answers lose more than `max_chosen_drop` nats, has collapsed and fails.

Recipe: as train_sft.py (lora, epochs, learning_rate, batch_size, micro_batch_size, schedule, warmup_steps, optimizer, weight_decay,
max_grad_norm, validation_share, validation_seed, eval_steps, keep_best, gradient_checkpointing, threads, seed), and beta (float), max_prompt_length
and max_length (tokens; longer pairs are dropped and counted), min_accuracy (0-1), max_chosen_drop (nats).
"""

import argparse
import shutil
from pathlib import Path
from typing import Any

from bezoar.errors import UserError, cli
from bezoar.files import read_jsonl, whole_directory, write_jsonl
from bezoar.receipt import Receipt, add_stage_arguments
from bezoar.template import Template
from train_sft import split


def render(rows: list[dict[str, Any]], template: Template, tokenizer: Any, recipe: dict[str, Any]) -> tuple[list[dict], dict[str, int]]:
    """Return rows of prompt, chosen and rejected texts that fit the lengths; and counts."""
    counts = {"rows": len(rows), "prompt_too_long": 0, "too_long": 0}
    kept = []
    for row in rows:
        prompt = template.prompt(row["prompt"])
        longest = max(len(tokenizer(prompt + row[side])["input_ids"]) + 1 for side in ("chosen", "rejected"))
        if len(tokenizer(prompt)["input_ids"]) > recipe["max_prompt_length"]:
            counts["prompt_too_long"] += 1
        elif longest > recipe["max_length"]:
            counts["too_long"] += 1
        else:
            kept.append({"prompt": prompt, "chosen": row["chosen"], "rejected": row["rejected"]})
    return kept, counts


def curves(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return losses, margins, accuracies and log-probabilities by step, without times."""
    wanted = ("loss", "grad_norm", "learning_rate", "rewards/margins", "rewards/accuracies", "logps/chosen", "logps/rejected")
    names = [*wanted, *(f"eval_{name}" for name in wanted)]
    rows = [{"step": row["step"], **{key: row[key] for key in names if key in row}} for row in history]
    return [row for row in rows if "loss" in row or "eval_loss" in row]


def check_collapse(rows: list[dict[str, Any]], recipe: dict[str, Any]) -> None:
    """Raise `UserError` if held-out accuracy or the likelihood of chosen answers fell beyond the bounds."""
    held = [row for row in rows if "eval_loss" in row]
    if not held:
        raise UserError("dpo: no evaluation was logged; lower eval_steps below the number of steps")
    first, last = held[0], held[-1]
    if last["eval_rewards/accuracies"] < recipe["min_accuracy"]:
        raise UserError(f"dpo: collapsed, held-out accuracy {last['eval_rewards/accuracies']:.3f} is below min_accuracy {recipe['min_accuracy']}")
    drop = first["eval_logps/chosen"] - last["eval_logps/chosen"]
    if drop > recipe["max_chosen_drop"]:
        raise UserError(f"dpo: collapsed, chosen answers lost {drop:.1f} nats, more than max_chosen_drop {recipe['max_chosen_drop']}")


def train(rows: list[dict], base: Path, tokenizer: Any, recipe: dict[str, Any], work: Path, out: Path) -> dict[str, Any]:
    """Train one adapter into `out`; `work` holds the checkpoints. Return facts for the receipt."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    from bezoar import training

    training.deterministic(recipe["seed"], recipe["threads"])
    fit, check = split(rows, recipe["validation_share"], recipe["validation_seed"])
    if not fit or not check:
        raise UserError(f"dpo: {len(rows)} usable pairs, expected enough for training and validation; look at preferences/counts.json")
    model = training.attach_adapter(training.load_4bit(base), recipe["lora"], None)
    before = {name: parameter.detach().cpu().clone() for name, parameter in training.trainable(model).items()}
    arguments = training.trainer_arguments(recipe, work)
    trainer = DPOTrainer(
        model=model,
        args=DPOConfig(**arguments, beta=recipe["beta"], max_length=recipe["max_length"], precompute_ref_log_probs=True),
        train_dataset=Dataset.from_list(fit), eval_dataset=Dataset.from_list(check),
        processing_class=tokenizer, callbacks=[training.watch()],
    )  # fmt: skip
    training.run(trainer, work)
    moved = training.require_moved(before, trainer.model)
    trainer.model.save_pretrained(out, save_embedding_layers=False)
    (out / "README.md").unlink(missing_ok=True)
    rows = curves(trainer.state.log_history)
    check_collapse(rows, recipe)
    write_jsonl(out / "metrics.jsonl", rows)
    return {"training": len(fit), "validation": len(check), "largest_change": moved, "steps": trainer.state.global_step}


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=Path, required=True, help="rows of prompt, chosen, rejected, JSONL")
    parser.add_argument("--base", type=Path, required=True, help="merged model directory; also the reference")
    parser.add_argument("--template", type=Path, required=True, help="chat template, JSON")
    parser.add_argument("--adapter", type=Path, required=True, help="directory to write")
    add_stage_arguments(parser)
    args = parser.parse_args(argv)

    from bezoar.tokenizer import load_tokenizer
    from bezoar.training import ADAPTER_FILES, write_lineage

    with Receipt(
        args.receipt, stage="dpo", recipe=args.recipe, code=args.code,
        inputs={"pairs": args.pairs, "base": args.base / "model.safetensors", "template": args.template},
        outputs={"adapter": [args.adapter / name for name in ADAPTER_FILES]},
    ) as receipt:  # fmt: skip
        tokenizer = load_tokenizer(args.base)
        rows, counts = render(read_jsonl(args.pairs), Template(args.template), tokenizer, args.recipe)
        print(f"{args.pairs}: {counts}", flush=True)
        work = args.adapter.parent / f".{args.adapter.name}.checkpoints"
        with whole_directory(args.adapter) as fresh:
            facts = train(rows, args.base, tokenizer, args.recipe, work, fresh)
            write_lineage(fresh, args.base, None)
        shutil.rmtree(work, ignore_errors=True)
        receipt.facts |= counts | facts


if __name__ == "__main__":
    cli(main)
