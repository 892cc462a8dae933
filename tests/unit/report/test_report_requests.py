"""The report's section on requests shows what the receipts counted."""

import re
from pathlib import Path
from typing import Any

import pytest

from bezoar.report import requests_section, templates


@pytest.mark.parametrize("usd", [0.0, 4.5])
def test_states_calls_tokens_and_money_are_those_of_the_receipts(usd: float) -> None:
    """Money is the price of the answers used, not what one run was charged."""
    facts: dict[str, Any] = {
        "states": {"answered": 1234, "refused": 5},
        "sent": 1300,
        "tokens": {"input": 70_000, "output": 900},
        "usd": 3.456,
        "mode": "online",
        "answers_used": {"answers": 1239, "stored": 9, "usd": usd},
    }
    receipts = {"filter_orca": {"facts": facts}, "sft_orca": {"facts": {"rows": 3}}}
    environment = templates.environment(Path(templates.__file__).parent)
    html = requests_section.section(environment, receipts)
    assert re.findall(r"<td[^>]*>(?:<a[^>]*>)?([^<]*)", html) == [
        "filter_orca",
        "1,234",
        "–",
        "5",
        "–",
        "–",
        "–",
        "1,239",
        "1,300",
        "70,000",
        "900",
        f"{usd:.2f}",
    ]
