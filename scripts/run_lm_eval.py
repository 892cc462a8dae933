"""Evaluate one model with the LM Evaluation Harness, through its own API and Hugging Face backend,
on local data.

Usage: run_lm_eval.py --model results/base --name base \\
           --task-data arc_easy=data/hub/ai2_arc/manifest.json … [--task-files own.yaml …] \\
           --recipe '{"tasks": ["arc_easy"], …}' --code … --results results/lm_eval/base.json
             --samples …/base.samples.jsonl --receipt …

The harness's results are kept as they are, except for what changes from run to run (times, dates,
host, paths), which is in the receipt. It is called task by task, so that a task's scores do not
depend on which others are evaluated (requests of several tasks would share batches), and a killed
run continues with the next task. Samples hold one row per item: task, doc_id, target, metrics and
log-likelihoods, so that models can be compared item by item.
"""

import json
import math
import numbers
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import TypedDict

from bezoar import precision, program, progress
from bezoar.arguments import model_directory
from bezoar.errors import UserError, reason, shortage
from bezoar.evaluation.harness import (
    add_task_arguments,
    assignments,
    load_tasks,
    same_version,
    versions,
)
from bezoar.evaluation.models import load
from bezoar.evaluation.parts import Parts
from bezoar.files import write_json, write_jsonl
from bezoar.provenance.receipt import Receipt, stage_parser
from bezoar.provenance.resumption import begun_with
from bezoar.training.tokenizer import beginning
from bezoar.training.weights import ends, positions, require_positions


class Recipe(TypedDict):
    """The settings of the stage, with their units."""

    tasks: list[str]  # names; a group or tag means its tasks
    versions: dict[str, float | str]  # task: version of its definition; another one is an error
    task_files: list[str]
    data: dict[str, str]  # task: where its data set comes from
    num_fewshot: int
    batch_size: int  # never automatic: it changes scores
    dtype: str  # torch's name
    max_length: int  # tokens
    limit: int | None  # items per task
    bootstrap_iters: int
    threads: int
    seed: int  # of random, numpy, torch and the few-shot sampler


KEPT = (
    "results",
    "groups",
    "group_subtasks",
    "configs",
    "versions",
    "n-shot",
    "higher_is_better",
    "n-samples",
    "config",
)
MOVING = (
    "model_sha",
    "peft_sha",
    "device",
)  # of the harness's `config`; they depend on the machine


def check_versions(found: dict[str, str], pinned: dict[str, Any]) -> None:
    """Raise `UserError` unless each task's definition has the version the recipe names."""
    for task, version in found.items():
        if task not in pinned:
            raise UserError(
                f"lm_eval: task {task} has no pinned version; add `{task}: {version}` under"
                " lm_eval.versions"
            )
        if not same_version(version, pinned[task]):
            raise UserError(
                f"lm_eval: task {task} is version {version}, {pinned[task]} is pinned; scores of"
                " two versions are not comparable"
            )


def require_room(tasks: dict[str, Any], max_length: int, whose: str) -> None:
    """Raise `UserError` if a task generates answers so long that `max_length` tokens, which are
    `whose`, have no room for a question, or answers without a token.
    """
    from lm_eval.models.utils import normalize_gen_kwargs

    for name, task in tasks.items():
        if task.OUTPUT_TYPE != "generate_until":
            continue
        try:
            count = normalize_gen_kwargs(task.config.generation_kwargs)["max_gen_toks"]
        except (TypeError, ValueError) as error:
            raise UserError(
                f"lm_eval: {name} cannot be evaluated: {reason(error)}; correct its"
                " generation_kwargs"
            ) from None
        if not 0 < count < max_length:
            raise UserError(
                f"lm_eval: {name} asks for answers of {count} tokens, expected 1 to"
                f" {max_length - 1} because {whose} {max_length}; set max_gen_toks under its"
                " generation_kwargs, or evaluate another task"
            )


