"""Promises of waiting: every form of Retry-After is understood, none stops the client for long, and
clocks that differ do not matter.
"""

import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bezoar.llm import limits
from bezoar.llm.limits import LONGEST_S, Limiter, pause_after, retry_after, seconds_until


def http_date(seconds: float) -> str:
    return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("3", 3),
        ("0.5", 0.5),
        (" 7 ", 7),
        ("6m0s", 360),
        ("1h2m3s", 3723),
        ("12ms", 0.012),
        ("0", 0),
        ("-5", None),
        ("", None),
        ("soon", None),
        ("nan", None),
        ("inf", None),
        ("1e9", None),
        ("9" * 5000, None),
        ("Wed, 99 Nov 2026 99:99:99 GMT", None),
        ("9999-99-99T00:00:00Z", None),
    ],
)
def test_a_header_is_a_number_of_seconds_or_nothing(text: str, seconds: float | None) -> None:
    assert seconds_until(text) == seconds


def test_dates_are_understood_in_both_forms_and_the_past_is_now() -> None:
    assert seconds_until(http_date(30)) == pytest.approx(30, abs=2)
    soon = (datetime.now(UTC) + timedelta(seconds=30)).isoformat()
    assert seconds_until(soon) == pytest.approx(30, abs=2)
    assert seconds_until(http_date(-3600)) == 0


def test_a_date_is_compared_with_the_servers_own_clock() -> None:
    """The server's clock is an hour ahead of ours, or ours was set back."""
    headers = {"date": http_date(3600), "retry-after": http_date(3605)}
    assert retry_after(headers) == pytest.approx(5, abs=1)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "86400"}, LONGEST_S),
        ({"retry-after-ms": "1500", "retry-after": "60"}, 1.5),
        ({"retry-after-ms": "x", "retry-after": "2"}, 2),
    ],
)
def test_retry_after_is_bounded(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers) == seconds


def test_without_advice_pauses_grow_up_to_a_bound() -> None:
    pauses = [pause_after({"retry-after": "-1"}, turn) for turn in range(12)]
    assert 0.25 <= pauses[0] <= 0.275 and pauses[3] >= 2
    assert max(pauses) <= limits.LONGEST_PAUSE_S * 1.1
    assert pause_after({"retry-after": "0"}, 0) >= 0.25


@given(text=st.text(max_size=40))
def test_whatever_a_header_says_it_is_no_traceback(text: str) -> None:
    names = ("retry-after", "retry-after-ms", "date", "x-ratelimit-reset-tokens")
    for name in (*names, "x-ratelimit-remaining-tokens"):
        headers = {
            "x-ratelimit-remaining-tokens": "5",
            "x-ratelimit-reset-tokens": "1s",
            **{name: text},
        }
        assert pause_after(headers, 0) <= LONGEST_S * 1.1
        limiter = Limiter()
        limiter.give_back(0, 0, headers)
        assert all(reset <= time.monotonic() + LONGEST_S for reset in limiter.resets.values())


def test_a_limit_without_its_reset_or_out_of_range_is_no_limit() -> None:
    for headers in (
        {"x-ratelimit-remaining-requests": "0"},
        {"x-ratelimit-remaining-requests": "9" * 5000, "x-ratelimit-reset-requests": "1s"},
        {"x-ratelimit-remaining-requests": "-1", "x-ratelimit-reset-requests": "1s"},
    ):
        limiter = Limiter()
        limiter.give_back(0, 0, headers)
        assert limiter.left == {}
