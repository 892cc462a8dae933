"""Serve the rehearsal's simulator over HTTP, with OpenAI's and Anthropic's protocols and batch
APIs. Not a language model.

Usage: serve_simulator.py --facts results/rehearsal/world/facts.json --port 0 [--faults '{"share":
0.1}'] [--rate '{"requests": 100, "tokens": 9000}']

Prints `listening <port>` and ends when its standard input closes, so it never outlives the program
that started it. Paths: POST /v1/chat/completions, /v1/completions, /v1/messages, /v1/files,
/v1/batches, /v1/messages/batches; GET /v1/models, /meter. If the environment holds a key
as SIMULATOR_KEY, it refuses every other. Faults, rates and the meter: see
bezoar.rehearsal.fake_provider.
"""

import argparse
import email.parser
import email.policy
import json
import os
import re
import socket
import struct
import sys
import threading
import time
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from bezoar import program
from bezoar.files import canonical, sha256_text
from bezoar.readers import json_argument, read_json
from bezoar.rehearsal.fake_provider import ANSWERING, FakeProvider, Faults, Meter, Rate
from bezoar.rehearsal.simulator import Simulator
from bezoar.rehearsal.world import World

STATUS = {"429": 429, "429_retry_after": 429, "500": 500, "529": 529}


def error(message: str, kind: str) -> dict[str, Any]:
    """Return an error in a form that both protocols' clients read."""
    return {"type": "error", "error": {"message": message, "type": kind}}


def openai_batch(batch: dict[str, Any]) -> dict[str, Any]:
    """Return a batch's record as OpenAI shows it."""
    ended, kinds = batch["results"] is not None, [kind for _, kind, _ in batch["results"] or []]
    status = (
        "in_progress"
        if not ended
        else "cancelled"
        if batch["cancelled"]
        else "expired"
        if "expired" in kinds
        else "completed"
    )
    good = kinds.count("succeeded")
    return {
        "id": batch["id"],
        "object": "batch",
        "endpoint": batch["path"],
        "input_file_id": "file",
        "completion_window": "24h",
        "status": status,
        "created_at": int(batch["created"]),
        "metadata": batch["metadata"],
        "request_counts": {
            "total": len(batch["rows"]),
            "completed": good,
            "failed": kinds.count("errored") + kinds.count("invalid"),
        },
        "output_file_id": f"{batch['id']}.output" if good else None,
        "error_file_id": f"{batch['id']}.error" if good < len(kinds) else None,
    }


def openai_results(batch: dict[str, Any], good: bool) -> str:
    """Return a batch's output file or its error file, JSONL."""
    lines = []
    for key, kind, answer in batch["results"]:
        status = {"succeeded": 200, "errored": 500, "invalid": 400}.get(kind)
        response = (
            {
                "status_code": status,
                "request_id": key,
                "body": answer if kind == "succeeded" else error(answer, kind),
            }
            if status
            else None
        )
        failed = (
            None if status else {"code": f"batch_{kind}", "message": f"this request was {kind}"}
        )
        if (kind == "succeeded") == good:
            lines.append(
                json.dumps({"id": key, "custom_id": key, "response": response, "error": failed})
            )
    return "\n".join(lines)


def anthropic_batch(batch: dict[str, Any], address: str) -> dict[str, Any]:
    """Return a batch's record as Anthropic shows it."""
    ended, kinds = batch["results"] is not None, [kind for _, kind, _ in batch["results"] or []]
    made = datetime.fromtimestamp(batch["created"], UTC).isoformat()
    counts = {
        "succeeded": kinds.count("succeeded"),
        "errored": kinds.count("errored") + kinds.count("invalid"),
        "expired": kinds.count("expired"),
        "canceled": kinds.count("canceled"),
        "processing": 0 if ended else len(batch["rows"]),
    }
    return {
        "id": batch["id"],
        "type": "message_batch",
        "processing_status": "ended" if ended else "in_progress",
        "request_counts": counts,
        "created_at": made,
        "expires_at": made,
        "ended_at": made if ended else None,
        "archived_at": None,
        "cancel_initiated_at": None,
        "results_url": f"{address}/v1/messages/batches/{batch['id']}/results" if ended else None,
    }


