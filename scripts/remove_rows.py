"""Remove rows that give the evaluation away from the training data, so that scores can be reported
with and without them.

Usage: remove_rows.py --rows …/filter/orca.jsonl --matches …/data/contamination.jsonl \\
           --families config/task_families.yaml \\
           --recipe '{"remove": ["contaminated"], …}' --code … --kept …/data/clean/orca.jsonl
             --counts … --receipt …

Rules: contaminated (a match that find_contamination.py calls so), task_family (made from the
training split of an evaluation task). A row to which both apply counts under the first.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from bezoar import program
from bezoar.data import task_families
from bezoar.data.funnel import Funnel
from bezoar.errors import UserError
from bezoar.files import write_json, write_jsonl
from bezoar.provenance.receipt import Receipt, stage_parser
from bezoar.readers import column, numbered, read_jsonl, shown


class Recipe(TypedDict):
    """The settings of the stage, with their units."""

    remove: list[str]  # rules
    tasks: list[str]  # the evaluation tasks in use
    seed: int


def clean(
    rows: Sequence[dict[str, Any]],
    contaminated: set[int],
    table: list[dict[str, Any]],
    recipe: Recipe,
) -> tuple[list[dict[str, Any]], Funnel]:
    """Return the rows that stay and the counts; `contaminated` are row numbers from 1."""
    funnel, kept = Funnel("contaminated", "task_family"), []
    for number, row in enumerate(rows, start=1):
        taught = (
            "task_name" in row
            and task_families.family_of(row["task_name"], table, recipe["tasks"])["relation"]
            == "training_split"
        )
        falls = {"contaminated": number in contaminated, "task_family": taught}
        rule = next(
            (rule for rule, does in falls.items() if does and rule in recipe["remove"]), "kept"
        )
        funnel.leave(rule)
        if rule == "kept":
            kept.append(row)
    return kept, funnel


def contaminated_rows(matches: Path, name: str, rows: int) -> set[int]:
    """Return the numbers, from 1, of the rows of a set that give the evaluation away; raise
    `UserError` where a match is in no row of the `rows` that the set has.
    """
    found = set()
    for where, line in numbered(matches, read_jsonl(matches)):
        if column(line, "set", str, where) != name:
            continue
        number = column(line, "row", int, where)
        if not 1 <= number <= rows:
            raise UserError(
                f"{where}: expected a row of {name} from 1 to {rows}, found {shown(number)}; run"
                " find_contamination.py on these rows"
            )
        if column(line, "contaminated", bool, where):
            found.add(number)
    return found


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and remove."""
    parser = stage_parser(__doc__, Recipe)
    parser.add_argument(
        "--rows",
        type=Path,
        required=True,
        help="filtered rows of one scheme, or preference pairs, JSONL",
    )
    parser.add_argument(
        "--matches", type=Path, required=True, help="what they share with the evaluation, JSONL"
    )
    parser.add_argument("--families", type=Path, required=True, help="table of task families, YAML")
    parser.add_argument("--kept", type=Path, required=True, help="rows to write, JSONL")
    parser.add_argument(
        "--counts", type=Path, required=True, help="rows kept and removed by rule, JSON"
    )
    args = parser.parse_args(argv)
    with Receipt(
        args.receipt,
        stage="data_clean",
        recipe=args.recipe,
        code=args.code,
        inputs={"rows": args.rows, "matches": args.matches, "families": args.families},
        outputs={"kept": args.kept, "counts": args.counts},
    ) as receipt:
        rows = read_jsonl(args.rows)
        contaminated = contaminated_rows(args.matches, args.rows.stem, len(rows))
        for where, row in numbered(args.rows, rows):
            if "task_name" in row:
                column(row, "task_name", str, where)
        kept, funnel = clean(rows, contaminated, task_families.load(args.families), args.recipe)
        if not kept:
            raise UserError(
                f"{args.rows}: no row is left after {', '.join(args.recipe['remove'])}; look at"
                " data.remove"
            )
        write_jsonl(args.kept, kept)
        receipt.facts |= funnel.as_json({})
        write_json(args.counts, receipt.facts)
        print(receipt.facts, flush=True)


if __name__ == "__main__":
    program.run(main)
