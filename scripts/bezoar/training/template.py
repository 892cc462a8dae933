"""The chat template of the OpenBezoar checkpoints, from a file in the form of the authors'
alpaca_modified.json.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from bezoar.errors import UserError, shortage
from bezoar.readers import read_json

Piece = tuple[str, bool]  # a text, and whether it is the template's own and may hold special tokens


class Template:
    """Renders an instruction; the response follows the last colon of the prompt directly."""

    def __init__(self, path: Path) -> None:
        content = read_json(path)
        for key in ("prompt", "default_system_prompt", "response_split"):
            if not isinstance(content, dict) or not isinstance(content.get(key), str):
                raise UserError(
                    f"{path}: expected a text under `{key}`; use the form of alpaca_modified.json"
                )
        self._system, self.split = content["default_system_prompt"], content["response_split"]
        self._parts = re.split(r"(\{system\}|\{instruction\})", content["prompt"])
        if self._parts.count("{instruction}") != 1 or self._parts.count("{system}") > 1:
            raise UserError(
                f"{path}: expected {{instruction}} once and {{system}} at most once under `prompt`"
            )

    def pieces(self, instruction: str, system: str | None = None) -> list[Piece]:
        """Return the text up to where the response begins in pieces, each with whether it is the
        template's own; an empty system message means the default one.
        """
        given = {
            "{system}": (system or self._system, not system),
            "{instruction}": (instruction, False),
        }
        return [given.get(part, (part, True)) for part in self._parts]

    def prompt(self, instruction: str, system: str | None = None) -> str:
        """Return that text as one."""
        return "".join(text for text, _ in self.pieces(instruction, system))

    def answer(self, text: str) -> str:
        """Return what follows the last response heading of a generated text."""
        return text.rsplit(self.split, 1)[-1].strip()


TODAY = "2024-07-26"  # of chat templates that ask; the date that Llama 3's takes without a clock


@contextmanager
def dated() -> Iterator[None]:
    """Have chat templates that write today's date write `TODAY`: the same prompts on every day."""
    from transformers.utils import chat_template_utils

    class Today(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> "Today":
            return cls.fromisoformat(TODAY)

    module: Any = chat_template_utils  # its templates get no other clock
    before, module.datetime = module.datetime, Today
    try:
        yield
    finally:
        module.datetime = before


class OwnTemplate:
    """The chat template that a model brings with its tokenizer (Jinja, in tokenizer_config.json or
    chat_template.jinja).
    """

    def __init__(self, model: Path) -> None:
        from bezoar.training.tokenizer import load_tokenizer

        self._model = model
        self._tokenizer: Any = load_tokenizer(model)
        if not self._tokenizer.chat_template:
            raise UserError(
                f"{model}: the model brings no chat template; name a template file in its place"
            )

    def dialogue(self, earlier: list[tuple[str, str]]) -> str:
        """Return the text up to where the response begins, of turns [(Human or Assistant, text)]
        ending with Human; with BOS where the template writes it.
        """
        messages = [
            {"role": "user" if speaker == "Human" else "assistant", "content": text}
            for speaker, text in earlier
        ]
        try:
            with dated():
                text: str = self._tokenizer.apply_chat_template(
                    messages, tokenize=False, add_generation_prompt=True
                )
        except Exception as error:  # a template is a program, and may fail in any way
            if shortage(error):
                raise
            raise UserError(
                f"{self._model}: its chat template cannot be rendered"
                f" ({' '.join(str(error).split())[:160]}); name a template file in its place"
            ) from None
        return text

    def pieces(self, earlier: list[tuple[str, str]]) -> list[Piece]:
        """Return that text in pieces, each with whether it is the template's own and not a turn's:
        what it writes around turns that hold nothing of its own.

        Raise `UserError` if a turn holds a special token's letters and the template changes it, so
        that it cannot be told from the template's own.
        """
        from bezoar.training.tokenizer import holds_special

        whole, at = self.dialogue(earlier), 0
        marks = [f"\ue000{number}\ue001" for number in range(len(earlier))]
        speakers = [speaker for speaker, _ in earlier]
        empty = self.dialogue(list(zip(speakers, marks, strict=True)))
        own = re.split("|".join(marks), empty)
        for turns in ([text for _, text in earlier], [text.strip() for _, text in earlier]):
            parts = [part for pair in zip(own, turns, strict=False) for part in pair] + own[-1:]
            if len(own) == len(turns) + 1 and "".join(parts) == whole:
                return [(part, place % 2 == 0) for place, part in enumerate(parts)]
        pieces: list[Piece] = []
        for _, text in earlier:
            turn = text if whole.find(text, at) >= 0 else text.strip()
            start = whole.find(turn, at)
            if start < 0:
                if holds_special(self._tokenizer, text):
                    raise UserError(
                        f"{self._model}: its chat template rewrites the turn {text[:60]!r}, which"
                        " has a special token's letters in it; name a template file in its place"
                    )
                continue
            pieces += [(whole[at:start], True), (turn, False)]
            at = start + len(turn)
        return [*pieces, (whole[at:], True)]


def training_text(row: dict[str, Any], name: str = "a row") -> tuple[str, str, str]:
    """Return (instruction, system message, response) of a row of any scheme, by its columns.

    Orca rows have inputs, system_message and explained_targets; LaMini and Evol rows instruction
    and response; preference pairs prompt and chosen. Raise `UserError`, which calls the row `name`,
    if one of them is missing or not a text.
    """
    if "explained_targets" in row:
        columns = ("inputs", "explained_targets")
    elif "chosen" in row:
        columns = ("prompt", "chosen")
    else:
        columns = ("instruction", "response")
    instruction, response = (text_of(row, column, name) for column in columns)
    system = "" if "chosen" in row else row.get("system_message") or ""
    return instruction, text_of({"system_message": system}, "system_message", name), response


def text_of(row: dict[str, Any], column: str, name: str) -> str:
    """Return the text in a column; raise `UserError` if there is none."""
    if not isinstance(found := row.get(column), str):
        raise UserError(f"{name}: expected a text under `{column}`, found {type(found).__name__}")
    return found
