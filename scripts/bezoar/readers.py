"""Readers for everything that comes from outside: text, JSON, JSONL, YAML, CSV and Parquet.

A fault of the input is a `UserError` of one line that names the file, the row where there is one,
what was expected, what was found, and what to do. All readers share these rules:

- Text is UTF-8, with or without a byte order mark. Lines end at LF or CRLF and nowhere else:
  U+2028, U+0085 and form feeds are characters of a row. Blank lines between rows are skipped, and
  messages name the line of the file.
- A file that is compressed with gzip, xz, bzip2 or zstd is unpacked, whatever it is called, also
  twice.
- A file that stands in for data (a Git LFS, git-annex or DVC pointer, a web page, a refusal) is
  named as such, also within compression.
- JSON and YAML hold finite numbers that fit a double, each key once per mapping, and at most
  `MAX_DEPTH` levels.
"""

import argparse
import bz2
import csv
import gzip
import io
import json
import lzma
import math
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from http import HTTPStatus
from itertools import count
from pathlib import Path
from typing import IO, Any, NoReturn, cast

from bezoar.errors import UserError, shortage

BOM = b"\xef\xbb\xbf"
HEAD = 512  # bytes that tell what a file is
MAX_PACKED = 2  # times that a file may be compressed; some files unpack to themselves for ever
MAX_DEPTH = 100  # levels of lists and mappings; writing recurses, so the limit is not Python's own
TOO_DEEP = f"at most {MAX_DEPTH} levels of lists and mappings, found more"
MAX_DIGITS = 308  # of a whole number; one with more does not fit a double
MAX_VALUES = 1_000_000  # of a YAML file, aliases followed
PARQUET = b"PAR1"
ZSTD = (  # a frame, or one to skip, with which pzstd begins
    b"\x28\xb5\x2f\xfd",
    *(bytes([first]) + b"\x2a\x4d\x18" for first in range(0x50, 0x60)),
)
OTHER_FORMATS = {
    b"PK\x03\x04": "a zip archive",
    PARQUET: "a Parquet file",
    b"%PDF-": "a PDF",
    b"SQLite format 3\0": "an SQLite database",
}
UTF_16 = (b"\xff\xfe", b"\xfe\xff")
PAGE = tuple(
    b"<" + tag
    for tag in b"!doctype,html,head,body,title,meta,script,noscript,h1,div,form,center,svg".split(
        b","
    )
)
MARKUP = (".html", ".htm", ".xml", ".svg", ".md")  # files that may themselves be pages
DVC = re.compile(rb"(?:(?:md5|frozen|wdir|desc): .*\n)*(?:deps|outs):\n\s*- ")
# One line that a server says in place of a file: HTTP's own phrases, and those of hubs.
REFUSAL = re.compile(
    r"(?:http[/ ]?[\d.]* )?(?:[45]\d\d:? ?)?"
    rf"(?:{'|'.join(re.escape(s.phrase) for s in HTTPStatus if s >= 400)}"
    r"|(?:\w+ )?not found|access denied|invalid (?:username|credentials|token)\b.*"
    r"|access to .+ (?:restricted|denied|gated)\b.*)[.!]?",
    re.IGNORECASE,
)


# --- files -----------------------------------------------------------------------------------


def stand_in(head: bytes) -> str | None:
    """Return what the first bytes show to be in place of the data, with a remedy; None if they
    could be the data.
    """
    start = _unpacked(head).removeprefix(BOM).lstrip()
    if start.startswith(UTF_16):
        start = start.decode("utf-16", "ignore").encode("utf-8", "ignore").lstrip()
    if start.startswith(b"version https://git-lfs.github.com/spec/"):
        return "a Git LFS pointer; run `git lfs pull` where it came from"
    if start.startswith(b"# xet version "):
        return "a Git Xet pointer; fetch the file itself"
    if start.split(b"\n", 1)[0].find(b"/annex/objects/") >= 0 and len(start) < HEAD:
        return "a git-annex pointer; run `git annex get` where it came from"
    if DVC.match(start):
        return "a DVC pointer; run `dvc pull` where it came from"
    if len(start) < HEAD and REFUSAL.fullmatch(start.decode("utf-8", "replace").strip()):
        return "a server's refusal; fetch the file again, with a token if it needs one"
    while start.startswith(b"<!--") and b"-->" in start:
        start = start.split(b"-->", 1)[1].lstrip()
    if start.startswith(b"<?xml"):
        start = start.partition(b"?>")[2].lstrip()
        if start.startswith(b"<Error"):
            return "an error message of a file store; fetch the file again"
        if not start.lower().startswith((b"<!doctype", b"<html")):
            return "an XML document; fetch the file itself"
    if start[:16].lower().startswith(PAGE):
        return "a web page, perhaps one to sign in at; fetch the file itself"
    return None


