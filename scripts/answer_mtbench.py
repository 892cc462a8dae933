"""Answer MT-Bench's questions with a model: two turns, the chat template given by file, temperature by category.

Usage: answer_mtbench.py --model results/base --name base --questions question.jsonl --template template.json \\
           --recipe '{"temperatures": {…}, …}' --code … --answers results/mtbench/base/answers.jsonl --receipt …

The file is FastChat's; answer_id and tstamp, which FastChat draws and reads off the clock, are fixed. The second turn's instruction is the
dialogue so far, in the form that the preference rows have. `stops` says for each turn whether the model ended (eos) or was cut (length).

Recipe: temperatures {category: float}, default_temperature (float), max_new_tokens (int), batch_size (int), dtype (torch's name),
threads (int), seed.
"""

import argparse
from pathlib import Path
from typing import Any

from bezoar.errors import cli
from bezoar.files import sha256_text, write_jsonl
from bezoar.generation import generate
from bezoar.mtbench import read_questions
from bezoar.receipt import Receipt, add_stage_arguments
from bezoar.template import Template
from prepare_preferences import instruction


def answer(model: Any, tokenizer: Any, template: Template, questions: list[dict], recipe: dict[str, Any]) -> dict[int, list[tuple[str, str]]]:
    """Return question_id -> [(text, stop reason)] of both turns; questions of one temperature share batches."""
    said: dict[int, list[tuple[str, str]]] = {row["question_id"]: [] for row in questions}
    for turn in range(2):
        by_temperature: dict[float, list[dict]] = {}
        for row in questions:
            by_temperature.setdefault(recipe["temperatures"].get(row["category"], recipe["default_temperature"]), []).append(row)
        for temperature, rows in sorted(by_temperature.items()):
            prompts = []
            for row in rows:
                earlier = [("Human", row["turns"][0])]
                if turn == 1:
                    earlier += [("Assistant", said[row["question_id"]][0][0]), ("Human", row["turns"][1])]
                prompts.append(template.prompt(instruction(earlier)))
            seed = recipe["seed"] * 1000 + turn
            texts = generate(model, tokenizer, prompts, recipe["max_new_tokens"], recipe["batch_size"], temperature, seed)
            for row, (text, stop) in zip(rows, texts, strict=True):
                said[row["question_id"]].append((text.strip(), stop))
            print(f"turn {turn + 1}, temperature {temperature}: {len(rows)} answers", flush=True)
    return said


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and answer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="model directory")
    parser.add_argument("--name", required=True, help="name of the model in every table")
    parser.add_argument("--questions", type=Path, required=True, help="MT-Bench's questions, JSONL")
    parser.add_argument("--template", type=Path, required=True, help="chat template, JSON")
    parser.add_argument("--answers", type=Path, required=True, help="answers to write, JSONL")
    add_stage_arguments(parser)
    args = parser.parse_args(argv)

    import torch
    from transformers import AutoModelForCausalLM

    from bezoar.tokenizer import load_tokenizer

    recipe = args.recipe
    with Receipt(
        args.receipt, stage="mtbench_answers", recipe=recipe, code=args.code,
        inputs={"model": args.model / "model.safetensors", "questions": args.questions, "template": args.template},
        outputs={"answers": args.answers},
    ) as receipt:  # fmt: skip
        torch.set_num_threads(recipe["threads"])
        questions = read_questions(args.questions)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model = AutoModelForCausalLM.from_pretrained(args.model, dtype=getattr(torch, recipe["dtype"]), local_files_only=True).to(device).eval()
        said = answer(model, load_tokenizer(args.model), Template(args.template), questions, recipe)
        write_jsonl(args.answers, ({
            "question_id": number,
            "answer_id": sha256_text(f"{args.name} {number}")[:22],
            "model_id": args.name,
            "choices": [{"index": 0, "turns": [text for text, _ in turns]}],
            "tstamp": 0.0,
            "stops": [stop for _, stop in turns],
        } for number, turns in said.items()))  # fmt: skip
        receipt.facts["cut_at_length"] = sum(stop == "length" for turns in said.values() for _, stop in turns)


if __name__ == "__main__":
    cli(main)
