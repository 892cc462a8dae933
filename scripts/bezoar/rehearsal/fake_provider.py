"""The provider that the simulator plays: protocols, batch APIs, rate limits, deliberate faults, and
a meter of what would have been charged.

It answers what `bezoar.rehearsal.simulator` says. Whatever it does follows from its settings and
the request, so that two runs meet the same faults. Faults (`Faults`): transient ones befall the
first `turns` attempts of a request, permanent ones every attempt. In a batch, a transient fault
makes a request fail or expire. Tokens are counted as words.
"""

import json
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from bezoar.files import canonical, sha256_text
from bezoar.llm.budget import Price, price_of
from bezoar.rehearsal.simulator import Simulator
from bezoar.rehearsal.wire_formats import Completion, anthropic_answer, openai_answer

PASSING = (
    "429",
    "429_retry_after",
    "500",
    "529",
    "reset",
    "stall",
    "truncated_body",
    "invalid_json",
)
LASTING = ("empty", "refusal", "length", "wrong_model")
EXPIRING = ("reset", "stall", "truncated_body")  # in a batch; the others fail
ANSWERING = ("/v1/chat/completions", "/v1/completions", "/v1/messages")


@dataclass(frozen=True)
class Faults:
    """What goes wrong: `share` (0-1) of requests, with one of `kinds` each, in the first `turns`
    attempts; a stall lasts `stall_s`.
    """

    share: float = 0.0
    kinds: tuple[str, ...] = PASSING + LASTING
    turns: int = 1
    stall_s: float = 3.0
    retry_after_s: float = 0.2

    def of(self, digest: str, turn: int) -> str:
        """Return the fault of a request at its `turn`-th attempt (from 0), or an empty text."""
        if int(digest[:8], 16) / 2**32 >= self.share:
            return ""
        kind = self.kinds[int(digest[8:16], 16) % len(self.kinds)]
        return kind if kind in LASTING or turn < self.turns else ""


@dataclass
class Meter:
    """What would have been charged: complete answers by request, and those whose delivery failed
    (`lost`).
    """

    prices: Path | None = None
    charged: Counter[str] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)
    usd: float = 0.0
    lost: int = 0
    lost_usd: float = 0.0
    known: dict[str, Price | None] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def charge(
        self,
        digest: str,
        model: str,
        tokens_in: int,
        tokens_out: int,
        via: str = "online",
        lost: bool = False,
    ) -> None:
        """Count one answer."""
        with self.lock:
            if model not in self.known:
                self.known[model] = price_of(model, self.prices)
            price = self.known[model]
            usd = price.of(tokens_in, tokens_out, via) if price else 0.0
            if lost:
                self.lost += 1
                self.lost_usd += usd
            else:
                self.charged[digest] += 1
                self.tokens.update({"input": tokens_in, "output": tokens_out})
                self.usd += usd

    def as_json(self) -> dict[str, Any]:
        """Return the meter's reading; `most` is how often the most charged request was charged."""
        with self.lock:
            return {
                "answers": self.charged.total(),
                "requests": len(self.charged),
                "most": max(self.charged.values(), default=0),
                "tokens": dict(self.tokens),
                "usd": self.usd,
                "lost": self.lost,
                "lost_usd": self.lost_usd,
            }


@dataclass
class Rate:
    """A rate limit: requests and tokens per window of `window_s`; None: no limit and no headers."""

    requests: int | None = None
    tokens: int | None = None
    window_s: float = 1.0
    started: float = field(default_factory=time.monotonic)
    used: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, tokens: int, path: str) -> tuple[bool, dict[str, str]]:
        """Return whether a request of `tokens` is let through, and the headers of the protocol that
        `path` belongs to.
        """
        if self.requests is None or self.tokens is None:
            return True, {}
        with self.lock:
            now = time.monotonic()
            if now >= self.started + self.window_s:
                self.started, self.used = now, Counter()
            fits = not self.used or (
                self.used["requests"] < self.requests
                and self.used["tokens"] + tokens <= self.tokens
            )
            if fits:
                self.used.update({"requests": 1, "tokens": tokens})
            left = self.started + self.window_s - now
            remaining = {
                "requests": self.requests - self.used["requests"],
                "tokens": max(0, self.tokens - self.used["tokens"]),
            }
        if path == "/v1/messages":
            reset = (datetime.now(UTC) + timedelta(seconds=left)).isoformat()
            headers = {
                f"anthropic-ratelimit-{kind}-{word}": value
                for kind in remaining
                for word, value in (("remaining", str(remaining[kind])), ("reset", reset))
            }
        else:
            headers = {
                f"x-ratelimit-{word}-{kind}": value
                for kind in remaining
                for word, value in (
                    ("remaining", str(remaining[kind])),
                    ("reset", f"{left * 1000:.0f}ms"),
                )
            }
        return fits, headers if fits else {**headers, "retry-after": f"{left:.3f}"}


