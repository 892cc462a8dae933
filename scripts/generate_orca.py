"""Have the teacher explain Flan Collection rows under a system message, as Orca does (arXiv
2306.02707).

Usage: generate_orca.py --flan aqua_train.tsv … --prompts prompts/orca_system_messages.yaml \\
           --store … [--facts …] --concurrency 16 \\
           --recipe '{"quotas": {"cot": 1500}, …}' --code … --rows … --counts … --receipt …

Input files: chain-of-thought TSV (question TAB answer TAB explanation, newlines as backslash-n;
submix cot), or JSONL of a submix with inputs, targets, task_source, task_name, template_type, such
as stream_flan.py writes with counts of what it dropped (--streamed). Only zero-shot templates
(zs_opt, zs_noopt) are taken. Columns: original_index, inputs, targets, task_source, task_name,
template_type, system_message, explained_targets, dataset_source.

Drop rules: malformed (not three columns, a missing field, or text that is no Unicode), empty (no
question or answer), few_shot, unknown_submix (task_source is none of the Flan Collection's),
bigbench (T0), over_quota, no_response.

Recipe: quotas {submix: rows}, rows_per_task (int, at most, of a task within its submix),
max_failure_share (0-1), teacher (see bezoar.llm.client), seed.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from bezoar import program
from bezoar.data.schemes import Funnel, check_failures, parser_for, run, user
from bezoar.errors import UserError
from bezoar.files import read_json
from bezoar.llm.client import LLMClient
from bezoar.rng import draw

RULES = (
    "malformed",
    "empty",
    "few_shot",
    "unknown_submix",
    "bigbench",
    "over_quota",
    "no_response",
)
COLUMNS = ("inputs", "targets", "task_source", "task_name", "template_type")
SUBMIXES = {  # start of task_source, lower case without punctuation -> submix
    "cot": "cot",
    "niv2": "niv2",
    "naturalinstructions": "niv2",
    "t0": "t0",
    "p3": "t0",
    "flan2021": "flan2021",
    "dialog": "dialog",
}
MESSAGES = {  # the system messages allowed for each submix (Orca paper, table 2)
    "cot": (6, 11, 16),
    "niv2": (1, 2, 5, 7, 9, 12, 13, 14, 15),
    "t0": (1, 2, 3, 5, 7),
    "flan2021": (3, 4, 7),
    "flan2021_multiple_choice": (8, 10),
    "dialog": (1, 2, 5, 7),
}


def submix_of(row: dict[str, str]) -> str | None:
    """Return the submix of a row from its task_source, as the Flan Collection names it; None if it
    names none.
    """
    name = re.sub(r"[^a-z0-9]", "", row["task_source"].lower())
    return next((submix for start, submix in SUBMIXES.items() if name.startswith(start)), None)


def read(path: Path) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Return the usable rows of a file, and how many lines each rule dropped."""
    rows, dropped = [], dict.fromkeys(RULES[:5], 0)
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; fetch it or remove it from sources.flan") from None
    for index, raw in enumerate(lines[:-1] if lines and not lines[-1] else lines):
        row = parse_tsv(raw, path.stem) if path.suffix == ".tsv" else parse_json(raw)
        rule = rule_for(row)
        if row is None or rule:
            dropped[rule or "malformed"] += 1
        else:
            rows.append({"original_index": index, **row, "dataset_source": submix_of(row)})
    return rows, dropped


def rule_for(row: dict[str, Any] | None) -> str | None:
    """Return the rule that drops a parsed row, if any."""
    if row is None:
        return "malformed"
    if not row["inputs"].strip() or not row["targets"].strip():
        return "empty"
    if not row["template_type"].startswith("zs"):
        return "few_shot"
    submix = submix_of(row)
    if submix is None:
        return "unknown_submix"
    bigbench = submix == "t0" and "bigbench" in row["task_name"].lower().replace("-", "").replace(
        "_", ""
    )
    return "bigbench" if bigbench else None


def parse_tsv(raw: bytes, name: str) -> dict[str, str] | None:
    """Return one chain-of-thought line as a row, or None; the file's own explanation is not used,
    the teacher writes one.
    """
    try:
        cells = raw.decode("utf-8").rstrip("\r").split("\t")
    except UnicodeDecodeError:
        return None
    if len(cells) != 3:
        return None
    task = name.removesuffix("_train")
    question, answer = (cell.replace("\\n", "\n") for cell in cells[:2])
    kind = "zs_opt" if "\nOptions:\n" in question else "zs_noopt"
    return {
        "inputs": question,
        "targets": answer,
        "task_source": "CoT",
        "task_name": task,
        "template_type": kind,
    }


