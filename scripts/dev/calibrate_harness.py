"""Compare this project's evaluation with the plain `lm_eval` command on the same model and the same
real items, and both with values published for the model.

Usage: calibrate_harness.py --results results/trial [--model base] [--tasks hellaswag openbookqa] \\
           [--limit 1000] [--published hellaswag:acc_norm=0.4299 …] \\
           [--items truthfulqa_mc2=data/lm_eval/TruthfulQA.csv …]

Reads the model and the items of a finished run: `<results>/<model>` and `<results>/task_data/`.
Items of a task that the run did not evaluate come from a file (--items), in a form that
convert_items.py reads.
The plain command gets the harness's own definition of each task, with the items' files in place of
the hub's. Prints Markdown: for each task and metric the value of both with the 95 % interval over
items, whether they are equal, the published value, on how many items the two disagree, the largest
difference of a log-likelihood, and how long each took.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from bench_page import SCRIPTS, run
from bezoar import program
from bezoar.errors import UserError
from bezoar.evaluation.statistics import SHARES, bootstrap_mean
from bezoar.files import canonical
from bezoar.readers import read_json_object, read_jsonl
from bezoar.workflow.configuration import resolved

METRICS = ("acc", "acc_norm")
Samples = dict[int, dict[str, Any]]


def definition(task: str, data: Path) -> str:
    """Return a YAML that is the harness's definition of a task with its data at `data`; JSON is
    YAML.
    """
    import lm_eval.tasks

    files = sorted(Path(lm_eval.tasks.__file__).parent.rglob(f"{task}.yaml"))
    if len(files) != 1:
        raise UserError(f"{task}: expected one definition in lm_eval, found {len(files)}")
    manifest = read_json_object(data / "manifest.json")
    return json.dumps(
        {
            "include": str(files[0]),
            "task": f"{task}_plain",
            "tag": [],
            "dataset_path": str(data.resolve()),
            **manifest["task"],
        }
    )


def converted(task: str, file: Path, folder: Path, seed: int) -> Path:
    """Return the directory of a task's items from a file, made below `folder`."""
    data = folder / task / "manifest.json"
    data.parent.mkdir(parents=True)
    run(
        *(SCRIPTS / "convert_items.py", "--task", task, "--file", file, "--data", data),
        *("--recipe", canonical({"num_fewshot": 0, "seed": seed}), "--code", "calibration"),
        *("--receipt", folder / f"{task}.receipt.json"),
    )
    return data.parent


def ours(model: Path, task: str, data: Path, recipe: dict[str, Any], folder: Path) -> Samples:
    """Return the items of run_lm_eval.py, by number."""
    out = ("--results", "ours.json", "--samples", "ours.jsonl", "--receipt", "receipt.json")
    run(
        *(SCRIPTS / "run_lm_eval.py", "--model", model, "--name", "base"),
        *("--task-data", f"{task}={data / 'manifest.json'}"),
        *(word if word.startswith("--") else folder / word for word in out),
        *("--recipe", canonical(recipe | {"tasks": [task]}), "--code", "calibration"),
    )
    return {row["doc_id"]: row for row in read_jsonl(folder / "ours.jsonl")}


def plain(model: Path, task: str, data: Path, recipe: dict[str, Any], folder: Path) -> Samples:
    """Return the items of the plain command, by number."""
    (folder / "tasks").mkdir()
    (folder / "tasks" / f"{task}_plain.yaml").write_text(definition(task, data), encoding="utf-8")
    os.environ["OMP_NUM_THREADS"] = str(recipe["threads"])  # as many as the evaluation itself
    os.environ["HF_DATASETS_CACHE"] = str(folder / "cache")  # an earlier copy would be read else
    settings = f"pretrained={model},dtype={recipe['dtype']},max_length={recipe['max_length']}"
    run(
        *("-m", "lm_eval", "run", "--model", "hf", "--model_args", settings, "--device", "cpu"),
        *("--tasks", f"{task}_plain", "--include_path", folder / "tasks"),
        *("--num_fewshot", recipe["num_fewshot"], "--batch_size", recipe["batch_size"]),
        *("--limit", recipe["limit"], "--seed", recipe["seed"]),
        *("--output_path", folder / "plain.json", "--log_samples"),
    )
    (written,) = folder.rglob(f"samples_{task}_plain*.jsonl")
    return {
        row["doc_id"]: {
            **{name: row[name] for name in METRICS if name in row},
            "loglikelihoods": [float(answer[0]) for answer in row["filtered_resps"]],
        }
        for row in read_jsonl(written)
    }


