"""The one door to language models: teacher, filter and judge ask through it; no question is sent
twice, none is lost.

Settings of a model (part of a stage's recipe): provider (openai, anthropic or simulator), api
(chat, completions or messages), model, revision, base_url_env and api_key_env (names of environment
variables; the key itself is never stored), prompt_form (text with %s for the prompt, for
completions), stop (list), temperature, max_tokens, timeout_s, reported_as (the id that the server
answers under, if it is not `model`), json_schema (whether the server holds answers to a JSON
schema), batch (whether MODE=batch goes through the provider's batch API).

Every row ends in exactly one state: answered; refused; truncated (at max_tokens); unparsable
(nothing in it, or not what was asked for, to the last re-ask); provider_error (also an answer under
another model's id); over_budget. A fault of the moment is waited out; a request that the server
will never take (400, 413, 422) is stored, so that a replay agrees; a wrong key, model or address
ends the stage with one line.

From the environment: BEZOAR_MODE (online; batch; replay, which sends nothing and names the row
whose answer is missing) and BEZOAR_BUDGET_USD, which is reserved before each call and shared by all
jobs of a results folder.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from bezoar.errors import UserError
from bezoar.llm import sdk as clients
from bezoar.llm.answer_store import Entry, Store, key_of
from bezoar.llm.batches import batch_api
from bezoar.llm.budget import Ledger, budget_of_environment, most_tokens_in, price_of
from bezoar.llm.limits import Limiter, retry_after
from bezoar.llm.protocol import call, read_text
from bezoar.llm.transport import Sending, failure, in_batches
from bezoar.surroundings import own

STATES = ("answered", "refused", "truncated", "unparsable", "provider_error", "over_budget")
MODES = ("online", "batch", "replay")
RETRIES = 6
FIRST_PAUSE_S = 0.25  # doubled at each retry: 7.75 s over all six turns
NEVER = (400, 413, 422)  # this request will fail again, another may not


@dataclass(frozen=True)
class Answer:
    """What came back: `text` is empty unless something was said; `usage` counts tokens in and out;
    `finish` is the server's own word.
    """

    state: str
    text: str
    usage: dict[str, int]
    model: str
    error: str = ""
    finish: str = ""


def request_of(
    settings: dict[str, Any],
    messages: list[dict[str, str]],
    attempt: int = 0,
    schema: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the canonical request: what decides the answer, and nothing else (no address, no key,
    no time).
    """
    return {
        "provider": settings["provider"],
        "api": settings["api"],
        "model": settings["model"],
        "revision": settings["revision"],
        "messages": messages,
        "prompt_form": settings["prompt_form"],
        "stop": settings["stop"],
        "temperature": settings["temperature"],
        "max_tokens": settings["max_tokens"],
        "attempt": attempt,
        **({"schema": schema} if schema and settings.get("json_schema") else {}),
    }


