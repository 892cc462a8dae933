"""Values of the paper's tables, filled in by whoever has the paper, beside ours:
config/paper_values.csv.

One value per row, seven columns: table (as the paper calls it: "Table 5"), benchmark (lm_eval or
mtbench), model (a name of our tables), task (of lm_eval, or mean_of_tasks; for mtbench overall,
turn 1, turn 2 or a category), metric (acc or acc_norm; of mean_of_tasks that of every task; for
mtbench the judge's name, such as claude-2.1), value (accuracy from 0 to 1, or rating from 1 to
10), tolerance (in the unit of the value).
"""

import difflib
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from bezoar.errors import UserError
from bezoar.readers import iter_csv

COLUMNS = ["table", "benchmark", "model", "task", "metric", "value", "tolerance"]
NUMBER = re.compile(r"-?\d{1,9}(\.\d{1,9})?", re.ASCII)
RANGES = {
    "lm_eval": (0.0, 1.0, "an accuracy from 0 to 1, 0.523 and not 52.3"),
    "mtbench": (1.0, 10.0, "a rating from 1 to 10"),
}


def read(path: Path, models: Collection[str]) -> list[dict[str, Any]]:
    """Return the rows, value and tolerance as numbers; raise `UserError` naming the first bad row,
    what was expected and the nearest.
    """
    lines = list(iter_csv(path))
    if not lines or lines[0][1] != COLUMNS:
        raise UserError(
            f"{path}:1: expected the header {','.join(COLUMNS)}, found"
            f" {','.join(lines[0][1]) if lines else 'nothing'}"
        )
    rows: list[dict[str, Any]] = []
    for number, line in lines[1:]:
        if len(line) != len(COLUMNS):
            raise UserError(
                f"{path}:{number}: expected {len(COLUMNS)} columns, found {len(line)}; quote a text"
                " that holds a comma"
            )
        row: dict[str, Any] = dict(zip(COLUMNS, map(str.strip, line), strict=True))
        if empty := [name for name in COLUMNS if not row[name]]:
            raise UserError(f"{path}:{number}: no {empty[0]}; every column is needed")
        _one_of(path, number, "benchmark", row["benchmark"], RANGES)
        _one_of(path, number, "model", row["model"], models)
        low, high, what = RANGES[row["benchmark"]]
        row["value"], row["tolerance"] = (
            _number(path, number, name, row[name]) for name in ("value", "tolerance")
        )
        if not low <= row["value"] <= high:
            raise UserError(f"{path}:{number}: value {row['value']:g}: expected {what}")
        if row["tolerance"] < 0:
            raise UserError(f"{path}:{number}: tolerance {row['tolerance']:g}: expected 0 or more")
        if any(all(row[name] == other[name] for name in COLUMNS[1:5]) for other in rows):
            raise UserError(
                f"{path}:{number}: {row['model']}, {row['task']}, {row['metric']} appears twice;"
                " remove one"
            )
        rows.append({**row, "row": number})
    return rows


def _number(path: Path, number: int, name: str, text: str) -> float:
    if not NUMBER.fullmatch(text):
        raise UserError(
            f"{path}:{number}: {name} {text!r}: expected a number with a point, such as 0.52"
        )
    return float(text)


def _one_of(path: Path, number: int, name: str, found: str, known: Collection[str]) -> None:
    if found not in known:
        near = difflib.get_close_matches(found, known, n=1, cutoff=0.0)
        raise UserError(
            f"{path}:{number}: {name} {found!r}: expected one of {', '.join(known)}"
            + (f"; nearest is `{near[0]}`" if near else "")
        )


def ours(row: dict[str, Any], tables: dict[str, Any], judge: str) -> dict[str, Any] | None:
    """Return our {mean, low, high, n} for a row, or None where it was not run. For mtbench, those
    of `judge`, whoever was the judge in the paper.
    """
    if row["benchmark"] == "lm_eval":
        table = tables.get("lm_eval.json", {})
        if row["task"] == "mean_of_tasks":
            return table.get("mean_of_tasks", {}).get(row["model"])
        return (
            table.get("metrics", {}).get(row["model"], {}).get(row["task"], {}).get(row["metric"])
        )
    model = (
        tables.get("mtbench.json", {})
        .get("judges", {})
        .get(judge, {})
        .get("models", {})
        .get(row["model"], {})
    )
    places = {
        "overall": model.get("overall"),
        **{f"turn {turn}": found for turn, found in model.get("turns", {}).items()},
    }
    found = {**model.get("categories", {}), **places}.get(row["task"])
    return (
        {**{key: found[key] for key in ("mean", "low", "high")}, "n": found["questions"]}
        if found and found["mean"] is not None
        else None
    )


def compare(
    rows: list[dict[str, Any]],
    tables: dict[str, Any],
    judge: str,
    scale: str,
    differs: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Return each row with ours and a verdict; `differs` is what of base and data is not the
    paper's.

    Both were measured on the same items, so the tolerance decides. Only where they differ by more
    and the paper's value still lies in our interval is the verdict undecided. Nothing is decided
    where `lm_eval: limit` took the first items alone, or of a mean over other metrics.
    """
    compared = []
    for row in rows:
        mine = ours(row, tables, judge)
        harness = tables["lm_eval.json"] if mine and row["benchmark"] == "lm_eval" else None
        limit = harness and harness["settings"]["limit"]
        metrics = sorted(set(harness["metric"].values())) if harness else []
        if mine is None:
            verdict, reason = "not run", "ours has no such value"
        elif row["benchmark"] == "mtbench" and row["metric"] != judge:
            verdict, reason = (
                "cannot be reproduced",
                f"judged by {row['metric']} there and by {judge} here; the two are never mixed",
            )
        elif scale != "paper":
            verdict, reason = "not run", f"ours is from the {scale}, not from the paper's scale"
        elif differs:
            verdict, reason = "not run", f"ours is of something else ({', '.join(differs)})"
        elif limit is not None:
            verdict, reason = "not run", f"ours is of the first {limit} items of each task alone"
        elif row["task"] == "mean_of_tasks" and metrics != [row["metric"]]:
            verdict, reason = "not run", f"ours is the mean of tasks by {' and '.join(metrics)}"
        elif abs(mine["mean"] - row["value"]) <= row["tolerance"] + 1e-9:
            verdict, reason = (
                "reproduced",
                f"{mine['mean'] - row['value']:+.3f}, within {row['tolerance']:g}",
            )
        elif mine["low"] <= row["value"] <= mine["high"]:
            verdict, reason = (
                "undecided",
                (
                    f"{mine['mean'] - row['value']:+.3f}, more than {row['tolerance']:g}, but"
                    " within our interval"
                ),
            )
        else:
            verdict, reason = (
                "not reproduced",
                f"{mine['mean'] - row['value']:+.3f}, more than {row['tolerance']:g}",
            )
        compared.append({**row, "ours": mine, "verdict": verdict, "reason": reason})
    return compared
