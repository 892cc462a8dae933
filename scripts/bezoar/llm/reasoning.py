"""Reasoning that a model writes before its answer."""

import re

TAGS = "think|thinking|thought|reasoning|seed:think"
OPENED = re.compile(rf"[\s\ufeff]*(?P<tag><(?:{TAGS})\s*>|◁think▷|(?-i:\[THINK\]))", re.IGNORECASE)
CLOSED = re.compile(rf"</(?:{TAGS})\s*>|◁/think▷|(?-i:\[/THINK\])", re.IGNORECASE)


def split_reasoning(text: str) -> tuple[str, str, bool]:
    """Return (reasoning, answer, whether the reasoning was closed).

    Leading blocks such as <think>…</think>, Magistral's [THINK]…[/THINK] and Kimi's
    ◁think▷…◁/think▷ are reasoning; nothing is left of a text whose block was not closed. So is what
    precedes a closing tag without an opening one: some chat templates put the opening tag into the
    prompt. A closing tag in backticks is spoken of, and ends nothing.
    """
    reasons: list[str] = []
    place = 0
    while True:
        if opened := OPENED.match(text, place):
            place = opened.end()
            closed = _closing(opened["tag"]).search(text, place)
            if closed is None:
                reasons.append(text[place:].strip())
                return "\n\n".join(filter(None, reasons)), "", False
        else:
            closed = CLOSED.search(text, place)
            if closed is None or _is_spoken_of(text, place, closed):
                return "\n\n".join(filter(None, reasons)), text[place:], True
        reasons.append(text[place : closed.start()].strip())
        place = closed.end()


def _closing(tag: str) -> re.Pattern[str]:
    """Return the pattern of the closing tag of an opening one."""
    name = re.escape(tag[1:-1].strip())
    return re.compile(rf"{re.escape(tag[0])}/{name}\s*{re.escape(tag[-1])}", re.IGNORECASE)


def _is_spoken_of(text: str, start: int, closed: re.Match[str]) -> bool:
    """Whether a closing tag belongs to the answer: its opening one precedes it there, or it stands
    in backticks.
    """
    opening = closed[0].replace("/", "", 1).lower()
    quoted = text.endswith("`", 0, closed.start()) and text.startswith("`", closed.end())
    return quoted or opening in text[start : closed.start()].lower()
