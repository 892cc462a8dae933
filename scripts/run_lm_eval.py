"""Evaluate one model with the LM Evaluation Harness, through its own API and Hugging Face backend.

Usage: run_lm_eval.py --model results/base --name base [--tasks-from results/rehearsal/world/lm_eval/world_facts.yaml …] \\
           --recipe '{"tasks": ["arc_easy"], …}' --code … --results results/lm_eval/base.json --samples …/base.samples.jsonl --receipt …

The harness's results are kept as they are, less what changes from run to run (times, dates, host, paths); those are in the receipt.
Samples hold one row an item: task, doc_id, target, metrics and log-likelihoods, so that models can be compared item by item.

Recipe: tasks (list of names), num_fewshot (int), batch_size (int; never automatic, scores move with it), dtype (torch's name),
max_length (int, tokens), limit (int or null, items a task), bootstrap_iters (int), threads (int), seed.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from bezoar.errors import UserError, cli
from bezoar.files import write_json, write_jsonl
from bezoar.receipt import Receipt, add_stage_arguments

STABLE = ("results", "group_subtasks", "versions", "n-shot", "higher_is_better", "n-samples")
LOST = {"record": "its loading script is no longer accepted by datasets; evaluate another task"}


def evaluate(model: Path, tasks_from: list[Path], recipe: dict[str, Any]) -> dict[str, Any]:
    """Return what `lm_eval.simple_evaluate` returns, samples included."""
    import torch
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager
    from transformers import AutoModelForCausalLM

    from bezoar.tokenizer import load_tokenizer

    torch.set_num_threads(recipe["threads"])
    manager = TaskManager(include_path=[str(path) for path in sorted({path.parent for path in tasks_from})] or None,
                          include_defaults=not tasks_from)  # fmt: skip
    unknown = sorted(set(recipe["tasks"]) - set(manager.all_tasks))
    if unknown:
        raise UserError(f"lm_eval: no task {', '.join(unknown)}; see `lm_eval --tasks list`, or put its YAML file beside the others")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, recipe["dtype"]), local_files_only=True).to(device).eval()
    backend = HFLM(pretrained=network, tokenizer=load_tokenizer(model), batch_size=recipe["batch_size"], max_length=recipe["max_length"],
                   add_bos_token=True, backend="causal")  # fmt: skip
    seed = recipe["seed"]
    found = simple_evaluate(
        model=backend, tasks=recipe["tasks"], num_fewshot=recipe["num_fewshot"], limit=recipe["limit"], task_manager=manager,
        bootstrap_iters=recipe["bootstrap_iters"], log_samples=True, random_seed=seed, numpy_random_seed=seed,
        torch_random_seed=seed, fewshot_random_seed=seed,
    )  # fmt: skip
    return dict(found or {})


def samples(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Return one row an item, without the long texts of the prompts."""
    rows = []
    for task, items in sorted(found["samples"].items()):
        for item in sorted(items, key=lambda row: row["doc_id"]):
            metrics = {name: float(item[name]) for name in item["metrics"] if isinstance(item[name], (int, float))}
            scores = [float(response[0]) for response in item["filtered_resps"] if isinstance(response, (list, tuple))]
            rows.append({"task": task, "doc_id": item["doc_id"], "target": str(item["target"]), **metrics, "loglikelihoods": scores})
    return rows


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and evaluate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="model directory")
    parser.add_argument("--name", required=True, help="name of the model in every table")
    parser.add_argument("--tasks-from", type=Path, nargs="*", default=[], help="task YAML files of our own; none: the harness's tasks")
    parser.add_argument("--tasks-data", type=Path, nargs="*", default=[], help="the data files those tasks read")
    parser.add_argument("--results", type=Path, required=True, help="results to write, JSON")
    parser.add_argument("--samples", type=Path, required=True, help="per-item results to write, JSONL")
    add_stage_arguments(parser)
    args = parser.parse_args(argv)
    for task in args.recipe["tasks"]:
        if task in LOST:
            raise UserError(f"lm_eval: {task} cannot be run: {LOST[task]}")
    with Receipt(
        args.receipt, stage="lm_eval", recipe=args.recipe, code=args.code,
        inputs={"model": args.model / "model.safetensors", "tasks": args.tasks_from, "data": args.tasks_data},
        outputs={"results": args.results, "samples": args.samples},
    ) as receipt:  # fmt: skip
        found = evaluate(args.model, args.tasks_from, args.recipe)
        stable = {"model": args.name, "recipe": args.recipe, **{key: found[key] for key in STABLE if key in found}}
        write_json(args.results, json.loads(json.dumps(stable, default=str)))
        write_jsonl(args.samples, samples(found))
        receipt.facts["results"] = json.loads(json.dumps(found["results"], default=str))
        print(json.dumps(receipt.facts["results"], indent=2))


if __name__ == "__main__":
    cli(main)