def line(
    task: str, mine: Samples, theirs: Samples, published: dict[str, str], seconds: list[float]
) -> str:
    """Return a row of the table for each metric of a task."""
    if mine.keys() != theirs.keys():
        raise UserError(f"{task}: {len(mine)} items here, {len(theirs)} by lm_eval")
    apart = max(
        abs(a - b)
        for item, row in mine.items()
        for a, b in zip(row["loglikelihoods"], theirs[item]["loglikelihoods"], strict=True)
    )
    lines = []
    for metric in METRICS:
        if not all(metric in row for row in (*mine.values(), *theirs.values())):
            continue
        scores = [[row[metric] for row in of.values()] for of in (mine, theirs)]
        found = bootstrap_mean(scores[0], seed=0, bounds=SHARES)
        other = sum(scores[1]) / len(scores[1])
        differ = sum(a != b for a, b in zip(*scores, strict=True))
        equal = f"{found['mean'] - other:+.4f}" if differ else "equal"
        lines.append(
            f"| {task} | {metric} | {len(mine):,} | {found['mean']:.4f} ({found['low']:.4f} –"
            f" {found['high']:.4f}) | {other:.4f} | {equal} |"
            f" {published.get(f'{task}:{metric}', '–')} | {differ} | {apart:.1e} |"
            f" {seconds[0]:.0f} / {seconds[1]:.0f} |"
        )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Parse the command line, evaluate twice, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, required=True, help="directory of a finished run")
    parser.add_argument("--model", default="base", help="the model's name in its tables")
    parser.add_argument("--tasks", nargs="+", default=["hellaswag", "openbookqa"])
    parser.add_argument(
        "--items", nargs="*", default=[], metavar="TASK=FILE", help="items that the run lacks"
    )
    parser.add_argument("--limit", type=int, default=1000, help="the first items of each task")
    parser.add_argument(
        "--published", nargs="*", default=[], metavar="TASK:METRIC=VALUE", help="known values"
    )
    args = parser.parse_args(argv)
    receipt = read_json_object(args.results / f"receipts/lm_eval_{args.model}.json", "recipe")
    versions = resolved([])["lm_eval"]["versions"] | receipt["recipe"]["versions"]
    recipe = receipt["recipe"] | {"limit": args.limit, "versions": versions}
    items: dict[str, Path] = {}
    for text in args.items:
        task, found, file = text.partition("=")
        if not found or task not in args.tasks:
            raise UserError(f"--items {text}: expected {args.tasks[0]}=its file, one of --tasks")
        items[task] = Path(file)
    published = {}
    for text in args.published:
        name, _, number = text.partition("=")
        if name not in {f"{task}:{metric}" for task in args.tasks for metric in METRICS}:
            raise UserError(f"--published {text}: expected {args.tasks[0]}:{METRICS[0]}=0.43")
        published[name] = number
    model = args.results / ("base" if args.model == "base" else f"merge/{args.model}")
    print(
        "| task | metric | items | here | lm_eval | | published | items that differ | largest"
        " difference, nats | seconds, here / lm_eval |\n" + "|---" * 10 + "|"
    )
    for task in args.tasks:
        seconds: list[float] = []
        samples: list[Samples] = []
        with tempfile.TemporaryDirectory() as place:
            data = args.results / "task_data" / task
            if task in items:
                data = converted(task, items[task], Path(place), recipe["seed"])
            for way in (ours, plain):
                with tempfile.TemporaryDirectory() as folder:
                    started = time.perf_counter()
                    samples.append(way(model, task, data, recipe, Path(folder)))
                    seconds.append(time.perf_counter() - started)
        print(line(task, samples[0], samples[1], published, seconds), flush=True)


if __name__ == "__main__":
    program.run(main)
