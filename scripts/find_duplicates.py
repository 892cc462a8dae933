"""Find exact and near duplicates among the instructions: within a scheme, across schemes, and
against the seeds.

Usage: find_duplicates.py --rows …/filter/lamini.jsonl … \\
           --seeds alpaca_seeds.jsonl dolly.jsonl --recipe '{"jaccard": 0.7, …}' --code … \\
           --pairs …/data/duplicates.jsonl --summary …/data/duplicates.json --receipt …

Exact: the same words in the same order, ignoring case and punctuation. Near: Jaccard similarity
of words and neighbouring pairs of at least `jaccard`. MinHash and LSH (rensa) propose pairs, each
of which is then measured, so that precision is exact and only recall is not: a pair at similarity s
is proposed with probability 1 - (1 - s^r)^b, of b bands and r = permutations / b (Broder 1997;
Leskovec et al., ch. 3). Most proposals share words by chance: those that their sketches put more
than four standard deviations below `jaccard` are not measured, which loses 3 of 100,000 pairs that
are just as similar. One changed word in nine or more leaves a similarity of at least 0.7: 14 of 20
parts.

Pairs hold one line for each row and each set in which it has a duplicate: set, row (from 1),
kind, of_set, of_row, jaccard. Within its own set a row is a duplicate of an earlier row only. The
summary counts such rows: {kind: {set: {of_set: rows}}}.
"""

from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from bezoar import program
from bezoar.arguments import by_stem
from bezoar.data.duplicates import Classes, duplicates, summary
from bezoar.errors import UserError
from bezoar.files import write_json, write_jsonl
from bezoar.provenance.receipt import Receipt, stage_parser
from bezoar.readers import numbered, read_jsonl, shown
from bezoar.training.template import training_text


class Recipe(TypedDict):
    """The settings of the stage, with their units."""

    jaccard: float
    permutations: int
    bands: int  # divides permutations
    seed: int


def instruction_of(row: dict[str, Any], name: str) -> str:
    """Return the instruction of a row or seed task, with Dolly's context; raise `UserError` if it
    has none.
    """
    text, context = training_text({"response": "", **row}, name)[0], row.get("context") or ""
    if not isinstance(context, str):
        raise UserError(f"{name}: expected a text as `context`, found {shown(context)}")
    return f"{text}\n\n{context}" if context else text


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and compare."""
    parser = stage_parser(__doc__, Recipe)
    parser.add_argument(
        "--rows", type=Path, nargs="+", required=True, help="rows of each scheme, JSONL"
    )
    parser.add_argument("--seeds", type=Path, nargs="*", default=[], help="seed tasks, JSONL")
    parser.add_argument("--pairs", type=Path, required=True, help="duplicates to write, JSONL")
    parser.add_argument("--summary", type=Path, required=True, help="counts to write, JSON")
    args = parser.parse_args(argv)
    with Receipt(
        args.receipt,
        stage="data_duplicates",
        recipe=args.recipe,
        code=args.code,
        inputs={"rows": args.rows, "seeds": args.seeds},
        outputs={"pairs": args.pairs, "summary": args.summary},
    ) as receipt:
        classes, sizes = Classes(), {}
        seeds = {f"seeds: {stem}": path for stem, path in by_stem(args.seeds).items()}
        for name, path in (by_stem(args.rows) | seeds).items():
            rows = read_jsonl(path)
            if not rows:
                raise UserError(f"{path}: no rows; write or fetch them again")
            sizes[name] = len(rows)
            for number, (where, row) in enumerate(numbered(path, rows), start=1):
                classes.add(name, number, instruction_of(row, where))
        pairs = list(duplicates(classes, args.recipe))
        write_jsonl(args.pairs, pairs)
        table = summary(sizes, pairs)
        write_json(args.summary, table)
        receipt.facts |= {"distinct": len(classes.texts), **table}
        print(
            f"{sum(sizes.values())} rows, {len(classes.texts)} distinct; {len(pairs)} duplicates",
            flush=True,
        )


if __name__ == "__main__":
    program.run(main)
