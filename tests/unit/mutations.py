"""Ways to damage an input, and the counts of how damaged inputs ended."""

import json
import os
import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import HealthCheck, Phase, settings

EXAMPLES = int(os.environ.get("BEZOAR_EXAMPLES", "20"))
COUNTS: Counter[tuple[str, str]] = Counter()  # (what was tried, how it ended)


def ended(name: str, how: str) -> None:
    """Count an input of a target."""
    COUNTS[name, how] += 1


def summary() -> list[str]:
    """Return a line for each target and one for all: inputs, and how they ended."""
    names = sorted({name for name, _ in COUNTS})
    lines = [
        f"{sum(n for (name, _), n in COUNTS.items() if name == target):7,}  {target}: "
        + ", ".join(f"{n:,} {how}" for (name, how), n in sorted(COUNTS.items()) if name == target)
        for target in names
    ]
    return [*lines, f"{sum(COUNTS.values()):7,}  inputs of {len(names)} targets"]


def examples(count: int) -> Callable[[Any], Any]:
    """Return hypothesis' settings for so many inputs: the same in every run of CI, others by
    hand.
    """
    return settings(
        max_examples=max(1, count),
        deadline=None,
        derandomize=EXAMPLES <= 50,
        database=None,
        phases=[Phase.generate],  # a smaller seed is no simpler input
        suppress_health_check=list(HealthCheck),
    )


VALUES: list[Any] = [
    *(None, True, False, 0, -1, 11, 8.0, 1.5, 10**20, 10**400, float("nan"), float("inf")),
    *("", " ", "x", "9", "[[8]]", "a\x00b", "\ud800", "\u2028", "e\u0301", "{", "{x}", "😀" * 50),
    *([], {}, [[]], [None], ["a"], ["a", "b", "c"], {"turns": 1}, [{"turns": ["a"]}]),
]
PIECES = [
    *(b"", b"\n", b"\r\n", b"\r", b"\x00", b"\xff", b"\xef\xbb\xbf", b"\t", b" ", b"\x0c"),
    *("\u2028\u0085\u00ad\u200b".encode(), b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b"- "),
    *(b"NaN", b"-Infinity", b"1e999", b"9" * 5000, b"\\ud83d", b"[" * 5000, b"{" * 5000),
    *(b"&a [*a]", b"null", b"~", b"!!int x", b"<<: *a", b"2024-99-99", b".inf"),
    *(b"version https://git-lfs.github.com/spec/v1\n", b"/annex/objects/", b"\x1f\x8b"),
    *(b"? ", b"#", b"<html>", b"%", b"BZh", b"(\xb5/\xfd", b"PK\x03\x04"),
]  # fmt: skip


def places_in(value: Any) -> list[tuple[Any, Any]]:
    """Return (container, key) of each value in a nested one."""
    found = []
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in pairs:
        found.append((value, key))
        if isinstance(inner, dict | list):
            found += places_in(inner)
    return found


def other_value(content: bytes, rng: random.Random, values: Sequence[Any] = tuple(VALUES)) -> bytes:
    """Return JSON lines with one value replaced by one of `values`, removed, renamed or given
    twice.
    """
    lines = content.split(b"\n")
    number = rng.randrange(max(1, len(lines) - 1))
    try:
        row = json.loads(lines[number])
        container, key = rng.choice(places_in(row) if isinstance(row, dict | list) else [])
    except (ValueError, IndexError, RecursionError):
        return other_bytes(content, rng)
    way = rng.randrange(4)
    if way == 0:
        del container[key]
    elif way == 1 and isinstance(container, dict):
        container["x" * rng.randrange(3)] = container.pop(key)
    else:
        container[key] = rng.choice(values)
    lines[number] = json.dumps(row, ensure_ascii=rng.random() < 0.5).encode(
        "utf-8", "surrogatepass"
    )
    if way == 3:
        lines.insert(number, lines[number])
    return b"\n".join(lines)


def other_bytes(content: bytes, rng: random.Random) -> bytes:
    """Return bytes with a piece put in, taken out, repeated or cut off."""
    place, size = rng.randrange(len(content) + 1), rng.choice((1, 1, 2, 8, 64, 512))
    piece = rng.choice(PIECES) if rng.random() < 0.8 else rng.randbytes(size)
    way = rng.randrange(6)
    if way == 0:
        return content[:place]
    if way == 1:
        return content[:place] + content[place + size :]
    if way == 2:
        return content[:place] + content[max(0, place - size) :]
    if way == 3:
        return piece + content
    return content[:place] + piece + content[place + (size if way == 4 else 0) :]


def damaged(
    content: bytes, rng: random.Random, changes: int = 1, values: Sequence[Any] = tuple(VALUES)
) -> bytes:
    """Return JSON lines with so many values or bytes changed."""
    for _ in range(changes):
        if rng.random() < 0.6:
            content = other_value(content, rng, values)
        else:
            content = other_bytes(content, rng)
    return content
