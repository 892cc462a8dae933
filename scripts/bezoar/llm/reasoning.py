"""Reasoning that a model writes before its answer."""

import re

TAGS = "think|thinking|thought|reasoning"
BLOCK = re.compile(rf"\s*<({TAGS})>.*?(</\1>|\Z)", re.IGNORECASE | re.DOTALL)
ENDED = re.compile(rf"(?:(?!<(?:{TAGS})>).)*?</(?:{TAGS})>", re.IGNORECASE | re.DOTALL)


def without_reasoning(text: str) -> str:
    """Return a text without the reasoning blocks at its beginning; nothing is left of a block that
    was not closed. Some chat templates put the opening tag into the prompt, so that only the
    closing one is in the text.
    """
    if not BLOCK.match(text) and (ended := ENDED.match(text)):
        text = text[ended.end() :]
    while block := BLOCK.match(text):
        text = text[block.end() :]
    return text