def _unpacked(head: bytes) -> bytes:
    """Return what the first bytes of a compressed file begin with, as far as they tell."""
    for magic, make in DECOMPRESSORS.items():
        if head.startswith(magic):
            try:
                return make().decompress(head, HEAD)
            except (OSError, EOFError, lzma.LZMAError, zlib.error):
                return head
    return head


def refuse_stand_in(path: Path) -> None:
    """Raise `UserError` if a file holds something else in place of data."""
    try:
        with open(path, "rb") as stream:
            what = stand_in(stream.read(HEAD))
    except OSError as error:
        raise _unreadable(path, error) from None
    if what:
        raise UserError(f"{path}: expected data, found {what}")


def refuse_stand_ins(folder: Path) -> None:
    """Raise `UserError` naming the first file below `folder` that holds something else in place of
    data, or a dangling link; a folder's own pages (`MARKUP`) may be pages.
    """
    for path in sorted(folder.rglob("*")):
        if not path.is_dir() and path.suffix not in MARKUP:
            refuse_stand_in(path)


class Streams(io.RawIOBase):
    """The bytes of the compressed streams that a file consists of; zeros may pad them.

    The modules' own files take anything else after a stream, also a damaged one, for the end.
    """

    def __init__(self, raw: IO[bytes], make: Callable[[], Any]) -> None:
        self.raw, self.make, self.packed, self.stream = raw, make, b"", make()

    def readable(self) -> bool:
        """Return that it can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` with unpacked bytes and return how many, 0 at the end; raise `EOFError`, or
        the module's error, where a stream is cut short or damaged.
        """
        while True:
            if self.stream.eof or self.stream.needs_input:
                self.packed = self.packed or self.raw.read(io.DEFAULT_BUFFER_SIZE)
                if not self.packed and self.stream.eof:
                    return 0
                if not self.packed:
                    raise EOFError("the end of a stream is missing")
            if self.stream.eof:
                self.packed = self.packed.lstrip(b"\0")
                if self.packed:
                    self.stream = self.make()
                continue
            unpacked = self.stream.decompress(self.packed, len(buffer))
            self.packed = self.stream.unused_data
            if unpacked:
                buffer[: len(unpacked)] = unpacked
                return len(unpacked)


def _streams(make: Callable[[], Any]) -> Callable[[IO[bytes]], IO[bytes]]:
    return lambda raw: cast(IO[bytes], io.BufferedReader(Streams(raw, make)))


def _zstd(raw: IO[bytes]) -> IO[bytes]:
    import pyarrow  # imported here: it takes a fifth of a second, and zstd is rare

    return cast(IO[bytes], io.BufferedReader(pyarrow.CompressedInputStream(raw, "zstd")))


def _gzip(raw: IO[bytes]) -> IO[bytes]:
    return cast(IO[bytes], gzip.GzipFile(fileobj=raw, mode="rb"))


UNPACK: dict[bytes, Callable[[IO[bytes]], Any]] = {
    b"\x1f\x8b": _gzip,
    b"\xfd7zXZ\x00": _streams(lzma.LZMADecompressor),
    b"BZh": _streams(bz2.BZ2Decompressor),
    **dict.fromkeys(ZSTD, _zstd),
}
DECOMPRESSORS: dict[bytes, Callable[[], Any]] = {  # of bytes that need not be whole
    b"\x1f\x8b": lambda: zlib.decompressobj(wbits=31),
    b"\xfd7zXZ\x00": lzma.LZMADecompressor,
    b"BZh": bz2.BZ2Decompressor,
}


