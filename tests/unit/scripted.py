"""A language model that answers from a function instead of a network."""

from collections.abc import Callable
from typing import Any

from bezoar.llm.client import LLMClient
from bezoar.llm.language_model import Answer
from bezoar.llm.settings import Messages, ModelSpec

SETTINGS = ModelSpec(
    provider="simulator",
    api="chat",
    model="m",
    revision=None,
    base_url_env=None,
    api_key_env=None,
    prompt_form=None,
    stop=[],
    temperature=0.0,
    max_tokens=9,
    timeout_s=1,
)


class ScriptedModel:
    """Its answers are given by a function of (prompt, attempt); no store, no network."""

    settings, mode, sent, usd = SETTINGS, "online", 0, 0.0

    def __init__(self, say: Callable[[str, int], str]) -> None:
        self.say = say
        self.asked: list[tuple[str, int]] = []
        self.systems: list[str] = []

    def open(self) -> None:
        """Nothing is opened."""

    def used(self) -> dict[str, float]:
        """Nothing was paid for."""
        return {}

    def close(self) -> None:
        """Nothing is closed."""

    def answers(
        self, prompts: list[Messages], names: list[str], attempt: int, schema: dict[str, Any] | None
    ) -> list[Answer]:
        assert len(prompts) == len(names)
        self.asked += [(prompt[-1]["content"], attempt) for prompt in prompts]
        self.systems += [prompt[0]["content"] if len(prompt) > 1 else "" for prompt in prompts]
        texts = [self.say(prompt[-1]["content"], attempt) for prompt in prompts]
        return [Answer("answered" if text else "unparsable", text, {}, "m") for text in texts]


class Scripted(LLMClient):
    """A client of a scripted model."""

    def __init__(self, say: Callable[[str, int], str]) -> None:
        self.script = ScriptedModel(say)
        super().__init__(self.script)
        self.asked, self.systems = self.script.asked, self.script.systems
