"""Rate limits as a server states them in its response headers: capacity is reserved before a call
and released after it.

OpenAI's form: x-ratelimit-remaining-requests, x-ratelimit-reset-tokens, … with resets as durations
("1s", "6m0s", "12ms"). Anthropic's form: anthropic-ratelimit-requests-remaining,
anthropic-ratelimit-tokens-reset, … with resets as RFC 3339 times. A server that states none is
called as fast as the stage's concurrency allows.
"""

import asyncio
import random
import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

KINDS = ("requests", "tokens")
UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
LONGEST_S = 300  # a server that asks for more is called again after this
RETRIES = 6  # calls in all
FIRST_PAUSE_S = 0.25  # doubled at each retry: 7.75 s over all six calls
LONGEST_PAUSE_S = 30


def seconds_until(text: str, now: datetime | None = None) -> float | None:
    """Return the seconds from now that a header means: a number, a duration such as 6m0s, an RFC
    3339 or an HTTP date; None if neither. `now` is the server's clock, where it is known.
    """
    text = text.strip()
    if re.fullmatch(r"[0-9]{1,15}(\.[0-9]{1,15})?", text):
        return float(text)
    if re.fullmatch(r"([0-9]{1,9}(\.[0-9]{1,9})?(ms|s|m|h|d))+", text):
        return sum(
            float(number) * UNITS[unit]
            for number, unit in re.findall(r"([0-9.]+)(ms|s|m|h|d)", text)
        )
    when = _time_of(text)
    return None if when is None else max(0.0, (when - (now or datetime.now(UTC))).total_seconds())


def _time_of(text: str) -> datetime | None:
    """Return the moment that an RFC 3339 or an HTTP date names, or None."""
    for parse in (datetime.fromisoformat, parsedate_to_datetime):
        try:
            when = parse(text)
            return when if when.tzinfo else when.replace(tzinfo=UTC)
        except (ValueError, TypeError, IndexError, OverflowError):
            continue
    return None


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return how long a refused client should wait, at most `LONGEST_S`, or None if the server does
    not say. A date is compared with the server's own clock, which may differ from ours.
    """
    clock = _time_of(headers.get("date", ""))
    exact = headers.get("retry-after-ms", "")
    if re.fullmatch(r"[0-9]{1,12}(\.[0-9]+)?", exact):
        return min(float(exact) / 1000, LONGEST_S)
    wanted = seconds_until(headers.get("retry-after", ""), clock)
    return None if wanted is None else min(wanted, LONGEST_S)


def pause_after(headers: Mapping[str, str], turn: int) -> float:
    """Return the seconds to wait after the failed call `turn` (from 0): what the server asks for,
    otherwise twice as long each time; random jitter keeps clients apart and never affects a result.
    """
    pause = retry_after(headers) or min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**turn)
    return pause * (1 + 0.1 * random.random())


class Limiter:
    """What one model's server will still accept, for the calls of one process."""

    def __init__(self) -> None:
        self.left: dict[str, float] = {}
        self.resets: dict[str, float] = {}
        self.under_way = dict.fromkeys(KINDS, 0.0)

    async def reserve(self, tokens: float) -> None:
        """Wait until one request of `tokens` fits into what is left, and take it."""
        while (pause := self._pause(tokens)) > 0:
            await asyncio.sleep(pause)
        for kind, amount in zip(KINDS, (1, tokens), strict=True):
            self.under_way[kind] += amount
            if kind in self.left:
                self.left[kind] -= amount

    def give_back(self, tokens: float, used: float, headers: Mapping[str, str] | None) -> None:
        """End a call that reserved `tokens` and really took `used`; adopt what the server says
        is left.
        """
        for kind, amount in zip(KINDS, (1, tokens), strict=True):
            self.under_way[kind] -= amount
        if "tokens" in self.left:
            self.left["tokens"] += max(0.0, tokens - used)
        if headers is None:
            return
        for kind in KINDS:
            remaining, reset = (
                headers.get(
                    f"x-ratelimit-{word}-{kind}",
                    headers.get(f"anthropic-ratelimit-{kind}-{word}", ""),
                )
                for word in ("remaining", "reset")
            )
            if not re.fullmatch(r"[0-9]{1,15}", remaining):
                continue
            until = seconds_until(reset, _time_of(headers.get("date", "")))
            if until is not None:  # calls under way may not be in it yet
                self.left[kind] = int(remaining) - self.under_way[kind]
                self.resets[kind] = time.monotonic() + min(until, LONGEST_S)

    def _pause(self, tokens: float) -> float:
        """Return the seconds until the next call may go out; a limit whose reset has passed is
        forgotten.
        """
        now = time.monotonic()
        for kind in [kind for kind in self.left if self.resets[kind] <= now]:
            del self.left[kind], self.resets[kind]
        need = {"requests": 1.0, "tokens": tokens}
        return max(
            (self.resets[kind] - now + 0.001 for kind in self.left if self.left[kind] < need[kind]),
            default=0.0,
        )
