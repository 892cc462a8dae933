"""The protocol of everything that answers prompts, and what it returns."""

from dataclasses import dataclass
from typing import Any, Protocol

from bezoar.llm.settings import Messages, ModelSpec

STATES = ("answered", "refused", "truncated", "unparsable", "provider_error", "over_budget")


@dataclass(frozen=True)
class Answer:
    """What came back: `text` is empty unless there is an answer; `usage` counts tokens in and out,
    as far as they are known; `finish` is the server's own word; `reasoning` is what the model wrote
    before its answer.
    """

    state: str
    text: str
    usage: dict[str, int]
    model: str
    error: str = ""
    finish: str = ""
    reasoning: str = ""

    @property
    def usable(self) -> bool:
        """Whether there is a text to work with, even one cut at `max_tokens`."""
        return self.state in ("answered", "truncated") and bool(self.text)

    @property
    def cut_off(self) -> bool:
        """Whether the tokens ran out before there was any text, as in reasoning."""
        return self.state == "truncated" and not self.text


class LanguageModel(Protocol):
    """Something that answers prompts: a provider, one shard of a stage's requests, a plan that
    sends nothing, a test's script.
    """

    @property
    def settings(self) -> ModelSpec:
        """What model it is."""
        ...

    @property
    def mode(self) -> str:
        """Whether it is asked online, in batches, or only replayed."""
        ...

    @property
    def sent(self) -> int:
        """How many calls were sent."""
        ...

    @property
    def usd(self) -> float:
        """What they were charged."""
        ...

    def used(self) -> dict[str, float]:
        """Return how many different answers were given, how many of them had been stored by an
        earlier process, and what all of them cost in USD, whenever they were asked for.
        """
        ...

    def open(self) -> None:
        """Get ready to answer."""
        ...

    def close(self) -> None:
        """Close what was opened."""
        ...

    def answers(
        self, prompts: list[Messages], names: list[str], attempt: int, schema: dict[str, Any] | None
    ) -> list[Answer]:
        """Return one answer a prompt, in order; `names` say which rows they are, for errors."""
        ...