def _unreadable(path: Path, error: Exception) -> UserError:
    if isinstance(error, FileNotFoundError) and path.is_symlink():
        return UserError(
            f"{path}: a link to a file that does not exist; restore the file or fix the link"
        )
    if isinstance(error, FileNotFoundError):
        return UserError(
            f"{path}: no such file; name an existing one, or run the command that writes it"
        )
    if isinstance(error, IsADirectoryError):
        return UserError(f"{path}: expected a file, found a directory; name the file in it")
    if isinstance(error, PermissionError):
        return UserError(f"{path}: no permission to read it; change its mode or owner")
    what = str(getattr(error, "strerror", None) or error)
    return UserError(f"{path}: damaged or cut short ({what}); fetch it or write it again")


def _unpacker(head: bytes, path: Path) -> Callable[[IO[bytes]], Any] | None:
    """Return what unpacks a stream with these first bytes, None if nothing has to; raise
    `UserError` if they are neither data nor compressed data.
    """
    if what := stand_in(head):
        raise UserError(f"{path}: expected data, found {what}")
    for magic, what in OTHER_FORMATS.items():
        if head.startswith(magic):
            raise UserError(f"{path}: expected text, found {what}; unpack or convert it")
    return next((make for magic, make in UNPACK.items() if head.startswith(magic)), None)


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """Open a file, unpacked; a fault on opening or reading it is a `UserError`."""
    try:
        with ExitStack() as stack:
            stream = stack.enter_context(open(path, "rb"))
            times = 0
            while unpack := _unpacker(stream.peek(HEAD)[:HEAD], path):
                times += 1
                if times > MAX_PACKED:
                    raise UserError(
                        f"{path}: compressed more than {MAX_PACKED} times; unpack it first"
                    )
                stream = stack.enter_context(unpack(stream))
            yield stream
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        if shortage(error):
            raise
        raise _unreadable(path, error) from None


def _text(raw: bytes, where: str) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        if raw.startswith(UTF_16):
            raise UserError(f"{where}: expected UTF-8, found UTF-16; save it as UTF-8") from None
        found = f"a bad byte at offset {error.start}"
        raise UserError(f"{where}: expected UTF-8, found {found}; fix or remove it") from None


def read_text(path: Path) -> str:
    """Return a file's text, line ends as they are, without a byte order mark."""
    with _opened(path) as stream:
        raw = stream.read().removeprefix(BOM)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        number = raw.count(b"\n", 0, error.start) + 1
        line = raw.split(b"\n")[number - 1]
        return _text(line, f"{path}:{number}")  # raises, with the offset in the line


def iter_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield (number from 1, bytes without their line end) of each line."""
    with _opened(path) as stream:
        for number, line in enumerate(stream, start=1):
            if number == 1:
                line = line.removeprefix(BOM)
            yield number, line.removesuffix(b"\n").removesuffix(b"\r")


def filled_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the same of the lines that are not blank."""
    return ((number, raw) for number, raw in iter_lines(path) if raw.strip())


def numbered_lines(path: Path) -> list[tuple[int, str]]:
    """Return (line number, text, stripped) of the lines of a text that are not blank."""
    lines = ((number, _text(raw, f"{path}:{number}").strip()) for number, raw in iter_lines(path))
    return [(number, line) for number, line in lines if line]


def read_lines(path: Path) -> list[str]:
    """Return the lines of a text that are not blank, stripped."""
    return [line for _, line in numbered_lines(path)]


# --- JSON ------------------------------------------------------------------------------------


