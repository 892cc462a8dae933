"""Start from the authors' released data: bring one of the three sets into the columns that
generation and filter write here.

Usage: import_released.py --manifest data/hub/released_lamini/manifest.json \\
           --recipe '{"scheme": "lamini"}' --code … \\
           --rows …/filter/lamini.jsonl --counts …/filter/lamini.counts.json --receipt …

The snapshot's files (Parquet, JSON or CSV) are read by `datasets`; each is checked against the
manifest first. Columns are those of the scheme and the filter's three; further ones are left out
and named in the counts. A row is dropped as malformed if a text is missing. A status other than
Accept or Reject, in any case, is Unrated.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from typing_extensions import TypedDict

from bezoar import program, progress
from bezoar.data.funnel import Funnel
from bezoar.data.verdicts import by_length
from bezoar.errors import UserError
from bezoar.files import read_json, sha256_file, write_json, write_jsonl
from bezoar.provenance.receipt import Receipt, stage_parser


class Recipe(TypedDict):
    """The settings of the stage, with their units."""

    scheme: Literal["lamini", "orca", "evol"]
    seed: int


COLUMNS = {
    "lamini": ("instruction", "source", "response"),
    "evol": (
        "instruction",
        "response",
        "category",
        "evolution_strategy",
        "in-depth-evolving_operation",
        "epoch",
    ),
    "orca": (
        "original_index",
        "inputs",
        "targets",
        "task_source",
        "task_name",
        "template_type",
        "system_message",
        "explained_targets",
        "dataset_source",
    ),
}
VERDICT = ("gpt4_status", "gpt4_rating", "gpt4_reason")
NEEDED = {
    "lamini": ("instruction", "response"),
    "evol": ("instruction", "response"),
    "orca": ("inputs", "explained_targets"),
}
READERS = {".parquet": "parquet", ".json": "json", ".jsonl": "json", ".csv": "csv"}


def released_rows(manifest: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a snapshot, file after file."""
    from datasets import load_dataset

    files = {
        name: digest
        for name, digest in sorted(read_json(manifest)["files"].items())
        if Path(name).suffix in READERS
    }
    if not files:
        raise UserError(
            f"{manifest}: names no file of {', '.join(READERS)}; fetch the snapshot again"
        )
    for name, digest in files.items():
        path = manifest.parent / name
        if sha256_file(path) != digest:
            raise UserError(f"{path}: is not the file of the manifest; fetch the snapshot again")
        yield from load_dataset(
            READERS[path.suffix], data_files=str(path), split="train", streaming=True
        )


def rating(value: Any) -> int | None:
    """Return a rating as a whole number from 1 to 10, or None."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return int(number) if number in range(1, 11) else None


def convert(
    rows: Iterable[dict[str, Any]], scheme: str, name: str
) -> tuple[list[dict[str, Any]], Funnel]:
    """Return the rows in our columns and their counts; raise `UserError` if a column is missing."""
    funnel, converted = Funnel("malformed", "reject", "unrated"), []
    wanted, extra = (*COLUMNS[scheme], *VERDICT), set()
    for row in progress.track(rows, "convert rows"):
        missing = [column for column in wanted if column not in row]
        if missing:
            raise UserError(
                f"{name}: no column {', '.join(missing)}; expected the columns of {scheme}, found"
                f" {', '.join(row)}"
            )
        extra |= set(row) - set(wanted)
        if not all(
            isinstance(row[column], str) and row[column].strip() for column in NEEDED[scheme]
        ):
            funnel.leave("malformed")
            continue
        status = str(row["gpt4_status"]).strip().capitalize()
        status = status if status in ("Accept", "Reject") else "Unrated"
        funnel.leave({"Accept": "kept", "Reject": "reject"}.get(status, "unrated"))
        texts = {column: "" if row[column] is None else row[column] for column in COLUMNS[scheme]}
        converted.append(
            {
                **texts,
                "gpt4_status": status,
                "gpt4_rating": rating(row["gpt4_rating"]),
                "gpt4_reason": str(row["gpt4_reason"] or ""),
            }
        )
    if not funnel.left["kept"]:
        raise UserError(
            f"{name}: {funnel.entered} rows and none with gpt4_status Accept; is this the released"
            f" {scheme} set?"
        )
    funnel.more = {
        "accept_rate_by_length_decile": by_length(converted),
        "rater": "as released",
        "columns_left_out": sorted(extra),
    }
    return converted, funnel


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and import."""
    parser = stage_parser(__doc__, Recipe)
    parser.add_argument("--manifest", type=Path, required=True, help="manifest of the snapshot")
    parser.add_argument("--rows", type=Path, required=True, help="rows to write, JSONL")
    parser.add_argument("--counts", type=Path, required=True, help="counts to write, JSON")
    args = parser.parse_args(argv)
    with Receipt(
        args.receipt,
        stage="filter",
        recipe=args.recipe,
        code=args.code,
        inputs={"manifest": args.manifest},
        outputs={"rows": args.rows, "counts": args.counts},
    ) as receipt:
        rows, funnel = convert(
            released_rows(args.manifest), args.recipe["scheme"], str(args.manifest.parent)
        )
        write_jsonl(args.rows, rows)
        receipt.facts["counts"] = funnel.as_json({})
        write_json(args.counts, receipt.facts["counts"])
        print(receipt.facts["counts"], flush=True)


if __name__ == "__main__":
    program.run(main)