def fitting(schema: dict[str, Any], text: str) -> Any:
    """Return a small value that a JSON schema allows, with `text` as its texts: what a server that
    holds to schemas would say.
    """
    if "enum" in schema:
        return schema["enum"][-1]
    kind = schema.get("type")
    if kind == "object":
        return {
            name: fitting(schema["properties"][name], text) for name in schema.get("required", [])
        }
    return (
        []
        if kind == "array"
        else (
            1
            if kind in ("integer", "number")
            else kind != "null"
            if kind in ("boolean", "null")
            else text
        )
    )


class FakeProvider:
    """One simulated provider: `answer` for single requests, the batch methods for both batch
    APIs.
    """

    def __init__(
        self, simulator: Simulator, faults: Faults, meter: Meter, batch_s: float = 0.0
    ) -> None:
        self.simulator, self.faults, self.meter, self.batch_s = simulator, faults, meter, batch_s
        self.turns: Counter[str] = Counter()
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self.lock = threading.Lock()

    def turn(self, digest: str) -> int:
        """Count an attempt; return how many there were before."""
        with self.lock:
            self.turns[digest] += 1
            return self.turns[digest] - 1

    def answer(
        self, path: str, body: dict[str, Any], fault: str = ""
    ) -> tuple[dict[str, Any], int, int]:
        """Return the JSON of one answer in the protocol that `path` belongs to, and its tokens in
        and out.
        """
        messages = (
            body["messages"]
            if "messages" in body
            else [{"role": "user", "content": body["prompt"]}]
        )
        if body.get("system"):
            messages = [{"role": "system", "content": body["system"]}, *messages]
        text = self.simulator.reply(messages, int(body.get("seed") or 0), body["model"])
        schema = (
            (body.get("response_format") or {}).get("json_schema")
            or (body.get("output_config") or {}).get("format")
            or {}
        ).get("schema")
        if schema:
            text = text if text.startswith("{") else json.dumps(fitting(schema, text))
        words = text.split(" ")
        limit = body.get("max_tokens", body.get("max_completion_tokens"))
        most = 1 if fault == "length" else len(words) if limit is None else limit
        cut = len(words) > most or fault == "length"
        text = "" if fault in ("empty", "refusal") else " ".join(words[:most]) if cut else text
        found = Completion(
            id=sha256_text(json.dumps(body, sort_keys=True))[:24],
            model="another-model" if fault == "wrong_model" else body["model"],
            text=text,
            end="refusal" if fault == "refusal" else "length" if cut else "stop",
            tokens_in=sum(len(message["content"].split()) for message in messages),
            tokens_out=len(text.split()),
        )
        sent = (
            anthropic_answer(found)
            if path == "/v1/messages"
            else openai_answer(found, chat=path != "/v1/completions")
        )
        return sent, found.tokens_in, found.tokens_out

    def submit(
        self, path: str, rows: list[tuple[str, dict[str, Any]]], more: dict[str, Any]
    ) -> dict[str, Any]:
        """Accept a batch of (custom_id, body) rows for `path`; return its record."""
        with self.lock:
            name = f"{'msgbatch' if path == '/v1/messages' else 'batch'}_{len(self.batches)}"
            self.batches[name] = {
                "id": name,
                "path": path,
                "rows": rows,
                "created": time.time(),
                "cancelled": False,
                "results": None,
                **more,
            }
        return self.batches[name]

    def batch(self, name: str) -> dict[str, Any]:
        """Return a batch's record; once its time has come or it was cancelled, with its results."""
        batch = self.batches[name]
        with self.lock:
            if batch["results"] is None and (
                batch["cancelled"] or time.time() >= batch["created"] + self.batch_s
            ):
                half = (len(batch["rows"]) + 1) // 2 if batch["cancelled"] else len(batch["rows"])
                batch["results"] = [
                    (
                        key,
                        *(
                            self._result(batch["path"], body)
                            if number < half
                            else ("canceled", None)
                        ),
                    )
                    for number, (key, body) in enumerate(batch["rows"])
                ]
        return batch

    def _result(self, path: str, body: dict[str, Any]) -> tuple[str, Any]:
        digest = sha256_text(canonical(body))
        fault = self.faults.of(digest, self.turns[digest])
        self.turns[digest] += 1
        if fault in PASSING:
            return (
                ("expired", None)
                if fault in EXPIRING
                else ("errored", "the server failed, as configured")
            )
        try:
            answer, tokens_in, tokens_out = self.answer(path, body, fault)
        except (KeyError, TypeError, ValueError) as error:
            return "invalid", f"bad request: {error}"
        self.meter.charge(digest, body["model"], tokens_in, tokens_out, "batch")
        return "succeeded", answer
