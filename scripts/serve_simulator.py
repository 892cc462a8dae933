"""Serve the rehearsal's simulator over HTTP, with OpenAI's and Anthropic's protocols. Not a language model.

Usage: serve_simulator.py --facts results/rehearsal/world/facts.json --port 0

Prints `listening <port>` and ends when its standard input closes, so it never outlives the program that started it.
Paths: POST /v1/chat/completions, /v1/completions, /v1/messages; GET /v1/models. Tokens are counted as words.
"""

import argparse
import json
import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from bezoar.errors import cli
from bezoar.files import read_json, sha256_text
from bezoar.simulator import Simulator
from bezoar.world import World


def respond(simulator: Simulator, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON of one answer in the protocol that `path` belongs to."""
    attempt = int(body.get("seed") or 0)
    messages = body["messages"] if "messages" in body else [{"role": "user", "content": body["prompt"]}]
    if body.get("system"):
        messages = [{"role": "system", "content": body["system"]}, *messages]
    text = simulator.reply(messages, attempt)
    words = text.split(" ")
    cut = len(words) > body["max_tokens"]
    text = " ".join(words[: body["max_tokens"]]) if cut else text
    tokens_in, tokens_out = sum(len(message["content"].split()) for message in messages), len(text.split())
    name = sha256_text(json.dumps(body, sort_keys=True))[:24]
    if path == "/v1/messages":
        return {
            "id": f"msg_{name}", "type": "message", "role": "assistant", "model": body["model"], "stop_sequence": None,
            "content": [{"type": "text", "text": text}], "stop_reason": "max_tokens" if cut else "end_turn",
            "usage": {"input_tokens": tokens_in, "output_tokens": tokens_out},
        }  # fmt: skip
    said = {"text": text} if path == "/v1/completions" else {"message": {"role": "assistant", "content": text, "refusal": None}}
    return {
        "id": f"cmpl-{name}", "object": "text_completion" if path == "/v1/completions" else "chat.completion", "created": 0,
        "model": body["model"], "choices": [{"index": 0, **said, "finish_reason": "length" if cut else "stop", "logprobs": None}],
        "usage": {"prompt_tokens": tokens_in, "completion_tokens": tokens_out, "total_tokens": tokens_in + tokens_out},
    }  # fmt: skip


def handler_for(simulator: Simulator) -> type[BaseHTTPRequestHandler]:
    """Return a request handler class around one simulator."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # one packet an answer: headers and body leave together
        disable_nagle_algorithm = True

        def _send(self, status: int, value: dict[str, Any]) -> None:
            content = json.dumps(value).encode()
            self.send_response_only(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
            self.wfile.flush()

        def do_GET(self) -> None:
            self._send(200, {"object": "list", "data": [{"id": "simulator", "object": "model", "owned_by": "rehearsal", "created": 0}]})

        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            try:
                if self.path not in ("/v1/chat/completions", "/v1/completions", "/v1/messages"):
                    self._send(404, {"error": {"message": f"no such path {self.path}", "type": "not_found"}})
                    return
                self._send(200, respond(simulator, self.path, json.loads(content)))
            except (KeyError, TypeError, ValueError) as error:
                self._send(400, {"error": {"message": f"bad request: {error}", "type": "invalid_request_error"}})

        def log_message(self, *_: object) -> None:
            """Say nothing a request."""

    return Handler


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and serve until standard input closes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--facts", type=Path, required=True, help="facts.json of the world")
    parser.add_argument("--port", type=int, required=True, help="port on the loopback interface; 0 takes a free one")
    args = parser.parse_args(argv)
    server = ThreadingHTTPServer(("127.0.0.1", args.port), handler_for(Simulator(World(**read_json(args.facts)))))
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a killed client is no news
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"listening {server.server_address[1]}", flush=True)
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    cli(main)
