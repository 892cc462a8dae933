"""The report's section on requests to language models: the state that each row ended in, calls,
tokens and money, stage by stage.
"""

from pathlib import Path

import jinja2

from bezoar.readers import read_json

TEMPLATE = Path(__file__).parent / "report_requests.html.j2"
STATES = ("answered", "truncated", "refused", "unparsable", "provider_error", "over_budget")


def section(environment: jinja2.Environment, receipts: list[Path]) -> str:
    """Return the section as HTML; stages are those whose receipt counts states."""
    facts = {path.stem: read_json(path)["facts"] for path in sorted(receipts)}
    stages = {stage: found for stage, found in facts.items() if "sent" in found}
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        stages=stages, states=STATES
    )
