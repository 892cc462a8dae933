"""Put the harness's results of all models into one table, with intervals, paired differences, and a
verdict on the harness itself.

Usage: collect_lm_eval.py --results results/lm_eval/base.json … \\
           --samples results/lm_eval/base.samples.jsonl … \\
           --recipe '{"published_base": {…}, …}' --code … --output results/lm_eval.json --receipt …

For each model, task and metric: the mean with a bootstrap interval over items, and n; for each
model the mean of its tasks. For each pair of models that the recipe names: the paired difference
with its interval, an exact test (McNemar; sign flips for scores between 0 and 1), Holm's correction
over tasks, and the difference that this n could have shown. Where the base's published values are
given, the harness is calibrated if every one of the base's values lies within `tolerance`.
`settings` are those of every model, or nothing is compared.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import TypedDict

from bezoar import program
from bezoar.arguments import by_stem
from bezoar.errors import UserError
from bezoar.evaluation.statistics import (
    SHARES,
    bootstrap_mean,
    detectability,
    holm,
    mean_of_means,
    paired_difference,
    paired_p,
)
from bezoar.files import write_json
from bezoar.provenance.receipt import Receipt, stage_parser
from bezoar.readers import read_json, read_jsonl


class Recipe(TypedDict):
    """The settings of the stage, with their units."""

    metric: dict[str, str]  # task: the score that is compared: acc, or exact_match,strict-match
    pairs: list[list[str]]  # model, against which
    published_base: dict[str, dict[str, float]] | None  # task: metric: value
    tolerance: float
    seed: int


# task -> metric -> value an item, in the order of doc_id
Scores = dict[str, dict[str, list[float]]]
# model -> task -> value an item of the metric that is compared
Values = dict[str, dict[str, list[float]]]
ROW = {"task", "doc_id", "target", "loglikelihoods"}


def scores_of(rows: Iterable[dict[str, Any]]) -> Scores:
    """Return the per-item values of one model's samples, by task and score, in the order of the
    rows; raise `UserError` unless every item of a task has each score once.
    """
    scores: Scores = {}
    items: dict[str, list[Any]] = {}
    for row in rows:
        items.setdefault(row["task"], []).append(row["doc_id"])
        for name in sorted(set(row) - ROW):
            scores.setdefault(row["task"], {}).setdefault(name, []).append(row[name])
    for task, found in items.items():
        if len(set(found)) < len(found):
            raise UserError(
                f"lm_eval: an item of task {task} has two rows; evaluate the model again"
            )
        for name, values in scores.get(task, {}).items():
            if len(values) != len(found):
                raise UserError(
                    f"lm_eval: {len(values)} of {len(found)} items of task {task} have a {name};"
                    " evaluate the model again"
                )
    return scores


def items_of(rows: Iterable[dict[str, Any]]) -> dict[str, list[Any]]:
    """Return what a model was asked: [item, right answer] by task."""
    items: dict[str, list[Any]] = {}
    for row in rows:
        items.setdefault(row["task"], []).append([row["doc_id"], row["target"]])
    return items


def require_same_items(items: dict[str, dict[str, list[Any]]]) -> None:
    """Raise `UserError` unless every model was asked the same."""
    first = next(iter(items))
    for model, asked in items.items():
        if asked != items[first]:
            raise UserError(
                f"lm_eval: {model} and {first} were not evaluated on the same items; evaluate them"
                " with one config"
            )


def score_named(wanted: str, found: Iterable[str], task: str, model: str) -> str:
    """Return the score that a name means: that one, or the only one of this metric with a filter;
    raise `UserError` if there is none or more than one.
    """
    names = sorted(found)
    if wanted in names:
        return wanted
    filtered = [name for name in names if name.partition(",")[0] == wanted]
    if len(filtered) == 1:
        return filtered[0]
    if filtered:
        raise UserError(
            f"lm_eval: task {task} has {wanted} by several filters; name one of"
            f" {' '.join(map(repr, filtered))} under lm_eval_table.metric"
        )
    raise UserError(
        f"lm_eval: {model} has no metric {wanted} of task {task}; name one it has under"
        f" lm_eval_table.metric: {' '.join(map(repr, names))}"
    )


def values_of(scores: dict[str, Scores], metric: dict[str, str]) -> Values:
    """Return the values that are compared, of every model."""
    return {
        model: {
            task: found[score_named(metric.get(task, "acc"), found, task, model)]
            for task, found in tasks.items()
        }
        for model, tasks in scores.items()
    }


def settings_of(results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the settings that all models were evaluated with; raise `UserError` naming the first
    model and setting that differ.
    """
    found: dict[str, Any] = {}
    for model, content in results.items():
        mine = {
            "harness": content["harness"],
            "versions": content["versions"],
            "n-shot": content["n-shot"],
            **content["recipe"],
        }
        for key, value in mine.items():
            if found.setdefault(key, value) != value:
                raise UserError(
                    f"lm_eval: {model} was evaluated with another {key} ({value}, not"
                    f" {found[key]}); evaluate all with one config"
                )
    return found