def backend(model: Path, recipe: Recipe) -> Any:
    """Return the harness's Hugging Face backend around a model; it refuses a request that is longer
    than the model's context, and reads no special token from a text. A token that ends an answer
    is no part of it; the harness would write one that the tokenizer does not call special.
    """
    import torch
    from lm_eval.models.huggingface import HFLM

    class Counted(HFLM):
        def loglikelihood(self, requests: Any, disable_tqdm: bool = False) -> Any:
            with progress.task("score requests", len(requests), "requests"):
                return super().loglikelihood(requests, disable_tqdm)

    with progress.task("load the model"):
        network, tokenizer = load(model, recipe["dtype"], recipe["threads"])
    found = Counted(
        pretrained=network,
        tokenizer=tokenizer,
        batch_size=recipe["batch_size"],
        max_length=recipe["max_length"],
        add_bos_token=bool(beginning(tokenizer)),  # whichever tokens, BOS or not
        backend="causal",
    )
    call, write = found._model_call, found._model_generate
    stops = torch.tensor(sorted(ends(network)), dtype=torch.long)

    def checked_call(inps: Any, *more: Any, **named: Any) -> Any:
        require_positions("lm_eval: requests", network, [inps.shape[1]])
        progress.advance(len(inps))
        return call(inps, *more, **named)

    def checked_write(context: Any, max_length: int, *more: Any, **named: Any) -> Any:
        require_positions("lm_eval: requests with their answers", network, [max_length])
        return without_ends(write(context, max_length, *more, **named), context.shape[1])

    def without_ends(ids: Any, start: int) -> Any:
        answers = ids[:, start:]
        ended = torch.isin(answers, stops.to(ids.device))
        return torch.cat([ids[:, :start], answers.masked_fill(ended, tokenizer.pad_token_id)], 1)

    found._model_call, found._model_generate = checked_call, checked_write
    limit = positions(network)
    if limit is not None and limit < recipe["max_length"]:
        print(
            f"{model}: made for {limit} tokens, fewer than max_length {recipe['max_length']}; a"
            " longer request ends the evaluation",
            flush=True,
        )
    return found


def evaluate(model: Any, task: Any, recipe: Recipe) -> dict[str, Any]:
    """Return what `lm_eval.simple_evaluate` returns for one task, as JSON gives it back: {raw,
    samples}.
    """
    from lm_eval import evaluator, simple_evaluate
    from lm_eval.tasks import TaskManager

    evaluator.add_env_info = lambda results: (
        None
    )  # it runs pip, gcc and lscpu each time, for seconds; the receipt records what matters
    seed = recipe["seed"]
    try:
        done = simple_evaluate(
            model=model,
            tasks=[task],
            num_fewshot=recipe["num_fewshot"],
            batch_size=recipe["batch_size"],
            limit=recipe["limit"],
            task_manager=TaskManager(include_defaults=False),
            bootstrap_iters=recipe["bootstrap_iters"],
            log_samples=True,
            random_seed=seed,
            numpy_random_seed=seed,
            torch_random_seed=seed,
            fewshot_random_seed=seed,
        )
    except Exception as error:  # of any kind: templates and functions are the task's own
        if isinstance(error, UserError) or shortage(error):
            raise
        raise UserError(
            f"lm_eval: {task.config.task} cannot be evaluated: {reason(error)}"
        ) from None
    found = dict(done or {})
    return {"raw": raw(found), "samples": with_means(samples(found), found)}


