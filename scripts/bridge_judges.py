"""Compare two sets of judgments of the same answers: two judges, or one judge with and without
corrected reference answers.

Usage: bridge_judges.py --first results/mtbench/base/judgments.jsonl … \\
           --second results/mtbench/base/gpt-4.judgments.jsonl … \\
           --recipe '{"column": "gpt-4", "seed": 0}' --code … --output results/bridge/gpt-4.json
             --receipt …

The offset is the second rating less the first, over the (model, question, turn, repeat) that both
rated, with an interval over questions: one question's turns, repeats and models are not
independent. Rank agreement is Kendall's tau-b over the same judgments, of the models by their means
and of all answers. A model's `first` and `second` are its means over all that the one or the other
rated, `replaced` its score with the second rating in place of the first wherever both are there:
for corrected references, their effect.
"""

from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import TypedDict

from bezoar import program
from bezoar.errors import UserError
from bezoar.evaluation.mtbench import checked
from bezoar.evaluation.statistics import BETWEEN_RATINGS, clustered_difference, rank_correlation
from bezoar.files import write_json
from bezoar.provenance.receipt import Receipt, stage_parser
from bezoar.readers import read_jsonl


class Recipe(TypedDict):
    """The settings of the stage, with their units."""

    column: str  # name of the second set
    seed: int


Key = tuple[str, int, int, int]  # model, question_id, turn, repeat
Rows = dict[Key, dict[str, Any]]


def by_key(paths: list[Path], required: bool = False) -> Rows:
    """Return the judgments of one judge by what they judge; raise `UserError` if there are several
    judges, or, where judgments are `required`, if a file holds none.
    """
    rows = [row for path in paths for row in checked(read_jsonl(path), path, required)]
    judges = sorted({row["judge"][0] for row in rows})
    if len(judges) > 1:
        raise UserError(
            f"{paths[0]}: judged by {' and '.join(judges)}; expected one judge per set;"
            " judges are never mixed"
        )
    return {(row["model"], row["question_id"], row["turn"], row["repeat"]): row for row in rows}


def offset(gaps: dict[Key, float], seed: int) -> dict[str, Any] | None:
    """Return the mean of the gaps with an interval over questions, or None if there is none."""
    if not gaps:
        return None
    groups: dict[int, list[float]] = {}
    for (_, question, _, _), gap in gaps.items():
        groups.setdefault(question, []).append(gap)
    found = clustered_difference(groups, seed, BETWEEN_RATINGS)
    first = {name: found[name] for name in ("mean", "low", "high", "n")}  # the order in the file
    return {**first, "judgments": len(gaps), **found}


def bridge(first: Rows, second: Rows, seed: int) -> dict[str, Any]:
    """Return offsets, rank agreement, the replaced scores, and how many judgments each set rated of
    those that are in both.
    """
    shared = [key for key in first if key in second]
    rated = [key for key in shared if first[key]["state"] == second[key]["state"] == "rated"]
    gaps = {key: second[key]["score"] - first[key]["score"] for key in rated}
    models = list(dict.fromkeys(key[0] for key in first))
    categories = list(dict.fromkeys(first[key]["category"] for key in shared))

    def mean(rows: Rows, model: str) -> float | None:
        scores = [
            row["score"] for key, row in rows.items() if key[0] == model and row["state"] == "rated"
        ]
        return float(np.mean(scores)) if scores else None

    replaced = {key: second[key] if key in gaps else row for key, row in first.items()}
    means = {
        model: {
            "first": mean(first, model),
            "second": mean(second, model),
            "replaced": mean(replaced, model),
        }
        for model in models
    }
    by_model = [keys for model in models if (keys := [key for key in rated if key[0] == model])]
    ranked = [
        [float(np.mean([rows[key]["score"] for key in keys])) for keys in by_model]
        for rows in (first, second)
    ]
    return {
        "judgments": {
            "first": len(first),
            "second": len(second),
            "in_both": len(shared),
            "rated_by_both": len(rated),
        },
        "offset": offset(gaps, seed),
        "categories": {
            name: offset(
                {key: gap for key, gap in gaps.items() if first[key]["category"] == name}, seed
            )
            for name in categories
        },
        "models": {
            model: {
                **means[model],
                "offset": offset({key: gap for key, gap in gaps.items() if key[0] == model}, seed),
            }
            for model in models
        },
        "rank_agreement": {
            "models": rank_correlation(*ranked),
            "answers": rank_correlation(
                *([rows[key]["score"] for key in rated] for rows in (first, second))
            ),
        },
    }


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and compare."""
    parser = stage_parser(__doc__, Recipe)
    parser.add_argument(
        "--first", type=Path, nargs="+", required=True, help="judgments, one file per model"
    )
    parser.add_argument(
        "--second",
        type=Path,
        nargs="+",
        required=True,
        help="judgments of the same answers by the other judge",
    )
    parser.add_argument("--output", type=Path, required=True, help="comparison to write, JSON")
    args = parser.parse_args(argv)
    with Receipt(
        args.receipt,
        stage="bridge",
        recipe=args.recipe,
        code=args.code,
        inputs={"first": args.first, "second": args.second},
        outputs={"output": args.output},
    ):
        # Of the second, there may be none: a set of questions without an overridden reference.
        # Then there is no offset, and each score is the first.
        first, second = by_key(args.first, required=True), by_key(args.second)
        if second and not first.keys() & second.keys():
            raise UserError(
                f"{args.second[0]}: judges no answer that {args.first[0]} does; expected judgments"
                " of the same models and questions"
            )
        judges = {
            name: next((row["judge"][0] for row in rows.values()), None)
            for name, rows in (("first", first), ("second", second))
        }
        found = bridge(first, second, args.recipe["seed"])
        write_json(args.output, {"column": args.recipe["column"], "judges": judges, **found})
        print({"offset": found["offset"], "rank_agreement": found["rank_agreement"]})


if __name__ == "__main__":
    program.run(main)