class _Refused(ValueError):
    """Valid JSON or YAML that cannot be used; the message continues "expected"."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping: dict[str, Any] = {}
    for name, value in pairs:
        if name in mapping:
            raise _Refused(f"each key once, found {shown(name)} twice")
        mapping[name] = value
    return mapping


def _whole(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise _Refused(f"a number of at most {MAX_DIGITS} digits, found one of {len(text)}")
    return int(text)


def _real(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _Refused(f"a number that fits a double, found {shown(text)}")
    return value


def _no_constant(name: str) -> NoReturn:
    raise _Refused(f"a number or null, found {name}")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique, parse_int=_whole, parse_float=_real, parse_constant=_no_constant
)
LENIENT_DECODER = json.JSONDecoder(  # for output of models: raw line ends in strings are allowed
    object_pairs_hook=_unique,
    parse_int=_whole,
    parse_float=_real,
    parse_constant=_no_constant,
    strict=False,
)
_RESPONSES = json.JSONDecoder(parse_int=_whole, parse_float=_real, parse_constant=lambda _: None)


def _values(value: Any) -> Iterator[tuple[Any, int]]:
    """Yield each value in a nested one with its level, from 1; endless if the value contains
    itself.
    """
    todo: list[tuple[Any, int]] = [(value, 1)]
    while todo:
        value, depth = todo.pop()
        yield value, depth
        if isinstance(value, dict):
            todo += [(inner, depth + 1) for pair in value.items() for inner in pair]
        elif isinstance(value, list | tuple | set):
            todo += [(inner, depth + 1) for inner in value]


def _require_shallow(value: Any) -> None:
    if any(depth > MAX_DEPTH + 1 for _, depth in _values(value)):
        raise _Refused(TOO_DEEP)


def parse_json(raw: bytes | str, where: str, what: str = "JSON") -> Any:
    """Return the value of a JSON text; raise `UserError` that begins with `where`. Half a surrogate
    pair, which JSON can hold and UTF-8 cannot, is passed on.
    """
    text = _text(raw, where) if isinstance(raw, bytes) else raw
    try:
        value = _DECODER.decode(text)
        if text.count("[") + text.count("{") > MAX_DEPTH:
            _require_shallow(value)
        return value
    except json.JSONDecodeError as error:
        place = f":{error.lineno}" if "\n" in text else ""
        raise UserError(f"{where}{place}: expected {what}, {error.msg}; fix the file") from None
    except RecursionError:
        raise UserError(f"{where}: expected {TOO_DEEP}; fix or remove it") from None
    except _Refused as error:
        raise UserError(f"{where}: expected {error}; fix or remove it") from None


def parse_response(text: str) -> Any:
    """Return the value of JSON that a server sent; raise `ValueError` if it cannot be read.

    An answer that was paid for is not lost for what nobody reads: of a key that appears twice the
    last counts, and NaN and Infinity, which some servers write for a log-probability, are None; a
    byte order mark is passed over. Numbers are finite and nesting has a limit here as well.
    """
    try:
        value = _RESPONSES.decode(text.removeprefix("\ufeff"))
        if text.count("[") + text.count("{") > MAX_DEPTH:
            _require_shallow(value)
        return value
    except RecursionError:
        raise ValueError(f"more than {MAX_DEPTH} levels of lists and mappings") from None


def _require_unicode(raw: bytes | str, value: Any, where: str) -> None:
    """Raise `UserError` if a parsed value holds half a surrogate pair, which cannot be written."""
    escape = b"\\ud" if isinstance(raw, bytes) else "\\ud"
    if escape not in raw.lower():  # type: ignore[operator]
        return
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        problem = "expected Unicode text, found half a surrogate pair"
        raise UserError(f"{where}: {problem}; fix or remove the row") from None


def json_argument(text: str) -> Any:
    """Return the value of a command-line argument in JSON, for argparse's `type`."""
    try:
        return parse_json(text, "JSON")
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def read_json(path: Path) -> Any:
    """Return the value of a JSON file."""
    text = read_text(path)
    value = parse_json(text, str(path))
    _require_unicode(text, value, str(path))
    return value


def read_json_object(path: Path, *names: str) -> dict[str, Any]:
    """Return the object of a JSON file, which has all of `names`."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a JSON object, found {shown(value)}; write it again")
    if missing := [name for name in names if name not in value]:
        raise UserError(f"{path}: expected the keys {', '.join(names)}, {missing[0]} is missing")
    return value


def iter_json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield (line number, value) of a file with one JSON value a line; blank lines are skipped."""
    for number, raw in filled_lines(path):
        yield number, parse_json(raw, f"{path}:{number}", "one JSON object a line")


