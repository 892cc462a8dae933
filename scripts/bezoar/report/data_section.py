"""The report's section on the data: the funnel, the filter, duplicates, what is shared with the
evaluation, task families.
"""

from pathlib import Path
from typing import Any

import jinja2

from bezoar.readers import read_json

TEMPLATE = Path(__file__).parent / "report_data.html.j2"


def used(receipts: list[Path], schemes: list[str]) -> dict[str, dict[str, int]]:
    """Return scheme -> what its training counted: rows, training, validation, truncated and without
    a supervised token.
    """
    facts = {
        path.stem: read_json(path)["facts"]
        for path in receipts
        if path.stem in {f"sft_{scheme}" for scheme in schemes}
    }
    return {scheme: facts[f"sft_{scheme}"] for scheme in schemes if f"sft_{scheme}" in facts}


def section(environment: jinja2.Environment, artifacts: Any, receipts: list[Path]) -> str:
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
