"""Whether a receipt still holds: inputs, outputs, recipe, code, command line and environment, all
by content, never by date.

Only the standard library is imported: the workflow asks at the start of every run, and every
program before its own imports count.
"""

import hashlib
import json
import os
import re
import shlex
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

LOCKS = Path(__file__).parents[3] / "envs"
CACHE = Path(".snakemake/bezoar-hashes.json")
AGAIN = "BEZOAR_AGAIN"  # set: a program runs even if nothing has changed
# Variables that move floating-point results without a trace in any file, and the digest of the
# image the programs run in.
VARIABLES = [
    "BEZOAR_IMAGE",
    "NVIDIA_TF32_OVERRIDE",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "ATEN_CPU_CAPABILITY",
    "MKL_CBWR",
]
RUNTIME = ["--concurrency"]  # options that say how, never what
NEVER = "no receipt: it has not ended yet"
BLOCKS = 5000  # row digests a file: for each row up to so many, else for blocks of rows
# a younger file may change again within one tick of the file system's clock, so its hash is not
# kept
SETTLED_S = 0.1


class Hashes:
    """sha256 of files, kept in `file` by path, size, both times and inode: the change time cannot
    be set back, so no edit hides.
    """

    def __init__(self, file: Path | None = None) -> None:
        self.file, self.changed = file, False
        self.known: dict[str, list[Any]] = {}
        if file and file.is_file():
            try:
                self.known = json.loads(file.read_text(encoding="utf-8"))
            except (OSError, ValueError):  # another user's, or cut short: it only saves time
                self.known = {}

    def of(self, path: Path | str) -> str | None:
        """Return the hex sha256, or None if there is no such file."""
        try:
            facts = os.stat(path)
            key = [facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino]
            found = self.known.get(str(path))
            if found and found[:4] == key:
                return found[4]
            with open(path, "rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None
        if time.time() - facts.st_ctime > SETTLED_S:
            self.known[str(path)] = [*key, digest]
            self.changed = True
        return digest

    def save(self) -> None:
        """Write what was learnt, if the place can be written."""
        if not (self.file and self.changed):
            return
        try:
            self.file.parent.mkdir(exist_ok=True)
            with tempfile.NamedTemporaryFile(
                "w", dir=self.file.parent, delete=False, encoding="utf-8"
            ) as stream:
                json.dump(self.known, stream)
            os.replace(stream.name, self.file)
        except OSError:
            return


@cache
def environment() -> dict[str, Any]:
    """Return what this process runs in: sha256 of the locks in use, and the variables that can move
    a number.
    """
    try:
        build = "cpu" if metadata.version("torch").endswith("+cpu") else "cuda"
    except metadata.PackageNotFoundError:
        build = "cpu"
    hashes = Hashes()
    locks = {name: hashes.of(LOCKS / name) for name in ("main.lock", f"torch-{build}.lock")}
    return {"locks": locks, "variables": {name: os.environ.get(name) for name in VARIABLES}}


def differences(old: Any, new: Any, name: str) -> Iterator[str]:
    """Yield one line for each value that is not the same, with its key: `recipe.lora.r: 16 ->
    8`.
    """
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            yield from differences(old.get(key), new.get(key), f"{name}.{key}")
    elif old != new:
        yield f"{name}: {_short(old)} -> {_short(new)}"


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return (
        f"{text[:12]}…"
        if re.fullmatch(r"[0-9a-f]{64}", text)
        else text
        if len(text) <= 60
        else f"{text[:59]}…"
    )


def files_in(section: dict[str, dict[str, str]]) -> dict[str, str]:
    """Return path -> sha256 of a receipt's inputs or outputs."""
    return {path: digest for files in section.values() for path, digest in files.items()}


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
            yield f"{kind} {path}: {_short(recorded[path])} -> {_short(found)}"


def row_digests(path: Path | str) -> str:
    """Return 8 hex digits for each row of a file, or for each of at most `BLOCKS` blocks of rows,
    so that an audit can name a row.
    """
    with open(path, "rb") as stream:
        lines = stream.readlines()
    size = -(-len(lines) // BLOCKS) or 1
    return " ".join(
        hashlib.sha256(b"".join(lines[start : start + size])).hexdigest()[:8]
        for start in range(0, len(lines), size)
    )


def first_row_changed(recorded: str, path: Path | str) -> str:
    """Return where a file first departs from its row digests: `row 17`, or `rows 201-220` of a long
    file.
    """
    old, new = recorded.split(), row_digests(path).split()
    with open(path, "rb") as stream:
        count = sum(1 for _ in stream)
    size = -(-count // BLOCKS) or 1
    place = next(
        (number for number, pair in enumerate(zip(old, new, strict=False)) if pair[0] != pair[1]),
        min(len(old), len(new)),
    )
    first = place * size + 1
    return f"row {first}" if size == 1 else f"rows {first}-{first + size - 1}"


def arguments(command: list[str]) -> list[str]:
    """Return a command line without program, recipe, code (which are judged by themselves) and
    options of the run.
    """
    kept: list[str] = []
    rest = iter(command[1:])
    for word in rest:
        if word in ("--recipe", "--code", *RUNTIME):
            next(rest, None)
        else:
            kept.append(word)
    return kept


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
    try:
        held = json.loads(receipt.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return [NEVER]
    except ValueError:
        return [f"receipt {receipt}: not JSON"]
    try:
        # Stores only grow, and hold their own hashes: they are audited, but a longer store makes no
        # stage stale.
        made = {
            path: digest
            for path, digest in files_in(held["outputs"]).items()
            if not path.endswith(".sqlite")
        }
        return [
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
    except (KeyError, TypeError, AttributeError) as error:
        return [f"receipt {receipt}: not a receipt ({error!r})"]


def nothing_to_do(command: list[str]) -> bool:
    """Whether this very command line has already turned these very inputs into the outputs that lie
    there.
    """
    if os.environ.get(AGAIN) or "--receipt" not in command[:-1]:
        return False
    try:
        held = json.loads(Path(command[command.index("--receipt") + 1]).read_text(encoding="utf-8"))
        hashes = Hashes()
        files = {**files_in(held["inputs"]), **files_in(held["outputs"])}
        return (
            held["code"] == command[command.index("--code") + 1]
            and held["recipe"] == json.loads(command[command.index("--recipe") + 1])
            and held["environment"] == environment()
            and arguments(held["command"]) == arguments(command)
            and all(hashes.of(path) == digest for path, digest in files.items())
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError):
        return False  # no receipt, or none that can be trusted: run


def recorded_command() -> list[str]:
    """Return this process's command line as receipts hold it."""
    return [Path(sys.argv[0]).name, *sys.argv[1:]]
