"""The chat template of the OpenBezoar checkpoints, from a file in the form of the authors'
alpaca_modified.json.
"""

from pathlib import Path
from typing import Any

from bezoar.errors import UserError
from bezoar.files import read_json


class Template:
    """Renders an instruction; the response follows the last colon of the prompt directly."""

    def __init__(self, path: Path) -> None:
        content = read_json(path)
        for key in ("prompt", "default_system_prompt", "response_split"):
            if not isinstance(content.get(key), str):
                raise UserError(
                    f"{path}: expected a text under `{key}`; use the form of alpaca_modified.json"
                )
        self._prompt, self._system, self.split = (
            content["prompt"],
            content["default_system_prompt"],
            content["response_split"],
        )

    def prompt(self, instruction: str, system: str | None = None) -> str:
        """Return the text up to where the response begins; an empty system message means the
        default one.
        """
        before, after = self._prompt.replace("{system}", system or self._system, 1).split(
            "{instruction}", 1
        )
        return before + instruction + after

    def answer(self, text: str) -> str:
        """Return what follows the last response heading of a generated text."""
        return text.rsplit(self.split, 1)[-1].strip()


class OwnTemplate:
    """The chat template that a model brings with its tokenizer (Jinja, in tokenizer_config.json or
    chat_template.jinja).
    """

    def __init__(self, model: Path) -> None:
        from transformers import AutoTokenizer

        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(model, local_files_only=True)
        except (OSError, ValueError):
            raise UserError(
                f"{model}: the model brings no tokenizer with a chat template; name a template file"
                " in its place"
            ) from None
        if not self._tokenizer.chat_template:
            raise UserError(
                f"{model}: the model brings no chat template; name a template file in its place"
            )

    def dialogue(self, earlier: list[tuple[str, str]]) -> str:
        """Return the text up to where the response begins, of turns [(Human or Assistant, text)]
        ending with Human; without BOS.
        """
        messages = [
            {"role": "user" if speaker == "Human" else "assistant", "content": text}
            for speaker, text in earlier
        ]
        text: str = self._tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
        return text.removeprefix(self._tokenizer.bos_token or "")


def training_text(row: dict[str, Any]) -> tuple[str, str, str]:
    """Return (instruction, system message, response) of a row of any scheme, by its columns.

    Orca rows have inputs, system_message and explained_targets; LaMini and Evol rows instruction
    and response; preference pairs prompt and chosen.
    """
    if "explained_targets" in row:
        return row["inputs"], row["system_message"], row["explained_targets"]
    if "chosen" in row:
        return row["prompt"], "", row["chosen"]
    return row["instruction"], row.get("system_message", ""), row["response"]
