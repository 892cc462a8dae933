"""The simulator's HTTP server: its routes, and how a deliberate fault looks to a client."""

import email.parser
import email.policy
import json
import re
import socket
import struct
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from bezoar.files import canonical, sha256_text
from bezoar.rehearsal.fake_provider import ANSWERING, FakeProvider, Rate
from bezoar.rehearsal.wire_formats import (
    anthropic_batch,
    anthropic_results,
    error,
    openai_batch,
    openai_results,
)

STATUS = {"429": 429, "429_retry_after": 429, "500": 500, "529": 529}
LOST = ("stall", "truncated_body", "invalid_json")  # faults on the way back: charged all the same


class Server(ThreadingHTTPServer):
    """Serves one provider. It accepts as many connections at once as a stage may open.

    `models` are the ids that exist, any if it is empty; requests need `key` if it is not empty.
    """

    request_queue_size = 256
    daemon_threads = True

    def __init__(
        self, port: int, provider: FakeProvider, rate: Rate, models: list[str], key: str
    ) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.provider, self.rate, self.models, self.key = provider, rate, models, key

    def handle_error(self, *_: object) -> None:
        """Ignore errors of a connection: a client may be killed at any time."""


class Handler(BaseHTTPRequestHandler):
    """One connection: finds the route of each request and sends its answer."""

    server: Server
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # one packet per answer: headers and body leave together
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self._route("GET")

    def do_POST(self) -> None:
        self._route("POST")

    def _route(self, method: str) -> None:
        self.content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = self.path.split("?")[0]
        try:
            if path != "/meter" and self._wrong_key():
                return
            for pattern, respond in ROUTES[method].items():
                if found := re.fullmatch(pattern, path):
                    respond(self, **found.groupdict())
                    return
            self._send(404, error(f"no such path {path}", "not_found_error"))
        except (KeyError, TypeError, ValueError) as fault:
            self._send(400, error(f"bad request: {fault}", "invalid_request_error"))

    def _wrong_key(self) -> bool:
        offered = self.headers.get("x-api-key") or self.headers.get(
            "authorization", ""
        ).removeprefix("Bearer ")
        wrong = bool(self.server.key) and offered != self.server.key
        if wrong:
            self._send(
                401, error(f"Incorrect API key provided: {offered}.", "authentication_error")
            )
        return wrong

    def _send(
        self, status: int, value: Any, headers: dict[str, str] | None = None, cut: bool = False
    ) -> None:
        content = value.encode() if isinstance(value, str) else json.dumps(value).encode()
        self.send_response_only(status)
        for name, text in {
            "Content-Type": "application/json",
            "Content-Length": str(len(content)),
            **(headers or {}),
        }.items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if cut else content)
        self.wfile.flush()
        if cut:
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Log no request."""

    def meter(self) -> None:
        """GET /meter: what would have been charged."""
        self._send(200, self.server.provider.meter.as_json())

    def models(self) -> None:
        """GET /v1/models: the models that exist."""
        data = [
            {"id": name, "object": "model", "owned_by": "rehearsal", "created": 0}
            for name in self.server.models or ["simulator"]
        ]
        self._send(200, {"object": "list", "data": data})

    def answer(self, path: str) -> None:
        """POST to one of `ANSWERING`: an answer, or the fault that this request meets."""
        provider, body = self.server.provider, json.loads(self.content)
        if self.server.models and body["model"] not in self.server.models:
            problem = f"The model `{body['model']}` does not exist"
            self._send(404, error(problem, "not_found_error"))
            return
        digest = sha256_text(canonical(body))
        fault = provider.faults.of(digest, provider.turn(digest)) if provider.faults.share else ""
        if fault == "reset":
            self._reset()
        elif fault in STATUS:
            after = {"retry-after": str(provider.faults.retry_after_s)}
            headers = after if fault == "429_retry_after" else {}
            self._send(
                STATUS[fault], error("overloaded, as configured", "overloaded_error"), headers
            )
        else:
            self._answer(path, body, digest, fault)

    def _answer(self, path: str, body: dict[str, Any], digest: str, fault: str) -> None:
        provider = self.server.provider
        found, tokens_in, tokens_out = provider.answer(path, body, fault)
        fits, headers = self.server.rate.take(tokens_in + tokens_out, path)
        if not fits:
            self._send(429, error("rate limit reached", "rate_limit_error"), headers)
            return
        provider.meter.charge(digest, body["model"], tokens_in, tokens_out, lost=fault in LOST)
        if fault == "stall":
            time.sleep(provider.faults.stall_s)
        self._send(
            200,
            json.dumps(found)[:-9] if fault == "invalid_json" else found,
            headers,
            cut=fault == "truncated_body",
        )

    def _reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def upload(self) -> None:
        """POST /v1/files: the requests of a batch, as OpenAI takes them."""
        form = (
            b"Content-Type: " + self.headers["content-type"].encode() + b"\r\n\r\n" + self.content
        )
        parts = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(form).iter_parts()
        data: Any = next(part.get_payload(decode=True) for part in parts if part.get_filename())
        files = self.server.provider.files
        name = f"file-{len(files)}"
        files[name] = data
        record = {"id": name, "object": "file", "bytes": len(data), "created_at": 0}
        self._send(200, record | {"filename": "f", "purpose": "batch"})

    def submit_openai(self) -> None:
        """POST /v1/batches: a batch of the requests in an uploaded file."""
        body = json.loads(self.content)
        lines = self.server.provider.files[body["input_file_id"]].splitlines()
        rows = [(row["custom_id"], row["body"]) for row in map(json.loads, lines)]
        made = self.server.provider.submit(
            body["endpoint"], rows, {"metadata": body.get("metadata")}
        )
        self.batch(made["id"])

    def submit_anthropic(self) -> None:
        """POST /v1/messages/batches: a batch of these requests."""
        requests = json.loads(self.content)["requests"]
        rows = [(row["custom_id"], row["params"]) for row in requests]
        self.batch(self.server.provider.submit("/v1/messages", rows, {})["id"])

    def batches(self, messages: str | None) -> None:
        """GET the batches of one protocol, the youngest first."""
        found = [
            self._record(name)
            for name in reversed(self.server.provider.batches)
            if name.startswith("msg") == bool(messages)
        ]
        ends = {
            "first_id": found[0]["id"] if found else None,
            "last_id": found[-1]["id"] if found else None,
        }
        self._send(200, {"object": "list", "data": found, "has_more": False, **ends})

    def batch(self, name: str) -> None:
        """GET one batch."""
        if name in self.server.provider.batches:
            self._send(200, self._record(name))
        else:
            self._send(404, error(f"no such batch {name}", "not_found_error"))

    def cancel(self, name: str) -> None:
        """POST …/cancel: end a batch; one that has ended is refused, as by both providers."""
        provider = self.server.provider
        if name in provider.batches and provider.batch(name)["results"] is None:
            provider.batches[name]["cancelled"] = True
        elif name in provider.batches:
            self._send(409, error(f"{name} has ended already", "invalid_request_error"))
            return
        self.batch(name)

    def anthropic_results(self, name: str) -> None:
        """GET the results of a batch, from Anthropic's address."""
        found = anthropic_results(self.server.provider.batch(name))
        self._send(200, found, {"Content-Type": "application/x-jsonl"})

    def openai_results(self, name: str, kind: str) -> None:
        """GET the output or the errors of a batch, as OpenAI's files."""
        self._send(200, openai_results(self.server.provider.batch(name), kind == "output"))

    def _record(self, name: str) -> dict[str, Any]:
        batch = self.server.provider.batch(name)
        if name.startswith("msg"):
            return anthropic_batch(batch, f"http://{self.headers['host']}")
        return openai_batch(batch)


BATCH = r"/v1/(?:messages/)?batches/(?P<name>\w+)"
ROUTES: dict[str, dict[str, Callable[..., None]]] = {
    "GET": {
        "/meter": Handler.meter,
        "/v1/models": Handler.models,
        "/v1/(?P<messages>messages/)?batches": Handler.batches,
        BATCH: Handler.batch,
        r"/v1/messages/batches/(?P<name>\w+)/results": Handler.anthropic_results,
        r"/v1/files/(?P<name>\w+)\.(?P<kind>output|error)/content": Handler.openai_results,
    },
    "POST": {
        f"(?P<path>{'|'.join(ANSWERING)})": Handler.answer,
        "/v1/files": Handler.upload,
        "/v1/batches": Handler.submit_openai,
        "/v1/messages/batches": Handler.submit_anthropic,
        f"{BATCH}/cancel": Handler.cancel,
    },
}
