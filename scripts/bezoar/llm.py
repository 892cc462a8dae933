"""The one door to language models: teacher, filter and judge ask through it; no question is sent twice, none is lost.

Settings of a model (part of a stage's recipe): provider (openai, anthropic or simulator), api (chat, completions or messages), model,
revision, base_url_env and api_key_env (names of environment variables; the key itself is never stored), prompt_form (text with %s for the prompt,
for completions), stop (list), temperature, max_tokens, timeout_s.

Every request ends in exactly one state: answered, refused, truncated, empty or provider_error. A fault of the moment is waited out; a
request that the server will never take (400, 413, 422) is that row's provider_error and stored, so that a replay agrees; a wrong key, model
or address ends the stage with one line.
"""

import asyncio
import contextlib
import os
import random
import re
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bezoar.errors import UserError
from bezoar.protocol import call
from bezoar.store import Store, key_of

STATES = ("answered", "refused", "truncated", "empty", "provider_error")
RETRIES = 6
FIRST_PAUSE_S = 0.25  # doubled at each retry: 7.75 s over all six turns
TICK_S = 0.5  # how often answers are stored: what a kill can lose
NEVER = (400, 413, 422)  # this request will fail again, another may not
SIMULATOR = Path(__file__).parent.parent / "serve_simulator.py"


@dataclass(frozen=True)
class Answer:
    """What came back: `text` is empty unless something was said; `usage` counts tokens in and out; `finish` is the server's own word."""

    state: str
    text: str
    usage: dict[str, int]
    model: str
    error: str = ""
    finish: str = ""


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
        self._key = ""
        self._heard = False  # whether anything was ever said at the address
        self._child: subprocess.Popen[str] | None = None
        self._address: str | None = None

    def __enter__(self) -> "Door":
        self.store = Store(self.path)
        return self

    def __exit__(self, *_: object) -> None:
        self.store.close()
        if self._child is not None:
            if self._child.stdin is not None:
                self._child.stdin.close()
            try:
                self._child.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self._child.kill()

    def ask(self, prompts: list[list[dict[str, str]]], names: list[str], attempt: int = 0) -> list[Answer]:
        """Return one answer a prompt, in order. `names` say which rows they are, for errors; `attempt` tells re-asks apart.

        The same prompt with the same attempt is one request, asked once, however many rows share it.
        """
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
        """Send what is missing, `concurrency` at a time; answers are stored every `TICK_S`, and none counts before it is stored."""
        gate, done = asyncio.Semaphore(self.concurrency), asyncio.Event()
        answers: dict[str, dict[str, Any]] = {}
        unstored: list[tuple[str, dict[str, Any], dict[str, Any], float]] = []

        def flush() -> None:
            self.store.put(unstored)
            unstored.clear()

        async def one(key: str, request: dict[str, Any]) -> None:
            async with gate:
                started = time.monotonic()
                answer, lasting = await self._with_retries(client, request)
            if lasting:
                unstored.append((key, request, answer, time.monotonic() - started))
            answers[key] = answer
            self.sent += 1
            if len(answers) == len(missing):
                done.set()

        async def keep() -> None:
            told = time.monotonic()
            while not done.is_set():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(done.wait(), TICK_S)
                flush()
                if time.monotonic() - told > 5:
                    told = time.monotonic()
                    print(f"{len(answers)}/{len(missing)} answers", flush=True)

        try:
            async with self._client() as client, asyncio.TaskGroup() as group:
                group.create_task(keep())
                for key, request in missing.items():
                    group.create_task(one(key, request))
        except* UserError as errors:
            raise errors.exceptions[0] from None
        finally:
            flush()
        return answers

    async def _with_retries(self, client: Any, request: dict[str, Any]) -> tuple[dict[str, Any], bool]:
        """Return the answer to one request, and whether it is for good; faults of the moment are retried with growing pauses."""
        for turn in range(RETRIES):
            try:
                answer = await call(client, request)
            except (self._sdk.APIError, ValueError) as error:  # a ValueError is an answer that is no JSON, or not of the protocol
                status = getattr(error, "status_code", None)
                self._heard |= status is not None or isinstance(error, ValueError)
                what: str = f"{type(error).__name__} {status or ''}".strip()
                failed: dict[str, Any] = {"state": "provider_error", "text": "", "usage": {}, "model": "", "error": f"{what}: {self._plain(error)}"}
                if status in (401, 403, 404):
                    raise UserError(self._hint(status, failed["error"])) from None
                if status in NEVER:
                    return failed, True
                if turn == RETRIES - 1:
                    if not self._heard and not isinstance(error, self._sdk.APITimeoutError):
                        raise UserError(self._hint(None, failed["error"])) from None
                    return failed, False
                response = getattr(error, "response", None)
                after = response.headers.get("retry-after", "") if response is not None else ""
                told = re.fullmatch(r"\d+(\.\d+)?", after)
                pause = float(after) if told else min(30, FIRST_PAUSE_S * 2**turn)
                await asyncio.sleep(pause * (1 + 0.1 * random.random()))  # jitter moves times, never results
            else:
                self._heard = True
                return answer, True
        raise AssertionError("unreachable: the last turn returns")

    def _plain(self, error: Exception) -> str:
        """Return an error's text in one line of at most 200 characters, without the key, whatever the server put into it."""
        text = str(error).replace(self._key, "***") if self._key else str(error)
        return " ".join(text.split())[:200]

    def _hint(self, status: int | None, what: str) -> str:
        """Return the line for a fault that every request will meet."""
        key, address = self.settings["api_key_env"], self.settings["base_url_env"]
        do = {401: f"check the key in {key}", 403: f"check the key in {key}", 404: f"check `model` and the address in {address}"}
        return f"model {self.settings['model']}: {what}; {do.get(status or 0, f'nobody answers, check the address in {address}')}"

    def _client(self) -> Any:
        settings = self.settings
        simulated = settings["provider"] == "simulator"
        key = "simulator-needs-no-key" if simulated else os.environ.get(settings["api_key_env"] or "", "")
        if not key:
            raise UserError(f"{settings['api_key_env']}: not set; put the key for {settings['model']} into this environment variable")
        address = self._simulator() if simulated else os.environ.get(settings["base_url_env"] or "")
        if settings["base_url_env"] and not address:  # else the key would go to the client's default address
            raise UserError(f"{settings['base_url_env']}: not set; put the address of the server of {settings['model']} into it")
        self._key = "" if simulated else key
        options: dict[str, Any] = {"api_key": key, "timeout": settings["timeout_s"], "max_retries": 0}
        if settings["provider"] == "anthropic" or settings["api"] == "messages":
            import anthropic as sdk

            make: Any = sdk.AsyncAnthropic
        else:
            import openai as sdk  # type: ignore[no-redef]

            make = sdk.AsyncOpenAI  # type: ignore[attr-defined]
            address = f"{address}/v1" if simulated else address
        self._sdk: Any = sdk
        if simulated:  # a proxy of the environment cannot reach our own child
            options["http_client"] = sdk.DefaultAsyncHttpxClient(trust_env=False)
        return make(**options, **({"base_url": address} if address else {}))

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
