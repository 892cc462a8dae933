"""Rows of the Flan Collection: their forms on disk, what drops a row, and what the quotas take."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bezoar.errors import UserError
from bezoar.rng import draw

RULES = ("malformed", "empty", "few_shot", "unknown_submix", "bigbench")  # that drop a row
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


def submix_of(row: dict[str, str]) -> str | None:
    """Return the submix of a row from its task_source, as the Flan Collection names it; None if it
    names none.
    """
    name = re.sub(r"[^a-z0-9]", "", row["task_source"].lower())
    return next((submix for start, submix in SUBMIXES.items() if name.startswith(start)), None)


def read(path: Path) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Return the usable rows of a file, and how many lines each rule dropped."""
    rows, dropped = [], dict.fromkeys(RULES, 0)
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


def choose(rows: list[dict[str, Any]], recipe: Mapping[str, Any]) -> list[dict[str, Any]]:
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
