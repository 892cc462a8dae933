"""The report's section on requests shows what the receipts counted."""

import json
import re
from pathlib import Path

import jinja2

from bezoar.report import requests_section


def test_states_calls_tokens_and_money_are_those_of_the_receipts(tmp_path: Path) -> None:
    facts = {
        "states": {"answered": 1234, "refused": 5},
        "sent": 1300,
        "tokens": {"input": 70_000, "output": 900},
        "usd": 3.456,
        "mode": "online",
    }
    for name, what in (("filter_orca", facts), ("sft_orca", {"rows": 3})):
        (tmp_path / f"{name}.json").write_text(json.dumps({"facts": what}))
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    html = requests_section.section(environment, sorted(tmp_path.glob("*.json")))
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
        "3.46",
    ]
