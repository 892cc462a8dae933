"""The report's section on requests shows what the receipts counted."""

import re

import jinja2

from bezoar.report import requests_section


def test_states_calls_tokens_and_money_are_those_of_the_receipts() -> None:
    facts = {
        "states": {"answered": 1234, "refused": 5},
        "sent": 1300,
        "tokens": {"input": 70_000, "output": 900},
        "usd": 3.456,
        "mode": "online",
    }
    receipts = {"filter_orca": {"facts": facts}, "sft_orca": {"facts": {"rows": 3}}}
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
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
        "3.46",
    ]
