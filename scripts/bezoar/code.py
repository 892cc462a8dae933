"""Which source files a program executes, found by reading its imports; nothing is imported or run."""

import ast
import hashlib
from functools import cache
from pathlib import Path


@cache
def _imports(path: Path) -> frozenset[Path]:
    """The project's own modules that one file imports, anywhere in it, as paths."""
    root = next(parent for parent in path.parents if parent.name == "scripts")
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
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
    """Return the sha256 over the names and bytes of what `program` executes: content, never mtime."""
    total = hashlib.sha256()
    for path in executed(program):
        total.update(f"{path}\0".encode() + path.read_bytes() + b"\0")
    return total.hexdigest()


def libraries(program: Path) -> set[str]:
    """Return the top-level names of everything that `program` and its modules import, anywhere in them."""
    names: set[str] = set()
    for path in executed(program):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module.split(".")[0])
    return names
