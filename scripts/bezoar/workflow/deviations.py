"""The tagged values of a configuration: where a value is not the paper's, what it is and why, from
the comments beside the values.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

TAGS = ("paper", "code", "inferred", "ours")
TAGGED = re.compile(rf"#(?P<before>.*?)\[(?P<tag>{'|'.join(TAGS)})\]\s*(?P<reason>.*)$")


def _keys(node: yaml.Node, path: tuple[str, ...] = ()) -> Iterator[tuple[int, str]]:
    """Yield (line, dotted key) of every key, an outer one before those inside it."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield key.start_mark.line, ".".join([*path, key.value])
            yield from _keys(value, (*path, key.value))


def tagged(paths: list[Path]) -> list[dict[str, Any]]:
    """Return file, key, value as written, tag and reason of every tagged line, in the order of the
    keys: moving lines changes nothing.
    """
    found = []
    for path in paths:
        text = path.read_text(encoding="utf-8")
        first: dict[int, str] = {}
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        for line, key in _keys(root) if root else []:
            first.setdefault(line, key)
        last = ""
        for number, row in enumerate(text.splitlines()):
            last = first.get(number, last)
            if (match := TAGGED.search(row)) and (value := row[: match.start()].strip()):
                reason = " ".join([match["before"].strip(), match["reason"].strip()]).strip()
                found.append(
                    {
                        "file": path.name,
                        "key": last,
                        "value": value,
                        "tag": match["tag"],
                        "reason": reason,
                    }
                )
    return sorted(found, key=lambda row: (row["file"], row["key"], row["value"]))


def ours(paths: list[Path]) -> list[dict[str, Any]]:
    """Return the values that are nobody's but ours."""
    return [
        {**row, "reason": row["reason"] or "no counterpart"}
        for row in tagged(paths)
        if row["tag"] == "ours"
    ]
