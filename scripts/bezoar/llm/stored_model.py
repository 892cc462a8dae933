"""A provider's model whose answers are stored: no request is sent twice, none is lost."""

import asyncio
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bezoar import progress
from bezoar.errors import UserError
from bezoar.llm.answer_store import Entry, Store, key_of, usable
from bezoar.llm.batch_run import BatchRun, cancel_one, unknown_batch
from bezoar.llm.batches import batch_api, other_model
from bezoar.llm.budget import LEDGER, Account, Ledger, Price, budget_of_environment, require_bound
from bezoar.llm.connection import Connection
from bezoar.llm.exchange import Exchange, Incoming, ServerState
from bezoar.llm.language_model import Answer
from bezoar.llm.online import OnlineSender
from bezoar.llm.settings import Messages, ModelSpec, Request, request_of, same_model
from bezoar.surroundings import own

MODES = ("online", "batch", "replay")


def mode_of_environment() -> str:
    """Return BEZOAR_MODE, or online if it is not set."""
    mode = own("MODE") or "online"
    if mode not in MODES:
        raise UserError(f"BEZOAR_MODE: expected one of {', '.join(MODES)}, found {mode!r}")
    return mode


class StoredModel:
    """Answers from its store, and asks the provider for what is missing there.

    `path` is this job's own store; `concurrency` is how many requests are under way at once;
    `facts` are those of the rehearsal's world, for the simulator; `asked_again` are the keys that
    this process has sent already, where it opens the store more than once.
    """

    def __init__(
        self,
        settings: ModelSpec,
        path: Path,
        concurrency: int,
        facts: Path | None,
        mode: str | None = None,
        asked_again: set[str] | None = None,
    ) -> None:
        self.settings, self.path, self.concurrency = settings, path, concurrency
        self.mode = mode or mode_of_environment()
        self.connection = Connection(settings, facts)
        self.server = ServerState()
        self.price: Price | None = None
        self.ledger: Ledger | None = None
        self._store: Store | None = None
        self._asked_again: set[str] = set() if asked_again is None else asked_again
        self._used: set[str] = set()

    @property
    def sent(self) -> int:
        """How many calls were sent."""
        return self.server.sent

    @property
    def usd(self) -> float:
        """What they were charged."""
        return self.server.usd

    def used(self) -> dict[str, float]:
        """Return how many answers were given, how many of them were here before, and what all of
        them cost.
        """
        return {
            "answers": len(self._used),
            "stored": len(self._used - self._asked_again),
            "usd": round(sum(self.store.prices(self._used).values()), 6),
        }

    @property
    def store(self) -> Store:
        """The store, once it is open."""
        assert self._store is not None, "open() comes first"
        return self._store

    def open(self) -> None:
        """Open store and ledger; settle what a killed run had stored but not accounted for."""
        sends = self.mode != "replay"
        budget = budget_of_environment() if sends else None
        self.price = require_bound(self.settings.model, self.settings.max_tokens, budget)
        self._store = Store(self.path)
        if self.price and not self.price.free and sends:
            self.ledger = Ledger(self.path.parent / LEDGER, budget)
            unsettled = self.ledger.unsettled(self.path.name)
            self.ledger.settle(self.path.name, self.store.prices(unsettled))

    def close(self) -> None:
        """Close store and ledger, and end the simulator."""
        try:
            if self._store:
                self._store.close()
        finally:
            if self.ledger:
                self.ledger.close()
            self.connection.close()

    def answers(
        self, prompts: list[Messages], names: list[str], attempt: int, schema: dict[str, Any] | None
    ) -> list[Answer]:
        """Return one answer a prompt, in order. The same prompt with the same attempt is one
        request, sent once, however many rows share it. What failed in an earlier run is sent once
        more, except in a replay.
        """
        requests = [request_of(self.settings, prompt, attempt, schema) for prompt in prompts]
        keys = keys_of(requests, names)
        self._used.update(keys)
        known = self.store.get_many(dict.fromkeys(keys))
        again: set[str] = set()
        if self.mode != "replay":
            again = {key for key, stored in known.items() if not final(stored, self.settings)}
            again -= self._asked_again
        missing = {
            key: request
            for key, request in zip(keys, requests, strict=True)
            if key not in known or key in again
        }
        if known.keys() - missing.keys() - self._asked_again:
            progress.resumed("stored answers")
        self._asked_again.update(missing)  # in place: a shard hands it on
        if missing and self.mode == "replay":
            name = next(name for name, key in zip(names, keys, strict=True) if key in missing)
            raise UserError(
                f"{self.path}: no stored answer for {name} ({len(missing)} missing); replay sends"
                " nothing"
            )
        if missing:
            known |= asyncio.run(self.send(missing, again))
        self._stop_at_budget(names, [known[key] for key in keys])
        failed = {key: known[key] for key in missing if known[key]["state"] == "provider_error"}
        if failed:
            known |= self._with_failures(failed, missing)
        return [checked(known[key], self.settings) for key in keys]

    def _with_failures(
        self, failed: dict[str, dict[str, Any]], requests: dict[str, Request]
    ) -> dict[str, dict[str, Any]]:
        """Store failures that the stage goes on with, so that a replay agrees, but not in place of
        what is stored; return what is stored of each key. Their price is unknown.
        """
        via, now = "batch" if self.in_batches else "online", time.time()
        entries = [Entry(key, requests[key], failed[key], "", now, via=via) for key in failed]
        self.store.put_rows([entry.row() for entry in entries])
        return self.store.get_many(failed)

    @property
    def in_batches(self) -> bool:
        """Whether mode and settings say that requests go through the provider's batch API."""
        return self.settings.use_batch_api and self.mode == "batch"

    async def send(self, missing: dict[str, Request], again: set[str]) -> dict[str, dict[str, Any]]:
        """Send what is missing, and `again` what failed; answers are stored every
        `exchange.TICK_S`, and none counts before it is stored.
        """
        incoming = Incoming(self.store, Account(self.ledger, self.path.name), missing, again)
        try:
            async with self.connection.client() as sdk_client, asyncio.TaskGroup() as group:
                group.create_task(incoming.flush_until_done())
                exchange = Exchange(
                    self.settings,
                    self.connection,
                    self.connection.transport(sdk_client),
                    self.store,
                    self.price,
                    self.server,
                    incoming,
                )
                await self._work(exchange)
                incoming.done.set()
        except* UserError as errors:
            raise _first(errors) from None
        finally:
            incoming.flush()
        return incoming.answers

    async def _work(self, exchange: Exchange) -> None:
        """Send in batches where mode and settings say so; an open batch is collected in any
        mode.
        """
        online = OnlineSender(exchange, self.concurrency)
        if self.in_batches or self.store.open_batches():
            await BatchRun(exchange, online).run(self.in_batches)
        else:
            await online.send_all()

    def cancel(self, give_up: bool = False) -> tuple[list[str], list[str]]:
        """Ask the provider to end this model's open batches; print a line for each and return the
        ids of those that are cancelled or had ended, and the line of each that may run on: nobody
        can say which it is, or it is given up without the provider's word. A later run collects
        what was answered until then, unless `give_up` says that it asks anew. Raise `UserError` at
        a batch that cannot be cancelled and is not given up.
        """
        open_batches = [
            batch for batch in self.store.open_batches() if not other_model(batch[3], self.settings)
        ]
        ended: dict[str, str] = {}  # id -> how
        unsure: list[str] = []

        async def all_of_them() -> None:
            async with self.connection.client() as sdk_client:
                api = batch_api(self.settings.api, self.connection.transport(sdk_client))
                for batch in open_batches:
                    _, name, asked, requests = batch
                    if name is None and not api.marks:
                        unsure.append(self._unsure(len(requests), asked, give_up))
                        continue
                    name, fault = await cancel_one(api, self.store, batch)
                    if fault is None:
                        if name:
                            ended[name] = "cancelled"
                        elif give_up and self.ledger:  # it was never accepted
                            self.ledger.settle(self.path.name, dict.fromkeys(requests, 0.0))
                    elif name and fault.status in (400, 409):
                        ended[name] = "had ended already"
                        if not give_up:
                            ended[name] += "; the next run collects its answers"
                    elif not give_up:
                        line = unknown_batch(name, fault) or self.connection.hint(fault)
                        raise UserError(line)
                    elif name is None:
                        unsure.append(self._unsure(len(requests), asked, give_up))
                    else:
                        unsure.append(
                            f"{self.path.name}: batch {name} could not be cancelled ({fault}): it"
                            " may be running, and charged; cancel it in the provider's console"
                        )

        try:
            if open_batches:
                asyncio.run(all_of_them())
        finally:  # also where a later one cannot be cancelled
            named = [f"{self.path.name}: batch {name} {how}" for name, how in ended.items()]
            for line in (*named, *unsure):
                print(line, flush=True)
        for number, *_ in open_batches if give_up else ():
            self.store.batch_collected(number)
        return list(ended), unsure

    def _unsure(self, count: int, asked: float, give_up: bool) -> str:
        """Return the line for a batch whose id was not written down and which has no mark."""
        return (
            f"{self.path.name}: a batch of {count} requests to {self.settings.model}, submitted at"
            f" {datetime.fromtimestamp(asked, UTC):%Y-%m-%d %H:%M} UTC, may be running: its id is"
            " not known; look for it in the provider's console, and cancel it there"
            + ("" if give_up else ", or run again, which finds and collects it")
        )

    def _stop_at_budget(self, names: list[str], answers: list[dict[str, Any]]) -> None:
        """Raise `UserError` if the budget was too small for all rows."""
        late = [n for n, a in zip(names, answers, strict=True) if a["state"] == "over_budget"]
        if late and self.ledger:
            share, remedy = "", "raise it and run again"
            if others := self.ledger.reserved_by_others(self.path.name):
                share = f", {others:.4f} of it reserved by other jobs"
                remedy = "run the same command again once those have ended, or raise it"
            raise UserError(
                f"BEZOAR_BUDGET_USD={self.ledger.budget:g} is used up ({self.ledger.total():.4f}"
                f" spent or reserved{share}): {len(answers) - len(late)} of {len(answers)} rows are"
                f" done and stored, {len(late)} over budget from {late[0]} on; {remedy}"
            )


