"""Rows of the Flan Collection: their formats, what drops a row, its system message, and which rows
the quotas take.
"""

import re
from collections import Counter, deque
from collections.abc import Callable, Mapping
from heapq import heapify, heappop, heappush
from pathlib import Path
from typing import Any

from bezoar.errors import UserError
from bezoar.readers import filled_lines, parse_json, read_yaml, shown, table_suffix
from bezoar.rng import draw

RULES = ("malformed", "empty", "few_shot", "unknown_submix", "bigbench")  # that drop a row
MESSAGES = {  # the system messages allowed for each submix (Orca paper, table 2)
    "cot": (6, 11, 16),
    "niv2": (1, 2, 5, 7, 9, 12, 13, 14, 15),
    "t0": (1, 2, 3, 5, 7),
    "flan2021": (3, 4, 7),
    "flan2021_multiple_choice": (8, 10),
    "dialog": (1, 2, 5, 7),
}
EVENLY = ("niv2", "t0", "flan2021")  # Orca draws a task, then a row of it; of CoT it takes all rows
TAB = b"\t"
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


def system_messages(path: Path) -> dict[int, str]:
    """Return Orca's system messages by number, 1 to 16."""
    messages = read_yaml(path)
    numbers = sorted(messages, key=str) if isinstance(messages, dict) else []
    if sorted(map(str, range(1, 17))) != [str(number) for number in numbers]:
        raise UserError(f"{path}: expected the system messages 1 to 16, found {shown(numbers)}")
    for number, text in messages.items():
        if not isinstance(number, int) or not isinstance(text, str):
            raise UserError(f"{path}: message {number}: expected a text, found {shown(text)}")
    return dict(messages)


def submix_of(row: dict[str, str]) -> str | None:
    """Return the submix of a row from its task_source, as the Flan Collection names it; None if it
    names none.
    """
    name = re.sub(r"[^a-z0-9]", "", row["task_source"].lower())
    return next((submix for start, submix in SUBMIXES.items() if name.startswith(start)), None)


def read(path: Path) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Return the usable rows of a file, and how many lines each rule dropped; blank lines are no
    rows, and the number of a row's line counts them.

    Raise `UserError` if no line has the form of a row, because then it is another kind of file.
    """
    rows, dropped = [], dict.fromkeys(RULES, 0)
    is_tsv, name = table_suffix(path) == ".tsv", path.name.split(".", 1)[0]
    place, first = 0, b""
    for number, raw in filled_lines(path):
        if not place:
            place, first = number, raw
        row = parse_tsv(raw, name) if is_tsv else parse_line(raw)
        rule = rule_for(row)
        if row is None or rule:
            dropped[rule or "malformed"] += 1
        else:
            rows.append({"original_index": number - 1, **row, "dataset_source": submix_of(row)})
    if not rows and dropped["malformed"] == sum(dropped.values()):
        form = "question TAB answer TAB explanation" if is_tsv else ", ".join(COLUMNS)
        raise UserError(
            f"{path}:{place or 1}: expected rows of Flan ({form}), found {_form_of(first, is_tsv)};"
            " convert the file, or remove it from sources.flan"
        )
    return rows, dropped


def _form_of(raw: bytes, is_tsv: bool) -> str:
    """Describe the form of a line that is not a row."""
    if not raw.strip():
        return "nothing"
    if is_tsv:
        return f"{len(raw.split(TAB))} cells"
    try:
        row = parse_json(raw, "")
    except UserError:
        return "no JSON"
    return ", ".join(map(str, row)) if isinstance(row, dict) else type(row).__name__


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


def parse_line(raw: bytes) -> dict[str, Any] | None:
    """Return one JSONL line as a row, with its original_index if it has one, or None if a column is
    missing or not a text.
    """
    try:
        row = parse_json(raw, "")
    except UserError:
        return None
    parsed = parse_row(row)
    if parsed is None:
        return None
    index = row.get("original_index")
    known = isinstance(index, int) and not isinstance(index, bool)
    return {**parsed, "original_index": index} if known else parsed


def parse_row(row: Any) -> dict[str, Any] | None:
    """Return the columns of Flan's row, or None if one is missing or not a text."""
    if not isinstance(row, dict) or not all(isinstance(row.get(column), str) for column in COLUMNS):
        return None
    try:
        "".join(
            row[column] for column in COLUMNS
        ).encode()  # half a surrogate pair is valid JSON, but not a text
    except UnicodeEncodeError:
        return None
    return {column: row[column] for column in COLUMNS}


def system_message(row: dict[str, Any], messages: Mapping[int, str], seed: int) -> str:
    """Return the system message that is drawn for a row."""
    choice = row["template_type"] == "zs_opt" and row["dataset_source"] == "flan2021"
    allowed = MESSAGES["flan2021_multiple_choice" if choice else row["dataset_source"]]
    rng = draw(seed, "orca", "system", row["task_name"], row["original_index"])
    return messages[rng.choice(allowed)]


def fitting(
    room: Callable[..., bool], messages: Mapping[int, str], seed: int
) -> Callable[[dict[str, Any]], bool]:
    """Return a function that says whether the teacher has room (`Context.fits`) for a row under its
    system message; it remembers, because a row is looked at in every batch that it stays in. Rows
    of one task in two files may have the same `original_index`, but not the same text.
    """
    known: dict[tuple[str, str, int, str], bool] = {}

    def fits(row: dict[str, Any]) -> bool:
        key = (row["dataset_source"], row["task_name"], row["original_index"], row["inputs"])
        if key not in known:
            known[key] = room(system_message(row, messages, seed), row["inputs"])
        return known[key]

    return fits


def choose(
    rows: list[dict[str, Any]],
    recipe: Mapping[str, Any],
    fits: Callable[[dict[str, Any]], bool] = lambda row: True,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return a sample within the quotas, and what would have been in it but does not fit: rows in
    an order that depends on the seed and the row alone. Of the submixes in `EVENLY`, a row of each
    task is taken before a second row of any.

    What the choice from some of the rows rejects, the choice from all of them rejects as well: more
    rows can only push a row back, in its task as in its submix (stream_flan.py relies on it).
    """
    ordered = sorted(
        rows,
        key=lambda row: (
            draw(recipe["seed"], "orca", row["task_name"], row["original_index"]).random(),
            row["inputs"],
        ),
    )
    tasks: dict[tuple[str, str], deque[int]] = {}  # of a submix: places in that order
    for place, row in enumerate(ordered):
        tasks.setdefault((row["dataset_source"], row["task_name"]), deque()).append(place)
    taken: list[int] = []
    too_long: list[dict[str, Any]] = []
    by_submix: Counter[str] = Counter()
    by_task: Counter[tuple[str, str]] = Counter()
    first = [(0, places.popleft(), task) for task, places in tasks.items()]
    heapify(first)  # the next row of each task, after how many of the task
    while first:
        _, place, task = heappop(first)
        submix = task[0]
        if (
            by_submix[submix] >= recipe["quotas"].get(submix, 0)
            or by_task[task] >= recipe["rows_per_task"]
        ):
            continue  # and nothing more of this task
        if fits(ordered[place]):
            taken.append(place)
            by_submix[submix] += 1
            by_task[task] += 1
        else:
            too_long.append(ordered[place])
        if tasks[task]:
            rank = by_task[task] if submix in EVENLY else 0
            heappush(first, (rank, tasks[task].popleft(), task))
    return [ordered[place] for place in sorted(taken)], too_long
