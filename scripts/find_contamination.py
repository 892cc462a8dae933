"""Find what the training data share with the evaluation items: every n-gram of every text of every
item, looked for in every row.

Usage: find_contamination.py --rows …/filter/lamini.jsonl … …/preferences/pairs.jsonl \\
           --items …/data/evaluation_items.jsonl --recipe '{"ngram": 8, …}' --code … \\
           --matches …/data/contamination.jsonl --summary …/data/contamination.json --receipt …

Words are compared without case and punctuation. A text of at least `ngram` words is looked for by
all its n-grams; a shorter one of at least `min_words` as a whole; one shorter still is counted as
unchecked, since so few words occur anywhere. Instruction and response of a row are searched
separately; of a preference pair its prompt and both answers.

Matches hold one line for each row and text: set, row, the longest run of shared words (words, and
match as the row writes it), share (of the text's words that lie in a shared n-gram), items ([task,
item, part], all that hold this text) and contaminated: whether `share` is at least
`contaminated_share` and the text is a question or a right answer. A wrong answer in a row gives
nothing away.
"""

from pathlib import Path

from typing_extensions import TypedDict

from bezoar import program
from bezoar.arguments import by_stem
from bezoar.data.contamination import Items, matches, summary
from bezoar.errors import UserError
from bezoar.files import write_json, write_jsonl
from bezoar.provenance.receipt import Receipt, stage_parser
from bezoar.readers import column, numbered, read_jsonl
from bezoar.training.template import training_text


class Recipe(TypedDict):
    """The settings of the stage, with their units."""

    ngram: int  # words
    min_words: int
    contaminated_share: float
    seed: int


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and search."""
    parser = stage_parser(__doc__, Recipe)
    parser.add_argument(
        "--rows",
        type=Path,
        nargs="+",
        required=True,
        help="rows of each scheme, and preference pairs, JSONL",
    )
    parser.add_argument(
        "--items", type=Path, required=True, help="texts of the evaluation items, JSONL"
    )
    parser.add_argument("--matches", type=Path, required=True, help="matches to write, JSONL")
    parser.add_argument("--summary", type=Path, required=True, help="counts to write, JSON")
    args = parser.parse_args(argv)
    with Receipt(
        args.receipt,
        stage="data_contamination",
        recipe=args.recipe,
        code=args.code,
        inputs={"rows": args.rows, "items": args.items},
        outputs={"matches": args.matches, "summary": args.summary},
    ) as receipt:
        texts = read_jsonl(args.items)
        for where, text in numbered(args.items, texts):
            for name in ("task", "part", "text"):
                column(text, name, str, where)
            column(text, "item", int, where)
        if not texts:
            raise UserError(
                f"{args.items}: no items, in which nothing could be found; list them again"
            )
        items = Items(texts, args.recipe)
        found, sizes = [], {}
        for name, path in by_stem(args.rows).items():
            rows = read_jsonl(path)
            if not rows:
                raise UserError(f"{path}: no rows; write or fetch them again")
            for where, row in numbered(path, rows):
                training_text(row, where)
                if "chosen" in row:
                    column(row, "rejected", str, where)
            sizes[name] = len(rows)
            found += matches(items, rows, name, args.recipe)
        write_jsonl(args.matches, found)
        table = summary(items, sizes, found)
        write_json(args.summary, table)
        receipt.facts |= table
        print(table, flush=True)


if __name__ == "__main__":
    program.run(main)
