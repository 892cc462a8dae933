"""Which of the user's variables a connection that failed is about."""

import base64
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

import doctor
import fetch_source
from bezoar import hub, network
from bezoar.errors import UserError
from bezoar.workflow.configuration import resolved

UNTRUSTED = "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed certificate"
REFUSED = "[Errno 111] Connection refused"
PROXY = {"https_proxy": "http://127.0.0.1:9"}


@pytest.mark.parametrize(
    ("problem", "variables", "expected"),
    [
        (REFUSED, {"SSL_CERT_FILE": "/ca.pem"}, ""),
        (REFUSED, PROXY | {"SSL_CERT_FILE": "/ca.pem"}, "check the proxy in https_proxy"),
        (REFUSED, {"HTTPS_PROXY": "p:1", "ALL_PROXY": "p:1"}, "check the proxy in HTTPS_PROXY"),
        (REFUSED, {"HTTP_PROXY": "p:1", "ALL_PROXY": "p:1"}, "check the proxy in ALL_PROXY"),
        (REFUSED, PROXY | {"NO_PROXY": "example.org"}, ""),
        (UNTRUSTED, PROXY, "set SSL_CERT_FILE to a file with the certificates of your network"),
        (
            UNTRUSTED,
            PROXY | {"SSL_CERT_FILE": "/ca.pem"},
            "check the certificates in SSL_CERT_FILE",
        ),
    ],
)
def test_the_variable_that_a_failed_connection_is_about_is_named_alone(
    problem: str, variables: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in list(os.environ):
        if name.upper().endswith("_PROXY") or name in network.CERTIFICATES:
            monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert network.advice("https://example.org/file", problem) == expected


def test_a_proxy_for_everything_is_not_blamed_by_who_does_not_use_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in [name for name in os.environ if name.upper().endswith("_PROXY")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    assert network.advice("https://example.org", REFUSED, ("http", "https")) == ""


PASSWORD = "canary-pw"
BASIC = base64.b64encode(f"user:{PASSWORD}".encode()).decode()


@pytest.fixture
def guarded() -> Iterator[str]:
    """The host and port of a server that answers only whoever logs in."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Say nothing."""

        def do_GET(self) -> None:
            if self.headers["Authorization"] != f"Basic {BASIC}":
                return self.close_connection_at_once()
            body = b"" if self.command == "HEAD" else b"data"
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_HEAD = do_GET

        def close_connection_at_once(self) -> None:
            self.close_connection = True

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


def of_teacher(monkeypatch: pytest.MonkeyPatch, address: str) -> list[str]:
    """What the doctor says of a teacher's server."""
    monkeypatch.setenv("TEACHER_BASE_URL", address)
    monkeypatch.setenv("TEACHER_API_KEY", "none")
    config = resolved(["config/paper.yaml"])
    found = doctor.language_models({**config, "serve": None})
    return [line for line in found if line.startswith("teacher")]


def test_a_server_with_a_password_is_asked_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, guarded: str
) -> None:
    for name in [name for name in os.environ if name.upper().endswith("_PROXY")]:
        monkeypatch.delenv(name)
    place = f"http://user:{PASSWORD}@{guarded}"
    assert of_teacher(monkeypatch, f"{place}/v1") == []
    monkeypatch.setenv("HF_ENDPOINT", place)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    fetch_source.download(f"{hub.HUB}/owner/name/resolve/main/f", tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == b"data"


@pytest.mark.parametrize("password", [PASSWORD, "canary#pw", "canary/pw", "canary?pw", "canary@pw"])
def test_no_password_of_an_address_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, password: str
) -> None:
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

    place = f"http://user:{password}@127.0.0.1:9"
    lines = of_teacher(monkeypatch, f"{place}/v1")
    monkeypatch.setenv("HF_ENDPOINT", place)
    entry = {"hub": "owner/name", "id": "name", "type": "model"}
    file = {"id": "f", "url": f"{hub.HUB}/owner/name/f", "path": "f", "sha256": None}
    for error in (RepositoryNotFoundError, HfHubHTTPError, OSError):
        with pytest.raises(UserError) as raised:
            raise hub.explained(entry, error.__new__(error, f"for url {place}/x"))
        lines.append(str(raised.value))
    for ask in (
        lambda: hub.page("owner/name"),
        lambda: "".join(doctor.unreachable([file])),
        lambda: str(doctor.reachable(file)),
    ):
        try:
            lines.append(ask())
        except UserError as error:
            lines.append(str(error))
    monkeypatch.setenv("HTTPS_PROXY", place)
    try:
        network.require_network()
    except UserError as error:
        lines.append(str(error))
    assert len(lines) >= 7
    assert [line for line in lines if "canary" in line or "pw" in line] == []
