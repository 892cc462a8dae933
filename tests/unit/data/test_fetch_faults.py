"""Downloads that go wrong: what is not the file is never recorded, and nothing of it stays."""

import errno
import gzip
import hashlib
import http.server
import json
import os
import shutil
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.client import HTTPResponse
from pathlib import Path

import pytest

import fetch_source
from bezoar.errors import UserError
from bezoar.files import sha256_file, write_json
from bezoar.readers import read_json

BODY = b'{"text": "one row of many"}\n' * 2000
PAGE = b"<!DOCTYPE html><html><title>Sign in</title>" + b"<p>x</p>" * 100
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:66\nsize 146946961\n"


@dataclass
class Script:
    """What the server answers, request after request; the last answer is repeated."""

    answers: list[Callable[["Handler"], None]]
    asked: list[dict[str, str | None]] = field(default_factory=list)


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers from a script."""

    protocol_version = "HTTP/1.1"
    script: Script

    def do_GET(self) -> None:
        names = ("Range", "If-Range")
        self.script.asked.append({"path": self.path, **{n: self.headers.get(n) for n in names}})
        place = min(len(self.script.asked), len(self.script.answers)) - 1
        self.script.answers[place](self)

    def send(
        self, body: bytes, status: int = 200, length: int | None = None, **headers: str
    ) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


def whole(handler: Handler) -> None:
    handler.send(BODY)


def ranged(handler: Handler) -> None:
    start = int((handler.headers.get("Range") or "bytes=0-")[6:-1])
    if start >= len(BODY):
        handler.send(b"", 416, Content_Range=f"bytes */{len(BODY)}")
    else:
        place = f"bytes {start}-{len(BODY) - 1}/{len(BODY)}"
        handler.send(BODY[start:], 206 if start else 200, Content_Range=place, ETag='"v1"')


def cut(handler: Handler) -> None:
    handler.send(BODY[:1000], length=len(BODY), ETag='"v1"')


def cut_without_version(handler: Handler) -> None:
    handler.send(BODY[:1000], length=len(BODY))


def cut_chunk(handler: Handler) -> None:
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    handler.wfile.write(b"%x\r\n" % 1000 + BODY[:1000] + b"\r\n%x\r\n" % 1000 + BODY[1000:1003])
    handler.close_connection = True


def to_page(handler: Handler) -> None:
    if handler.path == "/login":
        handler.send(PAGE)
    else:
        handler.send(b"", 302, Location="/login")


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., tuple[str, Script]]]:
    monkeypatch.delenv("BEZOAR_MIRROR", raising=False)
    monkeypatch.setattr(fetch_source.time, "sleep", lambda _: None)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        threading.Thread(target=listening.serve_forever, args=(0.01,), daemon=True).start()

        def start(*answers: Callable[[Handler], None]) -> tuple[str, Script]:
            Handler.script = Script(list(answers))
            return f"http://127.0.0.1:{listening.server_port}/file", Handler.script

        yield start
        listening.shutdown()


def fetch(
    folder: Path, url: str, content: bytes | None = None, name: str = "some/data.jsonl"
) -> Path:
    """Fetch to a path, with the published hash of `content`, or with none."""
    sha256 = None if content is None else hashlib.sha256(content).hexdigest()
    entry = {"id": "some_file", "url": url, "path": name, "sha256": sha256}
    output = folder / "data" / name
    lock = folder / "sources.lock"
    fetch_source.main(["--entry", json.dumps(entry), "--output", str(output), "--lock", str(lock)])
    return output


def nothing_is_left(folder: Path) -> bool:
    return not [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".guard"]


@pytest.mark.parametrize("size", [1, 62, 4095, 8191, 8192, 8193, 52_000, 1_048_676])
def test_a_file_of_any_size_takes_one_request(
    tmp_path: Path, serve: Callable[..., tuple[str, Script]], size: int
) -> None:
    url, script = serve(lambda handler: handler.send(b"x" * size))
    assert fetch(tmp_path, url, name="a.txt").stat().st_size == size
    assert len(script.asked) == 1


@pytest.mark.parametrize("first", [cut, cut_without_version, cut_chunk])
@pytest.mark.parametrize("then", [whole, ranged])
@pytest.mark.parametrize("content", [BODY, None], ids=["published", "unpublished"])
def test_a_cut_download_is_retried_and_comes_whole(
    tmp_path: Path,
    serve: Callable[..., tuple[str, Script]],
    first: Callable[[Handler], None],
    then: Callable[[Handler], None],
    content: bytes | None,
) -> None:
    url, script = serve(first, first, then)
    assert fetch(tmp_path, url, content).read_bytes() == BODY
    if content is None and first is not cut:  # nothing says that the rest is of the same version
        assert script.asked[-1]["Range"] is None
    if first is cut:
        assert script.asked[-1]["Range"] and script.asked[-1]["If-Range"] == '"v1"'
    assert [path.name for path in (tmp_path / "data").rglob("*.*")] == ["data.jsonl"]


def test_what_an_earlier_run_left_is_not_trusted_without_a_hash(
    tmp_path: Path, serve: Callable[..., tuple[str, Script]]
) -> None:
    url, script = serve(ranged)
    (tmp_path / "data/some").mkdir(parents=True)
    (tmp_path / "data/some/.data.jsonl.part").write_bytes(b"of another version")
    assert fetch(tmp_path, url).read_bytes() == BODY
    assert script.asked == [{"path": "/file", "Range": None, "If-Range": None}]


@pytest.mark.parametrize("left", [BODY, BODY + b"more"])
def test_a_part_as_long_as_the_file_or_longer_is_checked(
    tmp_path: Path, serve: Callable[..., tuple[str, Script]], left: bytes
) -> None:
    url, _ = serve(ranged)
    (tmp_path / "data/some").mkdir(parents=True)
    (tmp_path / "data/some/.data.jsonl.part").write_bytes(left)
    assert fetch(tmp_path, url, BODY).read_bytes() == BODY


@pytest.mark.parametrize("total", ["bytes */0", "x", "bytes */" + "9" * 5000])
def test_no_part_where_none_was_asked_for_is_asked_for_again(
    tmp_path: Path, serve: Callable[..., tuple[str, Script]], total: str
) -> None:
    url, script = serve(lambda handler: handler.send(b"", 416, Content_Range=total), whole)
    assert fetch(tmp_path, url, BODY).read_bytes() == BODY
    assert len(script.asked) == 2


def test_another_part_than_was_asked_for_is_not_taken(
    tmp_path: Path, serve: Callable[..., tuple[str, Script]]
) -> None:
    def wrong(handler: Handler) -> None:
        handler.send(BODY[5:], 206, Content_Range=f"bytes 5-{len(BODY) - 1}/{len(BODY)}")

    url, _ = serve(cut, wrong, ranged)
    assert fetch(tmp_path, url, BODY).read_bytes() == BODY


@pytest.mark.parametrize(
    ("answer", "name", "found"),
    [
        (lambda handler: handler.send(PAGE), "a.jsonl", "a web page"),
        (lambda handler: handler.send(PAGE.upper()), "a.tsv", "a web page"),
        (lambda handler: handler.send(b"\n <!-- x --><html>"), "a.jsonl", "a web page"),
        (to_page, "a.jsonl.gz", "a web page"),
        (lambda handler: handler.send(POINTER), "a.jsonl", "a Git LFS pointer; run `git lfs pull`"),
        (lambda handler: handler.send(b"/annex/objects/MD5--5"), "a.tsv", "a git-annex pointer"),
        (lambda handler: handler.send(b"<?xml?><Error>x"), "a.json", "an error message"),
        (lambda handler: handler.send(b'{"error": "no"}'), "a.json", "an error message: 'no'"),
        (lambda handler: handler.send(BODY), "a.jsonl.gz", "another format than .gz"),
        (lambda handler: handler.send(b"PAR2"), "a.parquet", "another format than .parquet"),
        (lambda handler: handler.send(b""), "a.jsonl", "nothing"),
    ],
)
def test_what_is_not_the_file_is_refused_by_its_first_bytes(
    tmp_path: Path,
    serve: Callable[..., tuple[str, Script]],
    answer: Callable[[Handler], None],
    name: str,
    found: str,
) -> None:
    url, _ = serve(answer)
    with pytest.raises(UserError, match=f"^{name}: expected data, found ") as caught:
        fetch(tmp_path, url, name=name)
    assert found in str(caught.value)
    assert nothing_is_left(tmp_path)


def test_a_file_that_holds_the_word_error_is_a_file(
    tmp_path: Path, serve: Callable[..., tuple[str, Script]]
) -> None:
    row = b'{"instruction": "What is an error?", "error": false}\n'
    url, _ = serve(lambda handler: handler.send(row))
    assert fetch(tmp_path, url).read_bytes() == row


def test_a_body_that_stays_short_is_no_file(
    tmp_path: Path, serve: Callable[..., tuple[str, Script]]
) -> None:
    url, script = serve(cut_without_version)
    with pytest.raises(UserError, match="connection closed early after 5 attempts"):
        fetch(tmp_path, url)
    assert len(script.asked) == 5
    assert not (tmp_path / "sources.lock").exists()
    assert not (tmp_path / "data/some/data.jsonl").exists()


BROKEN = [
    ssl.SSLError(1, "[SSL: DECRYPTION_FAILED_OR_BAD_RECORD_MAC] bad record mac"),
    *(OSError(number, os.strerror(number)) for number in fetch_source.UNREACHABLE),
    ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
    TimeoutError("timed out"),
]


@pytest.mark.parametrize("error", BROKEN, ids=str)
def test_a_connection_that_breaks_within_the_file_is_retried_and_ends_in_one_line(
    tmp_path: Path,
    serve: Callable[..., tuple[str, Script]],
    monkeypatch: pytest.MonkeyPatch,
    error: OSError,
) -> None:
    url, script = serve(whole)
    read, breaks = HTTPResponse.read1, [True]

    def breaking(response: HTTPResponse, size: int) -> bytes:
        if breaks.pop(0):
            raise error
        breaks.append(False)
        return read(response, size)

    monkeypatch.setattr(HTTPResponse, "read1", breaking)
    breaks.append(False)
    assert fetch(tmp_path, url, BODY).read_bytes() == BODY
    assert len(script.asked) == 2
    breaks[:] = [True] * 5
    with pytest.raises(UserError) as caught:
        fetch(tmp_path / "again", url, BODY)
    assert f"{url}: {error} after 5 attempts; check the network" in str(caught.value)
    assert not (tmp_path / "again/data/some/data.jsonl").exists()


def test_a_disk_that_fails_during_a_download_is_not_the_networks_fault(
    tmp_path: Path, serve: Callable[..., tuple[str, Script]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, script = serve(whole)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(fetch_source.progress, "advance", full)
    with pytest.raises(OSError, match="No space left"):
        fetch(tmp_path, url, BODY)
    assert len(script.asked) == 1


def test_a_compressed_answer_is_not_taken_for_the_file(
    tmp_path: Path, serve: Callable[..., tuple[str, Script]]
) -> None:
    url, _ = serve(lambda handler: handler.send(gzip.compress(BODY), Content_Encoding="gzip"))
    with pytest.raises(UserError, match="compressed form that was not asked for"):
        fetch(tmp_path, url)
    assert nothing_is_left(tmp_path)


@pytest.mark.parametrize("url", ["not a url", "http://", "http://127.0.0.1:x/", "gopher://a/b"])
def test_what_is_no_address_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.delenv("BEZOAR_MIRROR", raising=False)
    monkeypatch.setattr(fetch_source.time, "sleep", lambda _: None)
    with pytest.raises(UserError, match=r"expected a URL|after 5 attempts"):
        fetch(tmp_path, url)
    assert nothing_is_left(tmp_path)


def test_a_mirror_of_pointers_or_dead_links_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = tmp_path / "mirror"
    (mirror / "some").mkdir(parents=True)
    monkeypatch.setenv("BEZOAR_MIRROR", str(mirror))
    (mirror / "some/data.jsonl").write_bytes(POINTER)
    with pytest.raises(UserError, match="found a Git LFS pointer"):
        fetch(tmp_path / "at", "http://127.0.0.1:1/x")
    (mirror / "some/data.jsonl").unlink()
    (mirror / "some/data.jsonl").symlink_to("../.git/annex/objects/xx/SHA256E-s5--a")
    with pytest.raises(UserError, match=r"data\.jsonl: a link to a file that does not exist"):
        fetch(tmp_path / "at", "http://127.0.0.1:1/x")
    assert nothing_is_left(tmp_path / "at")


def snapshot(folder: Path, revision: str) -> Path:
    """Fetch a hub repository from the mirror."""
    entry = {"id": "some_model", "hub": "owner/model", "type": "model", "revision": revision}
    output = folder / "data/hub/some_model/manifest.json"
    fetch_source.main(
        [
            *("--entry", json.dumps(entry), "--output", str(output)),
            *("--lock", str(folder / "sources.lock")),
        ]
    )
    return output


def test_a_snapshot_of_pointers_is_refused_and_nothing_of_an_old_one_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "mirror/hub/some_model"
    copy.mkdir(parents=True)
    monkeypatch.setenv("BEZOAR_MIRROR", str(tmp_path / "mirror"))
    (copy / "config.json").write_text("{}")
    (copy / "old.bin").write_bytes(b"x")
    write_json(copy / "manifest.json", {"revision": "a"})
    snapshot(tmp_path, "a")
    (copy / "old.bin").unlink()
    write_json(copy / "manifest.json", {"revision": "b"})
    with pytest.raises(UserError, match="expected revision a, found b"):
        snapshot(tmp_path, "a")
    assert set(read_json(snapshot(tmp_path, "b"))["files"]) == {"config.json"}
    (copy / "model.safetensors").write_bytes(POINTER)
    with pytest.raises(UserError, match=r"model\.safetensors: expected data, found a Git LFS"):
        snapshot(tmp_path, "b")
    (copy / "model.safetensors").unlink()
    write_json(copy / "manifest.json", {"revision": "b", "files": ["config.json"]})
    with pytest.raises(UserError, match=r"manifest.json: expected an object as `files`, found"):
        snapshot(tmp_path, "b")
    (copy / "manifest.json").write_text('{"revision": "b", ')
    with pytest.raises(UserError, match=r"manifest.json: expected JSON"):
        snapshot(tmp_path, "b")


def test_a_copy_in_the_mirror_that_is_not_what_its_manifest_lists_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "mirror/hub/some_model"
    (copy / "data").mkdir(parents=True)
    monkeypatch.setenv("BEZOAR_MIRROR", str(tmp_path / "mirror"))
    (copy / "data/rows.jsonl").write_bytes(BODY)
    files = {"data/rows.jsonl": hashlib.sha256(BODY).hexdigest()}
    write_json(copy / "manifest.json", {"revision": "a", "files": files})
    manifest = snapshot(tmp_path, "a")
    before = manifest.read_bytes()
    assert read_json(manifest)["files"] == files
    damages: list[tuple[str, Callable[[Path], object]]] = [
        ("data/more.jsonl", lambda path: path.write_bytes(BODY)),
        ("data/rows.jsonl", lambda path: path.write_bytes(BODY[:-1])),
        ("data/rows.jsonl", Path.unlink),
    ]
    for name, damage in damages:
        damage(copy / name)
        with pytest.raises(UserError, match=rf"{name}: not as .*manifest\.json lists it; bring"):
            snapshot(tmp_path, "a")
        (copy / "data/more.jsonl").unlink(missing_ok=True)
        assert manifest.read_bytes() == before
        assert (manifest.parent / "data/rows.jsonl").read_bytes() == BODY


@pytest.mark.parametrize("content", [["b"], {"name": "an app"}, {"revision": "7", "icons": []}])
def test_a_repositorys_own_manifest_is_not_taken_for_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: object
) -> None:
    copy = tmp_path / "mirror/hub/some_model"
    copy.mkdir(parents=True)
    monkeypatch.setenv("BEZOAR_MIRROR", str(tmp_path / "mirror"))
    (copy / "config.json").write_text("{}")
    write_json(copy / "manifest.json", content)
    kept = sha256_file(copy / "manifest.json")
    for _ in range(2):
        manifest = snapshot(tmp_path, "a")
        files = read_json(manifest)["files"]
        assert sorted(files) == ["config.json", "manifest.original.json"]
        assert files["manifest.original.json"] == kept
        assert read_json(manifest.with_name("manifest.original.json")) == content
    shutil.rmtree(copy)
    shutil.copytree(manifest.parent, copy)
    assert read_json(snapshot(tmp_path, "a"))["files"] == files


def test_a_cache_is_left_out_of_a_snapshot_and_a_directory_above_it_may_be_called_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / ".cache/work"
    copy = folder / "mirror/hub/some_model"
    (copy / ".cache/huggingface").mkdir(parents=True)
    monkeypatch.setenv("BEZOAR_MIRROR", str(folder / "mirror"))
    (copy / "config.json").write_text("{}")
    (copy / ".cache/huggingface/config.json.metadata").write_text("x")
    assert list(read_json(snapshot(folder, "a"))["files"]) == ["config.json"]