def parse_json(raw: bytes) -> dict[str, Any] | None:
    """Return one JSONL line as a row, with its original_index if it has one, or None if a column is
    missing or not a text.
    """
    try:
        row = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    index = (
        {"original_index": row["original_index"]}
        if isinstance(row, dict) and isinstance(row.get("original_index"), int)
        else {}
    )
    parsed = parse_row(row)
    return None if parsed is None else {**parsed, **index}


def parse_row(row: Any) -> dict[str, Any] | None:
    """Return the columns of Flan's row, or None if one is missing, or no text."""
    if not isinstance(row, dict) or not all(isinstance(row.get(column), str) for column in COLUMNS):
        return None
    try:
        "".join(
            row[column] for column in COLUMNS
        ).encode()  # half a surrogate pair is JSON, but no text
    except UnicodeEncodeError:
        return None
    return {column: row[column] for column in COLUMNS}


def choose(rows: list[dict[str, Any]], recipe: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a sample within the quotas: rows in an order that depends on the seed and the row
    alone, first come first taken.
    """
    ordered = sorted(
        rows,
        key=lambda row: draw(
            recipe["seed"], "orca", row["task_name"], row["original_index"]
        ).random(),
    )
    taken: list[dict[str, Any]] = []
    by_submix: dict[str, int] = {}
    by_task: dict[
        tuple[str, str], int
    ] = {}  # within its submix, so that the limits are nested (stream_flan.py relies on it)
    for row in ordered:
        submix, task = row["dataset_source"], (row["dataset_source"], row["task_name"])
        if (
            by_submix.get(submix, 0) < recipe["quotas"].get(submix, 0)
            and by_task.get(task, 0) < recipe["rows_per_task"]
        ):
            by_submix[submix] = by_submix.get(submix, 0) + 1
            by_task[task] = by_task.get(task, 0) + 1
            taken.append(row)
    return taken


def make(
    door: LLMClient,
    paths: list[Path],
    messages: dict[int, str],
    recipe: dict[str, Any],
    streamed: Sequence[dict[str, int]] = (),
) -> tuple[list[dict], Funnel]:
    """Return the rows and their funnel; `streamed` are the counts of what was dropped before the
    files were written.
    """
    funnel, rows = Funnel(*RULES), []
    for counts in streamed:
        for rule, count in counts.items():
            if rule not in ("read", "kept"):
                funnel.leave(rule, count)
    for path in paths:
        found, dropped = read(path)
        rows += found
        for rule, count in dropped.items():
            funnel.leave(rule, count)
    chosen = choose(rows, recipe)
    funnel.leave("over_quota", len(rows) - len(chosen))
    for row in chosen:
        choice = row["template_type"] == "zs_opt" and row["dataset_source"] == "flan2021"
        allowed = MESSAGES["flan2021_multiple_choice" if choice else row["dataset_source"]]
        row["system_message"] = messages[
            draw(recipe["seed"], "orca", "system", row["task_name"], row["original_index"]).choice(
                allowed
            )
        ]
    names = [f"orca {row['task_name']} row {row['original_index']}" for row in chosen]
    answers = door.ask([user(row["inputs"], row["system_message"]) for row in chosen], names)
    check_failures(zip(names, answers, strict=True), recipe["max_failure_share"], "generate orca")
    funnel.more = {"asked": len(chosen)}
    written = []
    for row, answer in zip(chosen, answers, strict=True):
        usable = answer.state in ("answered", "truncated")
        funnel.leave("kept" if usable else "no_response")
        if usable:
            source = row.pop("dataset_source")
            written.append({**row, "explained_targets": answer.text, "dataset_source": source})
    return written, funnel


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and generate."""
    parser = parser_for(__doc__)
    parser.add_argument(
        "--flan", type=Path, nargs="+", required=True, help="Flan files, .tsv or .jsonl"
    )
    parser.add_argument(
        "--streamed",
        type=Path,
        nargs="*",
        default=[],
        help="counts of the files that were streamed, JSON",
    )
    args = parser.parse_args(argv)
    messages = yaml.safe_load(args.prompts[0].read_text(encoding="utf-8"))
    if sorted(messages) != list(range(1, 17)):
        raise UserError(
            f"{args.prompts[0]}: expected the system messages 1 to 16, found {sorted(messages)}"
        )
    streamed = [read_json(path) for path in args.streamed]

    def make_with(door: LLMClient) -> tuple[list[dict], Funnel]:
        return make(door, args.flan, messages, args.recipe, streamed)

    run(args, "generate_orca", "teacher", {"flan": args.flan, "streamed": args.streamed}, make_with)


if __name__ == "__main__":
    program.run(main)
