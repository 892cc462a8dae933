"""Direct Preference Optimisation (arXiv 2305.18290) of a LoRA adapter over the merged HH-RLHF-SFT
model, with TRL's DPOTrainer.

Usage: train_dpo.py --pairs results/preferences/pairs.jsonl \\
           --reference results/dpo_reference/logps.jsonl \\
           --base results/merge/openbezoar-hh-rlhf-sft --template template.json \\
           --recipe '{"beta": 0.1, …}' --code … --adapter results/dpo \\
           --receipt results/receipts/dpo.json

The reference is the base itself (the adapter switched off); its log-probabilities come from
score_reference.py. held_out.json has reference and policy on the validation pairs: their margins,
what the chosen answers gained, and KL(policy || reference). A policy that widens the margin of less
than `min_accuracy` of the pairs, or whose chosen answers lost more than `max_chosen_drop` nats on
average, has collapsed, and the run fails.
"""

import shutil
from pathlib import Path
from typing import Any

from bezoar import precision, program
from bezoar.arguments import model_directory
from bezoar.errors import UserError
from bezoar.files import sha256_file, whole_directory, write_json, write_jsonl
from bezoar.provenance.receipt import Receipt, stage_parser
from bezoar.provenance.resumption import begun_with
from bezoar.readers import read_jsonl
from bezoar.training import held_out_pairs, preference_pairs
from bezoar.training.settings import TrainingSettings
from bezoar.training.sharing import first_process, keep_to_one_gpu
from bezoar.training.split import evaluated, split
from bezoar.training.template import Template


class Recipe(TrainingSettings):
    """The settings of the stage, with their units."""

    beta: float
    max_prompt_length: int  # tokens; longer pairs are dropped and counted
    min_accuracy: float  # least share of held-out pairs whose margin grows
    max_chosen_drop: float  # nats, from the reference


BOUNDS = ("min_accuracy", "max_chosen_drop")  # they judge the weights and make none


