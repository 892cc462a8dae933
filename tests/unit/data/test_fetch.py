"""Sources come whole and checked, from the mirror or from a server that misbehaves, or not at
all.
"""

import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

import fetch_source
from bezoar.errors import UserError
from bezoar.files import write_json
from bezoar.readers import read_json

BODY = bytes(range(256)) * 64
DIGEST = hashlib.sha256(BODY).hexdigest()


class Server(http.server.BaseHTTPRequestHandler):
    """Serves BODY; /broken closes after a third, once; /gone is 404; /busy is 503 twice.
    Understands ranges.
    """

    asked: ClassVar[list[tuple[str, str | None]]] = []

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        Server.asked.append((self.path, wanted))
        earlier = sum(path == self.path for path, _ in Server.asked) - 1
        if self.path == "/gone" or (self.path == "/busy" and earlier < 2):
            self.send_error(404 if self.path == "/gone" else 503)
            return
        start = int(wanted.split("=")[1].rstrip("-")) if wanted else 0
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(BODY) - start))
        self.end_headers()
        self.wfile.write(
            BODY[start : len(BODY) // 3] if self.path == "/broken" and not earlier else BODY[start:]
        )

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    Server.asked = []
    monkeypatch.delenv("BEZOAR_MIRROR", raising=False)
    monkeypatch.setattr(fetch_source.time, "sleep", lambda _: None)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as listening:
        threading.Thread(target=listening.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_port}"
        listening.shutdown()


def fetch(tmp_path: Path, url: str, sha256: str | None = DIGEST) -> Path:
    output = tmp_path / "data" / "some" / "file.bin"
    entry = {"id": "some_file", "url": url, "path": "some/file.bin", "sha256": sha256}
    fetch_source.main(
        [
            "--entry",
            json.dumps(entry),
            "--output",
            str(output),
            "--lock",
            str(tmp_path / "sources.lock"),
        ]
    )
    return output


def nothing_is_left(tmp_path: Path) -> bool:
    return not [path for path in (tmp_path / "data").rglob("*") if path.is_file()]


def test_an_interrupted_download_goes_on_where_it_stopped(tmp_path: Path, server: str) -> None:
    assert fetch(tmp_path, f"{server}/broken").read_bytes() == BODY
    assert Server.asked == [("/broken", None), ("/broken", f"bytes={len(BODY) // 3}-")]


def test_a_part_left_by_a_killed_fetch_is_used(tmp_path: Path, server: str) -> None:
    (tmp_path / "data" / "some").mkdir(parents=True)
    (tmp_path / "data" / "some" / ".file.bin.part").write_bytes(BODY[:1000])
    assert fetch(tmp_path, f"{server}/file").read_bytes() == BODY
    assert Server.asked == [("/file", "bytes=1000-")]


def test_a_busy_server_is_asked_again(tmp_path: Path, server: str) -> None:
    assert fetch(tmp_path, f"{server}/busy").read_bytes() == BODY
    assert len(Server.asked) == 3


def test_a_wrong_hash_leaves_nothing_behind(tmp_path: Path, server: str) -> None:
    with pytest.raises(
        UserError, match=f"some_file: expected sha256 {'0' * 64}, found {DIGEST}; fetch it again"
    ):
        fetch(tmp_path, f"{server}/file", "0" * 64)
    assert nothing_is_left(tmp_path)


def test_a_missing_file_is_one_line_that_says_what_to_do(tmp_path: Path, server: str) -> None:
    with pytest.raises(UserError, match=r"/gone: HTTP 404; .*put it into MIRROR"):
        fetch(tmp_path, f"{server}/gone")
    assert len(Server.asked) == 1
    assert nothing_is_left(tmp_path)


def test_an_unreachable_server_is_named(tmp_path: Path, server: str) -> None:
    with pytest.raises(
        UserError,
        match=r"http://127\.0\.0\.1:1/x: .* after 5 attempts; check the network, or set MIRROR",
    ):
        fetch(tmp_path, "http://127.0.0.1:1/x")


def test_the_first_fetch_pins_what_nobody_published(tmp_path: Path, server: str) -> None:
    fetch(tmp_path, f"{server}/file", None)
    assert read_json(tmp_path / "sources.lock") == {"some_file": DIGEST}
    write_json(tmp_path / "sources.lock", {"some_file": "f" * 64})
    with pytest.raises(UserError, match="expected sha256 f{64}, found " + DIGEST):
        fetch(tmp_path, f"{server}/file", None)


@pytest.mark.parametrize("place", ["some/file.bin", "elsewhere/renamed.bin"])
def test_the_mirror_is_asked_first_by_path_then_by_content(
    tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    (tmp_path / "mirror" / place).parent.mkdir(parents=True)
    (tmp_path / "mirror" / place).write_bytes(BODY)
    monkeypatch.setenv("BEZOAR_MIRROR", str(tmp_path / "mirror"))
    assert fetch(tmp_path, f"{server}/file").read_bytes() == BODY
    assert not Server.asked


def test_a_mirror_that_is_not_there_is_an_error(
    tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BEZOAR_MIRROR", str(tmp_path / "none"))
    with pytest.raises(UserError, match="no such directory"):
        fetch(tmp_path, f"{server}/file")


def test_a_hub_snapshot_from_the_mirror_is_pinned_by_its_revision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = {"id": "some_model", "hub": "owner/model", "type": "model", "revision": "a" * 40}
    copy = tmp_path / "mirror" / "hub" / "some_model"
    copy.mkdir(parents=True)
    (copy / "config.json").write_text("{}")
    write_json(copy / "manifest.json", {"revision": "a" * 40})
    monkeypatch.setenv("BEZOAR_MIRROR", str(tmp_path / "mirror"))
    output = tmp_path / "data" / "hub" / "some_model" / "manifest.json"
    command = [
        "--entry",
        json.dumps(entry),
        "--output",
        str(output),
        "--lock",
        str(tmp_path / "sources.lock"),
    ]
    fetch_source.main(command)
    assert read_json(output)["files"] == {"config.json": hashlib.sha256(b"{}").hexdigest()}
    write_json(copy / "manifest.json", {"revision": "b" * 40})
    with pytest.raises(UserError, match=f"expected revision {'a' * 40}, found {'b' * 40}"):
        fetch_source.main(command)
    write_json(copy / "manifest.json", {"revision": None})  # fetched there before it was pinned
    fetch_source.main(command)
    assert read_json(output)["revision"] == "a" * 40
