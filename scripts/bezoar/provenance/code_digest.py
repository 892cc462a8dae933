"""Which source files a program executes, found by reading its imports; nothing is imported or
run.
"""

import ast
import hashlib
import json
import os
from functools import cache
from pathlib import Path

CACHE = Path(".snakemake/bezoar-imports.json")


@cache
def _known() -> dict[str, list[str]]:
    """sha256 of a source -> the names it imports, from the last run; parsing all sources takes
    longer than hashing them.
    """
    try:
        return dict(json.loads(CACHE.read_text(encoding="utf-8")))
    except (OSError, ValueError):  # another user's, or cut short: it only saves time
        return {}


def save() -> None:
    """Keep the names found, for the next run, if the place can be written."""
    try:
        CACHE.parent.mkdir(exist_ok=True)
        fresh = CACHE.with_suffix(f".{os.getpid()}")
        fresh.write_text(json.dumps(_known()), encoding="utf-8")
        os.replace(fresh, CACHE)
    except OSError:
        return


@cache
def _names(path: Path) -> frozenset[str]:
    """The dotted names that one file imports, anywhere in it."""
    content = path.read_bytes()
    key = hashlib.sha256(content).hexdigest()
    if key not in _known():
        names: set[str] = set()
        for node in ast.walk(ast.parse(content)):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        _known()[key] = sorted(names)
    return frozenset(_known()[key])


@cache
def _imports(path: Path) -> frozenset[Path]:
    """The project's own modules that one file imports, anywhere in it, as paths."""
    root = next(parent for parent in path.parents if parent.name == "scripts")
    names = _names(path)
    files = {root / f"{name.replace('.', '/')}.py" for name in names}
    files |= {file.parent / "__init__.py" for file in files if file.parent != root}
    return frozenset(file for file in files if file.is_file())


def executed(program: Path) -> list[Path]:
    """Return `program` and every project module it imports, directly or through another, sorted."""
    found, waiting = set(), {program}
    while waiting:
        path = waiting.pop()
        found.add(path)
        waiting |= _imports(path) - found
    return sorted(found)


def digest(program: Path) -> str:
    """Return the sha256 over the names and bytes of what `program` executes: content, never
    mtime.
    """
    total = hashlib.sha256()
    for path in executed(program):
        total.update(f"{path}\0".encode() + path.read_bytes() + b"\0")
    return total.hexdigest()


def libraries(program: Path) -> set[str]:
    """Return the top-level names of everything that `program` and its modules import, anywhere in
    them.
    """
    return {name.split(".")[0] for path in executed(program) for name in _names(path)}
