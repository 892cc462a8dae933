"""The report's section on requests to language models: the state that each row ended in, calls,
tokens and money, stage by stage.
"""

from typing import Any

import jinja2

STATES = ("answered", "truncated", "refused", "unparsable", "provider_error", "over_budget")


def section(environment: jinja2.Environment, receipts: dict[str, dict[str, Any]]) -> str:
    """Return the section as HTML; stages are those whose receipt counts states."""
    stages = {
        stage: receipt["facts"] for stage, receipt in receipts.items() if "sent" in receipt["facts"]
    }
    return environment.get_template("report_requests.html.j2").render(stages=stages, states=STATES)
