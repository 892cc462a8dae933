"""A peer of a few lines that speaks both protocols and fails on command."""

import json
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

# A model that the peer plays: PEER_URL and PEER_KEY name its address and key.
SETTINGS: dict[str, Any] = {
    "provider": "openai",
    "api": "chat",
    "model": "m",
    "revision": None,
    "base_url_env": "PEER_URL",
    "api_key_env": "PEER_KEY",
    "prompt_form": None,
    "stop": [],
    "temperature": 0.5,
    "max_tokens": 9,
    "timeout_s": 2,
}

Script = Callable[
    [str, int], dict[str, Any]
]  # (prompt text, how often it has been asked) -> what to do


class Peer:
    """`script` decides each answer: text, finish, status, headers, body (raw text), trickle (blank
    lines before it, for so many seconds) or reset; `seen` is what was asked.
    """

    def __init__(self) -> None:
        self.script: Script = lambda prompt, turn: {"text": f"echo {prompt}"}
        self.seen: list[dict[str, Any]] = []
        self.turns: Counter[str] = Counter()
        self.lock = threading.Lock()
        self.active = self.most_active = 0
        peer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                """Say nothing."""

            def do_POST(self) -> None:
                peer.answer(self)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients hang up on purpose
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["content-length"])))
        prompt = body["prompt"] if "prompt" in body else body["messages"][-1]["content"]
        with self.lock:
            self.seen.append({"path": handler.path, "headers": dict(handler.headers), **body})
            turn = self.turns[prompt]
            self.turns[prompt] += 1
            self.active += 1
            self.most_active = max(self.most_active, self.active)
        act = self.script(prompt, turn)
        with self.lock:
            self.active -= 1
        if act.get("reset"):
            handler.connection.setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
            handler.connection.close()
            handler.close_connection = True
            return
        data = (
            act["body"]
            if "body" in act
            else json.dumps(self.response(handler.path, body["model"], act))
        )
        blank = "\n" * int(20 * act.get("trickle", 0))
        handler.send_response(act.get("status", 200))
        for name, value in {
            "content-type": "application/json",
            "content-length": str(len((blank + data).encode())),
            **act.get("headers", {}),
        }.items():
            handler.send_header(name, value)
        handler.end_headers()
        for line in blank:
            handler.wfile.write(line.encode())
            time.sleep(0.05)
        handler.wfile.write(data.encode())

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    @staticmethod
    def response(path: str, model: str, act: dict[str, Any]) -> dict[str, Any]:
        """The answer in the protocol of `path`."""
        text, finish = act.get("text"), act.get("finish")
        if path.endswith("/messages"):
            return {
                "id": "1",
                "type": "message",
                "role": "assistant",
                "model": model,
                "content": [{"type": "text", "text": text}],
                "stop_reason": finish or "end_turn",
                "stop_sequence": None,
                "usage": {"input_tokens": 3, "output_tokens": 2},
            }
        choice: dict[str, Any] = {"index": 0, "finish_reason": finish or "stop"}
        choice |= (
            {"text": text}
            if path.endswith("/completions") and "chat" not in path
            else {"message": {"role": "assistant", "content": text, "refusal": act.get("refusal")}}
        )
        return {
            "id": "1",
            "object": "x",
            "created": 0,
            "model": model,
            "choices": act.get("choices", [choice]),
            "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
        }
