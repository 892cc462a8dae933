"""What a receipt records of files, command line, source and environment, and whether they are as
recorded.

Only the standard library is imported, because every program asks this before its heavy imports.
"""

import hashlib
import json
import os
import sys
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from bezoar.errors import UserError
from bezoar.files import differences, same_json, settled, sha256_file, whole_file
from bezoar.readers import read_json_object

LOCKS = Path(__file__).parents[3] / "envs"
AGAIN = "BEZOAR_AGAIN"  # set: a program runs even if nothing has changed
# Variables that change floating-point results without a trace in any file, and the digest of the
# image that the programs run in.
VARIABLES = [
    "BEZOAR_IMAGE",
    "NVIDIA_TF32_OVERRIDE",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",  # set by NVIDIA's containers
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "DNNL_DEFAULT_FPMATH_MODE",  # oneDNN's former prefix, which it still reads
    "ATEN_CPU_CAPABILITY",
    "ONEDNN_MAX_CPU_ISA",
    "DNNL_MAX_CPU_ISA",
    "MKL_ENABLE_INSTRUCTIONS",
    "MKL_CBWR",
]
RUNTIME = ["--concurrency"]  # options about how a stage runs, not about what it computes
BLOCKS = 5000  # row digests per file: for each row, or in a longer file for blocks of rows


class Hashes:
    """sha256 of files, kept in `file` by path, size, both times and inode: the change time cannot
    be set back, so no edit hides.
    """

    def __init__(self, file: Path | None = None) -> None:
        self.file, self.changed = file, False
        self.known: dict[str, list[Any]] = {}
        if file and file.is_file():
            try:
                kept = json.loads(file.read_text(encoding="utf-8"))
                self.known = {path: [*facts, str(sha)] for path, (*facts, sha) in kept.items()}
            except (OSError, ValueError, RecursionError, TypeError, AttributeError):
                # Another user's, or cut short: it only saves time.
                self.known = {}

    def of(self, path: Path | str) -> str | None:
        """Return the hex sha256, or None if there is no such file."""
        try:
            facts = os.stat(path)
            key = [facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino]
            found = self.known.get(str(path))
            if found and found[:4] == key:
                return str(found[4])
            lasting = settled(facts)
            digest = sha256_file(path)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None
        if lasting:
            self.known[str(path)] = [*key, digest]
            self.changed = True
        return digest

    def save(self) -> None:
        """Write the cache, if the file can be written."""
        if not (self.file and self.changed):
            return
        with suppress(OSError), whole_file(self.file) as stream:
            json.dump(self.known, stream)


@cache
def environment() -> dict[str, Any]:
    """Return what this process runs in: sha256 of the locks in use, and the variables that can move
    a number.
    """
    try:
        cpu = metadata.version("torch").endswith("+cpu") or sys.platform == "darwin"
        build = "cpu" if cpu else "cuda"
    except metadata.PackageNotFoundError:
        build = "cpu"
    hashes = Hashes()
    locks = {name: hashes.of(LOCKS / name) for name in ("main.lock", f"torch-{build}.lock")}
    return {"locks": locks, "variables": {name: os.environ.get(name) for name in VARIABLES}}


def files_in(section: dict[str, dict[str, str]]) -> dict[str, str]:
    """Return path -> sha256 of a receipt's inputs or outputs."""
    return {path: digest for files in section.values() for path, digest in files.items()}


def rows_in_a_block(count: int) -> int:
    """Return how many rows of a file of `count` rows share one row digest."""
    return -(-count // BLOCKS) or 1


def row_digests(path: Path | str) -> str:
    """Return 8 hex digits for each row of a file, or for each of at most `BLOCKS` blocks of rows,
    so that an audit can name a row.
    """
    with open(path, "rb") as stream:
        lines = stream.readlines()
    size = rows_in_a_block(len(lines))
    return " ".join(
        hashlib.sha256(b"".join(lines[start : start + size])).hexdigest()[:8]
        for start in range(0, len(lines), size)
    )


def recorded(lock: Path) -> dict[str, Any]:
    """Return what the lock file holds; nothing where there is none."""
    return read_json_object(lock) if lock.is_file() else {}


def pin(entry: dict[str, Any], lock: Path) -> str | None:
    """Return the sha256 of a file's entry or the commit of a hub repository's: its own, or the one
    that the first fetch recorded; None before that.
    """
    published: str | None = entry["sha256" if "path" in entry else "revision"]
    return published or recorded(lock).get(entry["id"])


def repository(command: list[str]) -> dict[str, Any]:
    """Return which repository of the hub a command reads, as the facts of its receipt have it: its
    name, and the commit of its entry or else of the lock; nothing if it reads none.
    """
    if "--entry" not in command[:-1]:
        return {}
    entry = json.loads(command[command.index("--entry") + 1])
    lock = Path(command[command.index("--lock") + 1])
    return {"source": entry["hub"], "revision": pin(entry, lock)}


def arguments(command: list[str]) -> list[str]:
    """Return a command line without program, recipe, code and source (which are compared on their
    own) and without options of the run.
    """
    kept: list[str] = []
    rest = iter(command[1:])
    for word in rest:
        if word in ("--recipe", "--code", "--entry", *RUNTIME):
            next(rest, None)
        else:
            kept.append(word)
    return kept


def nothing_to_do(command: list[str]) -> bool:
    """Whether this same command has already made the present outputs from the same inputs."""
    if os.environ.get(AGAIN) or "--receipt" not in command[:-1]:
        return False
    try:
        held = json.loads(Path(command[command.index("--receipt") + 1]).read_text(encoding="utf-8"))
        hashes = Hashes()
        files = {**files_in(held["inputs"]), **files_in(held["outputs"])}
        recipe = json.loads(command[command.index("--recipe") + 1])
        return (
            held["code"] == command[command.index("--code") + 1]
            and same_json(held["recipe"], recipe)
            and not any(differences(held["environment"], environment()))
            and arguments(held["command"]) == arguments(command)
            and repository(command).items() <= held["facts"].items()
            and all(hashes.of(path) == digest for path, digest in files.items())
        )
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError, IndexError):
        return False  # no receipt, or none that can be trusted: run
    except UserError:
        return False  # of the lock of sources, which the program reads, too


def recorded_command() -> list[str]:
    """Return this process's command line as receipts hold it."""
    return [Path(sys.argv[0]).name, *sys.argv[1:]]
