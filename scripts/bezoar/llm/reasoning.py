"""Reasoning that a model writes before its answer."""

import re

TAGS = "think|thinking|thought|reasoning"
OPENED = re.compile(rf"\s*<({TAGS})>", re.IGNORECASE)
CLOSED = re.compile(rf"</({TAGS})>", re.IGNORECASE)


def split_reasoning(text: str) -> tuple[str, str, bool]:
    """Return (reasoning, answer, whether the reasoning was closed).

    Leading blocks such as <think>…</think> are reasoning; nothing is left of a text whose block was
    not closed. So is what precedes a closing tag without an opening one: some chat templates put
    the opening tag into the prompt.
    """
    reasons: list[str] = []
    place = 0
    while True:
        if opened := OPENED.match(text, place):
            place = opened.end()
            closed = re.compile(rf"</{opened[1]}>", re.IGNORECASE).search(text, place)
            if closed is None:
                reasons.append(text[place:].strip())
                return "\n\n".join(filter(None, reasons)), "", False
        else:
            closed = CLOSED.search(text, place)
            if closed is None or f"<{closed[1]}>".lower() in text[place : closed.start()].lower():
                return "\n\n".join(filter(None, reasons)), text[place:], True
        reasons.append(text[place : closed.start()].strip())
        place = closed.end()