def anthropic_results(batch: dict[str, Any]) -> str:
    """Return a batch's results, JSONL."""
    lines = []
    for key, kind, answer in batch["results"]:
        result: dict[str, Any] = {"type": {"invalid": "errored"}.get(kind, kind)}
        if kind == "succeeded":
            result["message"] = answer
        elif kind in ("errored", "invalid"):
            result["error"] = error(
                answer, "invalid_request_error" if kind == "invalid" else "api_error"
            )
        lines.append(json.dumps({"custom_id": key, "result": result}))
    return "\n".join(lines)


def handler_for(
    provider: FakeProvider, rate: Rate, models: list[str]
) -> type[BaseHTTPRequestHandler]:
    """Return a request handler class around one provider."""
    wanted = os.environ.get("BEZOAR_SIMULATOR_KEY", "")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # one packet per answer: headers and body leave together
        disable_nagle_algorithm = True

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

        def _refused(self) -> bool:
            offered = self.headers.get("x-api-key") or self.headers.get(
                "authorization", ""
            ).removeprefix("Bearer ")
            if wanted and offered != wanted:
                self._send(
                    401, error(f"Incorrect API key provided: {offered}.", "authentication_error")
                )
            return bool(wanted) and offered != wanted

        def do_GET(self) -> None:
            path = self.path.split("?")[0]
            if path == "/meter":
                self._send(200, provider.meter.as_json())
            elif self._refused():
                return
            elif path == "/v1/models":
                data = [
                    {"id": name, "object": "model", "owned_by": "rehearsal", "created": 0}
                    for name in models or ["simulator"]
                ]
                self._send(200, {"object": "list", "data": data})
            elif path in ("/v1/batches", "/v1/messages/batches"):
                mine = [
                    self._batch(name)
                    for name in reversed(provider.batches)
                    if name.startswith("msg") == ("messages" in path)
                ]
                ends = {
                    "first_id": mine[0]["id"] if mine else None,
                    "last_id": mine[-1]["id"] if mine else None,
                }
                self._send(200, {"object": "list", "data": mine, "has_more": False, **ends})
            elif found := re.fullmatch(r"/v1/(messages/)?batches/(\w+)", path):
                self._send(200, self._batch(found[2]))
            elif found := re.fullmatch(r"/v1/messages/batches/(\w+)/results", path):
                self._send(
                    200,
                    anthropic_results(provider.batch(found[1])),
                    {"Content-Type": "application/x-jsonl"},
                )
            elif found := re.fullmatch(r"/v1/files/(\w+)\.(output|error)/content", path):
                self._send(200, openai_results(provider.batch(found[1]), found[2] == "output"))
            else:
                self._send(404, error(f"no such path {path}", "not_found_error"))

        def _batch(self, name: str) -> dict[str, Any]:
            batch = provider.batch(name)
            return (
                anthropic_batch(batch, f"http://{self.headers['host']}")
                if name.startswith("msg")
                else openai_batch(batch)
            )

        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            path = self.path.split("?")[0]
            try:
                if self._refused():
                    return
                if path in ANSWERING:
                    self._answer(path, json.loads(content))
                elif found := re.fullmatch(r"/v1/(messages/)?batches/(\w+)/cancel", path):
                    provider.batches[found[2]]["cancelled"] = True
                    self._send(200, self._batch(found[2]))
                elif path == "/v1/files":
                    form = (
                        b"Content-Type: "
                        + self.headers["content-type"].encode()
                        + b"\r\n\r\n"
                        + content
                    )
                    parts = (
                        email.parser.BytesParser(policy=email.policy.HTTP)
                        .parsebytes(form)
                        .iter_parts()
                    )
                    data = next(
                        part.get_payload(decode=True) for part in parts if part.get_filename()
                    )
                    name = f"file-{len(provider.files)}"
                    provider.files[name] = data  # type: ignore[assignment]
                    self._send(
                        200,
                        {
                            "id": name,
                            "object": "file",
                            "bytes": len(data),
                            "created_at": 0,
                            "filename": "f",
                            "purpose": "batch",
                        },
                    )
                elif path == "/v1/batches":
                    body = json.loads(content)
                    rows = [
                        json.loads(line)
                        for line in provider.files[body["input_file_id"]].splitlines()
                    ]
                    made = provider.submit(
                        body["endpoint"],
                        [(r["custom_id"], r["body"]) for r in rows],
                        {"metadata": body.get("metadata")},
                    )
                    self._send(200, self._batch(made["id"]))
                elif path == "/v1/messages/batches":
                    made = provider.submit(
                        "/v1/messages",
                        [(r["custom_id"], r["params"]) for r in json.loads(content)["requests"]],
                        {},
                    )
                    self._send(200, self._batch(made["id"]))
                else:
                    self._send(404, error(f"no such path {path}", "not_found_error"))
            except (KeyError, TypeError, ValueError) as fault:
                self._send(400, error(f"bad request: {fault}", "invalid_request_error"))

        def _answer(self, path: str, body: dict[str, Any]) -> None:
            if models and body["model"] not in models:
                self._send(
                    404, error(f"The model `{body['model']}` does not exist", "not_found_error")
                )
                return
            digest = sha256_text(canonical(body))
            fault = (
                provider.faults.of(digest, provider.turn(digest)) if provider.faults.share else ""
            )
            if fault == "reset":
                self.connection.setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                )
                self.connection.close()
                self.close_connection = True
                return
            if fault in STATUS:
                headers = (
                    {"retry-after": str(provider.faults.retry_after_s)}
                    if fault == "429_retry_after"
                    else {}
                )
                self._send(
                    STATUS[fault], error("overloaded, as configured", "overloaded_error"), headers
                )
                return
            answer, tokens_in, tokens_out = provider.answer(path, body, fault)
            fits, headers = rate.take(tokens_in + tokens_out, path)
            if not fits:
                self._send(429, error("rate limit reached", "rate_limit_error"), headers)
                return
            lost = fault in ("stall", "truncated_body", "invalid_json")
            provider.meter.charge(digest, body["model"], tokens_in, tokens_out, lost=lost)
            if fault == "stall":
                time.sleep(provider.faults.stall_s)
            self._send(
                200,
                json.dumps(answer)[:-9] if fault == "invalid_json" else answer,
                headers,
                cut=fault == "truncated_body",
            )

        def log_message(self, *_: object) -> None:
            """Log no request."""

    return Handler


