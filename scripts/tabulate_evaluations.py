"""Write one row per model from both benchmarks' tables: means with intervals, ratings and failures,
and the paired differences of both means from the first model's.

Usage: tabulate_evaluations.py --lm-eval results/evaluate/lm_eval.json \\
           --mtbench results/evaluate/mtbench.json \\
           --receipts results/receipts/import_model_NAME.json … \\
           --recipe '{"judge": "…", "models": {…}, …}' --code … --output results/evaluate/table.csv
             --receipt …

The table is made from the two JSON files. The receipts are only hashed into this stage's own, so
that an audit finds a later edit of any of them, as the report's receipt does for a whole run.
"""

import csv
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from bezoar import program
from bezoar.files import whole_file
from bezoar.provenance.receipt import Receipt, stage_parser
from bezoar.readers import read_json


class Recipe(TypedDict):
    """The settings of the stage, with their units."""

    judge: str  # the main one
    models: dict[str, dict[str, str | None]]  # where each comes from, its revision and template
    scale: str
    seed: int


def cells(name: str, value: dict[str, Any] | None, digits: int) -> dict[str, str]:
    """Return the columns of one mean: itself, low and high; empty where there is none."""
    known = value is not None and value["mean"] is not None
    return {
        f"{name}{end}": f"{value[key]:.{digits}f}" if known and value else ""
        for end, key in (("", "mean"), (" low", "low"), (" high", "high"))
    }


def row(
    model: str, harness: dict[str, Any], chat: dict[str, Any], recipe: Recipe
) -> dict[str, str]:
    """Return the columns of one model."""
    source = recipe["models"][model]
    found = {
        "model": model,
        "source": source.get("path") or source.get("hub") or source["source"],
        "revision": source.get("revision") or "",
        "template": source["template"],
        "scale": recipe["scale"],
        "judge": recipe["judge"],
    }
    first = next(iter(recipe["models"]))

    def over_first(differences: list[dict[str, Any]]) -> dict[str, Any] | None:
        pairs = ((one["candidate"], one["baseline"], one) for one in differences)
        return next((one for new, old, one in pairs if (new, old) == (model, first)), None)

    for task, value in harness["models"][model].items():
        found |= cells(task, value, 4)
    found |= cells("mean of tasks", harness["mean_of_tasks"][model], 4)
    gap = over_first(harness["differences"])
    found |= cells("mean of tasks over the first", gap and gap["mean_of_tasks"], 4)
    judged = chat["judges"][recipe["judge"]]
    tables = judged["models"][model]
    found |= cells("chat", tables["overall"], 3)
    found |= cells("chat over the first", over_first(judged["differences"]), 3)
    found |= {
        "chat ratings": str(tables["overall"]["ratings"]),
        "chat failures": str(tables["overall"]["failures"]),
    }
    for turn, value in tables["turns"].items():
        found |= cells(f"chat turn {turn}", value, 3)
    for category, value in tables["categories"].items():
        found |= cells(f"chat {category}", value, 3)
    return found


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and write."""
    parser = stage_parser(__doc__, Recipe)
    parser.add_argument(
        "--lm-eval", type=Path, required=True, help="the harness's table of these models, JSON"
    )
    parser.add_argument(
        "--mtbench", type=Path, required=True, help="the chat scores of these models, JSON"
    )
    parser.add_argument(
        "--receipts", type=Path, nargs="+", required=True, help="receipts of these models' stages"
    )
    parser.add_argument("--output", type=Path, required=True, help="table to write, CSV")
    args = parser.parse_args(argv)
    with Receipt(
        args.receipt,
        stage="evaluate",
        recipe=args.recipe,
        code=args.code,
        inputs={"lm_eval": args.lm_eval, "mtbench": args.mtbench, "receipts": args.receipts},
        outputs={"table": args.output},
    ):
        harness, chat = read_json(args.lm_eval), read_json(args.mtbench)
        rows = [row(model, harness, chat, args.recipe) for model in args.recipe["models"]]
        with whole_file(args.output) as stream:
            writer = csv.DictWriter(stream, fieldnames=list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    program.run(main)
