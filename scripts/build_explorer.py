"""Build the page on which every row behind the numbers can be read: generated rows with their
verdicts, what rules dropped, all models' answers side by side, held-out preference pairs with their
margins, items of the harness on which models differ.

It is one file that loads nothing, so that it can be passed on with the report; a link such as
`rows.html#evol:12` leads to a row, `rows.html#evol?verdict=Reject` to some, and
`rows.html#chat?order=sft over dpo` to the answers that lost most. What models wrote is data in it,
never markup.

Usage: build_explorer.py --rows …/filter/lamini.jsonl … \\
           --dropped …/generate/lamini.dropped.jsonl … --duplicates …/duplicates.jsonl \\
           --contamination …/contamination.jsonl --items …/evaluation_items.jsonl \\
           --answers …/mtbench/base/answers.jsonl … --judgments …/mtbench/base/judgments.jsonl … \\
           --samples …/lm_eval/base.samples.jsonl … --lm-eval …/lm_eval.json \\
           --pairs …/preferences/pairs.jsonl --held-out …/dpo/held_out.json \\
           --template … --output …/rows.html \\
           --recipe '{"scale": "rehearsal", …}' --code … --receipt …
"""

from pathlib import Path

from typing_extensions import TypedDict

from bezoar import program
from bezoar.files import whole_file
from bezoar.provenance.receipt import Receipt, stage_parser
from bezoar.readers import read_json
from bezoar.report import rows


class Recipe(TypedDict):
    """The settings of the stage, with their units."""

    scale: str
    seed: int


LISTS = {
    "rows": "rated rows of each scheme, JSONL",
    "answers": "MT-Bench answers of each model, JSONL",
    "judgments": "their judgments, JSONL, in the same order",
    "samples": "the harness's items of each model, JSONL",
}
MAYBE = {"dropped": "items that a rule dropped, of each scheme that was generated, JSONL"}
FILES = {
    "duplicates": "duplicates found in the rows, JSONL",
    "contamination": "evaluation items found in the rows, JSONL",
    "items": "texts of the evaluation's items, JSONL",
    "lm_eval": "the harness's table, which names the metric of each task, JSON",
    "pairs": "preference pairs, JSONL",
    "held_out": "margins of those that DPO did not train on, JSON",
    "template": "the page's template, Jinja",
}


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and build."""
    parser = stage_parser(__doc__, Recipe)
    for name, what in LISTS.items():
        parser.add_argument(f"--{name}", type=Path, nargs="+", required=True, help=what)
    for name, what in MAYBE.items():
        parser.add_argument(f"--{name}", type=Path, nargs="*", default=[], help=what)
    for name, what in FILES.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=Path, required=True, help=what)
    parser.add_argument("--output", type=Path, required=True, help="page to write")
    args = parser.parse_args(argv)

    with Receipt(
        args.receipt,
        stage="explorer",
        recipe=args.recipe,
        code=args.code,
        inputs={name: getattr(args, name) for name in (*LISTS, *MAYBE, *FILES)},
        outputs={"page": args.output},
    ):
        found = rows.marks(args.duplicates, args.contamination)
        items = rows.item_parts(args.items)
        sections = [
            *(rows.generated(path, found) for path in args.rows),
            *(rows.dropped(path) for path in args.dropped),
            rows.chat(zip(args.answers, args.judgments, strict=True), items),
            rows.preferred(args.pairs, args.held_out),
            rows.changed_items(args.samples, items, read_json(args.lm_eval)["metric"]),
        ]
        html = rows.page(args.template, args.recipe["scale"], sections)
        with whole_file(args.output) as stream:
            stream.write(html)
        count = sum(len(section["rows"]) for section in sections)
        print(f"{args.output}: {count:,} rows in {len(html):,} characters")


if __name__ == "__main__":
    program.run(main)
