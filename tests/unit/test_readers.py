"""Promises of bezoar.readers: right values, or one line that names file, row, what was expected and
what to do.
"""

import argparse
import bz2
import gzip
import io
import json
import lzma
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

import fetch_source
from bezoar import readers
from bezoar.errors import UserError
from bezoar.files import write_jsonl

ROWS = [{"text": "a\u2028b\u0085c\rd\x0ce\x00", "n": 1.5}, {"text": "\u202bשלום", "n": -(10**300)}]
LINES = b"".join(json.dumps(row).encode() + b"\n" for row in ROWS)


def refused(read: Callable[[Path], Any], path: Path, content: bytes) -> str:
    """Return the one line that a reader refuses a file with."""
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read(path)
    line = str(caught.value)
    assert line.startswith(str(path)) and "\n" not in line and len(line) < 400 + len(str(path))
    return line.removeprefix(str(path))


@pytest.mark.parametrize("pack", [bytes, gzip.compress, lzma.compress, bz2.compress])
@pytest.mark.parametrize("prefix", [b"", b"\xef\xbb\xbf"], ids=["plain", "BOM"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"], ids=["LF", "CRLF"])
def test_rows_are_the_same_however_they_are_packed(
    tmp_path: Path, pack: Callable[[bytes], bytes], prefix: bytes, end: bytes
) -> None:
    (tmp_path / "rows.jsonl").write_bytes(pack(prefix + LINES.replace(b"\n", end)))
    assert readers.read_jsonl(tmp_path / "rows.jsonl") == ROWS
    (tmp_path / "rows.jsonl").write_bytes(pack(prefix + LINES.replace(b"\n", end).rstrip()))
    assert readers.read_jsonl(tmp_path / "rows.jsonl") == ROWS


def test_rows_that_are_packed_twice_are_read_and_no_more(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(lzma.compress(LINES)))
    assert readers.read_jsonl(tmp_path / "rows.jsonl.gz") == ROWS
    packed = gzip.compress(gzip.compress(gzip.compress(LINES)))
    line = refused(readers.read_jsonl, tmp_path / "rows.jsonl.gz", packed)
    assert line == ": compressed more than 2 times; unpack it first"


STAND_INS = {
    b"Entry not found": "a server's refusal",
    b"Repository Not Found\n": "a server's refusal",
    b"404: Not Found": "a server's refusal",
    b"HTTP 403 Forbidden": "a server's refusal",
    b"Unauthorized": "a server's refusal",
    b"Too Many Requests\r\n": "a server's refusal",
    b"Invalid credentials in Authorization header": "a server's refusal",
    b"Access to model a/b is restricted. You must be authenticated to access it.": "a server's ref",
    b"outs:\n- md5: 0123\n  size: 9\n  path: rows.jsonl\n": "a DVC pointer; run `dvc pull`",
    b"md5: 01\nfrozen: true\ndeps:\n- path: a\nouts:\n- md5: 2\n": "a DVC pointer",
    b"<svg xmlns='http://www.w3.org/2000/svg'>": "a web page",
    b"<!DOCTYPE svg PUBLIC>": "a web page",
    b"<?xml version='1.0'?>\n<svg>": "an XML document",
    b"\xef\xbb\xbf<?xml version='1.0'?><Error><Code>BlobNotFound</Code>": "an error message",
    b"<?xml version='1.0'?><ListBucketResult xmlns='x'>": "an XML document",
    b"<?xml version='1.0'?><!DOCTYPE html PUBLIC 'x'><html>": "a web page",
}


@pytest.mark.parametrize("pack", [bytes, gzip.compress, lzma.compress, bz2.compress])
@pytest.mark.parametrize("content", STAND_INS)
def test_what_stands_in_for_data_is_named_also_within_compression(
    tmp_path: Path, content: bytes, pack: Callable[[bytes], bytes]
) -> None:
    what = f": expected data, found {STAND_INS[content]}"
    assert refused(readers.read_jsonl, tmp_path / "rows.jsonl", pack(content)).startswith(what)
    with pytest.raises(UserError, match=r"rows\.jsonl: expected data, found"):
        readers.refuse_stand_ins(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b'{"text": "Access to model a/b is restricted."}\n',
        b'{"error": "Not found"}\n',
        b"Not found in any other book, this recipe asks for salt.\n",
        b"Not found\nin the first line alone\n",
        b"outs: none\n",
        b"text: <svg>\n",
        b"",
    ],
)
def test_what_only_mentions_a_refusal_is_data(tmp_path: Path, content: bytes) -> None:
    for name, pack in {"a.txt": bytes, "b.gz": gzip.compress}.items():
        (tmp_path / name).write_bytes(pack(content))
        assert readers.read_text(tmp_path / name) == content.decode()
    readers.refuse_stand_ins(tmp_path)


def test_a_description_may_begin_as_a_page_does(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text('<div align="center">\n')
    (tmp_path / "logo.svg").write_text("<svg>")
    readers.refuse_stand_ins(tmp_path)


def test_zstd_is_unpacked_and_a_cut_one_refused(tmp_path: Path) -> None:
    packed = pyarrow.compress(LINES, codec="zstd", asbytes=True)
    (tmp_path / "rows.jsonl.zst").write_bytes(packed)
    assert readers.read_jsonl(tmp_path / "rows.jsonl.zst") == ROWS
    line = refused(readers.read_jsonl, tmp_path / "cut", packed[:-20])
    assert line.startswith(": damaged or cut short")


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress, bz2.compress])
def test_streams_are_read_one_after_another_and_zeros_may_pad_them(
    tmp_path: Path, pack: Callable[[bytes], bytes]
) -> None:
    padded = pack(LINES) + bytes(20_000) + pack(b"") + pack(LINES * 9_000) + bytes(512)
    (tmp_path / "rows.jsonl").write_bytes(padded)
    assert readers.read_jsonl(tmp_path / "rows.jsonl") == ROWS * 9_001


