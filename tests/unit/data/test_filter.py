"""Promises of the filter: a strict verdict, and every row kept with it."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from scripted import Scripted

import filter_rows
from bezoar.data import verdicts
from bezoar.data.schemes import prompt_texts
from bezoar.errors import UserError
from bezoar.evaluation.agreement import cohen_kappa

PROMPT = Path(__file__).parents[3] / "prompts" / "filter.txt"
TEMPLATE = prompt_texts([PROMPT], verdicts.PROMPTS)["filter"]
RECIPE = {
    "rater": {"model": "rater"},
    "second_rater": {"model": "falcon"},
    "teacher": "falcon",
    "attempts": 3,
    "max_unrated_share": 0.5,
    "max_failure_share": 0.0,
    "seed": 0,
}
ROWS = [{"instruction": f"Ask {{{i}}}?", "source": "s", "response": "r" * i} for i in range(20)]
GOOD = '{"status": "Accept", "rating": 9, "reason": "fine"}'


THINKING = "<think>Is it true? {yes}</think>"


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        f" {GOOD}\n",
        f"```json\n{GOOD}\n```",
        f"```JSON\n{GOOD}\n```\n\nThe response is short but true.",
        f"As [1] and {{2}} say:\n{GOOD}",
        GOOD.replace("}", ",}"),
        GOOD.replace("9", "9.0"),
        GOOD.replace("9", '"9"'),
        GOOD.replace("Accept", "accept"),
        GOOD.replace("Accept", " ACCEPT "),
        GOOD.replace("}", ', "more": [1, 2,],\n}'),
        THINKING + GOOD,
        f"\n<THINK>{GOOD.replace('9', '2')}</think>{GOOD}",
        f"It is true.</think>{GOOD}",
    ],
)
def test_a_verdict_is_read(text: str) -> None:
    assert verdicts.verdict(text) == {"status": "Accept", "rating": 9, "reason": "fine"}


def test_the_reason_of_a_verdict_stays_as_it_is() -> None:
    reason = 'a,] b,} "c\\" \n,}'
    text = json.dumps({"status": "Reject", "rating": 1, "reason": reason})
    for body in (text, text[:-1] + ",}", text.replace("\\n", "\n"), f'He said "{{": {text}'):
        assert verdicts.verdict(body) == {"status": "Reject", "rating": 1, "reason": reason}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Accept",
        GOOD + GOOD,
        GOOD + GOOD.replace("Accept", "Reject"),
        GOOD.replace("}", ', "status": "Reject"}'),
        GOOD.replace("}", ', "why": {"a": 1, "a": 2}}'),
        f"[{GOOD}]",
        f'{{"verdict": {GOOD}}}',
        f"<think>{GOOD}",
        "[1]",
        "[" * 100_000,
        "{" * 100_000 + GOOD,
        GOOD.replace("Accept", "Accepted"),
        GOOD.replace("9", "11"),
        GOOD.replace("9", "0"),
        GOOD.replace("9", "-9"),
        GOOD.replace("9", "9.5"),
        GOOD.replace("9", '"9 of 10"'),
        GOOD.replace("9", "9" * 5000),
        GOOD.replace("9", "1e999"),
        GOOD.replace("9", "NaN"),
        GOOD.replace("9", "true"),
        GOOD.replace('"fine"', "null"),
        GOOD.replace("fine", "\\ud800"),
    ],
)
def test_anything_else_is_no_verdict(text: str) -> None:
    assert verdicts.verdict(text) is None


def rate(
    say: Any, rows: list[dict[str, Any]] = ROWS, **changes: Any
) -> tuple[list[dict], Any, Scripted]:
    client = Scripted(say)
    rated, funnel = filter_rows.rate(client, rows, TEMPLATE, {**RECIPE, **changes}, "rows.jsonl")
    return rated, funnel, client


def say(prompt: str, attempt: int) -> str:
    number = int(prompt.split("Ask {")[1].split("}")[0])
    if number % 5 == 0:
        return "mumble"
    if number % 5 == 1 and attempt == 0:
        return "mumble"
    return GOOD if number % 2 else GOOD.replace("Accept", "Reject").replace("9", "2")


def test_every_row_is_kept_in_order_with_its_verdict_and_the_counts_add_up() -> None:
    rated, funnel, client = rate(say)
    assert [{key: row[key] for key in ROWS[0]} for row in rated] == ROWS
    statuses = [row["gpt4_status"] for row in rated]
    assert statuses == [
        "Unrated" if i % 5 == 0 else "Accept" if i % 2 else "Reject" for i in range(20)
    ]
    assert [row["gpt4_rating"] for row in rated[:4]] == [None, 9, 2, 9]
    assert rated[0]["gpt4_reason"] == "no verdict: unparsable"
    assert (funnel.entered, funnel.left) == (20, {"reject": 8, "unrated": 4, "kept": 8})
    assert len(client.asked) == 20 + 8 + 4


def test_a_rater_reads_the_system_message_before_the_instruction() -> None:
    row = {"inputs": "Why?", "explained_targets": "Because.", "system_message": "Think aloud."}
    _, _, client = rate(lambda prompt, _: GOOD, [row, {**row, "system_message": ""}])
    with_one, without = (prompt for prompt, _ in client.asked)
    assert "Instruction:\nThink aloud.\n\nWhy?\n\nResponse:\nBecause.\n" in with_one
    assert "Instruction:\nWhy?\n\nResponse:\nBecause.\n" in without


def test_the_accept_rate_is_told_by_length_of_the_response() -> None:
    _, funnel, _ = rate(
        lambda prompt, _: GOOD if "rrrrrrrrrr" in prompt else GOOD.replace("Accept", "Reject")
    )
    assert funnel.more["accept_rate_by_length_decile"] == [0.0] * 5 + [1.0] * 5


def test_a_stage_with_too_many_rows_without_a_verdict_fails_and_names_them() -> None:
    with pytest.raises(
        UserError,
        match=r"4 of 20 rows without a verdict, more than 10%: rows\.jsonl:1, rows\.jsonl:6.*"
        r"; correct the settings of m and run again, or correct its server, `make forget STORE=",
    ):
        rate(say, max_unrated_share=0.1)


@pytest.mark.parametrize(
    "row",
    [
        {"instruction": "x"},
        {"instruction": None, "response": "x"},
        {"inputs": "x", "response": "y"},
    ],
)
def test_a_row_without_its_texts_is_named(row: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"rows\.jsonl:21: "):
        rate(say, [*ROWS, row])


def test_braces_of_the_data_stay_as_they_are() -> None:
    rate(
        lambda prompt, _: (
            GOOD if "Ask {0}?" in prompt or "{0}" not in prompt else pytest.fail(prompt)
        )
    )


def test_a_second_rater_decides_nothing_and_its_disagreements_are_told_both_ways() -> None:
    """The first accepts every other row, the second the first fifteen and gives no verdict on the
    last.
    """

    def other(prompt: str, attempt: int) -> str:
        number = int(prompt.split("Ask {")[1].split("}")[0])
        return (
            "mumble" if number == 19 else GOOD if number < 15 else GOOD.replace("Accept", "Reject")
        )

    first = Scripted(
        lambda prompt, _: (
            GOOD
            if int(prompt.split("Ask {")[1].split("}")[0]) % 2
            else GOOD.replace("Accept", "Reject")
        )
    )
    alone, _ = filter_rows.rate(first, ROWS, TEMPLATE, RECIPE, "rows.jsonl")
    rated, funnel = filter_rows.rate(first, ROWS, TEMPLATE, RECIPE, "rows.jsonl", Scripted(other))
    assert [{key: row[key] for key in alone[0]} for row in rated] == alone
    assert [row["second_status"] for row in rated] == ["Accept"] * 15 + ["Reject"] * 4 + ["Unrated"]
    found = funnel.more["agreement"]
    assert (found["both_rated"], found["only_first_accepts"], found["only_second_accepts"]) == (
        19,
        2,
        8,
    )
    assert found["accept_rate"] == {"first": 0.4737, "second": 0.7895}
    assert found["rates_itself"] == "second"
    assert found["kappa"]["low"] < found["kappa"]["mean"] < found["kappa"]["high"]


def test_kappa_is_cohens_and_its_interval_covers_as_it_says() -> None:
    """Cohen 1960's own definition on a table of 50 rows, and 300 samples from a table whose kappa
    is known.
    """
    pairs = [(True, True)] * 20 + [(True, False)] * 5 + [(False, True)] * 10 + [(False, False)] * 15
    found = cohen_kappa(pairs, 0)
    assert found is not None and found["mean"] == pytest.approx(0.4) and found["n"] == 50
    assert cohen_kappa([(True, True)] * 9, 0) is None and cohen_kappa([], 0) is None
    alike = cohen_kappa([(True, True)] * 25 + [(False, False)] * 3, 0)
    assert alike and (alike["mean"], alike["high"]) == (1, 1) and 0 < alike["low"] < 0.6, (
        "28 rows without a disagreement leave room for some"
    )
    rng, held = random.Random(0), 0
    for seed in range(300):
        drawn = cohen_kappa([rng.choice(pairs) for _ in range(200)], seed)
        held += drawn is not None and drawn["low"] <= 0.4 <= drawn["high"]
    assert held >= 300 * 0.91
