"""Counts of what enters a stage and what becomes of it."""

from typing import Any


class Funnel:
    """Counts that must add up: every item that enters ends in exactly one state."""

    def __init__(self, *rules: str) -> None:
        self.entered = 0
        self.left = dict.fromkeys([*rules, "kept"], 0)
        self.more: dict[str, Any] = {}

    def leave(self, rule: str, count: int = 1) -> None:
        """Count `count` items as dropped by `rule`, or kept."""
        self.entered += count
        self.left[rule] += count

    def as_json(self, states: dict[str, int]) -> dict[str, Any]:
        """Return the counts; `states` are the terminal states of all rows asked about."""
        return {"entered": self.entered, **self.left, **self.more, "states": states}
