"""Whether a prompt and the longest answer to it fit a model's context; what does not is dropped by
rule before it is asked, since a server refuses it.
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from typing_extensions import TypedDict

from bezoar.errors import UserError, reason, shortage
from bezoar.readers import refuse_stand_in

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SPARE = 8  # tokens that a server may add: the first one, and role marks


def read_tokenizer(path: Path) -> "Tokenizer":
    """Return the tokenizer of a tokenizer.json; raise `UserError` if the file holds none."""
    from tokenizers import Tokenizer

    refuse_stand_in(path)
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises the bare class
        if shortage(error):
            raise
        raise UserError(
            f"{path}: expected a tokenizer.json ({reason(error)}); fetch it again"
        ) from None


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
            self.tokenizer = read_tokenizer(tokenizer)

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