def with_means(rows: list[dict[str, Any]], found: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the items with those scores alone whose mean is the harness's own value; a perplexity
    or a correlation is computed over all items at once. Raise `UserError` for a task without any.
    """
    for task, values in found["results"].items():
        items = [row for row in rows if row["task"] == task]
        scored = {name for row in items for name in row} - {"task", "doc_id", "target"}
        means = scored - {"loglikelihoods"}
        for name in sorted(means):
            reported = values.get(name if "," in name else f"{name},none")
            mean = math.fsum(row.get(name, 0.0) for row in items) / len(items)
            if isinstance(reported, float) and not math.isclose(mean, reported, abs_tol=1e-9):
                print(f"lm_eval: {task}: {name} is no mean over items; left out", flush=True)
                means.remove(name)
                for row in items:
                    row.pop(name, None)
        if items and not means:
            named = ", ".join(sorted({key.partition(",")[0] for key in values if "," in key}))
            raise UserError(
                f"lm_eval: task {task} has no score of single items ({named}), which comparisons"
                " need; evaluate another task"
            )
    return rows


def joined(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the harness's results of all tasks as one, in its own form."""
    whole: dict[str, Any] = {}
    for part in parts:
        for key, value in part["raw"].items():
            whole[key] = whole.get(key, {}) | value
    return whole


def raw(found: dict[str, Any]) -> dict[str, Any]:
    """Return the harness's results without what changes from run to run; a function becomes its
    name.
    """
    kept = {key: found[key] for key in KEPT if key in found}
    kept["config"] = {key: value for key, value in kept["config"].items() if key not in MOVING}
    try:
        text = json.dumps(
            kept,
            allow_nan=False,
            default=lambda value: getattr(value, "__name__", None) or type(value).__name__,
        )
    except ValueError:
        tasks = ", ".join(kept.get("results", {}))
        raise UserError(
            f"lm_eval: {tasks}: a result is not finite; the model's numbers overflow, evaluate it"
            " with dtype float32"
        ) from None
    return json.loads(text)


def samples(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Return one row per item, without the long texts of the prompts.

    A score is named by its metric, and by metric and filter (`exact_match,strict-match`) where the
    filter is not the harness's default, `none`. What is not a number for one item, such as the
    pairs from which a corpus-wide F1 is computed, is left out. Raise `UserError` for a score that
    is not finite and for an item that was scored twice.
    """
    rows: dict[tuple[str, Any], dict[str, Any]] = {}
    likelihoods: dict[tuple[str, Any], list[float]] = {}
    for task, items in found["samples"].items():
        for item in items:
            key = (task, item["doc_id"])
            row = rows.setdefault(
                key, {"task": task, "doc_id": item["doc_id"], "target": str(item["target"])}
            )
            likelihoods.setdefault(key, likelihoods_of(item))
            for metric in item["metrics"]:
                if not isinstance(item[metric], (numbers.Real, np.bool_)):
                    continue
                name, value = score_name(metric, item["filter"]), float(item[metric])
                if not math.isfinite(value):
                    raise UserError(
                        f"lm_eval: {task}, item {item['doc_id']}: {name} is {value}; the model's"
                        " numbers overflow, evaluate it with dtype float32"
                    )
                if name in row:
                    raise UserError(
                        f"lm_eval: {task}, item {item['doc_id']}: {name} was scored twice; give its"
                        " filters distinct names"
                    )
                row[name] = value
    return [row | {"loglikelihoods": likelihoods[key]} for key, row in rows.items()]


def score_name(metric: str, filtered: str) -> str:
    """Return the name of a score: the metric, and the filter where it is not the default one."""
    return metric if filtered == "none" else f"{metric},{filtered}"


def likelihoods_of(item: dict[str, Any]) -> list[float]:
    """Return the log-likelihood of each choice of an item; nothing where answers are generated."""
    found = [
        float(response[0])
        for response in item["filtered_resps"]
        if isinstance(response, (list, tuple)) and response and not isinstance(response[0], str)
    ]
    if any(map(math.isnan, found)):
        raise UserError(precision.overflow(f"lm_eval: item {item['doc_id']}: a log-likelihood"))
    return found


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and evaluate."""
    parser = stage_parser(__doc__, Recipe)
    parser.add_argument("--model", type=model_directory, required=True, help="model directory")
    parser.add_argument("--name", required=True, help="name of the model in every table")
    add_task_arguments(parser)
    parser.add_argument("--results", type=Path, required=True, help="results to write, JSON")
    parser.add_argument(
        "--samples", type=Path, required=True, help="per-item results to write, JSONL"
    )
    args = parser.parse_args(argv)
    recipe = args.recipe
    data, manifests = assignments(args.task_data)
    with Receipt(
        args.receipt,
        stage="lm_eval",
        recipe=recipe,
        code=args.code,
        inputs={
            "model": args.model / "model.safetensors",
            "tasks": args.task_files,
            "data": manifests,
        },
        outputs={"results": args.results, "samples": args.samples},
    ) as receipt:
        tasks = load_tasks(recipe["tasks"], args.task_files, data)
        check_versions(versions(tasks), recipe["versions"])
        require_room(tasks, recipe["max_length"], "max_length is")
        parts = Parts(args.samples, begun_with(receipt))

        @cache
        def model() -> Any:
            loaded = backend(args.model, recipe)
            limit = positions(loaded.model)
            if limit is not None and limit < recipe["max_length"]:
                require_room(tasks, limit, "the model was made for")
            return loaded

        found = [
            parts.get(name, lambda task=task: evaluate(model(), task, recipe))
            for name, task in tasks.items()
        ]
        whole = joined(found)
        write_json(
            args.results,
            {"model": args.name, "harness": metadata.version("lm_eval"), "recipe": recipe, **whole},
        )
        write_jsonl(
            args.samples,
            sorted(
                (row for part in found for row in part["samples"]),
                key=lambda row: (row["task"], row["doc_id"]),
            ),
        )
        receipt.facts |= {
            "results": whole["results"],
            "compute_dtype": precision.name(precision.evaluation_dtype(recipe["dtype"])),
        }
        print(json.dumps(whole["results"], indent=2))
    parts.clear()


if __name__ == "__main__":
    program.run(main, forked=True)
