"""Counts of what enters a stage and what becomes of it."""

from typing import Any

EXAMPLES, LONGEST = 3, 240  # of what a rule dropped; characters of each


class Funnel:
    """Counts that must add up: every item that enters ends in exactly one state."""

    def __init__(self, *rules: str) -> None:
        self.entered = 0
        self.left = dict.fromkeys([*rules, "kept"], 0)
        self.more: dict[str, Any] = {}
        self.examples: dict[str, list[str]] = {}  # rule -> the first texts that it dropped

    def leave(self, rule: str, count: int = 1, text: str | None = None) -> None:
        """Count `count` items as dropped by `rule`, or kept; `text` is what was dropped."""
        self.entered += count
        self.left[rule] += count
        if text and rule != "kept" and len(found := self.examples.setdefault(rule, [])) < EXAMPLES:
            found.append(text if len(text) <= LONGEST else f"{text[:LONGEST]}…")

    def as_json(self, states: dict[str, int]) -> dict[str, Any]:
        """Return the counts; `states` are the terminal states of all rows asked about."""
        return {"entered": self.entered, **self.left, **self.more, "states": states}