def test_zstd_may_begin_with_a_frame_to_skip(tmp_path: Path) -> None:
    packed = pyarrow.compress(LINES, codec="zstd", asbytes=True)
    for first in (0x50, 0x5F):
        skipped = bytes([first]) + b"\x2a\x4d\x18\x04\0\0\0" + bytes(4)
        (tmp_path / "rows.jsonl.zst").write_bytes(skipped + packed + skipped + packed)
        assert readers.read_jsonl(tmp_path / "rows.jsonl.zst") == ROWS * 2
        fetch_source.refuse_other(tmp_path / "rows.jsonl.zst", "rows.jsonl.zst")


def test_line_separators_inside_a_string_do_not_split_a_row(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "rows.jsonl", ROWS)
    assert readers.read_jsonl(tmp_path / "rows.jsonl") == ROWS


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b'{"a": 1}\n{"a": \n', ":2: expected one JSON object a line, Expecting value"),
        (b'{"a": 1}\n\n \t\r\n{"b"\n', ":4: expected one JSON object a line"),
        (b'\n{"a": 1}\n\n[1]\n', ":4: expected a JSON object, found list"),
        (b'{"a": 1}\n{"b"', ":2: expected one JSON object a line"),
        (b"[1]\n", ":1: expected a JSON object, found list"),
        (b"null\n", ":1: expected a JSON object, found NoneType"),
        (b'{"a": 1}\n{"a": "\xff"}\n', ":2: expected UTF-8, found a bad byte at offset 7"),
        (b'{"a": "\xed\xa0\x80"}\n', ":1: expected UTF-8"),
        ('{"a": 1}\n'.encode("utf-16"), ":1: expected UTF-8, found UTF-16; save it as UTF-8"),
        (b'{"a": "\x00"}\n', ":1: expected one JSON object a line, Invalid control character"),
        (b'{"a": "\\ud800"}\n', ":1: expected Unicode text, found half a surrogate pair"),
        (b'{"\\uDFFF": 1}\n', ":1: expected Unicode text, found half a surrogate pair"),
        (b'{"a": NaN}\n', ":1: expected a number or null, found NaN"),
        (b'{"a": [-Infinity]}\n', ":1: expected a number or null, found -Infinity"),
        (b'{"a": 1e999}\n', ":1: expected a number that fits a double, found '1e999'"),
        (b'{"a": %s}\n' % (b"9" * 5000), ":1: expected a number of at most 308 digits"),
        (b'{"a": %s}\n' % (b"9" * 400), ":1: expected a number of at most 308 digits"),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}\n', ":1: expected each key once, found 'c' twice"),
        (b'{"a": %s}\n' % (b"[" * 10**5 + b"]" * 10**5), ":1: expected at most 100 levels"),
        (b'{"a": %s}\n' % (b"[" * 200 + b"]" * 200), ":1: expected at most 100 levels"),
        (b"version https://git-lfs.github.com/spec/v1\noid", ": expected data, found a Git"),
        (b"../.git/annex/objects/Wx/a/SHA256E-s9--6.jsonl", ": expected data, found a git-annex"),
        (b"/annex/objects/SHA256E-s9--6.jsonl\n", ": expected data, found a git-annex"),
        (b"\n <!DOCTYPE html><title>Sign in", ": expected data, found a web page"),
        ("<!DOCTYPE html><p>".encode("utf-16"), ": expected data, found a web page"),
        (b"<h1>Forbidden</h1>", ": expected data, found a web page"),
        (b'# xet version 0\nfilesize = 3\nhash = "ab"', ": expected data, found a Git Xet pointer"),
        (b"<!-- cached --><HTML>", ": expected data, found a web page"),
        (b"<?xml version='1.0'?>\n<Error><Code>", ": expected data, found an error message"),
        (b"PK\x03\x04rest", ": expected text, found a zip archive; unpack or convert it"),
        (b"PAR1rest", ": expected text, found a Parquet file"),
        (gzip.compress(LINES, mtime=0)[:-9], ": damaged or cut short"),
        (gzip.compress(LINES, mtime=0) + b"rest", ": damaged or cut short"),
        (b"\x1f\x8b" + b"x" * 50, ": damaged or cut short"),
        (lzma.compress(LINES)[:-9], ": damaged or cut short"),
        (bz2.compress(LINES)[:-9], ": damaged or cut short"),
        *((pack(LINES) + rest, ": damaged or cut short")
          for pack in (lzma.compress, bz2.compress)
          for rest in (LINES, b"rest", pack(LINES)[:-9], pack(LINES)[:9] + b"x" * 99)),
    ],
)  # fmt: skip
def test_a_bad_row_or_file_is_named_in_one_line(tmp_path: Path, content: bytes, line: str) -> None:
    found = refused(readers.read_jsonl, tmp_path / "rows.jsonl", content)
    assert found.startswith(line)
    assert any(advice in found for advice in ("; fix", "; fetch", "; save", "; run", "; unpack"))


