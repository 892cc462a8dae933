"""Whether a receipt still holds: inputs, outputs, recipe, code, command line and environment, all
by content, never by date.

No library is imported: the workflow asks at the start of every run.
"""

import json
import os
import re
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path

from bezoar.errors import UserError
from bezoar.files import brief, differences
from bezoar.provenance.fingerprint import (
    Hashes,
    arguments,
    environment,
    files_in,
    repository,
    row_digests,
    rows_in_a_block,
)
from bezoar.readers import read_json_object

CACHE = Path(".snakemake/bezoar-hashes.json")
NEVER = "no receipt: it has not ended yet"


def changed_files(
    kind: str, recorded: dict[str, str], expected: Iterable[str], hashes: Hashes
) -> Iterator[str]:
    """Yield a line for every file that is unlisted, gone or not as recorded."""
    for path in sorted({*recorded, *expected}):
        if path not in recorded:
            yield f"{kind} {path}: not in the receipt"
        elif (found := hashes.of(path)) is None:
            yield f"{kind} {path}: gone"
        elif found != recorded[path]:
            yield f"{kind} {path}: {brief(recorded[path])} -> {brief(found)}"


def first_row_changed(recorded: str, path: Path | str) -> str:
    """Return where a file first departs from its row digests: `row 17`, or `rows 201-220` of a long
    file.
    """
    old, new = recorded.split(), row_digests(path).split()
    with open(path, "rb") as stream:
        count = sum(1 for _ in stream)
    size = rows_in_a_block(count)
    place = next(
        (number for number, pair in enumerate(zip(old, new, strict=False)) if pair[0] != pair[1]),
        min(len(old), len(new)),
    )
    first = place * size + 1
    return f"row {first}" if size == 1 else f"rows {first}-{first + size - 1}"


def command_in(shell: str) -> list[str]:
    """Return the words of the last `python …` or `accelerate …` line of a rule's shell text from
    the program on, `$(dirname …)` evaluated.
    """
    text = re.split(r"^\s*(?:python|accelerate) ", shell, flags=re.MULTILINE)[-1].replace(
        "\\\n", " "
    )
    while match := re.search(r"\$\(dirname ([^()]*)\)", text):
        text = (
            text[: match.start()]
            + shlex.quote(os.path.dirname(shlex.split(match[1])[0]) or ".")
            + text[match.end() :]
        )
    words = shlex.split(text)
    return words[next((number for number, word in enumerate(words) if word.endswith(".py")), 0) :]


def reasons(
    receipt: Path,
    *,
    inputs: list[str],
    outputs: list[str],
    recipe: str,
    code: str,
    command: list[str],
    hashes: Hashes,
) -> list[str]:
    """Return why the stage of `receipt` is stale, a line each; nothing if it is not."""
    if not os.path.lexists(receipt):
        return [NEVER]
    try:
        held = read_json_object(receipt)
    except UserError as error:
        return [f"receipt {error}"]
    try:
        # Stores only grow, and hold their own hashes: they are audited, but a longer store makes no
        # stage stale.
        made = {
            path: digest
            for path, digest in files_in(held["outputs"]).items()
            if not path.endswith(".sqlite")
        }
        source = repository(command)
        return [
            *differences({name: held["facts"].get(name) for name in source}, source),
            *differences(held["recipe"], json.loads(recipe), "recipe"),
            *differences(held["code"], code, "code"),
            *differences(held["environment"], environment(), "environment"),
            *(
                ["command line: not the recorded one"]
                if arguments(held["command"]) != arguments(command)
                else []
            ),
            *changed_files("input", files_in(held["inputs"]), inputs, hashes),
            *changed_files(
                "output", made, [path for path in outputs if path != str(receipt)], hashes
            ),
        ]
    except UserError as error:  # of the lock of sources
        return [str(error)]
    except OSError as error:
        return [f"{error.filename}: cannot be read ({error.strerror})"]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        return [f"receipt {receipt}: not a receipt ({error!r})"]
