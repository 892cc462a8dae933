"""docs/evidence.md says what docs/evidence.json holds, and a missed attack would show."""

import json
from pathlib import Path

from measure_evidence import page

DOCS = Path(__file__).parents[3] / "docs"


def test_the_page_is_the_one_that_the_raw_results_make() -> None:
    raw = json.loads((DOCS / "evidence.json").read_text(encoding="utf-8"))
    assert page(raw) == (DOCS / "evidence.md").read_text(encoding="utf-8")


def test_a_missed_attack_is_counted_and_its_test_named() -> None:
    raw = json.loads((DOCS / "evidence.json").read_text(encoding="utf-8"))
    row = next(
        row for row in raw["tests"] if row["name"].startswith("test_an_attack_makes_exactly")
    )
    row |= {"outcome": "failure", "missed": 1}
    written = page(raw)
    assert (
        f"- test_stale: {row['name']}" in written
        and "No test of these files failed." not in written
    )
    line = next(line for line in written.splitlines() if line.startswith("| A change with meaning"))
    assert line.endswith("| 1 |")