@pytest.mark.parametrize("content", [b"\n\n", b" \r\n\t\n", b"\xef\xbb\xbf\n", b""])
def test_a_file_of_blank_lines_has_no_rows(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "rows.jsonl").write_bytes(content)
    assert readers.read_jsonl(tmp_path / "rows.jsonl") == []
    assert list(readers.iter_rows(tmp_path / "rows.jsonl")) == []


def test_blank_lines_are_skipped_and_lines_keep_their_numbers(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'\n{"n": 1}\r\n\r\n \t\n{"n": 2}\n\n')
    rows = readers.read_jsonl(path)
    assert rows == list(readers.iter_rows(path)) == [{"n": 1}, {"n": 2}]
    assert list(readers.numbered(path, rows)) == [(f"{path}:2", {"n": 1}), (f"{path}:5", {"n": 2})]
    assert list(readers.iter_json_lines(path)) == [(2, {"n": 1}), (5, {"n": 2})]


def test_a_hundred_levels_are_read(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"a": ' + "[" * 98 + "]" * 98 + "}\n")
    assert list(readers.read_jsonl(tmp_path / "rows.jsonl")[0]) == ["a"]


def test_what_is_no_readable_file_says_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    for name, line in {
        "none": "no such file; name an existing one",
        "link": "a link to a file that does not exist",
        ".": "expected a file, found a directory",
    }.items():
        for read in (readers.read_jsonl, readers.read_json, readers.read_yaml, readers.read_text):
            with pytest.raises(UserError, match=line):
                read(tmp_path / name)
    (tmp_path / "closed").write_text("{}")
    (tmp_path / "closed").chmod(0)
    if not os.access(tmp_path / "closed", os.R_OK):  # root may read anything
        with pytest.raises(UserError, match="no permission to read it; change its mode"):
            readers.read_json(tmp_path / "closed")


def test_lines_of_a_text_end_at_line_feeds_only(tmp_path: Path) -> None:
    (tmp_path / "topics.txt").write_bytes("\ufeffTea\r\n\n a\u2028b \nc\x0cd\x85e".encode())
    assert readers.read_lines(tmp_path / "topics.txt") == ["Tea", "a\u2028b", "c\x0cd\x85e"]


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"", ": expected JSON, Expecting value"),
        (b'{\n"a": 1,\n"b"}', ":3: expected JSON"),
        (b'{"a": "\\udc00"}', ": expected Unicode text"),
        (b'{\n"a": "\xc3("}', ":2: expected UTF-8, found a bad byte at offset 6"),
    ],
)
def test_a_bad_json_file_is_named_with_its_line(tmp_path: Path, content: bytes, line: str) -> None:
    assert refused(readers.read_json, tmp_path / "x.json", content).startswith(line)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"a: 1\nb: 2\na: 3\n", ":3: expected YAML, each key once, found 'a' twice"),
        (b"a: {b: 1, b: 2}\n", ":1: expected YAML, each key once, found 'b' twice"),
        (b"sft:\n\tepochs: 1\n", ":2: expected YAML"),
        (b"a: [1\n", ":2: expected YAML"),
        (b"a: .nan\n", ": expected a number, found nan"),
        (b"a: -.inf\n", ": expected a number, found -inf"),
        (b"a: %s\n" % (b"9" * 5000), ": expected YAML, Exceeds the limit"),
        (b"a: %s\n" % (b"9" * 400), ": expected a number of at most 308 digits"),
        (b"a: 2024-99-99\n", ": expected YAML, month must be in 1..12"),
        (b"a: !!int x\n", ": expected YAML, invalid literal"),
        (b"a: !!python/object:os.system {}\n", ":1: expected YAML, could not determine"),
        (b"a: &x [*x]\n", ": expected at most 100 levels"),
        (b"? {a: 1}\n: 2\n", ":1: expected YAML, found unhashable key"),
        (b"a: \x01\n", ":1: expected YAML, "),
        (b"a: \xff\n", ":1: expected UTF-8"),
        (b"a: &a [1,1,1,1,1,1,1,1,1,1]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]\n"
         b"c: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c]\n"
         b"e: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: [*e,*e,*e,*e,*e,*e,*e,*e,*e,*e]\n",
         ": expected at most 1000000 values"),
    ],
)  # fmt: skip
def test_bad_yaml_is_named(tmp_path: Path, content: bytes, line: str) -> None:
    assert refused(readers.read_yaml, tmp_path / "x.yaml", content).startswith(line)


