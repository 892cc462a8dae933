"""The one door to language models: teacher, filter and judge ask through it; no question is sent twice, none is lost.

Settings of a model (part of a stage's recipe): provider (openai, anthropic or simulator), api (chat, completions or messages), model,
revision, base_url_env and api_key_env (names of environment variables; the key itself is never stored), prompt_form (text with %s for the prompt,
for completions), stop (list), temperature, max_tokens, timeout_s.

Every request ends in exactly one state: answered, refused, truncated, empty or provider_error.
"""

import asyncio
import os
import random
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bezoar.errors import UserError
from bezoar.store import Store, key_of

STATES = ("answered", "refused", "truncated", "empty", "provider_error")
RETRIES = 6
SIMULATOR = Path(__file__).parent.parent / "serve_simulator.py"


@dataclass(frozen=True)
class Answer:
    """What came back: `text` is empty unless something was said; `usage` counts tokens in and out."""

    state: str
    text: str
    usage: dict[str, int]
    model: str
    error: str = ""


def request_of(settings: dict[str, Any], messages: list[dict[str, str]], attempt: int = 0) -> dict[str, Any]:
    """Return the canonical request: what decides the answer, and nothing else (no address, no key, no time)."""
    return {
        "provider": settings["provider"], "api": settings["api"], "model": settings["model"], "revision": settings["revision"],
        "messages": messages, "prompt_form": settings["prompt_form"], "stop": settings["stop"],
        "temperature": settings["temperature"], "max_tokens": settings["max_tokens"], "attempt": attempt,
    }  # fmt: skip


