"""Counts of what enters a stage and what becomes of it."""

from typing import Any

EXAMPLES, LONGEST = 3, 240  # of what a rule dropped; characters of each


class Funnel:
    """Counts that must add up: every item that enters ends in exactly one state."""

    def __init__(self, *rules: str) -> None:
        self.entered = 0
        self.left = dict.fromkeys([*rules, "kept"], 0)
        self.more: dict[str, Any] = {}
        self.dropped: list[dict[str, str]] = []  # rule, text, like (the text it was held against)

    def leave(
        self, rule: str, count: int = 1, text: str | None = None, like: str | None = None
    ) -> None:
        """Count `count` items as dropped by `rule`, or kept; `text` is what was dropped, and `like`
        the text that it is too much like, if the rule compares two.
        """
        self.entered += count
        self.left[rule] += count
        if text and rule != "kept":
            found = {"rule": rule, "text": text}
            self.dropped.append(found if like is None else {**found, "like": like})

    def examples(self) -> dict[str, list[str]]:
        """Return rule -> the first texts that it dropped, each cut to what a page has room for."""
        found: dict[str, list[str]] = {}
        for row in self.dropped:
            if len(texts := found.setdefault(row["rule"], [])) < EXAMPLES:
                text = row["text"]
                texts.append(text if len(text) <= LONGEST else f"{text[:LONGEST]}…")
        return found

    def as_json(self, states: dict[str, int]) -> dict[str, Any]:
        """Return the counts; `states` are the terminal states of all rows asked about."""
        return {"entered": self.entered, **self.left, **self.more, "states": states}
