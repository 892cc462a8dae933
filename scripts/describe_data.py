"""Describe the generated data: the funnel of each scheme, lengths, diversity, how the filter
behaved, and the task-family audit.

Usage: describe_data.py --rows …/filter/lamini.jsonl … --made …/generate/lamini.counts.json … \\
           --judged …/filter/lamini.counts.json … \\
           --families config/task_families.yaml --recipe '{"tasks": ["arc_easy"], …}' --code …
             --description …/data/description.json --receipt …

--made is empty where the data were not generated here (`entry: released`); a funnel then begins
  with the rows.

Funnel: asked (requests for rows), entered (items found in the answers or files), dropped and
eliminated by rule, generated, then the filter's verdicts. Lengths are in words, as deciles 0, 10,
…, 100 %. Diversity of the instructions: distinct n-grams over all n-grams (Li et al. 2016, arXiv
1510.03055), entropy of the first two words in bits, and the ratio of bytes to bytes compressed
(Shaib et al. 2024, arXiv 2403.00553: higher is more repetitive). The accept rate by position is
over tenths of the file: a filter that drifts shows there.
"""

import math
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from bezoar import program, progress
from bezoar.arguments import by_stem
from bezoar.data import task_families
from bezoar.data.texts import words_of
from bezoar.data.verdicts import by_position
from bezoar.errors import UserError
from bezoar.files import write_json
from bezoar.provenance.receipt import Receipt, stage_parser
from bezoar.readers import column, numbered, read_json, read_jsonl
from bezoar.training.template import training_text


class Recipe(TypedDict):
    """The settings of the stage, with their units."""

    tasks: list[str]  # the evaluation tasks in use
    seed: int


# Rules that remove complete rows; all others drop items.
ELIMINATIONS = ("no_information_gain", "copied_prompt", "sorry", "only_stop_words")
NOT_RULES = (
    "entered",
    "kept",
    "asked",
    "states",
    "calls_without_items",
    "evaluator_states",
    "examples",
)


