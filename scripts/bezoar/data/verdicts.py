"""The verdict of a rater on a generated row, and the accept rate by length of response."""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from bezoar.llm.reasoning import split_reasoning
from bezoar.readers import LENIENT_DECODER
from bezoar.training.template import training_text

PROMPTS = {"filter": ("instruction", "response")}  # the fields of the rater's template
VERDICT = {  # for raters that support JSON schemas; `verdict` stays as strict
    "type": "object",
    "additionalProperties": False,
    "required": ["status", "rating", "reason"],
    "properties": {
        "status": {"enum": ["Accept", "Reject"]},
        "rating": {"type": "integer"},
        "reason": {"type": "string"},
    },
}
OPENING = re.compile(r"[{\[]")
LAST_COMMA = re.compile(r'("(?:[^"\\]|\\.)*")|,(?=\s*[}\]])', re.DOTALL)
MAX_STARTS = 50  # brackets at which a value may begin; an answer with more is not a verdict


def _values(text: str) -> Iterator[Any]:
    """Yield the JSON objects and lists in a text, outermost only, allowing a comma before a closing
    bracket; raise `ValueError` at an invalid one (a repeated key, a number that is not finite).
    """
    place, starts = 0, 0
    while match := OPENING.search(text, place):
        place, starts = match.start(), starts + 1
        if starts > MAX_STARTS:
            raise ValueError("too many brackets")
        try:
            value, place = LENIENT_DECODER.raw_decode(text, place)
        except json.JSONDecodeError:
            repaired = LAST_COMMA.sub(lambda found: found[1] or "", text[place:])
            try:
                value, length = LENIENT_DECODER.raw_decode(repaired)
            except json.JSONDecodeError:
                place += 1
                continue
            text, place = repaired, length
        yield value


def rating(value: Any) -> int | None:
    """Return a rating from 1 to 10: 8, 8.0, or either as a text."""
    if isinstance(value, str) and re.fullmatch(r"\s*\d{1,2}(\.0+)?\s*", value, re.ASCII):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if value in range(1, 11) else None


def verdict(text: str) -> dict[str, Any] | None:
    """Return {status, rating, reason} of a rater's answer, or None unless it holds one verdict and
    no more than one.

    What leaves no doubt is allowed: text or a code fence around the object, a reasoning block
    before it, the case of the status, 8.0 or "8" as the rating, a trailing comma, a line end in the
    reason. A key that appears twice, a second verdict, or a verdict inside another value is not.
    """
    try:
        body = split_reasoning(text)[1]
        found = [row for row in _values(body) if isinstance(row, dict) and "status" in row]
    except (ValueError, RecursionError):
        return None
    if len(found) != 1:
        return None
    status, reason = (found[0].get(key) for key in ("status", "reason"))
    status = status.strip().capitalize() if isinstance(status, str) else None
    number = rating(found[0].get("rating"))
    if status not in ("Accept", "Reject") or number is None or not isinstance(reason, str):
        return None
    try:
        reason.encode()
    except UnicodeEncodeError:  # half a surrogate pair, which no row can hold
        return None
    return {"status": status, "rating": number, "reason": reason}


def rater_prompt(template: str, row: dict[str, Any], name: str = "a row") -> str:
    """Return what a rater reads of a row, which errors call `name`: the instruction, behind the
    system message if there is one, and the response.
    """
    instruction, system, response = training_text(row, name)
    asked = "\n\n".join(filter(None, (system, instruction)))
    return template.format(instruction=asked, response=response)


def by_position(rows: Sequence[dict[str, Any]]) -> list[float]:
    """Return the accept rate in ten parts of equal size, in the order of the rows."""
    groups = [rows[len(rows) * k // 10 : len(rows) * (k + 1) // 10] for k in range(10)]
    return [
        round(sum(row["gpt4_status"] == "Accept" for row in group) / len(group), 4)
        for group in groups
        if group
    ]


def by_length(rows: Sequence[dict[str, Any]]) -> list[float]:
    """Return the accept rate in ten groups of equal size, from the shortest response to the
    longest.
    """
    return by_position(
        sorted(rows, key=lambda row: (len(training_text(row)[2]), training_text(row)[0]))
    )