def compare(values: Values, candidate: str, baseline: str, seed: int) -> dict[str, Any]:
    """Return paired differences of two models: by task, over all items, and of the mean over
    tasks. `p_holm` is corrected over the tasks, `p` of all items over nothing.
    """
    tasks = sorted(values[candidate])
    tests = [paired_p(values[candidate][task], values[baseline][task], seed) for task in tasks]
    corrected = holm([p for _, p in tests])
    gaps = [np.subtract(values[candidate][task], values[baseline][task]) for task in tasks]
    rows = {}
    for task, (test, p_value), adjusted in zip(tasks, tests, corrected, strict=True):
        found = paired_difference(values[candidate][task], values[baseline][task], seed)
        rows[task] = {**found, "test": test, "p": p_value, "p_holm": adjusted}
    everything = [
        [value for task in tasks for value in values[model][task]]
        for model in (candidate, baseline)
    ]
    test, p_value = paired_p(everything[0], everything[1], seed)
    over_items = {
        **paired_difference(everything[0], everything[1], seed),
        "test": test,
        "p": p_value,
    }
    over_tasks = mean_of_means(gaps, seed)
    return {
        "candidate": candidate,
        "baseline": baseline,
        "tasks": rows,
        "all_items": over_items,
        "mean_of_tasks": {**over_tasks, **detectability(gaps, over_tasks)},
    }


def calibration(
    base: Scores | None,
    published: dict[str, dict[str, float]] | None,
    tolerance: float,
    limit: int | None,
) -> dict[str, Any]:
    """Return the verdict on the harness: whether it gives the base's published values."""
    if not published:
        return {"verdict": "not applicable", "reason": "no published values for these tasks"}
    if limit is not None:
        return {"verdict": "not run", "reason": f"only {limit} items of each task were evaluated"}
    missing = [
        task
        for task, metrics in published.items()
        if base is None or not set(metrics) <= set(base.get(task, {}))
    ]
    if base is None or missing:
        return {
            "verdict": "not run",
            "reason": f"the base was not evaluated on {', '.join(missing)}",
        }
    rows = [
        {
            "task": task,
            "metric": metric,
            "published": value,
            "ours": float(np.mean(base[task][metric])),
            "n": len(base[task][metric]),
        }
        for task, metrics in published.items()
        for metric, value in metrics.items()
    ]
    outside = [
        f"{row['task']} {row['metric']}"
        for row in rows
        if abs(row["ours"] - row["published"]) > tolerance + 1e-9
    ]
    reason = (
        f"outside the tolerance of {tolerance}: {', '.join(outside)}"
        if outside
        else f"all {len(rows)} values within {tolerance}"
    )
    return {
        "verdict": "not calibrated" if outside else "calibrated",
        "reason": reason,
        "tolerance": tolerance,
        "rows": rows,
    }


def table(scores: dict[str, Scores], settings: dict[str, Any], recipe: Recipe) -> dict[str, Any]:
    """Return the whole table from every model's per-item values, baselines first."""
    values, seed, first = values_of(scores, recipe["metric"]), recipe["seed"], next(iter(scores))
    return {
        "settings": settings,
        "metric": {
            task: score_named(recipe["metric"].get(task, "acc"), found, task, first)
            for task, found in scores[first].items()
        },
        "models": {
            model: {
                task: bootstrap_mean(items, seed, bounds=SHARES) for task, items in tasks.items()
            }
            for model, tasks in values.items()
        },
        "mean_of_tasks": {
            model: mean_of_means(list(tasks.values()), seed, bounds=SHARES)
            for model, tasks in values.items()
        },
        "metrics": {
            model: {
                task: {
                    name: bootstrap_mean(items, seed, bounds=SHARES)
                    for name, items in metrics.items()
                }
                for task, metrics in tasks.items()
            }
            for model, tasks in scores.items()
        },
        "differences": [
            compare(values, candidate, baseline, seed) for candidate, baseline in recipe["pairs"]
        ],
        "calibration": calibration(
            scores.get("base"), recipe["published_base"], recipe["tolerance"], settings.get("limit")
        ),
    }


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and collect."""
    parser = stage_parser(__doc__, Recipe)
    parser.add_argument(
        "--results",
        type=Path,
        nargs="+",
        required=True,
        help="the harness's results, one file per model",
    )
    parser.add_argument(
        "--samples",
        type=Path,
        nargs="+",
        required=True,
        help="per-item results, one file per model, baselines first",
    )
    parser.add_argument("--output", type=Path, required=True, help="table to write, JSON")
    args = parser.parse_args(argv)
    with Receipt(
        args.receipt,
        stage="lm_eval_table",
        recipe=args.recipe,
        code=args.code,
        inputs={"results": args.results, "samples": args.samples},
        outputs={"output": args.output},
    ):
        results = {content["model"]: content for content in map(read_json, args.results)}
        rows = {
            name.removesuffix(".samples"): read_jsonl(path)
            for name, path in by_stem(args.samples).items()
        }
        scores = {model: scores_of(held) for model, held in rows.items()}
        require_same_items({model: items_of(held) for model, held in rows.items()})
        found = table(scores, settings_of(results), args.recipe)
        write_json(args.output, found)
        print(f"harness: {found['calibration']['verdict']} ({found['calibration']['reason']})")


if __name__ == "__main__":
    program.run(main)
