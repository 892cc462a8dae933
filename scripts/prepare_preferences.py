"""Turn HH-RLHF dialogues into (prompt, chosen, rejected) rows; every pair is used or dropped with a
rule id.

Usage: prepare_preferences.py --data FILE.jsonl[.gz] … --recipe '{"first": 100000, …}' --code … \\
           --pairs results/preferences/pairs.jsonl --counts …/counts.json --receipt …/receipt.json

"The first N examples" are the first N rows of the files in the given order, dropped ones included.
Earlier turns form the instruction, the last assistant turn is the response: a single human turn
is used as it is, a longer dialogue keeps its speakers' names.

Drop rules: not_a_pair (a column missing or not a text), odd_speakers (not Human, Assistant, …
ending with Assistant, or text before the first of them), empty_turn, no_shared_prefix (the two
differ before the last turn), equal_answers.
"""

from pathlib import Path

from typing_extensions import TypedDict

from bezoar import program
from bezoar.data.hh_rlhf import RULES, convert, rows_of
from bezoar.errors import UserError
from bezoar.files import write_json, write_jsonl
from bezoar.provenance.receipt import Receipt, stage_parser


class Recipe(TypedDict):
    """The settings of the stage, with their units."""

    first: int  # rows, over the files in order
    seed: int


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and convert."""
    parser = stage_parser(__doc__, Recipe)
    parser.add_argument(
        "--data", type=Path, nargs="+", required=True, help="HH-RLHF files, in order"
    )
    parser.add_argument("--pairs", type=Path, required=True, help="rows to write, JSONL")
    parser.add_argument(
        "--counts", type=Path, required=True, help="rows used and dropped by rule, JSON"
    )
    args = parser.parse_args(argv)
    with Receipt(
        args.receipt,
        stage="preferences",
        recipe=args.recipe,
        code=args.code,
        inputs={"data": args.data},
        outputs={"pairs": args.pairs, "counts": args.counts},
    ) as receipt:
        counts = {"read": 0, "used": 0, "dropped": dict.fromkeys(RULES, 0)}
        pairs = []
        for path, number, row in rows_of(args.data, args.recipe["first"]):
            counts["read"] += 1
            result = convert(row)
            if isinstance(result, str):
                counts["dropped"][result] += 1
            else:
                counts["used"] += 1
                pairs.append({**result, "source": path.name, "row": number})
        if not pairs:
            raise UserError(
                f"{args.data[0]}: no usable pair in {counts['read']} rows; expected HH-RLHF's"
                " chosen and rejected"
            )
        write_jsonl(args.pairs, pairs)
        write_json(args.counts, counts)
        receipt.facts |= counts
        print(counts)


if __name__ == "__main__":
    program.run(main)
