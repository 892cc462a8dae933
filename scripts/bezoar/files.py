"""Files that appear whole or not at all, and their hashes; bezoar.readers reads them."""

import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import IO, Any

from bezoar.errors import UserError

BEGAN = time.time()
PARTIAL = ".partial"  # of a file or directory that is being written, the end of its name
# Of a file that cannot be locked, as on network file systems that are mounted without locks: the
# system's numbers for it, and what to do.
UNLOCKABLE = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
NO_LOCKS = (
    "its file system has no locks (Lustre: mount it with flock); work in a directory on another one"
)


def same_json(one: Any, other: Any) -> bool:
    """Whether two values are the same as JSON: by ==, 1 and true would be one."""
    return canonical(one) == canonical(other)


_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def canonical(value: Any) -> str:
    """Return `value` as JSON with sorted keys and no spaces: equal values give equal text."""
    return _CANONICAL.encode(value)


def differences(old: Any, new: Any, name: str = "") -> Iterator[str]:
    """Yield one line for each value that is not the same, with its key: `recipe.lora.r: 16 ->
    8`.
    """
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            yield from differences(old.get(key), new.get(key), f"{name}.{key}" if name else key)
    elif not same_json(old, new):
        yield f"{name or 'contents'}: {brief(old)} -> {brief(new)}"


def brief(value: Any) -> str:
    """Return a value for a message: the first 12 digits of a sha256, 60 characters of any other."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if re.fullmatch(r"[0-9a-f]{64}", text):
        return f"{text[:12]}…"
    return text if len(text) <= 60 else f"{text[:59]}…"


def sha256_text(text: str) -> str:
    """Return the hex sha256 of `text` in UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()


_DIGESTS: dict[tuple[int, ...], str] = {}  # of this process: device, inode, size, times -> sha256
# A younger file may change again within one tick of the file system's clock, so its hash is not
# kept. Some file systems have times in whole seconds.
SETTLED_S = 2.0


def settled(facts: os.stat_result) -> bool:
    """Tell whether a hash of what a file holds now can be kept: a change would not look alike."""
    return time.time() - facts.st_ctime > SETTLED_S


def sha256_file(path: Path | str) -> str:
    """Return the hex sha256 of a file's bytes, read in blocks.

    A stage asks several times for a model of gigabytes. What this process has hashed is not read
    again while the file's size, times and inode are the same: the change time cannot be set back.
    """
    with open(path, "rb") as stream:
        facts = os.fstat(stream.fileno())
        times = (facts.st_mtime_ns, facts.st_ctime_ns)
        key = (facts.st_dev, facts.st_ino, facts.st_size, *times)
        if key in _DIGESTS:
            return _DIGESTS[key]
        lasting = settled(facts)
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if lasting:
        _DIGESTS[key] = digest
    return digest


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _open_mode() -> int:
    """The mode a plain `open` would give: 0o666 less the umask (mkstemp gives 0o600)."""
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def _make_parents(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise UserError(
            f"{path.parent}: expected a directory, found a file or a link that leads nowhere;"
            " remove it or name another"
        ) from None


@cache
def _partial_at_first(folder: str) -> list[str]:
    """Return what attempts to write something had left in a directory when this process first wrote
    there: a stage may write thousands of files into one.
    """
    return [name for name in os.listdir(folder) if name.endswith(PARTIAL)]


def _partial(path: Path, names: Iterable[str]) -> list[Path]:
    """Return which of the names beside `path` are of attempts to write it."""
    # Not .NAME.1.x.partial, which is of another name.
    name = re.compile(rf"\.{re.escape(path.name)}\.[^.]+{re.escape(PARTIAL)}")
    return [path.with_name(left) for left in names if name.fullmatch(left)]


@contextmanager
def whole_file(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a file that replaces `path` only if the block succeeds (write beside it, fsync,
    rename); what a run left of one that was killed before this process began is removed.
    """
    _make_parents(path)
    for left in _partial(path, _partial_at_first(os.path.abspath(path.parent))):
        with suppress(OSError):  # another process may write it now, or have removed it
            if left.stat().st_mtime < BEGAN:
                left.unlink()
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=PARTIAL, dir=path.parent)
    try:
        encoding, newline = (None, None) if "b" in mode else ("utf-8", "\n")
        with open(descriptor, mode, encoding=encoding, newline=newline) as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(name, _open_mode())
        os.replace(name, path)
        _sync_directory(path.parent)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


@contextmanager
def whole_directory(path: Path) -> Iterator[Path]:
    """Yield an empty directory that replaces `path` only if the block succeeds; what a run left of
    one that was killed before this process began is removed. Of a link, the directory that it leads
    to is replaced.
    """
    path = Path(os.path.realpath(path))
    _make_parents(path)
    for left in _partial(path, os.listdir(path.parent)):
        with suppress(OSError):
            if left.stat().st_mtime < BEGAN:
                shutil.rmtree(left, ignore_errors=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=PARTIAL, dir=path.parent))
    try:
        yield fresh
        for inner in [fresh, *fresh.rglob("*")]:
            # safetensors writes 0o600, which nobody else could read
            inner.chmod(_open_mode() | 0o111 if inner.is_dir() else _open_mode())
            if inner.is_file():
                with open(inner, "rb") as stream:
                    os.fsync(stream.fileno())
        before = fresh.with_name(f"{fresh.name.removesuffix(PARTIAL)}-before{PARTIAL}")
        if path.exists():
            os.replace(path, before)  # a kill from here on leaves none or the whole of one
        os.replace(fresh, path)
        _sync_directory(path.parent)
        shutil.rmtree(before, ignore_errors=True)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all; NaN is refused with a ValueError."""
    with whole_file(path) as stream:
        json.dump(value, stream, indent=2, ensure_ascii=False, allow_nan=False)
        stream.write("\n")


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write one JSON object a line, whole or not at all; NaN is refused with a ValueError."""
    with whole_file(path) as stream:
        for row in rows:
            stream.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
