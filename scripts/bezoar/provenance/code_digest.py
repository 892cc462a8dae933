"""Which source files a program executes and what they do, read from their syntax trees; nothing is
imported or run.
"""

import ast
import hashlib
import json
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from itertools import groupby
from pathlib import Path

from bezoar.files import whole_file

CACHE = Path(".snakemake/bezoar-sources.json")

# What one source says: the dotted names that it imports, anywhere in it, and the sha256 of its
# syntax tree.
Source = tuple[list[str], str]


def tokens(node: ast.AST) -> Iterator[str]:
    """Yield the syntax tree below `node` as text, without positions, comments and docstrings.

    The text is the same from Python 3.11 on. `ast.dump` writes empty fields in some versions and
    leaves them out in others, so they are left out here; versions also cut the literal parts of an
    f-string differently, so neighbours are joined. A statement that is only a string does
    nothing wherever it is, and counts as a docstring.
    """
    yield type(node).__name__
    for name, value in ast.iter_fields(node):
        if value in (None, []) or name == "kind":  # `kind` says whether a text was written as u"…"
            continue
        items = value if isinstance(value, list) else [value]
        if isinstance(node, ast.JoinedStr):
            items = _joined(items)
        yield f"{name}="
        for item in items:
            if isinstance(item, ast.AST):
                yield from () if _is_text(item) else tokens(item)
            else:
                yield f"{type(item).__name__} {item!a}"
    yield "."


def _is_text(node: ast.AST) -> bool:
    """Whether a statement is only a text."""
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def _joined(parts: list[ast.expr]) -> list[ast.expr]:
    """Return the parts of an f-string with neighbouring literals joined and empty ones left out."""
    joined: list[ast.expr] = []
    for literal, group in groupby(parts, lambda part: isinstance(part, ast.Constant)):
        if literal:
            text = "".join(part.value for part in group)  # type: ignore[attr-defined]
            joined += [ast.Constant(text)] if text else []
        else:
            joined += group
    return joined


def syntax_digest(source: bytes | str) -> str:
    """Return the sha256 of a source's syntax tree: of what it does, not of how it is written."""
    return hashlib.sha256("\n".join(tokens(ast.parse(source))).encode()).hexdigest()


def _names(source: bytes) -> set[str]:
    """Return the dotted names that a source imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@cache
def _known() -> dict[str, Source]:
    """Return what `save` kept, by the sha256 of a source, because parsing all sources takes longer
    than hashing them.
    """
    try:
        kept = json.loads(CACHE.read_text(encoding="utf-8"))
        return {key: (names, digest) for key, (names, digest) in kept.items()}
    except (OSError, ValueError, RecursionError, TypeError, AttributeError):
        return {}  # another user's, or cut short: it only saves time


@cache
def _reader() -> bytes:
    """Return this module's own bytes, so that what another version of it kept is not used."""
    return Path(__file__).read_bytes()


def save() -> None:
    """Keep the parsed sources for the next run, if the file can be written."""
    with suppress(OSError), whole_file(CACHE) as stream:
        json.dump(_known(), stream)


def _read(path: Path) -> Source:
    """Return what one source says."""
    content = path.read_bytes()
    key = hashlib.sha256(_reader() + content).hexdigest()
    if key not in _known():
        _known()[key] = (sorted(_names(content)), syntax_digest(content))
    return _known()[key]


def _root(program: Path) -> Path:
    return next(parent for parent in program.parents if parent.name == "scripts")


@cache
def _is_ours(root: Path, name: str) -> bool:
    """Whether a top-level name is a package or module of the project, and not a library."""
    return (root / name).is_dir() or (root / f"{name}.py").is_file()


def _imports(path: Path) -> set[Path]:
    """Return the project's own modules that one file imports, anywhere in it, as paths."""
    root = _root(path)
    names = [name for name in _read(path)[0] if _is_ours(root, name.partition(".")[0])]
    files = {root / f"{name.replace('.', '/')}.py" for name in names}
    files |= {file.parent / "__init__.py" for file in files if file.parent != root}
    return {file for file in files if file.is_file()}


def _sources(program: Path) -> dict[Path, Source]:
    found: dict[Path, Source] = {}
    waiting = {program}
    while waiting:
        path = waiting.pop()
        found[path] = _read(path)
        waiting |= _imports(path) - found.keys()
    return {path: found[path] for path in sorted(found)}


def executed(program: Path) -> list[Path]:
    """Return `program` and every project module it imports, directly or through another, sorted."""
    return list(_sources(program))


def digest(program: Path) -> str:
    """Return the sha256 over the names and syntax trees of what `program` executes. A comment, a
    docstring, the layout of a line and a date are not part of it.
    """
    root, total = _root(program), hashlib.sha256()
    for path, (_, tree) in _sources(program).items():
        total.update(f"{path.relative_to(root).as_posix()} {tree}\n".encode())
    return total.hexdigest()


def libraries(program: Path) -> set[str]:
    """Return the top-level names of everything that `program` and its modules import, anywhere in
    them.
    """
    return {name.split(".")[0] for names, _ in _sources(program).values() for name in names}
