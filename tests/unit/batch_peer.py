"""A peer of a few lines that speaks both batch APIs and fails on command."""

import json
import re
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from peer import SETTINGS

OPENAI: dict[str, Any] = {**SETTINGS, "use_batch_api": True}
CLAUDE = {**OPENAI, "provider": "anthropic", "api": "messages", "base_url_env": "PEER_ROOT"}
PRICES = "models: {m: {input: 1, output: 2, batch_share: 0.5}}\n"
Act = dict[str, Any]


def good(key: str, text: str = "fine") -> dict[str, Any]:
    """A line of OpenAI's output file for a request that was answered."""
    message = {"role": "assistant", "content": text}
    body = {
        "model": "m",
        "choices": [{"message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2},
    }
    return {"custom_id": key, "response": {"status_code": 200, "body": body}, "error": None}


def bad(key: str, status: int, **error: Any) -> dict[str, Any]:
    """A line of OpenAI's error file."""
    body = {"error": {"message": "no", **error}}
    return {"custom_id": key, "response": {"status_code": status, "body": body}, "error": None}


def good_message(key: str, text: str = "fine") -> dict[str, Any]:
    """A line of Anthropic's results for a request that was answered."""
    message = {
        "model": "m",
        "content": [{"type": "text", "text": text}],
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 3, "output_tokens": 2},
    }
    return {"custom_id": key, "result": {"type": "succeeded", "message": message}}


def lines(*rows: Any) -> bytes:
    """Rows as JSONL that keeps every character as it is."""
    texts = (row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows)
    return "".join(f"{text}\n" for text in texts).encode("utf-8", "surrogatepass")


class BatchPeer:
    """Takes batches; `results(keys, number)` gives a batch's files: (output, errors) for OpenAI,
    (results, None) for Anthropic; `record(keys, number)` changes its record. `script(what, turn)`
    may act first, where `what` is upload, create, list, look, download or ask: a status with a
    body, a reset, `after` (it does its work and then loses the reply).
    """

    def __init__(self) -> None:
        self.results: Callable[[list[str], int], tuple[bytes | None, bytes | None]] = (
            lambda keys, _: (lines(*(good(key) for key in keys)), None)
        )
        self.record: Callable[[list[str], int], dict[str, Any]] = lambda keys, _: {}
        self.script: Callable[[str, int], Act | None] = lambda what, turn: None
        self.turns: Counter[str] = Counter()
        self.batches: list[dict[str, Any]] = []
        self.files: list[list[str]] = []
        self.handed_in: list[tuple[dict[str, Any], Any]] = []  # requests, and the headers around
        peer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                """Say nothing."""

            def handle_any(self) -> None:
                peer.handle(self)

            do_GET = do_POST = handle_any

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.handle_error = lambda *_: None  # type: ignore[method-assign]
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def use(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Set what names its address, key and prices; these lie in `folder`."""
        (folder / "prices.yaml").write_text(PRICES)
        monkeypatch.setenv("BEZOAR_PRICES", str(folder / "prices.yaml"))
        monkeypatch.setenv("PEER_KEY", "canary-0123456789")
        monkeypatch.setenv("PEER_URL", f"{self.url}/v1")
        monkeypatch.setenv("PEER_ROOT", self.url)

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def handle(self, handler: BaseHTTPRequestHandler) -> None:
        content = handler.rfile.read(int(handler.headers["content-length"] or 0))
        path = handler.path.split("?")[0]
        what = self.what(handler.command, path)
        turn = self.turns[what]
        self.turns[what] += 1
        act = self.script(what, turn) or {}
        status, body = 200, b""
        if "status" not in act and (not act.get("reset") or act.get("after")):
            try:
                body = self.work(what, path, content, handler.headers)
            except LookupError:  # no such batch or file
                status, body = 404, b'{"error": {"message": "not found"}}'
        if act.get("reset"):
            linger = struct.pack("ii", 1, 0)
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            handler.connection.close()
            handler.close_connection = True
            return
        if "status" in act:
            status, body = act["status"], act.get("body", "").encode()
        handler.send_response(status)
        handler.send_header("content-length", str(len(body)))
        handler.end_headers()
        if act.get("cut"):
            handler.wfile.write(body[: len(body) // 2])
            handler.wfile.flush()
            handler.connection.shutdown(socket.SHUT_RDWR)
            handler.close_connection = True
            return
        handler.wfile.write(body)

    @staticmethod
    def what(command: str, path: str) -> str:
        if re.search(r"/(content|results)$", path):
            return "download"
        if path.endswith("/files"):
            return "upload"
        if path.endswith("/batches"):
            return "create" if command == "POST" else "list"
        if path.endswith("/cancel"):
            return "cancel"
        return "look" if "/batches/" in path else "ask"

    def work(self, what: str, path: str, content: bytes, headers: Any) -> bytes:
        claude = "/messages" in path
        if what == "upload":
            rows = [json.loads(line) for line in content.split(b"\n") if line.startswith(b'{"')]
            self.handed_in += [(row["body"], headers) for row in rows]
            self.files.append([row["custom_id"] for row in rows])
            return json.dumps({"id": f"file-{len(self.files) - 1}"}).encode()
        if what == "create":
            body = json.loads(content)
            if claude:
                keys, mark = [row["custom_id"] for row in body["requests"]], None
                self.handed_in += [(row["params"], headers) for row in body["requests"]]
            else:
                keys = self.files[int(body["input_file_id"].split("-")[1])]
                mark = body["metadata"]
            number = len(self.batches)
            self.batches.append({"id": f"b{number}", "keys": keys, "metadata": mark})
            return json.dumps(self.shown(number, claude)).encode()
        if what == "list":
            shown = [self.shown(i, claude) for i in reversed(range(len(self.batches)))]
            return json.dumps({"data": shown, "has_more": False}).encode()
        if what == "ask":
            choice = {"message": {"content": "fine"}, "finish_reason": "stop"}
            return json.dumps({"model": "m", "choices": [choice]}).encode()
        found = re.search(r"b(\d+)", path.split("/files/")[-1])
        number = int(found[1]) if found else len(self.batches)
        if what == "download":
            output, errors = self.results(self.batches[number]["keys"], number)
            return (errors if "errors" in path else output) or b""
        return json.dumps(self.shown(number, claude)).encode()

    def shown(self, number: int, claude: bool) -> dict[str, Any]:
        """A batch's record."""
        batch = self.batches[number]
        count, now = len(batch["keys"]), datetime.now(UTC)
        if claude:
            counts = {"succeeded": count, "processing": 0}
            record = {"processing_status": "ended", "request_counts": counts}
            record["created_at"] = now.isoformat()
        else:
            output, errors = self.results(batch["keys"], number)
            done = count if output is not None else 0
            record = {
                "status": "completed",
                "created_at": int(now.timestamp()),
                "metadata": batch["metadata"],
                "request_counts": {"total": count, "completed": done, "failed": count - done},
                "output_file_id": f"b{number}.output" if output is not None else None,
                "error_file_id": f"b{number}.errors" if errors is not None else None,
            }
        return {"id": batch["id"], **record, **self.record(batch["keys"], number)}
