"""One loopback server with the rules that language-model providers have today, as far as this
project meets them. Sources and dates: OpenAI's and Anthropic's references and migration guides of
2026-11, the locked SDKs, and vLLM 0.32.

    /openai/v1      a reasoning model refuses `max_tokens`, and a temperature other than 1 while it
                    reasons; models have a `shutdown_date`
    /anthropic/v1   a version header and a limit are required; with 2026-10-21 sampling parameters
                    are refused even at their defaults; models have a `lifecycle`
    /vllm/v1        one model; prompt and answer must fit its context; the seed decides the noise
"""

import json
import random
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "canary-4f0c7d21ab"
EFFORTS = {
    "openai": ("none", "minimal", "low", "medium", "high", "xhigh", "max"),
    "anthropic": ("low", "medium", "high", "xhigh", "max"),
}
MESSAGES_TAKES = set(
    "model messages max_tokens system stop_sequences stream metadata output_config thinking"
    " tools tool_choice service_tier cache_control".split()
)
SAMPLING = ("temperature", "top_p", "top_k")
OPENAI = {"gpt-5.5-2026-04-23": None, "gpt-5": "2026-12-11", "gpt-4-0613": "2026-10-23"}
ANTHROPIC = {
    "claude-sonnet-5-5": ("active", None),
    "claude-sonnet-4-5-20250929": ("deprecated", "2026-11-30T00:00:00Z"),
    "claude-2.1": ("retired", "2025-07-21T00:00:00Z"),
}
TODAY = "2026-11-26"
WORDS = "red green blue one two three cat dog fish sun moon star".split()


class Refusal(Exception):
    """A status and the JSON that goes with it."""

    def __init__(self, status: int, body: dict[str, Any]) -> None:
        self.status, self.body = status, body


def openai_error(status: int, code: str, param: str | None, message: str) -> Refusal:
    error = {"message": message, "type": "invalid_request_error", "param": param, "code": code}
    return Refusal(status, {"error": error})


def anthropic_error(status: int, kind: str, message: str) -> Refusal:
    return Refusal(status, {"type": "error", "error": {"type": kind, "message": message}})


