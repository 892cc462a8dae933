"""Write the card of one data set, in the form of the Hugging Face hub: YAML front matter and text,
all of it from receipts and tables.

Usage: write_data_card.py --rows …/filter/evol.jsonl \\
           --receipts …/receipts/generate_evol.json …/receipts/filter_evol.json \\
           --tables …/data/description.json …/data/duplicates.json …/data/contamination.json \\
           --recipe '{"scheme": "evol", …}' --code … \\
           --card …/data/cards/evol/README.md --receipt …

A card says how many rows there are and what became of the others, where each part comes from under
which licence, what the columns mean, what the rows share with each other and with the evaluation,
and how to rebuild them. No number in it is typed by hand.
"""

from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCardData
from typing_extensions import TypedDict

from bezoar import program
from bezoar.arguments import by_stem
from bezoar.errors import UserError
from bezoar.files import whole_file
from bezoar.provenance.receipt import Receipt, stage_parser
from bezoar.readers import read_json, read_jsonl
from bezoar.report.markdown import table


class Recipe(TypedDict):
    """The settings of the stage, with their units."""

    scheme: str
    scale: str
    title: str
    licence: str  # id of the hub
    sources: list[dict[str, str]]  # what, origin, licence
    teacher: str
    rater: str
    target: str  # the file to rebuild
    config: list[str]  # configuration files that name it
    remove: list[str]  # rules by which rows are left out of training
    seed: int


COLUMNS = {
    "instruction": "what is asked",
    "source": "kind of prompt and seed set that made the instruction",
    "response": "the teacher's answer",
    "category": "Dolly's category of the seed",
    "evolution_strategy": "in-depth or in-breadth",
    "epoch": "round of evolution, from 1",
    "in-depth-evolving_operation": "operation of an in-depth evolution; empty for in-breadth",
    "original_index": "line of the row in its Flan file, from 0",
    "inputs": "what is asked, as Flan writes it",
    "targets": "Flan's gold answer",
    "task_source": "submix as Flan names it",
    "task_name": "Flan's task",
    "template_type": "Flan's template; zero-shot ones only",
    "system_message": "system message the teacher was given",
    "explained_targets": "the teacher's explanation",
    "dataset_source": "submix",
    "gpt4_status": "the filter's verdict: Accept, Reject or Unrated",
    "gpt4_rating": "its rating, 1 to 10, or null",
    "gpt4_reason": "its reason",
    "second_status": "the second rater's verdict",
    "second_rating": "its rating",
    "second_reason": "its reason",
}
SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"))


def front_matter(recipe: Recipe, rows: int) -> str:
    """Return the YAML that the hub reads."""
    data = DatasetCardData(
        pretty_name=recipe["title"],
        license=recipe["licence"],
        language="en",
        task_categories=["text-generation"],
        size_categories=next((name for bound, name in SIZES if rows < bound), "1M<n<10M"),
        annotations_creators=["machine-generated"],
        source_datasets=["extended"],
        tags=["synthetic", "instruction-tuning", f"scale-{recipe['scale']}"],
        configs=[
            {
                "config_name": "default",
                "data_files": [{"split": "train", "path": f"{recipe['scheme']}.jsonl"}],
            }
        ],
    )
    return f"---\n{data.to_yaml()}\n---\n"


def counts(funnel: dict[str, Any]) -> list[tuple[str, Any]]:
    """Return the funnel as (step, rows), its rules indented under the step they belong to."""
    rows: list[tuple[str, Any]] = []
    for step, value in funnel.items():
        rows += (
            [(f"{step}: {rule}", count) for rule, count in value.items()]
            if isinstance(value, dict)
            else [(step, value)]
        )
    return rows


def card(
    recipe: Recipe,
    rows: list[dict[str, Any]],
    receipts: list[dict[str, Any]],
    tables: dict[str, Any],
) -> str:
    """Return the whole card."""
    scheme = recipe["scheme"]
    described = tables["description"]["schemes"][scheme]
    parts = [
        *origin(recipe, len(rows), described["funnel"]["accepted"]),
        "## Counts",
        table(("step", "number"), counts(described["funnel"])),
        "## Columns",
        table(("column", "meaning"), meanings(rows[0], scheme)),
        "## Words",
        table(
            ("text", *(f"{k}0 %" if k else "least" for k in range(11))),
            [(name, *values) for name, values in described["words"].items()],
        ),
        *overlaps(scheme, tables),
        *rebuilding(recipe, receipts),
    ]
    return (
        front_matter(recipe, len(rows)) + "\n" + "\n\n".join(part for part in parts if part) + "\n"
    )


