"""Start from the authors' released data: bring one of the three sets into the columns that
generation and filter write here.

Usage: import_released.py --manifest data/hub/released_lamini/manifest.json \\
           --recipe '{"scheme": "lamini", …}' --code … \\
           --rows …/filter/lamini.jsonl --counts …/filter/lamini.counts.json --receipt …

The snapshot's files (Parquet, JSON or CSV, perhaps compressed) are each checked against the
manifest first; of the same files in several forms one form is read. Columns are those of the scheme
and the filter's three; further ones are left out and named in the counts. A row is dropped as
malformed if a text is missing. A status other than Accept or Reject, in any case, is Unrated.
"""

import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from typing_extensions import TypedDict

from bezoar import program, progress
from bezoar.data.funnel import Funnel
from bezoar.data.verdicts import by_length, rating
from bezoar.errors import UserError
from bezoar.files import sha256_file, write_json, write_jsonl
from bezoar.provenance.receipt import Receipt, stage_parser
from bezoar.readers import column, iter_rows, read_json_object, shown, table_suffix


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
NUMBERS = ("epoch", "original_index")
SUFFIXES = (".parquet", ".jsonl", ".json", ".csv")
PACKED = ("", ".gz", ".xz", ".bz2", ".zst")
# What the hub's libraries write beside data.
NOT_ROWS = (
    "config.json",
    "dataset_dict.json",
    "dataset_info.json",
    "dataset_infos.json",
    "state.json",
)


def files_of_rows(names: Iterable[str], manifest: Path) -> list[str]:
    """Return which of a snapshot's files hold its rows, each row once: of the same files in several
    forms, those of the first of `SUFFIXES`. Raise `UserError` if there are none, or if the files
    of two forms are not the same.
    """
    forms: dict[tuple[int, str], dict[str, str]] = {}  # place, suffixes -> path less them -> path
    for name in sorted(names):
        path = Path(name)
        suffix = table_suffix(path)
        stem, _, packing = name.rpartition(suffix) if suffix else (name, "", "")
        hidden = any(part.startswith((".", "__")) for part in path.parts)
        if suffix in SUFFIXES and packing in PACKED and not hidden and path.name not in NOT_ROWS:
            forms.setdefault((SUFFIXES.index(suffix), suffix + packing), {})[stem] = name
    if not forms:
        raise UserError(
            f"{manifest}: names no file of {', '.join(SUFFIXES)}; fetch the snapshot again"
        )
    ((_, first), files), *others = sorted(forms.items())
    for (_, other), found in others:
        if set(found) != set(files):
            raise UserError(
                f"{manifest}: other files in {other} than in {first}; expected one form, or all"
                " files in each, so that no row counts twice; put the files of one into MIRROR/hub"
            )
        print(f"{manifest}: rows in {other} are those in {first}, and are not read", flush=True)
    return list(files.values())


def released_files(manifest: Path) -> list[Path]:
    """Return a snapshot's files of rows; raise `UserError` unless each is as the manifest says."""
    listed = column(read_json_object(manifest, "files"), "files", dict, str(manifest))
    names = files_of_rows(listed, manifest)
    for name in names:
        path = manifest.parent / name
        if not path.is_file() or sha256_file(path) != listed[name]:
            raise UserError(f"{path}: not the file of the manifest; fetch the snapshot again")
    return [manifest.parent / name for name in names]


def released_rows(files: Iterable[Path]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (file and row, row), file after file."""
    for path in files:
        for number, row in enumerate(iter_rows(path), start=1):
            yield f"{path}: row {number}", row


def plain(value: Any) -> Any:
    """Return a value of a released column as our rows hold it: a missing one, which pandas writes
    as NaN, is an empty text.
    """
    return "" if value is None or value != value else value


def whole(value: Any) -> Any:
    """Return as a whole number what CSV holds as a text, or pandas as a float."""
    if isinstance(value, str) and re.fullmatch(r"\d{1,15}(\.0)?", value, re.ASCII):
        return int(float(value))
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _is_text(value: Any) -> bool:
    """Whether a value is a text that is not blank and can be written as UTF-8."""
    return (
        isinstance(value, str)
        and bool(value.strip())
        and value.encode("utf-8", "ignore").decode() == value
    )


def convert(
    rows: Iterable[tuple[str, dict[str, Any]]], scheme: str, source: str
) -> tuple[list[dict[str, Any]], Funnel]:
    """Return the rows in our columns and their counts; raise `UserError` if a column is missing."""
    funnel, converted = Funnel("malformed", "reject", "unrated"), []
    wanted, extra = (*COLUMNS[scheme], *VERDICT), set()
    for where, row in progress.track(rows, "convert rows"):
        missing = [column for column in wanted if column not in row]
        if missing:
            raise UserError(
                f"{where}: no column {', '.join(missing)}; expected the columns"
                f" of {scheme}, found {', '.join(row)}"
            )
        extra |= set(row) - set(wanted)
        if not all(_is_text(row[name]) for name in NEEDED[scheme]):
            funnel.leave("malformed")
            continue
        status = str(row["gpt4_status"]).strip().capitalize()
        status = status if status in ("Accept", "Reject") else "Unrated"
        funnel.leave({"Accept": "kept", "Reject": "reject"}.get(status, "unrated"))
        texts = {
            name: whole(plain(row[name])) if name in NUMBERS else plain(row[name])
            for name in COLUMNS[scheme]
        }
        for name, value in texts.items():
            if not isinstance(value, str | int | float) or value in (math.inf, -math.inf):
                raise UserError(
                    f"{where}: expected a text or a number as `{name}`, found"
                    f" {shown(value)}; is this the released {scheme} set?"
                )
        converted.append(
            {
                **texts,
                "gpt4_status": status,
                "gpt4_rating": rating(row["gpt4_rating"]),
                "gpt4_reason": str(plain(row["gpt4_reason"])),
            }
        )
    if not funnel.left["kept"]:
        raise UserError(
            f"{source}: {funnel.entered} rows, none with gpt4_status Accept; is this the"
            f" released {scheme} set?"
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
    files = released_files(args.manifest)
    with Receipt(
        args.receipt,
        stage="filter",
        recipe=args.recipe,
        code=args.code,
        inputs={"manifest": args.manifest, "files": files},
        outputs={"rows": args.rows, "counts": args.counts},
    ) as receipt:
        rows, funnel = convert(released_rows(files), args.recipe["scheme"], str(args.manifest))
        write_jsonl(args.rows, rows)
        receipt.facts["counts"] = funnel.as_json({})
        write_json(args.counts, receipt.facts["counts"])
        print(receipt.facts["counts"], flush=True)


if __name__ == "__main__":
    program.run(main)