class Providers:
    """The server; `seen` are the bodies that were posted, `context` the tokens of vLLM's model (a
    word is one).
    """

    def __init__(self, served: str = "teacher", context: int = 64) -> None:
        self.served, self.context = served, context
        self.seen: list[dict[str, Any]] = []
        self.asked: list[str] = []
        providers = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                """Say nothing."""

            def do_GET(self) -> None:
                providers.asked.append(self.path)
                self.reply(lambda name, path: providers.model(name, path, self))

            def do_HEAD(self) -> None:
                self.send_response(200)
                self.end_headers()

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                providers.seen.append(body)
                self.reply(lambda name, path: getattr(providers, name)(path, body, self))

            def reply(self, make: Any) -> None:
                _, name, path = self.path.split("/", 2)
                try:
                    if self.headers.get("authorization") != f"Bearer {KEY}":
                        raise openai_error(401, "invalid_api_key", None, "Incorrect API key")
                    status, answer = 200, make(name, path)
                except Refusal as refusal:
                    status, answer = refusal.status, refusal.body
                data = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def openai(self, path: str, body: dict[str, Any], _: object) -> dict[str, Any]:
        """Chat completions of a reasoning model."""
        ends = OPENAI.get(body["model"], "")
        if ends is not None and ends <= TODAY:
            message = f"The model `{body['model']}` does not exist or you do not have access to it."
            raise openai_error(404, "model_not_found", None, message)
        if "max_tokens" in body:
            message = (
                "Unsupported parameter: 'max_tokens' is not supported with this model."
                " Use 'max_completion_tokens' instead."
            )
            raise openai_error(400, "unsupported_parameter", "max_tokens", message)
        effort = body.get("reasoning_effort", "medium")
        if effort not in EFFORTS["openai"]:
            message = f"Invalid value: '{effort}'."
            raise openai_error(400, "unsupported_value", "reasoning_effort", message)
        if effort != "none" and body.get("temperature", 1) != 1:
            message = (
                f"Unsupported value: 'temperature' does not support {body['temperature']} with"
                " this model. Only the default (1) value is supported."
            )
            raise openai_error(400, "unsupported_value", "temperature", message)
        return completion(body["model"], {"message": {"role": "assistant", "content": "Fine."}})

    def anthropic(self, path: str, body: dict[str, Any], handler: Any) -> dict[str, Any]:
        """The Messages API."""
        version = handler.headers.get("anthropic-version")
        if version not in ("2023-06-01", "2026-10-21"):
            message = f"anthropic-version: {version} is not a valid version"
            raise anthropic_error(400, "invalid_request_error", message)
        if ANTHROPIC.get(body["model"], ("retired", None))[0] == "retired":
            raise anthropic_error(404, "not_found_error", f"model: {body['model']}")
        if "max_tokens" not in body:
            raise anthropic_error(400, "invalid_request_error", "max_tokens: Field required")
        allowed = MESSAGES_TAKES | (set(SAMPLING) if version == "2023-06-01" else set())
        for name in sorted(body.keys() - allowed):
            message = f"{name}: Extra inputs are not permitted"
            raise anthropic_error(400, "invalid_request_error", message)
        if version == "2023-06-01" and body["model"] == "claude-sonnet-5-5":
            for name in SAMPLING:
                if body.get(name, 1) != 1:
                    message = f"`{name}` is not supported by this model"
                    raise anthropic_error(400, "invalid_request_error", message)
        effort = body.get("output_config", {}).get("effort", "high")
        if effort not in EFFORTS["anthropic"]:
            message = f"output_config.effort: Input should be 'low', … or 'max', not {effort}"
            raise anthropic_error(400, "invalid_request_error", message)
        return {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": body["model"],
            "content": [
                {"type": "thinking", "thinking": "", "signature": "x"},
                {"type": "text", "text": "Fine. [[7]]"},
            ],
            "stop_reason": "end_turn",
            "stop_sequence": None,
            "usage": {"input_tokens": 9, "output_tokens": 5},
        }

    def vllm(self, path: str, body: dict[str, Any], _: object) -> dict[str, Any]:
        """Completions that are sampled from the request's own seed, whatever the prompt says."""
        if body["model"] != self.served:
            message = f"The model `{body['model']}` does not exist."
            raise openai_error(404, "NotFoundError", "model", message)
        prompt = body.get("prompt") or body["messages"][-1]["content"]
        used = len(prompt.split())
        if used + body["max_tokens"] > self.context:
            message = (
                f"This model's maximum context length is {self.context} tokens. However, you"
                f" requested {body['max_tokens']} output tokens and your prompt contains {used}"
                " input tokens."
            )
            raise openai_error(400, "BadRequestError", "input_tokens", message)
        noise = random.Random(body.get("seed"))
        text = " ".join(noise.choice(WORDS) for _ in range(8))
        choice = {"text": text} if "prompt" in body else {"message": {"content": text}}
        return completion(body["model"], choice)

    def model(self, name: str, path: str, handler: Any) -> dict[str, Any]:
        """What a provider says of a model, or of all."""
        model = path.removeprefix("v1/models").lstrip("/")
        if name == "vllm":
            if model:
                raise openai_error(404, "NotFoundError", None, "Not Found")
            return {"object": "list", "data": [{"id": self.served, "object": "model"}]}
        if name == "openai":
            if model not in OPENAI or (OPENAI[model] or TODAY) < TODAY:
                message = f"The model '{model}' does not exist"
                raise openai_error(404, "model_not_found", "model", message)
            facts = {"object": "model", "created": 1, "owned_by": "system"}
            return {"id": model, "shutdown_date": OPENAI[model], **facts}
        if handler.headers.get("anthropic-version") != "2026-10-21":
            raise anthropic_error(400, "invalid_request_error", "anthropic-version: unexpected")
        if model not in ANTHROPIC:
            raise anthropic_error(404, "not_found_error", f"model: {model}")
        lifecycle, retires = ANTHROPIC[model]
        return {"type": "model", "id": model, "lifecycle": lifecycle, "retires_at": retires}


def completion(model: str, choice: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": "1",
        "object": "x",
        "created": 0,
        "model": model,
        "choices": [{"index": 0, "finish_reason": "stop", **choice}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 8, "total_tokens": 17},
    }
