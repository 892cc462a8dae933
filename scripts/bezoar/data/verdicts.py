"""The verdict of a rater on a generated row, and the accept rate by length of response."""

import json
from typing import Any

from bezoar.training.template import training_text

VERDICT = {  # what a rater that takes a JSON schema is held to; `verdict` stays as strict
    "type": "object",
    "additionalProperties": False,
    "required": ["status", "rating", "reason"],
    "properties": {
        "status": {"enum": ["Accept", "Reject"]},
        "rating": {"type": "integer"},
        "reason": {"type": "string"},
    },
}


def verdict(text: str) -> dict[str, Any] | None:
    """Return {status, rating, reason} of a rater's answer, or None unless it is exactly the JSON
    asked for (a code fence is forgiven).
    """
    body = text.strip().removeprefix("```json").removeprefix("```").removesuffix("```").strip()
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if (
        not isinstance(found, dict)
        or found.get("status") not in ("Accept", "Reject")
        or not isinstance(found.get("reason"), str)
    ):
        return None
    rating = found.get("rating")
    if not isinstance(rating, int) or isinstance(rating, bool) or not 1 <= rating <= 10:
        return None
    return {"status": found["status"], "rating": rating, "reason": found["reason"]}


def by_length(rows: list[dict[str, Any]]) -> list[float]:
    """Return the accept rate in ten groups of equal size, from the shortest response to the
    longest.
    """
    ordered = sorted(rows, key=lambda row: (len(training_text(row)[2]), training_text(row)[0]))
    groups = [ordered[len(ordered) * k // 10 : len(ordered) * (k + 1) // 10] for k in range(10)]
    return [
        round(sum(row["gpt4_status"] == "Accept" for row in group) / len(group), 4)
        for group in groups
        if group
    ]