def iter_jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number, row) of a file with one JSON object a line; each is Unicode and can be
    written. Blank lines are skipped.
    """
    for number, raw in filled_lines(path):
        where = f"{path}:{number}"
        row = parse_json(raw, where, "one JSON object a line")
        if not isinstance(row, dict):
            found = type(row).__name__
            raise UserError(f"{where}: expected a JSON object, found {found}; fix or remove it")
        _require_unicode(raw, row, where)
        yield number, row


class Rows(list[dict[str, Any]]):
    """The rows of a JSONL file, with the number of the line that each is on."""

    def __init__(self, found: Iterable[tuple[int, dict[str, Any]]]) -> None:
        super().__init__()
        self.lines: list[int] = []
        for number, row in found:
            self.lines.append(number)
            self.append(row)


def read_jsonl(path: Path) -> Rows:
    """Return the rows of a file with one JSON object a line; blank lines are skipped."""
    return Rows(iter_jsonl(path))


# --- YAML ------------------------------------------------------------------------------------


def _loader(base: Any) -> Any:
    """Return a safe loader that refuses a key that appears twice."""
    import yaml

    class Loader(base):  # type: ignore[misc]
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            seen: set[tuple[str, str]] = set()
            for key, _ in getattr(node, "value", ()):
                if not isinstance(key, yaml.ScalarNode) or key.tag.endswith(":merge"):
                    continue
                if (key.tag, key.value) in seen:
                    problem = f"each key once, found {shown(key.value)} twice"
                    raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
                seen.add((key.tag, key.value))
            return super().construct_mapping(node, deep)

    return Loader


def _loaded(text: str, loader: Any) -> Any:
    """Return the value of YAML text. The depth of its nesting is checked first: the parser in C
    recurses without a limit while it builds values, until the process dies.
    """
    import yaml

    depth = 0
    for event in yaml.parse(text, Loader=loader):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise _Refused(TOO_DEEP)
    return yaml.load(text, Loader=loader)


def _require_plain(value: Any) -> None:
    """Raise `_Refused` unless a value of YAML could be written as JSON and read back."""
    for number, (inner, depth) in enumerate(_values(value)):
        if depth > MAX_DEPTH + 1:
            raise _Refused(TOO_DEEP)
        if number > MAX_VALUES:
            raise _Refused(f"at most {MAX_VALUES} values, found more (aliases count each time)")
        if isinstance(inner, float) and not math.isfinite(inner):
            raise _Refused(f"a number, found {inner}")
        if isinstance(inner, int) and abs(inner) >= 10**MAX_DIGITS:
            raise _Refused(f"a number of at most {MAX_DIGITS} digits, found a longer one")
        if isinstance(inner, str):
            try:
                inner.encode()
            except UnicodeEncodeError:
                raise _Refused("Unicode text, found half a surrogate pair") from None


def parse_yaml(text: str, where: str) -> Any:
    """Return the value of a YAML text; raise `UserError` that begins with `where`."""
    import yaml

    try:
        try:  # the parser in C is ten times as fast; the one in Python explains errors better
            value = _loaded(text, _loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)))
        except yaml.YAMLError:
            value = _loaded(text, _loader(yaml.SafeLoader))
        _require_plain(value)
        return value
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else text.count("\n", 0, getattr(error, "position", 0)) + 1
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
        raise UserError(f"{where}:{line}: expected YAML, {' '.join(problem.split())}") from None
    except RecursionError:
        raise UserError(f"{where}: expected {TOO_DEEP}; fix it") from None
    except (ValueError, OverflowError) as error:  # !!int x, 2024-99-99, a number of 5,000 digits
        what = str(error) if isinstance(error, _Refused) else f"YAML, {error}"
        raise UserError(f"{where}: expected {what}; fix it") from None


def read_yaml(path: Path) -> Any:
    """Return the value of a YAML file."""
    return parse_yaml(read_text(path), str(path))


def read_yaml_entries(path: Path, key: str) -> list[dict[str, Any]]:
    """Return the list of mappings under one key of a YAML file."""
    value = read_yaml(path)
    entries = value.get(key) if isinstance(value, dict) else None
    if not isinstance(entries, list):
        raise UserError(f"{path}: expected a list under `{key}`, found {shown(entries)}; add one")
    for number, entry in enumerate(entries, start=1):
        if not isinstance(entry, dict):
            raise UserError(
                f"{path}: `{key}`, entry {number}: expected a mapping, found {shown(entry)}"
            )
    return entries


# --- tables ----------------------------------------------------------------------------------

TABLES = (".parquet", ".json", ".jsonl", ".csv", ".tsv")


def iter_csv(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield (number of the line that it begins on, cells) of each row of a CSV file, or of a TSV
    file, in which quotation marks are text; blank lines are skipped.
    """
    csv.field_size_limit(1 << 30)  # the module's default is 128 kB a cell
    text = io.StringIO(read_text(path), newline="")
    if table_suffix(path) == ".tsv":
        reader = csv.reader(text, delimiter="\t", quoting=csv.QUOTE_NONE, strict=True)
    else:
        reader = csv.reader(text, strict=True)
    number = 1
    try:
        for cells in reader:
            if cells:
                yield number, cells
            number = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{path}:{number}: expected CSV, {error}; quote the cell") from None