def origin(recipe: Recipe, rows: int, accepted: int) -> list[str]:
    """Return the card's opening: title, scale, and where each part comes from."""
    silent = any(part["licence"] == "not stated" for part in recipe["sources"])
    remove = " and ".join(recipe["remove"]).replace("_", " ")
    return [
        f"# {recipe['title']}",
        f"Scale: **{recipe['scale']}**. {rows:,} rows, of which {accepted:,} were accepted by the"
        " filter. All rows are kept with their verdict; training reads those with `gpt4_status` ="
        " Accept" + (f", without those that are removed as {remove}." if remove else "."),
        "## Where it comes from",
        table(
            ("part", "origin", "licence"),
            [(part["what"], part["origin"], part["licence"]) for part in recipe["sources"]],
        ),
        f"Responses: `{recipe['teacher']}`. Verdicts: `{recipe['rater']}`. The set as a whole is"
        f" under `{recipe['licence']}`"
        + (
            ", which does not cover the parts that state no licence"
            if silent
            else ", the strictest licence among its parts"
        )
        + "; a provider's terms on the use of its outputs apply as well.",
    ]


def meanings(row: dict[str, Any], scheme: str) -> list[tuple[str, str]]:
    """Return what each column means; raise `UserError` naming those that are not described."""
    missing = sorted(set(row) - set(COLUMNS))
    if missing:
        raise UserError(
            f"write_data_card: no description of the columns {', '.join(missing)} of {scheme}; add"
            " them to COLUMNS"
        )
    return [(f"`{column}`", COLUMNS[column]) for column in row]


def overlaps(scheme: str, tables: dict[str, Any]) -> list[str]:
    """Return what the rows share with each other and with the evaluation."""
    exact, near = (tables["duplicates"][kind][scheme] for kind in ("exact", "near"))
    shared = tables["contamination"]["sets"][scheme]
    parts = [
        "## Duplicates",
        table(("of", "exact", "near"), [(name, exact[name], near[name]) for name in exact]),
        "## Shared with the evaluation",
        f"{shared['contaminated']} rows are contaminated, {shared['overlapping']} share at least"
        " one n-gram with an evaluation item.",
    ]
    if shared["tasks"]:
        rows = [(task, n["overlapping"], n["contaminated"]) for task, n in shared["tasks"].items()]
        parts.append(table(("task", "overlapping", "contaminated"), rows))
    if scheme == "orca":
        families = tables["description"]["task_families"]["accepted_by_relation"]
        kinds = ", ".join(f"{kind.replace('_', ' ')} {count}" for kind, count in families.items())
        parts.append(
            f"Accepted rows by the relation of their Flan task to the evaluation tasks: {kinds}."
        )
    return parts


def rebuilding(recipe: Recipe, receipts: list[dict[str, Any]]) -> list[str]:
    """Return how the rows are made again, and from which code."""
    made = [
        (receipt["stage"], digest[:16], receipt["code"][:16])
        for receipt in receipts
        for digest in receipt["outputs"]["rows"].values()
    ]
    return [
        "## How to rebuild",
        f"```\nsnakemake --configfile {' '.join(recipe['config'])} -- {recipe['target']}\n```",
        table(("stage", "sha256 of the rows", "sha256 of the code"), made),
    ]


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and write."""
    parser = stage_parser(__doc__, Recipe)
    parser.add_argument("--rows", type=Path, required=True, help="filtered rows, JSONL")
    parser.add_argument(
        "--receipts",
        type=Path,
        nargs="+",
        required=True,
        help="receipts of the stages that made them",
    )
    parser.add_argument(
        "--tables",
        type=Path,
        nargs="+",
        required=True,
        help="description, duplicates and contamination, JSON",
    )
    parser.add_argument("--card", type=Path, required=True, help="card to write, Markdown")
    args = parser.parse_args(argv)
    with Receipt(
        args.receipt,
        stage="data_card",
        recipe=args.recipe,
        code=args.code,
        inputs={"rows": args.rows, "receipts": args.receipts, "tables": args.tables},
        outputs={"card": args.card},
    ):
        text = card(
            args.recipe,
            read_jsonl(args.rows),
            [read_json(path) for path in args.receipts],
            {name: read_json(path) for name, path in by_stem(args.tables).items()},
        )
        with whole_file(args.card) as stream:
            stream.write(text)
        print(f"{args.card}: {len(text):,} characters")


if __name__ == "__main__":
    program.run(main)
