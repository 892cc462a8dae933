"""The tagged values of a configuration: where a value is not the paper's, what it is and why, from
the comments beside the values.
"""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from bezoar.readers import read_text

TAGS = ("paper", "code", "inferred", "ours")
TAGGED = re.compile(rf"(?P<before>.*?)\[(?P<tag>{'|'.join(TAGS)})\]\s*(?P<reason>.*)$")
NO_REASON = "no reason given"
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's is ten times as fast
NO_VALUES = ("pathvars", "scale")  # keys that say where results go, and what they are called


def comments(text: str) -> dict[int, tuple[int, str]]:
    """Return line -> (column, comment without its `#`) of YAML text, lines and columns from 0.

    PyYAML drops comments, but its scanner says where each token ends: what remains of a line after
    its last token is white space or a comment. So a `#` in a string is not a comment,
    in quotes or in a block.
    """
    lines = text.splitlines()
    ends = [0] * (len(lines) + 1)
    for token in yaml.scan(text, Loader=LOADER):
        start, end = token.start_mark, token.end_mark
        for line in range(start.line, min(end.line, len(lines))):
            ends[line] = len(lines[line])  # it continues on the next line
        if end.line < len(ends):
            ends[end.line] = max(ends[end.line], end.column)
    found: dict[int, tuple[int, str]] = {}
    for number, row in enumerate(lines):
        column = row.find("#", ends[number])
        if column >= 0:
            found[number] = (column, row[column + 1 :].strip())
    return found


def _entries(
    node: yaml.Node | None, path: tuple[str, ...] = ()
) -> Iterator[tuple[str, yaml.Node, yaml.Node]]:
    """Yield (dotted key, key, value) of every key, an outer one before those inside it."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield ".".join([*path, key.value]), key, value
            yield from _entries(value, (*path, key.value))


def written(text: str) -> dict[int, tuple[str, str]]:
    """Return line -> (dotted key, what is written) for every line that a key begins on: the first
    of its keys, and the text from there to the end of the last value, so without the brackets that
    close an outer one.
    """
    lines = text.splitlines()
    found: dict[int, tuple[str, int, int]] = {}
    for name, key, value in _entries(yaml.compose(text, Loader=LOADER)):
        line = key.start_mark.line
        end = value.end_mark if value.end_mark.line == line else key.end_mark
        first, start, last = found.get(line, (name, key.start_mark.column, 0))
        colon = end is key.end_mark
        found[line] = (first, start, max(last, end.column + colon))
    return {line: (name, lines[line][start:end]) for line, (name, start, end) in found.items()}


def tagged(paths: list[Path]) -> list[dict[str, Any]]:
    """Return file, key, value as written, tag and reason of every tagged line, in the order of the
    keys: moving lines changes nothing. A line on which no key begins belongs to the key before it.
    """
    found = []
    for path in paths:
        text = read_text(path)
        remarks, values, last = comments(text), written(text), ""
        for number, line in enumerate(text.splitlines()):
            last, value = values.get(number, (last, ""))
            column, remark = remarks.get(number, (0, ""))
            value = value or line[:column].strip()
            if value and (match := TAGGED.match(remark)):
                parts = match["before"].strip(), match["reason"].strip()
                found.append(
                    {
                        "file": str(path),
                        "key": last,
                        "value": value,
                        "tag": match["tag"],
                        "reason": " ".join(part for part in parts if part),
                    }
                )
    return sorted(found, key=lambda row: (row["file"], row["key"], row["value"]))


def with_reasons(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows, each without a reason with the next outer key that gives one, or with the
    remark that none is given.
    """
    reasons = {(row["file"], row["key"]): row["reason"] for row in rows}

    def reason(row: dict[str, Any]) -> str:
        for key in outers(row["key"])[1:]:
            if reasons.get((row["file"], key)):
                return f"{NO_REASON}; see `{key}`"
        return NO_REASON

    return [{**row, "reason": row["reason"] or reason(row)} for row in rows]


def leaves(value: Any, key: str = "") -> dict[str, Any]:
    """Return dotted key -> value of everything in a document that is no mapping."""
    if not isinstance(value, dict):
        return {key: value}
    prefix = f"{key}." if key else ""
    return {
        name: leaf
        for inner, part in value.items()
        for name, leaf in leaves(part, f"{prefix}{inner}").items()
    }


def in_a_line(found: dict[str, Any], key: str) -> str:
    """Return leaves at and below a key as YAML, relative to it."""
    value = found.get(key, {k.removeprefix(f"{key}."): v for k, v in found.items()})
    text = yaml.safe_dump(value, default_flow_style=True, width=float("inf"), sort_keys=False)
    return text.removesuffix("...\n").strip()


class Value(NamedTuple):
    """A value in force: what it is, the row (file and key) that says why, if any does, that row's
    tag, and what it replaces of an earlier file.
    """

    value: Any
    row: tuple[str, str] | None
    tag: str | None
    instead: str | None


def in_force(paths: list[Path], rows: list[dict[str, Any]]) -> dict[str, Value]:
    """Return dotted key -> `Value` of what the files give together; `rows` are their tagged ones. A
    later file overrides an earlier one; what it says as that one does is that one's.

    The row of a value is the innermost tagged key around it. What a later file says without a tag
    is ours, too, but for `NO_VALUES`.
    """
    tags = {(row["file"], row["key"]): row["tag"] for row in rows}
    found: dict[str, Value] = {}
    for path in paths:
        later = path != paths[0]
        for key, value in sorted(leaves(yaml.load(read_text(path), Loader=LOADER) or {}).items()):
            old = found.get(key)
            if old and old.value == value:
                continue
            around = ((str(path), outer) for outer in outers(key))
            row = next((name for name in around if name in tags), None)
            if row is None and later and key.partition(".")[0] not in NO_VALUES:
                row = str(path), key
            instead = None
            if old:
                of_old = f" [{tags[old.row]}]" if old.row in tags else ""
                instead = in_a_line({key: old.value}, key) + of_old
            found[key] = Value(value, row, row and tags.get(row, "ours"), instead)
    return found


def ours(paths: list[Path]) -> list[dict[str, Any]]:
    """Return the values that are only ours and in force, in the order of the files. Of each: file
    (by its path where two have the same name), key, value (all of a block's that are in force, in
    one line, without parts that have rows of their own), reason, `instead`, what it replaces of an
    earlier file, each with its tag, and `count`, how many values these are.
    """
    rows = with_reasons(tagged(paths))
    found = in_force(paths, rows)
    parts: dict[tuple[str, str], list[str]] = {}
    for key, one in found.items():
        if one.row and one.tag == "ours":
            parts.setdefault(one.row, []).append(key)
    reasons = {(row["file"], row["key"]): row["reason"] for row in rows}
    order = {str(path): number for number, path in enumerate(paths)}
    names = Counter(path.name for path in set(paths))
    return [
        {
            "file": Path(file).name if names[Path(file).name] == 1 else file,
            "key": key,
            "value": in_a_line({k: found[k].value for k in held}, key),
            "reason": reasons.get((file, key), NO_REASON),
            "instead": "; ".join(
                f"{k[len(key) + 1 :]}: {found[k].instead}".removeprefix(": ")
                for k in held
                if found[k].instead is not None
            ),
            "count": len(held),
        }
        for (file, key), held in sorted(
            parts.items(), key=lambda item: (order[item[0][0]], item[0][1])
        )
    ]


def outers(key: str) -> list[str]:
    """Return a dotted key and all outer ones, the key first."""
    parts = key.split(".")
    return [".".join(parts[:count]) for count in range(len(parts), 0, -1)]
