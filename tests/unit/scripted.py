"""A door that answers from a function instead of a network."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from bezoar.llm.client import Answer, LLMClient


class Scripted(LLMClient):
    """A door whose answers are given by a function of (prompt, attempt); no store, no network."""

    def __init__(self, say: Callable[[str, int], str]) -> None:
        super().__init__({}, Path("unused"), 1, None)
        self.say, self.asked, self.systems = say, [], []

    def _ask(
        self, prompts: list[list[dict[str, str]]], names: list[str], attempt: int, schema: Any
    ) -> list[Answer]:
        assert len(prompts) == len(names)
        self.asked += [(prompt[-1]["content"], attempt) for prompt in prompts]
        self.systems += [prompt[0]["content"] if len(prompt) > 1 else "" for prompt in prompts]
        texts = [self.say(prompt[-1]["content"], attempt) for prompt in prompts]
        return [Answer("answered" if text else "unparsable", text, {}, "m") for text in texts]