def curves(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return losses, rewards (beta times the log-ratio to the reference), margins, accuracies and
    log-probabilities by step, without times.
    """
    wanted = (
        "loss",
        "grad_norm",
        "learning_rate",
        "rewards/chosen",
        "rewards/rejected",
        "rewards/margins",
        "rewards/accuracies",
        "logps/chosen",
        "logps/rejected",
    )
    names = [*wanted, *(f"eval_{name}" for name in wanted)]
    rows = [
        {"step": row["step"], **{key: row[key] for key in names if key in row}} for row in history
    ]
    return [row for row in rows if "loss" in row or "eval_loss" in row]


def check_collapse(compared: dict[str, Any], recipe: Recipe) -> None:
    """Raise `UserError` if, of what `held_out_pairs.compare` found, the share of pairs whose margin
    grew or the likelihood of chosen answers is beyond the bounds.
    """
    grown = [policy > reference for reference, policy in compared["margins"]]
    share, drop = sum(grown) / len(grown), -compared["chosen_gain_nats"]
    if share < recipe["min_accuracy"]:
        raise UserError(
            f"dpo: collapsed, the margin grew on {share:.3f} of the held-out pairs, less than"
            f" min_accuracy {recipe['min_accuracy']}"
        )
    if drop > recipe["max_chosen_drop"]:
        raise UserError(
            f"dpo: collapsed, chosen answers lost {drop:.1f} nats, more than max_chosen_drop"
            f" {recipe['max_chosen_drop']}"
        )


def dpo_trainer(
    model: Any,
    training: list[dict],
    validation: list[dict],
    tokenizer: Any,
    recipe: Recipe,
    work: Path,
) -> Any:
    """Return TRL's trainer on these pairs, in their order; its checkpoints go to `work`."""
    import torch
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    from bezoar.training import output_layer, trainer_setup
    from bezoar.training.shared_prompts import share

    class Trainer(DPOTrainer):
        """Takes pairs of token ids: it would write EOS as text, which the tokenizer reads as text.

        The pairs of a global batch weigh alike. TRL takes the mean over micro-batches, of which
        those of a last batch may hold fewer.
        """

        def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
            return dataset

        def get_batch_samples(self, *given: Any) -> tuple[list[Any], Any]:
            batches, _ = super().get_batch_samples(*given)
            rows = sum(len(batch["input_ids"]) for batch in batches)
            return batches, self.accelerator.gather(torch.tensor(rows, device=given[-1])).sum()

        def compute_loss(
            self, model: Any, inputs: Any, *more: Any, num_items_in_batch: Any = None, **named: Any
        ) -> Any:
            loss = super().compute_loss(model, inputs, *more, **named)
            if num_items_in_batch is None:  # evaluation
                return loss
            parts = self.current_gradient_accumulation_steps * self.accelerator.num_processes
            return loss * (len(inputs["input_ids"]) * parts / num_items_in_batch)

    trainer: Any = Trainer(
        model=model,
        args=DPOConfig(
            **trainer_setup.trainer_arguments(recipe, work),
            beta=recipe["beta"],
            max_length=recipe["max_length"],
            disable_dropout=False,  # TRL's default would undo the recipe's
        ),
        train_dataset=Dataset.from_list(preference_pairs.columns(training)),
        eval_dataset=Dataset.from_list(preference_pairs.columns(validation)),
        processing_class=tokenizer,
        callbacks=[trainer_setup.progress_callback()],
    )
    trainer_setup.weigh_evaluations(trainer, lambda batch: len(batch["input_ids"]) / 2)
    if "ref" in trainer.model.peft_config:
        # The trainer's copy of the fresh adapter; the reference is in the rows.
        trainer.model.delete_adapter("ref")
    # They are in the rows; the trainer's own option would compute them again.
    trainer.precompute_ref_logps = True
    with trainer.model.disable_adapter():  # which is bfloat16 until training begins
        output_layer.lighten(trainer.model.get_base_model())
        shared = share(trainer.model.get_base_model())
    if shared:
        print("the prompt of each pair is computed once", flush=True)
    return trainer


def train(
    rows: list[dict],
    total: int,
    base: Path,
    tokenizer: Any,
    recipe: Recipe,
    work: Path,
    out: Path,
    begun_with: dict[str, Any],
) -> dict[str, Any]:
    """Train one adapter into `out` on `rows` of a file that has `total`; `work` holds the
    checkpoints of a run that was `begun_with` the same. Return facts for the receipt.
    """
    from bezoar.training import qlora, trainer_setup
    from bezoar.training.weights import require_positions

    qlora.deterministic(recipe["seed"], recipe["threads"])
    training, validation = split(rows, total, recipe["validation_share"], recipe["validation_seed"])
    if not training or not validation:
        raise UserError(
            f"dpo: {len(rows)} usable pairs, expected enough for training and validation; look at"
            " preferences/counts.json"
        )
    validation.sort(key=lambda pair: -preference_pairs.length(pair))
    order = qlora.training_order(
        [preference_pairs.length(pair) for pair in training],
        recipe["batch_size"],
        recipe["epochs"],
        recipe["seed"],
    )
    model = qlora.attach_adapter(
        qlora.load_4bit(base, recipe["cache_dequantized"]), recipe["lora"], None
    )
    require_positions("dpo: pairs", model, map(preference_pairs.length, rows))
    before = qlora.weights_of(model)
    ordered = [training[index] for index in order]
    held_out = evaluated(validation, recipe)
    trainer = dpo_trainer(model, ordered, held_out, tokenizer, recipe, work)
    qlora.run(trainer, work, begun_with, before)
    facts = {
        "training": len(training),
        "validation": len(validation),
        "evaluated": len(held_out),
        "largest_change": qlora.require_moved(before, trainer.model),
        "steps": trainer.state.global_step,
        "optimizer": trainer_setup.optimizer(trainer),
    }
    if first_process():
        policy = trainer.accelerator.unwrap_model(trainer.model)
        compared = held_out_pairs.compare(
            policy, validation, tokenizer.pad_token_id, recipe["micro_batch_size"]
        )
        check_collapse(compared, recipe)
        qlora.save_adapter(trainer.model, out)
        write_jsonl(out / "metrics.jsonl", curves(trainer.state.log_history))
        write_json(out / "held_out.json", compared)
    return facts


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and train."""
    parser = stage_parser(__doc__, Recipe)
    parser.add_argument(
        "--pairs", type=Path, required=True, help="rows of prompt, chosen, rejected, JSONL"
    )
    parser.add_argument(
        "--reference",
        type=Path,
        required=True,
        help="their log-probabilities under the base, JSONL",
    )
    parser.add_argument(
        "--base",
        type=model_directory,
        required=True,
        help="merged model directory; also the reference",
    )
    parser.add_argument("--template", type=Path, required=True, help="chat template, JSON")
    parser.add_argument("--adapter", type=model_directory, required=True, help="directory to write")
    args = parser.parse_args(argv)
    keep_to_one_gpu()

    from bezoar.training.qlora import ADAPTER_FILES, write_lineage
    from bezoar.training.tokenizer import load_tokenizer

    work = args.adapter.parent / f".{args.adapter.name}.checkpoints"

    def trained(out: Path, begun: dict[str, Any]) -> dict[str, Any]:
        tokenizer = load_tokenizer(args.base)
        rows, counts = preference_pairs.tokenize(
            read_jsonl(args.pairs), Template(args.template), tokenizer, args.recipe
        )
        print(f"{args.pairs}: {counts}", flush=True)
        stored = preference_pairs.read_reference(
            args.reference, rows, sha256_file(args.base / "model.safetensors")
        )
        for pair, (chosen, rejected) in zip(rows, stored, strict=True):
            pair |= {"ref_chosen_logps": chosen, "ref_rejected_logps": rejected}
        return counts | train(
            rows, counts["rows"], args.base, tokenizer, args.recipe, work, out, begun
        )

    if not first_process():
        trained(work, {})
        return
    with (
        Receipt(
            args.receipt,
            stage="dpo",
            recipe=args.recipe,
            code=args.code,
            inputs={
                "pairs": args.pairs,
                "reference": args.reference,
                "base": args.base / "model.safetensors",
                "template": args.template,
            },
            outputs={
                "adapter": [args.adapter / name for name in (*ADAPTER_FILES, "held_out.json")]
            },
        ) as receipt,
        whole_directory(args.adapter) as fresh,
    ):
        making = {key: value for key, value in args.recipe.items() if key not in BOUNDS}
        receipt.facts |= trained(fresh, begun_with(receipt, recipe=making)) | {
            "compute_dtype": precision.name(precision.compute_dtype())
        }
        write_lineage(fresh, args.base, None)
    shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    program.run(main, forked=True)
