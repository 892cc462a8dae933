"""Whether a prompt and the longest answer to it fit a model's context; what does not is dropped by
rule before it is asked, since a server refuses it.
"""

import re
from pathlib import Path

from typing_extensions import TypedDict

SPARE = 8  # tokens that a server may add: the first one, and role marks


class ContextSettings(TypedDict):
    """What of a model's settings decides whether a prompt fits; null where nothing limits it."""

    context: int | None  # tokens of prompt and answer together
    max_tokens: int | None  # of the answer
    prompt_form: str | None


class Context:
    """The room for prompts in a model's context (None: no limit), in tokens."""

    def __init__(
        self,
        context: int | None = None,
        max_tokens: int | None = None,
        prompt_form: str | None = None,
        tokenizer: Path | None = None,
    ) -> None:
        self.room = None if context is None else context - (max_tokens or 0) - SPARE
        self.form = prompt_form or "%s"
        self.tokenizer = None
        if tokenizer and context is not None:
            from tokenizers import Tokenizer

            self.tokenizer = Tokenizer.from_file(str(tokenizer))

    def fits(self, *texts: str) -> bool:
        """Whether the messages of a prompt fit. Without a tokenizer a word counts as 4/3 tokens."""
        if self.room is None:
            return True
        text = self.form.replace("%s", "\n\n".join(filter(None, texts)))
        # No byte-level tokenizer makes more tokens than bytes, and most rows are short.
        if len(text.encode()) <= self.room:
            return True
        if self.tokenizer is None:
            return -(-len(re.findall(r"\S+", text)) * 4 // 3) <= self.room
        return len(self.tokenizer.encode(text, add_special_tokens=False).ids) <= self.room