def funnel(made: dict[str, Any] | None, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the steps from request to acceptance; each step and what left there add up to the step
    before.
    """
    steps: dict[str, Any] = {}
    if made is not None:
        rules = {rule: count for rule, count in made.items() if rule not in NOT_RULES and count}
        steps |= {
            "asked": made["asked"],
            "entered": made["entered"],
            "dropped": {rule: count for rule, count in rules.items() if rule not in ELIMINATIONS},
            "eliminated": {rule: count for rule, count in rules.items() if rule in ELIMINATIONS},
        }
    statuses = Counter(row["gpt4_status"] for row in rows)
    return {
        **steps,
        "generated": len(rows),
        "accepted": statuses["Accept"],
        "rejected": statuses["Reject"],
        "unrated": statuses["Unrated"],
    }


def deciles(values: Sequence[int]) -> list[int]:
    """Return the 0, 10, …, 100 % quantiles (nearest rank) of at least one value."""
    ordered = sorted(values)
    return [ordered[min(len(ordered) - 1, round(k / 10 * (len(ordered) - 1)))] for k in range(11)]


def diversity(texts: Sequence[str]) -> dict[str, Any]:
    """Return distinct-1 to distinct-3, the entropy of openings in bits, the ten commonest openings,
    and the compression ratio.
    """
    words = [words_of(text) for text in texts]
    result: dict[str, Any] = {}
    for n in (1, 2, 3):
        grams = Counter(
            gram for text in words for gram in zip(*(text[k:] for k in range(n)), strict=False)
        )
        result[f"distinct_{n}"] = round(len(grams) / max(1, grams.total()), 4)
    openings = Counter(" ".join(text[:2]) for text in words)
    shares = [count / len(texts) for count in openings.values()]
    result["opening_entropy_bits"] = round(
        -math.fsum(share * math.log2(share) for share in shares), 3
    )
    result["openings"] = dict(sorted(openings.items(), key=lambda pair: (-pair[1], pair[0]))[:10])
    raw = "\n".join(texts).encode()
    result["compression_ratio"] = round(len(raw) / len(zlib.compress(raw, 9)), 2)
    return result


def audit(
    rows: Sequence[dict[str, Any]], table: list[dict[str, Any]], tasks: list[str]
) -> dict[str, Any]:
    """Return how each Flan task of the Orca rows is related to the evaluation tasks, and the
    accepted rows of each relation.
    """
    names = Counter(row["task_name"] for row in rows)
    accepted = Counter(row["task_name"] for row in rows if row["gpt4_status"] == "Accept")
    found = {
        name: {
            "rows": names[name],
            "accepted": accepted[name],
            **task_families.family_of(name, table, tasks),
        }
        for name in sorted(names)
    }
    by_relation = {
        kind: sum(entry["accepted"] for entry in found.values() if entry["relation"] == kind)
        for kind in task_families.RELATIONS
    }
    return {"tasks": found, "accepted_by_relation": by_relation}


def describe(
    rows: Sequence[dict[str, Any]], made: dict[str, Any] | None, judged: dict[str, Any]
) -> dict[str, Any]:
    """Return the description of one scheme's rows."""
    texts = [training_text(row) for row in rows]
    ratings = Counter(row["gpt4_rating"] for row in rows if row["gpt4_rating"] is not None)
    return {
        "funnel": funnel(made, rows),
        "examples": (made or {}).get("examples", {}),
        "words": {
            "instruction": deciles([len(words_of(instruction)) for instruction, _, _ in texts]),
            "response": deciles([len(words_of(response)) for _, _, response in texts]),
        },
        "diversity": diversity([instruction for instruction, _, _ in texts]),
        "filter": {
            "accept_rate": round(
                sum(row["gpt4_status"] == "Accept" for row in rows) / len(rows), 4
            ),
            "accept_rate_by_position_decile": by_position(rows),
            "ratings": {str(rating): count for rating, count in sorted(ratings.items())},
            **{
                key: judged[key]
                for key in ("accept_rate_by_length_decile", "rater", "agreement")
                if key in judged
            },
        },
    }


def filtered_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a filtered set; raise `UserError` naming the first that is none."""
    rows = read_jsonl(path)
    if not rows:
        raise UserError(f"{path}: no rows; look at the counts of the stage that wrote it")
    for where, row in numbered(path, rows):
        training_text(row, where)
        column(row, "gpt4_status", str, where)
        if row.get("gpt4_rating", "") is not None:
            column(row, "gpt4_rating", int, where)
        if "task_name" in rows[0]:
            column(row, "task_name", str, where)
    return rows


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and describe."""
    parser = stage_parser(__doc__, Recipe)
    parser.add_argument(
        "--rows", type=Path, nargs="+", required=True, help="filtered rows of each scheme, JSONL"
    )
    parser.add_argument(
        "--made",
        type=Path,
        nargs="*",
        default=[],
        help="counts of their generation, in the same order",
    )
    parser.add_argument(
        "--judged",
        type=Path,
        nargs="+",
        required=True,
        help="counts of the filter, in the same order",
    )
    parser.add_argument("--families", type=Path, required=True, help="table of task families, YAML")
    parser.add_argument(
        "--description", type=Path, required=True, help="description to write, JSON"
    )
    args = parser.parse_args(argv)
    with Receipt(
        args.receipt,
        stage="data_description",
        recipe=args.recipe,
        code=args.code,
        inputs={
            "rows": args.rows,
            "made": args.made,
            "judged": args.judged,
            "families": args.families,
        },
        outputs={"description": args.description},
    ) as receipt:
        table, schemes, families = task_families.load(args.families), {}, None
        named = by_stem(args.rows).items()
        for name in ("made", "judged"):
            count = len(getattr(args, name))
            if count != len(named) and (count or name == "judged"):
                raise UserError(
                    f"--{name}: expected one file for each of --rows, {len(named)}, found {count}"
                )
        sets = list(zip(named, args.made or [None] * len(named), args.judged, strict=True))
        for (name, path), made, judged in progress.track(sets, "describe the sets", unit="sets"):
            rows = filtered_rows(path)
            schemes[name] = describe(rows, read_json(made) if made else None, read_json(judged))
            if "task_name" in rows[0]:
                families = audit(rows, table, args.recipe["tasks"])
        write_json(args.description, {"schemes": schemes, "task_families": families})
        receipt.facts |= {name: scheme["funnel"] for name, scheme in schemes.items()}
        print(receipt.facts, flush=True)


if __name__ == "__main__":
    program.run(main)
