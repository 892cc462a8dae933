"""Put the harness's results of all models into one table, with intervals and paired differences.

Usage: collect_lm_eval.py --samples results/lm_eval/base.samples.jsonl … --recipe '{"published_base": {…}, …}' --code … \\
           --output results/lm_eval.json --receipt …

For each task and model: the metric with a bootstrap interval over items, and n. For each model against the one before it and against the
base: the paired difference with its interval, exact McNemar's p, Holm's correction over tasks, and the difference this n could have shown.
Where the base's published values are given, the harness is calibrated if every task's base value lies within `tolerance`.

Recipe: metric {task: name of the metric}, published_base {task: value}, tolerance (float), seed.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from bezoar.errors import UserError, cli
from bezoar.files import read_jsonl, write_json
from bezoar.receipt import Receipt, add_stage_arguments
from bezoar.stats import bootstrap_mean, detectable_difference, holm, mcnemar, paired_difference

Values = dict[str, dict[str, list[float]]]  # model -> task -> value an item, in the order of doc_id


def values_of(paths: list[Path], metric: dict[str, str]) -> Values:
    """Read the per-item values of each model; every model must have answered the same items."""
    values: Values = {}
    for path in paths:
        model = path.name.removesuffix(".samples.jsonl")
        values[model] = {}
        for row in read_jsonl(path):
            name = metric.get(row["task"], "acc")
            if name not in row:
                raise UserError(f"{path}: task {row['task']} has no metric {name}; name one it has under lm_eval.metric")
            values[model].setdefault(row["task"], []).append(row[name])
    first = next(iter(values))
    for model, tasks in values.items():
        if {task: len(items) for task, items in tasks.items()} != {task: len(items) for task, items in values[first].items()}:
            raise UserError(f"lm_eval: {model} and {first} were not evaluated on the same items; evaluate them with one config")
    return values


def compare(values: Values, child: str, parent: str, seed: int) -> dict[str, Any]:
    """Return paired differences of two models by task, and over all items."""
    tasks = sorted(values[child])
    corrected = holm([mcnemar(values[child][task], values[parent][task]) for task in tasks])
    result: dict[str, Any] = {"child": child, "parent": parent, "tasks": {}}
    for task, p_value in zip(tasks, corrected, strict=True):
        difference = np.subtract(values[child][task], values[parent][task])
        result["tasks"][task] = {
            **paired_difference(values[child][task], values[parent][task], seed),
            "p_holm": p_value,
            "detectable": detectable_difference(float(difference.std(ddof=1)), len(difference)) if len(difference) > 1 else None,
        }
    everything = [[value for task in tasks for value in values[model][task]] for model in (child, parent)]
    result["all_items"] = paired_difference(everything[0], everything[1], seed)
    return result


def calibration(values: Values, published: dict[str, float], tolerance: float) -> dict[str, Any]:
    """Compare the base's values with the published ones."""
    if not published:
        return {"verdict": "not applicable", "reason": "no published values for these tasks"}
    off = {task: round(float(np.mean(values["base"][task])) - value, 4) for task, value in published.items() if task in values["base"]}
    bad = [task for task, gap in off.items() if abs(gap) > tolerance]
    return {"verdict": "not calibrated" if bad else "calibrated", "difference": off, "tolerance": tolerance, "outside": bad}


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and collect."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=Path, nargs="+", required=True, help="per-item results, one file a model, parents first")
    parser.add_argument("--output", type=Path, required=True, help="table to write, JSON")
    add_stage_arguments(parser)
    args = parser.parse_args(argv)
    recipe = args.recipe
    with Receipt(
        args.receipt, stage="lm_eval_table", recipe=recipe, code=args.code, inputs={"samples": args.samples}, outputs={"output": args.output}
    ):
        values = values_of(args.samples, recipe["metric"])
        models = list(values)
        pairs = dict.fromkeys([*zip(models[1:], models[:-1], strict=True), *((model, models[0]) for model in models[1:])])
        table = {
            "models": {model: {task: bootstrap_mean(items, recipe["seed"]) for task, items in tasks.items()} for model, tasks in values.items()},
            "differences": [compare(values, child, parent, recipe["seed"]) for child, parent in pairs],
            "calibration": calibration(values, recipe["published_base"], recipe["tolerance"]),
        }
        write_json(args.output, table)


if __name__ == "__main__":
    cli(main)
