"""Measure what one state of the model has learned, on held-out items: loss, exact match, and
preference accuracy.

Usage: measure_learning.py --base results/rehearsal/base [--adapter …/sft/lamini] \\
           --heldout results/rehearsal/world/heldout \\
           --template template.json --recipe '{"max_new_tokens": 40, …}' --code … --output
             …/learning/lamini.json --receipt …

For lamini, orca and evol: the loss of the right answer (nats per token, EOS included), whether a
greedy answer equals it (exact match), and whether the answer begins with it (a judge's view:
courtesy may follow). For preferences: whether the model gives the chosen answer a higher
log-probability than the rejected one. The values of every item are kept, so that differences
between states can be paired.
"""

import math
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from bezoar import precision, program, progress
from bezoar.arguments import by_stem, model_directory
from bezoar.evaluation.generation import generate, log_probabilities
from bezoar.evaluation.models import keep_only_ends
from bezoar.files import write_json
from bezoar.provenance.receipt import Receipt, stage_parser
from bezoar.readers import read_jsonl
from bezoar.training.template import Template


class Recipe(TypedDict):
    """The settings of the stage, with their units."""

    max_new_tokens: int
    batch_size: int
    threads: int
    seed: int


def measure_set(
    model: Any, tokenizer: Any, template: Template, rows: list[dict], recipe: Recipe
) -> dict[str, list[float]]:
    """Return {loss, exact_match, right}, a value an item, for rows of instruction, system_message
    and answer.
    """
    prompts = [template.pieces(row["instruction"], row["system_message"]) for row in rows]
    answers = [row["answer"] for row in rows]
    scored = log_probabilities(
        model, tokenizer, list(zip(prompts, answers, strict=True)), recipe["batch_size"]
    )
    texts = [
        text.strip()
        for text, _ in generate(
            model, tokenizer, prompts, recipe["max_new_tokens"], recipe["batch_size"]
        )
    ]
    return {
        "loss": [round(-total / tokens, 6) for total, tokens in scored],
        "exact_match": [float(text == answer) for text, answer in zip(texts, answers, strict=True)],
        "right": [
            float(text.startswith(answer)) for text, answer in zip(texts, answers, strict=True)
        ],
    }


def measure_preferences(
    model: Any, tokenizer: Any, template: Template, rows: list[dict], recipe: Recipe
) -> dict[str, list[float]]:
    """Return {accuracy, margin} a pair: chosen above rejected, and the difference of summed
    log-probabilities in nats.
    """
    prompts = [template.pieces(row["prompt"]) for row in rows]
    both = [
        (prompt, row[side])
        for side in ("chosen", "rejected")
        for prompt, row in zip(prompts, rows, strict=True)
    ]
    scored = [total for total, _ in log_probabilities(model, tokenizer, both, recipe["batch_size"])]
    margins = [
        round(a - b, 6) for a, b in zip(scored[: len(rows)], scored[len(rows) :], strict=True)
    ]
    return {"accuracy": [float(margin > 0) for margin in margins], "margin": margins}


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and measure."""
    parser = stage_parser(__doc__, Recipe)
    parser.add_argument("--base", type=model_directory, required=True, help="model directory")
    parser.add_argument(
        "--adapter", type=model_directory, nargs="?", help="adapter directory over it"
    )
    parser.add_argument(
        "--heldout",
        type=Path,
        nargs="+",
        required=True,
        help="held-out files: lamini, orca, evol, preferences .jsonl",
    )
    parser.add_argument("--template", type=Path, required=True, help="chat template, JSON")
    parser.add_argument("--output", type=Path, required=True, help="measurements to write, JSON")
    args = parser.parse_args(argv)

    from bezoar.training.qlora import check_lineage, deterministic, load_4bit
    from bezoar.training.tokenizer import load_tokenizer
    from bezoar.training.weights import load_adapter

    inputs: dict[str, Any] = {
        "heldout": args.heldout,
        "base": args.base / "model.safetensors",
        "template": args.template,
    }
    if args.adapter:
        inputs["adapter"] = args.adapter / "adapter_model.safetensors"
    with Receipt(
        args.receipt,
        stage="learning",
        recipe=args.recipe,
        code=args.code,
        inputs=inputs,
        outputs={"output": args.output},
    ) as receipt:
        deterministic(args.recipe["seed"], args.recipe["threads"])
        model, tokenizer, template = (
            load_4bit(args.base, cache_dequantized=True),
            load_tokenizer(args.base),
            Template(args.template),
        )
        keep_only_ends(model, tokenizer)
        if args.adapter:
            check_lineage(args.adapter, args.base)
            model = load_adapter(model, args.adapter)
        model.eval()
        sets = {name: read_jsonl(path) for name, path in by_stem(args.heldout).items()}
        result: dict[str, Any] = {}
        for name, rows in progress.track(sets.items(), "measure the sets", unit="sets"):
            function = measure_preferences if name == "preferences" else measure_set
            result[name] = function(model, tokenizer, template, rows, args.recipe)
            print(
                name,
                {
                    key: round(math.fsum(values) / len(values), 3)
                    for key, values in result[name].items()
                },
                flush=True,
            )
        write_json(args.output, result)
        receipt.facts |= {
            "items": {name: len(rows) for name, rows in sets.items()},
            "compute_dtype": precision.name(precision.compute_dtype()),
        }


if __name__ == "__main__":
    program.run(main, forked=True)