def keys_of(requests: list[Request], names: list[str]) -> list[str]:
    """Return the keys of requests; raise `UserError` naming a row that cannot be encoded."""
    keys = []
    for request, name in zip(requests, names, strict=True):
        try:
            keys.append(key_of(request))
        except UnicodeEncodeError:
            raise UserError(
                f"{name}: half a character (a lone surrogate) in the text; remove it from the row"
            ) from None
    return keys


def checked(stored: dict[str, Any], settings: ModelSpec) -> Answer:
    """Return a stored answer; one that came under another model's id is a provider error unless the
    settings name that id.
    """
    answer = Answer(**stored)
    expected = settings.reported_as or settings.model
    if not answer.model or same_model(expected, answer.model):
        return answer
    why = (
        f"asked for {expected}, {answer.model} answered; if that is the model you mean, set"
        " `reported_as`"
    )
    return replace(answer, state="provider_error", text="", error=why)


def final(stored: dict[str, Any], settings: ModelSpec) -> bool:
    """Say whether a stored answer stays, whatever server, SDK or account is asked: it has a text
    and is of the model that was asked for.
    """
    return usable(stored) and checked(stored, settings).state != "provider_error"


def _first(errors: BaseExceptionGroup[UserError]) -> UserError:
    """Return the first plain exception of nested groups."""
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, UserError)
    return error