def _csv_rows(path: Path) -> Iterator[dict[str, Any]]:
    header: list[str] = []
    for number, cells in iter_csv(path):
        if not header:
            header = cells
            if len(set(header)) < len(header):
                raise UserError(f"{path}:{number}: expected each column once; rename one")
        elif len(cells) != len(header):
            advice = (
                "remove tabs" if table_suffix(path) == ".tsv" else "quote a cell that holds a comma"
            )
            raise UserError(
                f"{path}:{number}: expected {len(header)} cells, found {len(cells)}; {advice}"
            )
        else:
            yield {name: cell or None for name, cell in zip(header, cells, strict=True)}


def _parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if len(set(names)) < len(names):
                raise UserError(f"{path}: expected each column once; rename one")
            for batch in file.iter_batches(batch_size=1000):
                yield from batch.to_pylist()
    except (OverflowError, KeyError) as error:  # KeyError: of an unknown time zone
        raise UserError(
            f"{path}: expected times from the year 1 to 9999 in known zones ({error}); write the"
            " column as text"
        ) from None
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: expected a Parquet file ({reason}); fetch it again") from None


def table_suffix(path: Path) -> str:
    """Return which of `TABLES` a file's name promises, before the suffix of a compression, if there
    is one; an empty text if it promises none.
    """
    return next((suffix for suffix in path.suffixes[:-3:-1] if suffix in TABLES), "")


def iter_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a table as mappings: Parquet, CSV or TSV (an empty cell is None), JSONL, or
    a JSON list of objects.
    """
    if path.suffix == ".parquet":
        return _parquet_rows(path)
    if table_suffix(path) in (".csv", ".tsv"):
        return _csv_rows(path)
    first = next((line for _, raw in iter_lines(path) if (line := raw.strip())), b"")
    if first.startswith(b"["):
        return _json_rows(path)
    return (row for _, row in iter_jsonl(path))


def _json_rows(path: Path) -> Iterator[dict[str, Any]]:
    for number, row in enumerate(read_json(path), start=1):
        if not isinstance(row, dict):
            raise UserError(f"{path}: entry {number}: expected an object, found {shown(row)}")
        yield row


# --- rows ------------------------------------------------------------------------------------

NAMES = {
    bool: "true or false",
    str: "a text",
    int: "a whole number",
    float: "a number",
    list: "a list",
    dict: "an object",
}


def shown(value: Any) -> str:
    """Return a value as messages show it, in at most 40 characters."""
    if isinstance(value, int) and abs(value) >= 10**40:
        return "a number of more than 40 digits"  # not to be written out beyond 4,300
    text = "nothing" if value is None else ascii(value)
    return text if len(text) <= 40 else f"{text[:37]}…"


def column(row: dict[str, Any], name: str, kind: type, where: str) -> Any:
    """Return a column of a row; raise `UserError` unless it is of the type `kind`.

    A whole number counts as a number; true and false count as neither.
    """
    value = row.get(name)
    fits = isinstance(value, int | float if kind is float else kind)
    if not fits or (isinstance(value, bool) and kind is not bool):
        found = shown(value) if name in row else "no such column"
        what = f"expected {NAMES[kind]} as `{name}`, found {found}"
        raise UserError(f"{where}: {what}; fix or remove the row")
    return value


def texts(value: Any, name: str, where: str, count: int | None = None) -> list[str]:
    """Return `value`, which must be a list of texts, `count` of them if that is given."""
    fits = isinstance(value, list) and all(isinstance(text, str) for text in value)
    if not fits or (count is not None and len(value) != count):
        what = f"expected {'' if count is None else f'{count} '}texts as `{name}`"
        raise UserError(f"{where}: {what}, found {shown(value)}; fix or remove the row")
    return cast(list[str], value)


def numbered(path: Path, rows: Iterable[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (file:line, row) for messages about rows of a JSONL file, all that it holds."""
    lines = rows.lines if isinstance(rows, Rows) else count(1)
    for number, row in zip(lines, rows, strict=False):
        yield f"{path}:{number}", row