class Server(ThreadingHTTPServer):
    """Accepts as many connections at once as a stage may open."""

    request_queue_size = 256
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Ignore errors of a connection: a client may be killed at any time."""


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and serve until standard input closes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--facts", type=Path, required=True, help="facts.json of the world")
    parser.add_argument(
        "--port", type=int, required=True, help="port on the loopback interface; 0 takes a free one"
    )
    parser.add_argument(
        "--faults",
        type=json_argument,
        default={},
        help="what goes wrong, JSON: share, kinds, turns, stall_s, retry_after_s",
    )
    parser.add_argument(
        "--rate", type=json_argument, default={}, help="limits, JSON: requests, tokens, window_s"
    )
    parser.add_argument("--prices", type=Path, help="price file of the meter")
    parser.add_argument(
        "--batch-s", type=float, default=0.0, help="seconds until a batch has ended"
    )
    parser.add_argument(
        "--models", nargs="*", default=[], help="models that exist; any if left out"
    )
    args = parser.parse_args(argv)
    faults = Faults(
        **{
            name: tuple(value) if isinstance(value, list) else value
            for name, value in args.faults.items()
        }
    )
    provider = FakeProvider(
        Simulator(World(**read_json(args.facts))), faults, Meter(args.prices), args.batch_s
    )
    server = Server(("127.0.0.1", args.port), handler_for(provider, Rate(**args.rate), args.models))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"listening {server.server_address[1]}", flush=True)
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    program.run(main, quiet=True)
