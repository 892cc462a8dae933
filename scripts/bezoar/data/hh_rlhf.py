"""Dialogues of HH-RLHF, and the (prompt, chosen, rejected) row that a pair of them becomes."""

import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from bezoar.readers import iter_json_lines

RULES = ("not_a_pair", "odd_speakers", "empty_turn", "no_shared_prefix", "equal_answers")

SPEAKER = re.compile(r"(?:^|\r?\n\r?\n)(Human|Assistant):")


def rows_of(paths: list[Path], first: int) -> Iterator[tuple[Path, int, Any]]:
    """Yield (file, line number, row) of the first `first` rows over all files; a malformed line is
    an error that names it.
    """
    rows = ((path, number, row) for path in paths for number, row in iter_json_lines(path))
    yield from islice(rows, first)


def turns(dialogue: str) -> list[tuple[str, str]]:
    """Return [(speaker, text)] of a dialogue in HH-RLHF's form, texts stripped; what stands before
    the first speaker is a turn of nobody, "".
    """
    first, *parts = SPEAKER.split(dialogue)
    said = zip(["", *parts[::2]], [first, *parts[1::2]], strict=True)
    return [(speaker, text.strip()) for speaker, text in said if speaker or text.strip()]


def instruction(earlier: list[tuple[str, str]]) -> str:
    """Return earlier turns as one instruction text."""
    return (
        earlier[0][1]
        if len(earlier) == 1
        else "\n\n".join(f"{speaker}: {text}" for speaker, text in earlier)
    )


def convert(row: Any) -> dict[str, str] | str:
    """Return {prompt, chosen, rejected}, or the id of the rule that drops the row."""
    if not (
        isinstance(row, dict)
        and isinstance(row.get("chosen"), str)
        and isinstance(row.get("rejected"), str)
    ):
        return "not_a_pair"
    try:
        (row["chosen"] + row["rejected"]).encode()
    except UnicodeEncodeError:  # half a surrogate pair is valid JSON, but not a text
        return "not_a_pair"
    chosen, rejected = turns(row["chosen"]), turns(row["rejected"])
    for dialogue in (chosen, rejected):
        wanted = ["Human", "Assistant"] * (len(dialogue) // 2)
        if not dialogue or [speaker for speaker, _ in dialogue] != wanted:
            return "odd_speakers"
    if any(not text for _, text in chosen + rejected):
        return "empty_turn"
    if chosen[:-1] != rejected[:-1]:
        return "no_shared_prefix"
    if chosen[-1] == rejected[-1]:
        return "equal_answers"
    return {
        "prompt": instruction(chosen[:-1]),
        "chosen": chosen[-1][1],
        "rejected": rejected[-1][1],
    }
