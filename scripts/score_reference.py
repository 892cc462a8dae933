"""Log-probabilities of preference pairs under the reference of DPO: the model that training starts
from.

Usage: score_reference.py --pairs results/preferences/pairs.jsonl \\
           --base results/merge/openbezoar-hh-rlhf-sft --template template.json \\
           --recipe '{"batch_size": 8, …}' --code … --reference results/dpo_reference/logps.jsonl
             --receipt …

One row per pair: key (sha256 over the weights and the pair's tokens), chosen and rejected (nats,
EOS included). None of it depends on beta or the learning rate, so a second DPO run reuses it. A
killed run continues with the next shard.
"""

from functools import cache, partial
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from bezoar import precision, program, progress
from bezoar.arguments import model_directory
from bezoar.evaluation.parts import Parts
from bezoar.files import sha256_file, write_jsonl
from bezoar.provenance.receipt import Receipt, stage_parser
from bezoar.provenance.resumption import begun_with
from bezoar.readers import read_jsonl
from bezoar.training import preference_pairs
from bezoar.training.template import Template


class Recipe(TypedDict):
    """The settings of the stage, with their units."""

    max_prompt_length: int  # tokens; longer pairs are left out
    max_length: int  # tokens
    batch_size: int  # pairs
    cache_dequantized: bool  # keep the dequantised weights in memory
    threads: int  # CPU
    seed: int


SHARD = 64  # batches


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and score."""
    parser = stage_parser(__doc__, Recipe)
    parser.add_argument(
        "--pairs", type=Path, required=True, help="rows of prompt, chosen, rejected, JSONL"
    )
    parser.add_argument(
        "--base", type=model_directory, required=True, help="model directory of the reference"
    )
    parser.add_argument("--template", type=Path, required=True, help="chat template, JSON")
    parser.add_argument(
        "--reference", type=Path, required=True, help="log-probabilities to write, JSONL"
    )
    args = parser.parse_args(argv)
    recipe = args.recipe

    from trl.trainer import add_fused_lm_head

    from bezoar.training import output_layer
    from bezoar.training.qlora import deterministic, load_4bit
    from bezoar.training.shared_prompts import share
    from bezoar.training.tokenizer import load_tokenizer
    from bezoar.training.weights import require_positions

    @cache
    def model() -> Any:
        deterministic(recipe["seed"], recipe["threads"])
        loaded = load_4bit(args.base, recipe["cache_dequantized"]).eval()
        require_positions("dpo reference: pairs", loaded, map(preference_pairs.length, rows))
        add_fused_lm_head(loaded)
        output_layer.lighten(loaded)
        share(loaded)
        return loaded

    with Receipt(
        args.receipt,
        stage="dpo_reference",
        recipe=recipe,
        code=args.code,
        inputs={
            "pairs": args.pairs,
            "base": args.base / "model.safetensors",
            "template": args.template,
        },
        outputs={"reference": args.reference},
    ) as receipt:
        tokenizer, weights = load_tokenizer(args.base), sha256_file(args.base / "model.safetensors")
        rows, counts = preference_pairs.tokenize(
            read_jsonl(args.pairs), Template(args.template), tokenizer, recipe
        )
        rows.sort(
            key=lambda pair: (-preference_pairs.length(pair), preference_pairs.key(pair, weights))
        )  # the longest first, so that too little memory shows at once
        parts, size = Parts(args.reference, begun_with(receipt)), SHARD * recipe["batch_size"]

        def scored(shard: list[dict]) -> list[list[float]]:
            sums = preference_pairs.score(
                model(), shard, tokenizer.pad_token_id, recipe["batch_size"]
            )
            return list(map(list, sums))

        found: list[list[float]] = []
        with progress.task("score pairs", len(rows), "pairs"):
            for start in range(0, len(rows), size):
                shard = rows[start : start + size]
                found += parts.get(f"shard {start // size}", partial(scored, shard), len(shard))
        write_jsonl(
            args.reference,
            (
                {
                    "key": preference_pairs.key(pair, weights),
                    "chosen": round(chosen, 6),
                    "rejected": round(rejected, 6),
                }
                for pair, (chosen, rejected) in zip(rows, found, strict=True)
            ),
        )
        receipt.facts |= counts | {
            "scored": len(rows),
            "compute_dtype": precision.name(precision.compute_dtype()),
        }
    parts.clear()


if __name__ == "__main__":
    program.run(main, forked=True)
