"""Aggregate MT-Bench judgments: means by model, turn and category with intervals over questions,
and paired differences.

Usage: score_mtbench.py --judgments results/mtbench/base/judgments.jsonl … \\
           --recipe '{"pairs": …, "seed": 0}' --code … \\
           --output results/mtbench.json --receipt …

Turns and repeats of one question are not independent: intervals resample questions. A difference
is over the turns and repeats that are rated for both models, so that no mean of two turns is held
against a first turn alone. Failed judgments are counted, and bound the mean: `all_failures_1` and
`all_failures_10` are what it would be had they all been 1, or 10. Judges are never mixed: each has
its own tables. Every score is read again from the judgment's text, so that running this program
alone recomputes them all.
"""

import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import TypedDict

from bezoar import program
from bezoar.errors import UserError
from bezoar.evaluation.mtbench import checked
from bezoar.evaluation.statistics import (
    BETWEEN_RATINGS,
    RATINGS,
    RESAMPLES,
    bootstrap_mean,
    clustered_difference,
)
from bezoar.files import write_json
from bezoar.provenance.receipt import Receipt, stage_parser
from bezoar.readers import read_jsonl


class Recipe(TypedDict):
    """The settings of the stage, with their units."""

    pairs: list[list[str]]  # model, against which
    seed: int


Rows = list[dict[str, Any]]


def ratings(rows: Iterable[dict[str, Any]]) -> dict[int, list[float]]:
    """Return question_id -> its ratings, of all turns and repeats."""
    scores: dict[int, list[float]] = {}
    for row in rows:
        if row["state"] == "rated":
            scores.setdefault(row["question_id"], []).append(row["score"])
    return dict(sorted(scores.items()))


def means_by_question(rows: Iterable[dict[str, Any]]) -> dict[int, float]:
    """Return the mean rating of each question that has one."""
    return {number: float(np.mean(values)) for number, values in ratings(rows).items()}


def summary(rows: Rows, seed: int, resamples: int = RESAMPLES) -> dict[str, Any]:
    """Return mean (FastChat's: over ratings), interval over questions, counts, and bounds for the
    failures.
    """
    rated = [row["score"] for row in rows if row["state"] == "rated"]
    failed = len(rows) - len(rated)
    if not rated:
        return {"mean": None, "questions": 0, "ratings": 0, "failures": failed}
    weights = [len(scores) for scores in ratings(rows).values()]
    means = list(means_by_question(rows).values())
    interval = bootstrap_mean(means, seed, resamples=resamples, weights=weights, bounds=RATINGS)
    return {
        "mean": float(np.mean(rated)),
        "low": interval["low"],
        "high": interval["high"],
        "questions": interval["n"],
        "ratings": len(rated),
        "failures": failed,
        "all_failures_1": (math.fsum(rated) + failed) / len(rows),
        "all_failures_10": (math.fsum(rated) + 10 * failed) / len(rows),
    }


def difference(candidate: Rows, baseline: Rows, seed: int) -> dict[str, Any] | None:
    """Return the paired difference over the questions, turns and repeats that are rated in both,
    with the number of repeats and the difference that this design could have shown; None if they
    share none.
    """
    before = {judged(row): row["score"] for row in baseline if row["state"] == "rated"}
    gaps: dict[int, list[float]] = {}
    for row in candidate:
        if row["state"] == "rated" and judged(row) in before:
            gap = row["score"] - before[judged(row)]
            gaps.setdefault(row["question_id"], []).append(gap)
    if not gaps:
        return None
    repeats = 1 + max(row.get("repeat", 0) for row in [*candidate, *baseline])
    found = clustered_difference(dict(sorted(gaps.items())), seed, BETWEEN_RATINGS)
    return {**found, "repeats": repeats}


def judged(row: dict[str, Any]) -> tuple[int, int, int]:
    """Return what a judgment is of: question, turn and repeat."""
    return row["question_id"], row["turn"], row.get("repeat", 0)


def same_prompts(rows: Rows) -> dict[str, int]:
    """Return how many prompts several models' answers have in common, as empty answers do, and how
    many of them the judge rated differently: by so much it disagrees with itself.
    """
    found: dict[str, list[float]] = {}
    for row in rows:
        first = row.get("repeat", 0) == 0
        if first and row["state"] == "rated" and row.get("user_prompt"):
            found.setdefault(row["user_prompt"], []).append(row["score"])
    shared = [scores for scores in found.values() if len(scores) > 1]
    return {"shared": len(shared), "rated_differently": sum(len(set(s)) > 1 for s in shared)}


def score(rows: Rows, pairs: list[list[str]], seed: int) -> dict[str, Any]:
    """Return the tables of one judge; `pairs` are [model, against which]."""
    models = list(dict.fromkeys(row["model"] for row in rows))
    of = {model: [row for row in rows if row["model"] == model] for model in models}
    categories = list(dict.fromkeys(row["category"] for row in rows))
    return {
        "models": {
            model: {
                "overall": summary(mine, seed),
                "ratings": {
                    f"{rating:g}": count
                    for rating, count in sorted(
                        Counter(row["score"] for row in mine if row["state"] == "rated").items()
                    )
                },
                "turns": {
                    str(turn): summary([row for row in mine if row["turn"] == turn], seed)
                    for turn in (1, 2)
                },
                "categories": {
                    name: summary([row for row in mine if row["category"] == name], seed)
                    for name in categories
                },
            }
            for model, mine in of.items()
        },
        "same_prompts": same_prompts(rows),
        "differences": [
            {"candidate": candidate, "baseline": baseline, **found}
            for candidate, baseline in pairs
            if candidate in of
            and baseline in of
            and (found := difference(of[candidate], of[baseline], seed)) is not None
        ],
    }


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and aggregate."""
    parser = stage_parser(__doc__, Recipe)
    parser.add_argument(
        "--judgments",
        type=Path,
        nargs="+",
        required=True,
        help="judgments, one file per model, baselines first",
    )
    parser.add_argument("--output", type=Path, required=True, help="tables to write, JSON")
    args = parser.parse_args(argv)
    with Receipt(
        args.receipt,
        stage="mtbench",
        recipe=args.recipe,
        code=args.code,
        inputs={"judgments": args.judgments},
        outputs={"output": args.output},
    ):
        judges: dict[str, Rows] = {}
        came_from: dict[tuple[str, str], Path] = {}
        for path in args.judgments:
            for row in checked(read_jsonl(path), path, required=True):
                judge = row["judge"][0]
                if came_from.setdefault((judge, row["model"]), path) != path:
                    raise UserError(
                        f"{path}: {judge} has judged {row['model']} in"
                        f" {came_from[judge, row['model']]} already; give it another name"
                    )
                judges.setdefault(judge, []).append(row)
        write_json(
            args.output,
            {
                "judges": {
                    judge: score(rows, args.recipe["pairs"], args.recipe["seed"])
                    for judge, rows in judges.items()
                }
            },
        )


if __name__ == "__main__":
    program.run(main)