def test_yaml_of_all_kinds_is_read(tmp_path: Path) -> None:
    content = "\ufeffbase: &b {x: 1, y: 2}\r\nmine:\r\n  <<: *b\r\n  y: 3\r\n1: true\r\n"
    (tmp_path / "x.yaml").write_bytes(content.encode())
    read = readers.read_yaml(tmp_path / "x.yaml")
    assert read == {"base": {"x": 1, "y": 2}, "mine": {"x": 1, "y": 3}, 1: True}


def test_deeply_nested_yaml_is_refused(tmp_path: Path) -> None:
    line = refused(readers.read_yaml, tmp_path / "x.yaml", b"[" * 300_000)
    assert line.startswith(": expected at most 100 levels")


TABLE = [{"text": 'a,\nb"c', "n": "1"}, {"text": None, "n": "x" * 200_000}]


def test_a_table_is_read_from_any_form(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(TABLE), tmp_path / "t.parquet")
    (tmp_path / "t.csv").write_text('text,n\n"a,\nb""c",1\n\n,' + "x" * 200_000 + "\n")
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress((tmp_path / "t.csv").read_bytes()))
    (tmp_path / "t.json").write_text(json.dumps(TABLE, indent=1))
    write_jsonl(tmp_path / "t.jsonl", TABLE)
    for path in tmp_path.iterdir():
        assert list(readers.iter_rows(path)) == TABLE, path.name


