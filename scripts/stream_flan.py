"""Stream one submix of the Flan Collection from the hub and keep the rows that the quotas take;
nothing else is stored.

Usage: BEZOAR_MIRROR=dir stream_flan.py --entry '{"id": "flan_niv2_submix", "hub": …}' \\
           --prompts prompts/orca_system_messages.yaml [--tokenizer tokenizer.json] \\
           --lock config/sources.lock --recipe '{"quotas": {…}, …}' \\
           --code … --rows …/flan/flan_niv2_submix.jsonl --counts … --receipt …

Rows come through `datasets`, at the entry's revision, from the hub or from MIRROR/hub/<id>; where
no revision is published, the first one used is written to --lock, and is the one from then on. The
receipt's facts have it. original_index is the position of a row in the stream, from 0. The counts
say how many rows were read and how many each rule dropped; the rules and the draw are those of
generate_orca.py, which chooses the same rows from the whole submix as from the rows kept here; so a
row that the teacher has no room for is dropped here, too.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NotRequired

from typing_extensions import TypedDict

from bezoar import hub, network, program, progress
from bezoar.data.context import Context, ContextSettings
from bezoar.data.flan import choose, fitting, parse_row, rule_for, submix_of, system_messages
from bezoar.errors import UserError, shortage
from bezoar.files import write_json, write_jsonl
from bezoar.provenance.receipt import Receipt, stage_parser
from bezoar.readers import json_argument, refuse_stand_ins
from bezoar.workflow.mirror import manifest_of, mirror_directory
from bezoar.workflow.source_lock import pinned, require


class Recipe(TypedDict):
    """The settings of the stage, with their units."""

    quotas: dict[str, int]  # submix: rows
    rows_per_task: int
    teacher: NotRequired[ContextSettings]  # how much fits its context
    seed: int


BATCH = 10_000  # rows between two choices


def _read(rows: Callable[[], Iterable[dict[str, Any]]], name: str) -> Iterator[dict[str, Any]]:
    """Yield rows; whatever `datasets` raises on the way is a `UserError` that names the row."""
    number = 0
    try:
        for row in rows():
            number += 1
            yield row
    except Exception as error:  # one kind of error for each format and file system
        if shortage(error) in hub.LOCAL:
            raise
        reason = network.shown(" ".join(str(error).split()))[:200]
        raise UserError(
            f"{name}: row {number + 1} cannot be read ({type(error).__name__}: {reason}); fetch the"
            " data set again"
        ) from None


def stream(entry: dict[str, Any], mirror: Path | None, lock: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a hub data set in order, at its pinned revision; raise `UserError` if it
    cannot be had.
    """
    import datasets

    entry = pinned(entry, lock)
    local = mirror / "hub" / entry["id"] if mirror else None
    if local and local.is_dir():
        refuse_stand_ins(local)
        if revision := manifest_of(local).get("revision"):
            require(entry["id"], "revision", revision, entry["revision"], lock)
        yield from _read(
            lambda: datasets.load_dataset(str(local), split="train", streaming=True), str(local)
        )
        return
    if hub.offline():
        raise UserError(
            f"{entry['hub']}: streamed from the hub, and HF_HUB_OFFLINE is set; unset it, or put it"
            f" into MIRROR/hub/{entry['id']}"
        )
    revision = hub.revision_of(entry)
    try:
        rows = datasets.load_dataset(entry["hub"], revision=revision, split="train", streaming=True)
    except Exception as error:  # the hub's client raises many kinds
        raise hub.explained(entry, error, revision) from None
    yield from _read(lambda: rows, entry["hub"])
    require(entry["id"], "revision", revision, entry["revision"], lock)


def select(
    rows: Iterable[dict[str, Any]],
    recipe: Recipe,
    fits: Callable[[dict[str, Any]], bool] = lambda row: True,
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Return the rows the quotas take, and the counts.

    What a batch's choice rejects, the choice over everything rejects as well (`flan.choose`), so
    that choosing batch by batch is exact and holds no more than the quotas, one batch, and the rows
    that do not fit but would have been taken (held so that they are counted exactly: a later batch
    may leave one no place).
    """
    counts = {"read": 0}
    kept: list[dict[str, Any]] = []
    usable = 0
    for index, row in enumerate(progress.track(rows, "read the submix")):
        counts["read"] += 1
        parsed = parse_row(row)
        rule = rule_for(parsed)
        if parsed is None or rule:
            counts[rule or "malformed"] = counts.get(rule or "malformed", 0) + 1
            continue
        usable += 1
        kept.append({"original_index": index, **parsed, "dataset_source": submix_of(parsed)})
        if usable % BATCH == 0:
            taken, too_long = choose(kept, recipe, fits)
            kept = [*taken, *too_long]
            progress.note(f"{len(kept):,} held")
    taken, too_long = choose(kept, recipe, fits)
    over = usable - len(taken) - len(too_long)
    return taken, {**counts, "too_long": len(too_long), "over_quota": over, "kept": len(taken)}


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and stream."""
    parser = stage_parser(__doc__, Recipe)
    parser.add_argument(
        "--entry", type=json_argument, required=True, help="entry of config/sources.yaml, JSON"
    )
    parser.add_argument(
        "--lock", type=Path, required=True, help="revisions of what has none published, JSON"
    )
    parser.add_argument(
        "--prompts", type=Path, required=True, help="the system messages, which rows must fit with"
    )
    parser.add_argument(
        "--tokenizer", type=Path, nargs="?", help="the teacher's tokenizer.json, to count tokens"
    )
    parser.add_argument("--rows", type=Path, required=True, help="rows to write, JSONL")
    parser.add_argument("--counts", type=Path, required=True, help="counts to write, JSON")
    args = parser.parse_args(argv)
    mirror = mirror_directory()
    with Receipt(
        args.receipt,
        stage="flan",
        recipe=args.recipe,
        code=args.code,
        inputs={
            "prompts": args.prompts,
            **({"tokenizer": args.tokenizer} if args.tokenizer else {}),
        },
        outputs={"rows": args.rows, "counts": args.counts},
    ) as receipt:
        context = Context(**args.recipe.get("teacher", {}), tokenizer=args.tokenizer)
        fits = fitting(context.fits, system_messages(args.prompts), args.recipe["seed"])
        rows, counts = select(stream(args.entry, mirror, args.lock), args.recipe, fits)
        if not rows:
            raise UserError(
                f"{args.entry['id']}: no row of {counts['read']} is taken; look at the quotas and"
                f" at what was dropped: {counts}"
            )
        write_jsonl(
            args.rows,
            [{key: value for key, value in row.items() if key != "dataset_source"} for row in rows],
        )
        write_json(args.counts, counts)
        revision = pinned(args.entry, args.lock)["revision"]
        receipt.facts |= {"source": args.entry["hub"], "revision": revision, **counts}
        print(counts, flush=True)


if __name__ == "__main__":
    program.run(main)