class Door:
    """Context manager; `ask` takes lists of chat messages and returns their answers in the same order.

    `store` is this job's own file. In `replay` mode nothing is sent and a missing record is an error that names the row.
    """

    def __init__(self, settings: dict[str, Any], store: Path, concurrency: int, facts: Path | None, mode: str = "online") -> None:
        self.settings, self.concurrency, self.facts, self.mode = settings, concurrency, facts, mode
        self.path = store
        self.states: Counter[str] = Counter()
        self.usage: Counter[str] = Counter()
        self.sent = 0
        self._child: subprocess.Popen[str] | None = None
        self._address: str | None = None

    def __enter__(self) -> "Door":
        self.store = Store(self.path)
        return self

    def __exit__(self, *_: object) -> None:
        self.store.close()
        if self._child is not None:
            self._child.stdin.close()  # type: ignore[union-attr] - opened as a pipe below
            self._child.wait(timeout=10)

    def ask(self, prompts: list[list[dict[str, str]]], names: list[str], attempt: int = 0) -> list[Answer]:
        """Return one answer a prompt, in order. `names` say which rows they are, for errors; `attempt` tells re-asks apart."""
        requests = [request_of(self.settings, prompt, attempt) for prompt in prompts]
        keys = [key_of(request) for request in requests]
        known = {key: found for key in dict.fromkeys(keys) if (found := self.store.get(key)) is not None}
        missing = {key: request for key, request in zip(keys, requests, strict=True) if key not in known}
        if missing and self.mode == "replay":
            name = next(name for name, key in zip(names, keys, strict=True) if key in missing)
            raise UserError(f"{self.path}: no stored answer for {name} ({len(missing)} missing); replay sends nothing")
        if missing:
            known |= asyncio.run(self._send(missing))
        answers = [Answer(**known[key]) for key in keys]
        self.states.update(answer.state for answer in answers)
        for answer in answers:
            self.usage.update(answer.usage)
        return answers

    def ask_until(self, prompts: list[list[dict[str, str]]], names: list[str], parse: Any, attempts: int) -> list[tuple[Any, Answer]]:
        """Ask each prompt until `parse(text)` is not None, at most `attempts` times; return (parsed or None, last answer)."""
        results: list[Any] = [None] * len(prompts)
        open_rows = list(range(len(prompts)))
        for attempt in range(attempts):
            answers = self.ask([prompts[i] for i in open_rows], [names[i] for i in open_rows], attempt)
            for i, answer in zip(open_rows, answers, strict=True):
                results[i] = (parse(answer.text) if answer.state == "answered" else None, answer)
            open_rows = [i for i in open_rows if results[i][0] is None]
            if not open_rows:
                break
        return results

    def facts_for_receipt(self) -> dict[str, Any]:
        """Return states, tokens and requests sent, for the stage's receipt."""
        return {"states": dict(sorted(self.states.items())), "tokens": dict(sorted(self.usage.items())), "sent": self.sent}

    async def _send(self, missing: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """Send what is missing, `concurrency` at a time; each answer is stored before it counts."""
        client, gate = self._client(), asyncio.Semaphore(self.concurrency)
        answers: dict[str, dict[str, Any]] = {}
        unstored: list[tuple[str, dict[str, Any], dict[str, Any], float]] = []
        told = time.monotonic()

        async def one(key: str, request: dict[str, Any]) -> None:
            nonlocal told
            async with gate:
                started = time.monotonic()
                answer = await self._with_retries(client, request)
            if answer["state"] != "provider_error":  # a fault of the moment is asked again by the next run
                unstored.append((key, request, answer, time.monotonic() - started))
            answers[key] = answer
            self.sent += 1
            if len(unstored) >= 64:
                self.store.put(unstored)
                unstored.clear()
            if time.monotonic() - told > 5:
                told = time.monotonic()
                print(f"{len(answers)}/{len(missing)} answers", flush=True)

        try:
            async with client, asyncio.TaskGroup() as group:
                for key, request in missing.items():
                    group.create_task(one(key, request))
        except* UserError as errors:
            raise errors.exceptions[0] from None
        finally:
            self.store.put(unstored)
        return answers

    async def _with_retries(self, client: Any, request: dict[str, Any]) -> dict[str, Any]:
        """Return the answer to one request; retry rate limits, server faults and lost connections with growing pauses."""
        for turn in range(RETRIES):
            try:
                return await self._call(client, request)
            except Exception as error:
                status = getattr(error, "status_code", None)
                name = type(error).__name__
                if status in (400, 401, 403, 404, 422) or not name.startswith(("API", "RateLimit", "InternalServer", "Overloaded")):
                    where = f"{self.settings['provider']} model {self.settings['model']}"
                    what = {401: "check the key in", 403: "check the key in", 404: "check model and address; key in"}.get(status or 0, "key in")
                    raise UserError(f"{where}: {name} {status or ''}: {str(error)[:200]}; {what} {self.settings['api_key_env']}") from None
                if turn == RETRIES - 1:
                    return {"state": "provider_error", "text": "", "usage": {}, "model": "", "error": f"{name} {status or ''}".strip()}
                response = getattr(error, "response", None)
                after = response.headers.get("retry-after") if response is not None else None
                pause = float(after) if after and after.replace(".", "", 1).isdigit() else min(30, 0.25 * 2**turn)
                await asyncio.sleep(pause * (1 + 0.1 * random.random()))  # jitter moves times, never results
        raise AssertionError("unreachable: the last turn returns")

    async def _call(self, client: Any, request: dict[str, Any]) -> dict[str, Any]:
        """Make one call through the official SDK; `stop` and the attempt go along where the protocol has a place for them."""
        common = {"model": request["model"], "temperature": request["temperature"], "max_tokens": request["max_tokens"]}
        stop, messages, seed = request["stop"] or None, request["messages"], request["attempt"]
        if request["api"] == "messages":
            system = "\n\n".join(message["content"] for message in messages if message["role"] == "system")
            extra = {"system": system} if system else {}
            said = await client.messages.create(
                **common, **extra, messages=[m for m in messages if m["role"] != "system"], **({"stop_sequences": stop} if stop else {})
            )
            text = "".join(block.text for block in said.content if block.type == "text")
            state = {"max_tokens": "truncated", "refusal": "refused"}.get(said.stop_reason, "answered")
            usage = {"input": said.usage.input_tokens, "output": said.usage.output_tokens}
        else:
            if request["api"] == "completions":
                prompt = (request["prompt_form"] or "%s").replace("%s", "\n\n".join(m["content"] for m in messages))
                said = await client.completions.create(**common, prompt=prompt, stop=stop, seed=seed)
                text, refusal = said.choices[0].text or "", None
            else:
                said = await client.chat.completions.create(**common, messages=messages, stop=stop, seed=seed)
                text, refusal = said.choices[0].message.content or "", said.choices[0].message.refusal
            reason = said.choices[0].finish_reason
            state = "refused" if refusal or reason == "content_filter" else "truncated" if reason == "length" else "answered"
            usage = {"input": said.usage.prompt_tokens, "output": said.usage.completion_tokens} if said.usage else {}
        if state == "answered" and not text.strip():
            state = "empty"
        return {"state": state, "text": text.strip(), "usage": usage, "model": said.model}

    def _client(self) -> Any:
        settings = self.settings
        simulated = settings["provider"] == "simulator"
        key = "simulator-needs-no-key" if simulated else os.environ.get(settings["api_key_env"] or "", "")
        if not key:
            raise UserError(f"{settings['api_key_env']}: not set; put the key for {settings['model']} into this environment variable")
        address = self._simulator() if simulated else os.environ.get(settings["base_url_env"] or "") or None
        options = {"api_key": key, "timeout": settings["timeout_s"], "max_retries": 0}
        if settings["provider"] == "anthropic" or settings["api"] == "messages":
            import anthropic

            return anthropic.AsyncAnthropic(**options, **({"base_url": address} if address else {}))
        import openai

        return openai.AsyncOpenAI(**options, **({"base_url": f"{address}/v1" if simulated else address} if address else {}))

    def _simulator(self) -> str:
        """Start the simulator as a child that ends with this process; return its address."""
        if self._address is None:
            if self.facts is None:
                raise UserError("provider simulator: needs the world's facts; only the rehearsal has them")
            command = [sys.executable, str(SIMULATOR), "--facts", str(self.facts), "--port", "0"]
            self._child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            line = self._child.stdout.readline() if self._child.stdout else ""
            if not line.startswith("listening "):
                raise UserError(f"the simulator did not start; run `{' '.join(command[1:])}` to see why")
            self._address = f"http://127.0.0.1:{line.split()[1]}"
        return self._address

