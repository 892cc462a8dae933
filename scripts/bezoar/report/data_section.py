"""The report's section on the data: the funnel, the filter, duplicates, what is shared with the
evaluation, task families.
"""

from pathlib import Path
from typing import Any

import jinja2

TEMPLATE = Path(__file__).parent / "report_data.html.j2"


Receipts = dict[str, dict[str, Any]]


def used(receipts: Receipts, schemes: list[str]) -> dict[str, dict[str, int]]:
    """Return scheme -> what its training counted: rows, training, validation, truncated and without
    a supervised token.
    """
    return {
        scheme: receipts[f"sft_{scheme}"]["facts"]
        for scheme in schemes
        if f"sft_{scheme}" in receipts
    }


def section(environment: jinja2.Environment, artifacts: Any, receipts: Receipts) -> str:
    """Return the section as HTML."""
    description = artifacts.json("data/description.json")
    schemes = list(description["schemes"]) if description else []
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        schemes=description["schemes"] if description else {},
        families=description["task_families"] if description else None,
        duplicates=artifacts.json("data/duplicates.json"),
        contamination=artifacts.json("data/contamination.json"),
        used=used(receipts, schemes),
    )
