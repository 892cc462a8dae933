"""Build the page on which every row behind the numbers can be read: generated rows with their
verdicts, all models' answers side by side, items of the harness on which models differ.

It is one file that loads nothing, so that it can be passed on with the report; a link such as
`rows.html#evol:12` leads to a row. What models wrote is data in it, never markup.

Usage: build_explorer.py --rows …/filter/lamini.jsonl … --duplicates …/duplicates.jsonl \\
           --contamination …/contamination.jsonl --items …/evaluation_items.jsonl \\
           --answers …/mtbench/base/answers.jsonl … --judgments …/mtbench/base/judgments.jsonl … \\
           --samples …/lm_eval/base.samples.jsonl … --template … --output …/rows.html \\
           --recipe '{"scale": "rehearsal", …}' --code … --receipt …
"""

from pathlib import Path

from typing_extensions import TypedDict

from bezoar import program
from bezoar.files import whole_file
from bezoar.provenance.receipt import Receipt, stage_parser
from bezoar.report import rows


class Recipe(TypedDict):
    """The settings of the stage, with their units."""

    scale: str
    metric: dict[str, str]  # task -> the harness's metric that the table takes
    seed: int


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and build."""
    parser = stage_parser(__doc__, Recipe)
    for name, what in (
        ("rows", "rated rows of each scheme, JSONL"),
        ("answers", "MT-Bench answers of each model, JSONL"),
        ("judgments", "their judgments, JSONL, beside the answers"),
        ("samples", "the harness's items of each model, JSONL"),
    ):
        parser.add_argument(f"--{name}", type=Path, nargs="+", required=True, help=what)
    for name, what in (
        ("duplicates", "duplicates found in the rows, JSONL"),
        ("contamination", "evaluation items found in the rows, JSONL"),
        ("items", "texts of the evaluation's items, JSONL"),
        ("template", "the page's template, Jinja"),
        ("output", "page to write"),
    ):
        parser.add_argument(f"--{name}", type=Path, required=True, help=what)
    args = parser.parse_args(argv)

    import jinja2

    with Receipt(
        args.receipt,
        stage="explorer",
        recipe=args.recipe,
        code=args.code,
        inputs={
            name: getattr(args, name)
            for name in (
                "rows duplicates contamination items answers judgments samples template".split()
            )
        },
        outputs={"page": args.output},
    ):
        found = rows.marks(args.duplicates, args.contamination)
        items = rows.item_texts(args.items)
        sections = [
            *(rows.generated(path, found) for path in args.rows),
            rows.chat((path.parent for path in args.answers), items),
            rows.changed_items(args.samples, items, args.recipe["metric"]),
        ]
        template = jinja2.Environment(
            autoescape=True, undefined=jinja2.StrictUndefined, keep_trailing_newline=True
        ).from_string(args.template.read_text(encoding="utf-8"))
        html = template.render(
            scale=args.recipe["scale"],
            sections=[
                {"id": section["id"], "json": rows.embedded(section)} for section in sections
            ],
        )
        with whole_file(args.output) as stream:
            stream.write(html)
        count = sum(len(section["rows"]) for section in sections)
        print(f"{args.output}: {count:,} rows in {len(html):,} characters")


if __name__ == "__main__":
    program.run(main)