class LLMClient:
    """Context manager; `ask` takes lists of chat messages and returns their answers in the same
    order.

    `store` is this job's own file. `states` and `usage` count rows, `sent` counts calls, `usd` is
    what they were charged.
    """

    def __init__(
        self,
        settings: dict[str, Any],
        store: Path,
        concurrency: int,
        facts: Path | None,
        mode: str | None = None,
    ) -> None:
        self.settings, self.concurrency, self.facts = settings, concurrency, facts
        self.mode = mode or own("MODE") or "online"
        if self.mode not in MODES:
            raise UserError(f"MODE: expected one of {', '.join(MODES)}, found {self.mode!r}")
        self.path = store
        self.states: Counter[str] = Counter()
        self.usage: Counter[str] = Counter()
        self.sent, self.usd = 0, 0.0
        self.limiter = Limiter()
        self.provider = clients.SDKFactory(settings, facts)
        self.ledger: Ledger | None = None
        self._heard = False  # whether anything was ever said at the address

    def __enter__(self) -> "LLMClient":
        self.price = price_of(self.settings["model"])
        budget = budget_of_environment()
        if budget is not None and self.price is None and self.mode != "replay":
            raise UserError(
                f"BUDGET_USD: config/prices.yaml has no price for {self.settings['model']}; add it,"
                " or unset BUDGET_USD"
            )
        self.store = Store(self.path)
        if self.price and not self.price.free and self.mode != "replay":
            self.ledger = Ledger(self.path.parent / "budget.db", budget)
            self._reconcile()
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.store.close()
        finally:
            if self.ledger:
                self.ledger.close()
            self.provider.close()

    def ask(
        self,
        prompts: list[list[dict[str, str]]],
        names: list[str],
        attempt: int = 0,
        schema: dict[str, Any] | None = None,
    ) -> list[Answer]:
        """Return one answer a prompt, in order. `names` say which rows they are, for errors;
        `attempt` tells re-asks apart.

        The same prompt with the same attempt is one request, asked once, however many rows share
        it.
        """
        return self._count(self._ask(prompts, names, attempt, schema))

    def ask_until(
        self,
        prompts: list[list[dict[str, str]]],
        names: list[str],
        parse: Callable[[str], Any],
        attempts: int,
        schema: dict[str, Any] | None = None,
    ) -> list[tuple[Any, Answer]]:
        """Ask each prompt until `parse(text)` is not None, at most `attempts` times; return (parsed
        or None, last answer).

        A row that is never parsed is `unparsable`. `schema` is what a server with `json_schema`
        holds its answers to; the parser stays as strict.
        """
        results: list[tuple[Any, Answer]] = [(None, Answer("unparsable", "", {}, ""))] * len(
            prompts
        )
        open_rows = list(range(len(prompts)))
        for attempt in range(attempts):
            answers = self._ask(
                [prompts[i] for i in open_rows], [names[i] for i in open_rows], attempt, schema
            )
            for i, answer in zip(open_rows, answers, strict=True):
                parsed = parse(answer.text) if answer.state == "answered" else None
                lost = parsed is None and answer.state == "answered"
                results[i] = (parsed, replace(answer, state="unparsable") if lost else answer)
            open_rows = [i for i in open_rows if results[i][0] is None]
            if not open_rows:
                break
        self._count([answer for _, answer in results])
        return results

    def facts_for_receipt(self) -> dict[str, Any]:
        """Return states and tokens of rows, calls sent and USD charged for them, for the stage's
        receipt.
        """
        return {
            "states": self.counts(),
            "tokens": dict(sorted(self.usage.items())),
            "sent": self.sent,
            "usd": round(self.usd, 6),
            "mode": self.mode,
        }

    def counts(self) -> dict[str, int]:
        """Return how many rows ended in each state that occurred."""
        return dict(sorted(self.states.items()))

    def cancel(self) -> list[str]:
        """Ask the provider to end this store's open batches; return their ids. A later run collects
        what was answered until then.
        """
        names = [name for _, name, _, _ in self.store.open_batches() if name]

        async def all_of_them() -> None:
            async with self.provider.client() as client:
                for name in names:
                    await batch_api(self.settings, client).cancel(name)

        if names:
            asyncio.run(all_of_them())
        return names

    def _count(self, answers: list[Answer]) -> list[Answer]:
        self.states.update(answer.state for answer in answers)
        for answer in answers:
            self.usage.update(answer.usage)
        return answers

    def _ask(
        self,
        prompts: list[list[dict[str, str]]],
        names: list[str],
        attempt: int,
        schema: dict[str, Any] | None,
    ) -> list[Answer]:
        requests = [request_of(self.settings, prompt, attempt, schema) for prompt in prompts]
        keys = [key_of(request) for request in requests]
        known = self.store.get_many(dict.fromkeys(keys))
        missing = {
            key: request for key, request in zip(keys, requests, strict=True) if key not in known
        }
        if missing and self.mode == "replay":
            name = next(name for name, key in zip(names, keys, strict=True) if key in missing)
            raise UserError(
                f"{self.path}: no stored answer for {name} ({len(missing)} missing); replay sends"
                " nothing"
            )
        if missing:
            known |= asyncio.run(self._send(missing))
        answers = [self._checked(known[key]) for key in keys]
        late = [
            name
            for name, answer in zip(names, answers, strict=True)
            if answer.state == "over_budget"
        ]
        if late and self.ledger:
            raise UserError(
                f"BUDGET_USD={self.ledger.budget:g} is used up ({self.ledger.total():.4f} spent or"
                f" reserved): {len(answers) - len(late)} of {len(answers)} rows are done and"
                f" stored, {len(late)} over budget from {late[0]} on; raise it and run again"
            )
        return answers

    def _checked(self, stored: dict[str, Any]) -> Answer:
        """Return a stored answer; one that came under another model's id is a provider error as
        long as the settings do not name that id.
        """
        answer = Answer(**stored)
        expected = self.settings.get("reported_as") or self.settings["model"]
        if not answer.model or clients.same_model(expected, answer.model):
            return answer
        why = (
            f"asked for {expected}, {answer.model} answered; if that is the model you mean, set"
            " `reported_as`"
        )
        return replace(answer, state="provider_error", text="", error=why)

    async def _send(self, missing: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """Send what is missing; answers are stored every `sending.TICK_S`, and none counts before
        it is stored.
        """
        sending = Sending(self, missing)
        work = (
            partial(in_batches, self)
            if self.settings.get("batch") and (self.mode == "batch" or self.store.open_batches())
            else self.one_by_one
        )
        try:
            async with self.provider.client() as client, asyncio.TaskGroup() as group:
                keeper = group.create_task(sending.keep())
                await work(client, sending)
                sending.done.set()
                await keeper
        except* UserError as errors:
            raise _first(errors) from None
        finally:
            sending.flush()
        return sending.answers

    async def one_by_one(self, client: Any, sending: Sending) -> None:
        """Send each request by itself, `concurrency` at a time."""
        left = {
            key: request for key, request in sending.missing.items() if key not in sending.answers
        }
        waiting = iter(left.items())

        async def worker() -> None:
            for key, request in waiting:
                await self._with_retries(client, sending, key, request)

        async with asyncio.TaskGroup() as group:
            for _ in range(min(self.concurrency, len(left))):
                group.create_task(worker())

    async def _with_retries(
        self, client: Any, sending: Sending, key: str, request: dict[str, Any]
    ) -> None:
        """Bring one request to its end; faults of the moment are retried with growing pauses."""
        bytes_in = most_tokens_in(request)
        tokens, most = (
            bytes_in / 4 + request["max_tokens"],
            self.price.of(bytes_in, request["max_tokens"]) if self.price else 0.0,
        )
        error, reserved = "", False
        for turn in range(RETRIES):
            if not reserved and not (reserved := await sending.reserve(key, most)):
                sending.end(key, {**failure(""), "state": "over_budget"})
                return
            await self.limiter.reserve(tokens)
            began, started, used, headers = time.time(), time.monotonic(), tokens, None
            self.sent += 1
            try:
                text, headers = await call(client, request)
                answer = read_text(text, request["api"])
                used = sum(answer["usage"].values()) or tokens
            except (
                self.provider.sdk.APIError,
                ValueError,
            ) as fault:  # a ValueError is an answer that is no JSON, or not of the protocol
                error, status = self.explain(fault), getattr(fault, "status_code", None)
                self._heard |= status is not None or isinstance(fault, ValueError)
                response = getattr(fault, "response", None)
                headers = headers if response is None else response.headers
                used = 0.0 if status else tokens
                if self._hopeless(fault, status):
                    sending.release(key)
                    raise UserError(self.provider.hint(status, error)) from None
                if status is None and not clients.never_connected(fault):
                    # it may have been charged: this reservation stays, the next turn makes another
                    reserved = False
                    sending.held.discard(key)
                if status in NEVER:
                    sending.end(
                        key,
                        failure(error),
                        Entry(
                            key, request, failure(error), "", began, time.monotonic() - started, 0.0
                        ),
                    )
                    return
                pause = (retry_after(headers) if headers else None) or min(
                    30, FIRST_PAUSE_S * 2**turn
                )
            else:
                self._heard = True
                usd = (
                    self.price.of(
                        answer["usage"].get("input", bytes_in),
                        answer["usage"].get("output", request["max_tokens"]),
                    )
                    if self.price
                    else None
                )
                sending.end(
                    key,
                    answer,
                    Entry(key, request, answer, text, began, time.monotonic() - started, usd),
                )
                return
            finally:
                self.limiter.give_back(tokens, used, headers)
            if turn < RETRIES - 1:
                await asyncio.sleep(
                    pause * (1 + 0.1 * random.random())
                )  # jitter moves times, never results
        if not self._heard and "Timeout" not in error:
            raise UserError(self.provider.hint(None, error))
        if reserved:
            sending.release(key)
        sending.end(key, failure(error))

    def _hopeless(self, fault: Exception, status: int | None) -> bool:
        """Say whether every request will meet this fault: a wrong key, model or address, an account
        without credit.
        """
        return status in (401, 403, 404) or (status == 429 and "insufficient_quota" in str(fault))

    def explain(self, fault: Exception) -> str:
        """Return a fault in one line of at most 200 characters, without the key, whatever the
        server put into it.
        """
        text = " ".join(self.provider.without_key(str(fault)).split())[:200]
        return (
            f"{type(fault).__name__} {getattr(fault, 'status_code', None) or ''}".strip()
            + f": {text}"
        )

    def _reconcile(self) -> None:
        """Settle the reservations of answers that a killed run had stored, but not yet accounted
        for.
        """
        assert self.ledger is not None
        found = self.store.prices(self.ledger.unsettled(self.path.name))
        self.ledger.settle(self.path.name, found)


def _first(errors: BaseExceptionGroup) -> BaseException:
    """Return the first plain exception of nested groups."""
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
