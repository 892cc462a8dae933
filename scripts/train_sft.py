"""Supervised fine-tuning of a LoRA adapter over a 4-bit base (QLoRA), with TRL's SFTTrainer.

Usage: train_sft.py --stage sft --data results/filter/lamini.jsonl \\
           --base results/base [--parent results/sft/lamini] \\
           --template template.json --recipe '{"epochs": 3, …}' --code … --adapter results/sft/orca
             --receipt …/receipt.json

--adapter is a directory; it gets adapter_model.safetensors, adapter_config.json, lineage.json and
  metrics.jsonl (curves).
Rows with a column gpt4_status are used if it says Accept; rows without one are all used.

Under `accelerate launch` several processes share each global batch, and the first one writes.
"""

import shutil
from pathlib import Path
from typing import Any

from bezoar import precision, program
from bezoar.arguments import model_directory
from bezoar.errors import UserError
from bezoar.files import whole_directory, write_jsonl
from bezoar.provenance.receipt import Receipt, stage_parser
from bezoar.provenance.resumption import begun_with
from bezoar.readers import read_jsonl
from bezoar.training.settings import TrainingSettings
from bezoar.training.sharing import balanced_passes, first_process, keep_to_one_gpu, processes
from bezoar.training.split import evaluated, split
from bezoar.training.supervised_rows import tokenize
from bezoar.training.template import Template


class Recipe(TrainingSettings):
    """The settings of the stage, with their units."""

    completion_only: bool  # loss on the response alone


def train(
    rows: list[dict],
    total: int,
    base: Path,
    parent: Path | None,
    tokenizer: Any,
    recipe: Recipe,
    work: Path,
    out: Path,
    begun_with: dict[str, Any],
) -> dict[str, Any]:
    """Train one adapter into `out` on `rows` of a file that has `total`; `work` holds the
    checkpoints of a run that was `begun_with` the same. Return facts for the receipt.
    """
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    from bezoar.training import output_layer, padding_free, qlora, trainer_setup
    from bezoar.training.weights import require_positions

    qlora.deterministic(recipe["seed"], recipe["threads"])
    training, validation = split(rows, total, recipe["validation_share"], recipe["validation_seed"])
    if len(training) < 1 or len(validation) < 1:
        raise UserError(
            f"sft: {len(rows)} usable rows, expected enough for training and validation; look at"
            " the filter's verdicts"
        )
    model = qlora.attach_adapter(
        qlora.load_4bit(base, recipe["cache_dequantized"]), recipe["lora"], parent
    )
    require_positions("sft: rows", model, (len(row["input_ids"]) for row in rows))
    lengths = [len(row["input_ids"]) for row in training]
    order = qlora.training_order(lengths, recipe["batch_size"], recipe["epochs"], recipe["seed"])
    arguments, passes = trainer_setup.trainer_arguments(recipe, work), None
    if padding_free.prepare(model):
        arguments["gradient_accumulation_steps"], passes = balanced_passes(
            [lengths[index] for index in order],
            recipe["batch_size"],
            recipe["micro_batch_size"] * recipe["max_length"],
            processes(),
        )
    else:
        print("rows keep their padding: the model's attention needs it", flush=True)
    before = qlora.weights_of(model)
    held_out = sorted(evaluated(validation, recipe), key=lambda row: -len(row["input_ids"]))
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(
            **arguments,
            eval_on_start=True,  # held-out loss before anything is learned
            max_length=recipe["max_length"],
            completion_only_loss=recipe["completion_only"],
        ),
        train_dataset=Dataset.from_list(training).remove_columns("row").select(order),
        eval_dataset=Dataset.from_list(held_out).remove_columns("row"),
        processing_class=tokenizer,
        callbacks=[trainer_setup.progress_callback()],
    )
    trainer_setup.weigh_evaluations(
        trainer,
        lambda batch: (batch["labels"][:, 1:] != -100).sum(),  # a row's first token has no loss
    )
    with trainer.model.disable_adapter():  # which is bfloat16 until training begins
        output_layer.lighten(trainer.model.get_base_model())
    qlora.run(trainer, work, begun_with, before, passes)
    moved = qlora.require_moved(before, trainer.model)
    held = [row["eval_loss"] for row in trainer.state.log_history if "eval_loss" in row]
    if first_process():
        qlora.save_adapter(trainer.model, out)
        write_jsonl(out / "metrics.jsonl", curves(trainer.state.log_history))
    return {
        "training": len(training),
        "validation": len(validation),
        "evaluated": len(held_out),
        "largest_change": moved,
        "steps": trainer.state.global_step,
        "optimizer": trainer_setup.optimizer(trainer),
        "first_eval_loss": held[0],
        "saved_eval_loss": (
            trainer.state.best_metric if recipe["load_best_model_at_end"] else held[-1]
        ),
    }


def curves(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the logged losses by step without times, so that an interrupted run and an undisturbed
    one log the same.
    """
    wanted = ("step", "loss", "eval_loss", "grad_norm", "learning_rate", "eval_mean_token_accuracy")
    rows = [{key: row[key] for key in wanted if key in row} for row in history]
    return [row for row in rows if "loss" in row or "eval_loss" in row]


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and train."""
    parser = stage_parser(__doc__, Recipe)
    parser.add_argument("--stage", required=True, help="name of the stage, for the receipt")
    parser.add_argument("--data", type=Path, required=True, help="rows, JSONL")
    parser.add_argument("--base", type=model_directory, required=True, help="model directory")
    parser.add_argument("--parent", type=model_directory, nargs="?", help="adapter to continue")
    parser.add_argument("--template", type=Path, required=True, help="chat template, JSON")
    parser.add_argument("--adapter", type=model_directory, required=True, help="directory to write")
    args = parser.parse_args(argv)
    keep_to_one_gpu()

    from bezoar.training.qlora import ADAPTER_FILES, check_lineage, write_lineage
    from bezoar.training.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(args.base)
    work = args.adapter.parent / f".{args.adapter.name}.checkpoints"

    def trained(out: Path, begun: dict[str, Any]) -> dict[str, Any]:
        if args.parent:
            check_lineage(args.parent, args.base)
        rows, counts = tokenize(
            read_jsonl(args.data), Template(args.template), tokenizer, args.recipe["max_length"]
        )
        print(f"{args.data}: {counts}", flush=True)
        return counts | train(
            rows, counts["rows"], args.base, args.parent, tokenizer, args.recipe, work, out, begun
        )

    if not first_process():
        trained(work, {})
        return
    inputs: dict[str, Any] = {
        "data": args.data,
        "base": args.base / "model.safetensors",
        "template": args.template,
    }
    if args.parent:
        inputs["parent"] = args.parent / "adapter_model.safetensors"
    with (
        Receipt(
            args.receipt,
            stage=args.stage,
            recipe=args.recipe,
            code=args.code,
            inputs=inputs,
            outputs={"adapter": [args.adapter / name for name in ADAPTER_FILES]},
        ) as receipt,
        whole_directory(args.adapter) as fresh,
    ):
        receipt.facts |= trained(fresh, begun_with(receipt)) | {
            "compute_dtype": precision.name(precision.compute_dtype())
        }
        write_lineage(fresh, args.base, args.parent)
    shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    program.run(main, forked=True)
