"""What README says was learnt is what was measured: each number of its results table is one of
docs/learning.json, rounded.
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from repeat_rehearsal import CHAT, page

ROOT = Path(__file__).parents[3]
MODELS = {
    "base": "base",
    "SFT": "openbezoar-sft",
    "HH-RLHF SFT": "openbezoar-hh-rlhf-sft",
    "DPO": "openbezoar-hh-rlhf-dpo",
}
# Row of README's table -> what its numbers are, in order: (measure, state), or the name of a paired
# difference with its interval.
ROWS: dict[str, list[tuple[str, str] | str]] = {
    "exact match on its own set after lamini / orca / evol (base: 0)": [
        (f"{name}: exact match", name) for name in ("lamini", "orca", "evol")
    ],
    "preference accuracy: SFT → HH-RLHF SFT → DPO": [
        ("preferences: accuracy", MODELS[name]) for name in ("SFT", "HH-RLHF SFT", "DPO")
    ],
    "lm-eval, all items: SFT over base": ["openbezoar-sft against base: lm-eval, all items"],
    "chat, 1–10: base → SFT → HH-RLHF SFT → DPO": [(CHAT, name) for name in MODELS.values()],
    "chat: DPO over HH-RLHF SFT": ["openbezoar-hh-rlhf-dpo against openbezoar-hh-rlhf-sft: chat"],
}


@pytest.fixture(scope="module")
def raw() -> dict[str, Any]:
    return json.loads((ROOT / "docs/learning.json").read_text(encoding="utf-8"))


def expected(seed: dict[str, Any], named: list[tuple[str, str] | str]) -> list[float]:
    values = {(row["what"], row["after"]): row for row in seed["states"]} | {
        row["what"]: row for row in seed["differences"]
    }
    return [
        values[name][key]
        for name in named
        for key in (["mean"] if isinstance(name, tuple) else ["mean", "low", "high"])
    ]


def wrong(readme: str, raw: dict[str, Any]) -> list[str]:
    """A line for every number of the results table that was not measured, and for every row or seed
    without a source.
    """
    table = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in readme.splitlines()
        if line.startswith("|")
    ]
    start = next(number for number, cells in enumerate(table) if cells[0] == "measured")
    seeds = [cell.removeprefix("seed ") for cell in table[start][1:]]
    found = []
    for cells in table[start + 2 :]:
        if len(cells) != len(seeds) + 1:
            break  # the next table
        if cells[0] not in ROWS:
            found.append(f"{cells[0]}: no source is known for this row")
            continue
        for seed, cell in zip(seeds, cells[1:], strict=True):
            numbers = re.findall(r"(?<!\d)[-+]?\d*\.\d+", cell)
            measured = expected(raw["seeds"][seed], ROWS[cells[0]]) if seed in raw["seeds"] else []
            rounded = [
                f"{value:.{len(shown.partition('.')[2])}f}"
                for value, shown in zip(measured, numbers, strict=False)
            ]
            if [float(shown) for shown in numbers] != list(map(float, rounded)) or len(
                numbers
            ) != len(measured):
                found.append(f"{cells[0]}: seed {seed}: {cell}: measured {measured}")
    losses = readme.partition("\nThere are losses, too:")[2].partition("\n\n")[0]
    costs = [
        abs(round(100 * row["mean"], 1))
        for seed in raw["seeds"].values()
        for row in seed["differences"]
        if row["what"].endswith(": lm-eval, all items")
    ]
    points = "".join(re.findall(r"((?:\d+\.\d+|,|and|\s)+)points\s+of\s+lm-eval", losses))
    stated = [float(number) for number in re.findall(r"\d+\.\d+", points)]
    if not stated:
        found.append("points of lm-eval: none is stated among the losses")
    return found + [
        f"{number} points of lm-eval: not measured" for number in stated if number not in costs
    ]


def test_every_number_of_the_readmes_results_was_measured(raw: dict[str, Any]) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert readme.count("\n| measured |") == 1
    assert wrong(readme, raw) == []


@pytest.mark.parametrize("row", ROWS)
def test_a_number_of_any_row_that_was_not_measured_is_found(raw: dict[str, Any], row: str) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    line = next(line for line in readme.splitlines() if line.startswith(f"| {row} |"))
    last = re.findall(r"\d*\.\d+", line)[-1]
    place = line.rindex(last) + len(last) - 1
    edited = line[:place] + str((int(line[place]) + 1) % 10) + line[place + 1 :]
    found = wrong(readme.replace(line, edited), raw)
    assert len(found) == 1 and found[0].startswith(f"{row}: seed ")


def test_a_loss_that_was_not_measured_is_found(raw: dict[str, Any]) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (stated,) = re.findall(r"HH-RLHF SFT costs .*? points\s+of\s+lm-eval", readme, re.DOTALL)
    for number in re.findall(r"\d+\.\d+", stated):
        found = wrong(readme.replace(stated, stated.replace(number, "9.9")), raw)
        assert found == ["9.9 points of lm-eval: not measured"]
    found = wrong(readme.replace("There are losses, too:", "Losses:"), raw)
    assert found == ["points of lm-eval: none is stated among the losses"]


def test_a_row_without_a_source_is_found(raw: dict[str, Any]) -> None:
    readme = (
        (ROOT / "README.md")
        .read_text(encoding="utf-8")
        .replace("| chat: DPO over HH-RLHF SFT |", "| chat: better |")
    )
    assert wrong(readme, raw) == ["chat: better: no source is known for this row"]


def test_the_page_says_whether_its_runs_were_there_already(raw: dict[str, Any]) -> None:
    command = "scripts/dev/repeat_rehearsal.py --seeds 39 40 41"
    assert f"Written by `{command} --finished` from runs" in page(raw | {"finished": True})
    assert f"Written by `make learning` (`{command}`)." in page(raw | {"finished": False})


def test_the_page_of_all_seeds_is_made_from_the_numbers(raw: dict[str, Any]) -> None:
    assert (ROOT / "docs/learning.md").read_text(encoding="utf-8") == page(raw)