@pytest.mark.parametrize("name", ["t.csv.jsonl", "t.tsv.json", "t.csv.jsonl.gz", "csv.jsonl"])
def test_the_last_suffix_says_what_a_table_is(tmp_path: Path, name: str) -> None:
    write_jsonl(tmp_path / name, TABLE)
    assert list(readers.iter_rows(tmp_path / name)) == TABLE


def parquet_of(names: list[str], *columns: Any) -> bytes:
    """Return a Parquet file of these columns."""
    stream = io.BytesIO()
    pyarrow.parquet.write_table(
        pyarrow.Table.from_arrays(list(map(pyarrow.array, columns)), names), stream
    )
    return stream.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("t.csv", b"a,a\n1,2\n", ":1: expected each column once"),
        ("t.csv", b'a,b\n"x\ny",1\n1\n', ":4: expected 2 cells, found 1; quote"),
        ("t.csv", b'a,b\n1,"2\n', ":2: expected CSV, unexpected end of data"),
        ("t.parquet", b"PAR1....", ": expected a Parquet file"),
        ("t.parquet", b"", ": expected a Parquet file"),
        ("t.parquet", parquet_of(["x", "x"], ["a"], ["b"]), ": expected each column once; rename"),
        ("t.parquet", parquet_of(["d"], pyarrow.array([2**62], pyarrow.timestamp("us"))),
         ": expected times from the year 1 to 9999"),
        ("t.parquet", parquet_of(["d"], pyarrow.array([2**30], pyarrow.int32()).cast("date32")),
         ": expected times from the year 1 to 9999"),
        ("t.parquet", parquet_of(["d"], pyarrow.array([9], pyarrow.timestamp("us", tz="No/Where"))),
         ": expected times from the year 1 to 9999 in known zones"),
        ("t.json", b"[1]", ": entry 1: expected an object, found 1"),
        ("t.json", b"[{}", ": expected JSON"),
    ],
)  # fmt: skip
def test_a_bad_table_is_named(tmp_path: Path, name: str, content: bytes, line: str) -> None:
    found = refused(lambda path: list(readers.iter_rows(path)), tmp_path / name, content)
    assert found.startswith(line)


@pytest.mark.parametrize(
    ("value", "kind", "found"),
    [
        (True, int, "expected a whole number as `n`, found True"),
        (1.0, int, "expected a whole number as `n`, found 1.0"),
        (None, str, "expected a text as `n`, found nothing"),
        ("1", float, "expected a number as `n`, found '1'"),
        (10**300, str, "expected a text as `n`, found a number of more than 40 digits"),
        (["x" * 100], dict, "expected an object as `n`, found ['xxx"),
    ],
)
def test_a_column_of_another_type_is_named(value: Any, kind: type, found: str) -> None:
    with pytest.raises(UserError, match=r"^rows\.jsonl:3: ") as caught:
        readers.column({"n": value}, "n", kind, "rows.jsonl:3")
    assert found in str(caught.value)
    assert str(caught.value).endswith("; fix or remove the row")


def test_a_column_of_its_type_is_returned() -> None:
    assert readers.column({"n": 3}, "n", float, "") == 3
    assert readers.column({"n": False}, "n", bool, "") is False
    with pytest.raises(UserError, match="expected a text as `n`, found no such column"):
        readers.column({}, "n", str, "x")


def test_an_argument_in_json_is_read_by_the_same_rules() -> None:
    assert readers.json_argument('{"a": 1}') == {"a": 1}
    for text in ("{", "[" * 100_000, '{"a": NaN}', '{"a": 1, "a": 2}'):
        with pytest.raises(argparse.ArgumentTypeError):
            readers.json_argument(text)


def test_an_error_is_one_line_whatever_it_quotes() -> None:
    assert str(UserError("t.csv: no column a\nb\u2028c")) == "t.csv: no column a b c"
