"""Requests sent one by one, several at a time; transient errors are retried."""

import asyncio
import contextlib
import time
from collections.abc import Coroutine
from typing import Any

from bezoar.errors import UserError
from bezoar.llm import limits
from bezoar.llm.answer_store import Entry, key_of, same_settings
from bezoar.llm.budget import Bound, cost
from bezoar.llm.exchange import Exchange
from bezoar.llm.faults import MOST_UNPROVEN, Blame, Fault, failure, refusal
from bezoar.llm.protocol import ENDPOINTS, Unreadable, arguments, read_text
from bezoar.llm.settings import Request
from bezoar.llm.transport import patiently

FIRST_ALONE_S = 5.0
OVER_BUDGET = failure("", "over_budget")


class OnlineSender:
    """Sends what an exchange still needs, `concurrency` requests at a time."""

    def __init__(self, exchange: Exchange, concurrency: int) -> None:
        self.exchange, self.concurrency = exchange, concurrency
        self._proving = asyncio.Lock()
        self._under_way: set[asyncio.Task[Fault | None]] = set()  # calls
        self._first_ended = asyncio.Event()  # a call, in a way that does not end the stage

    async def send_all(self) -> None:
        """Bring every remaining request to its final state. The first one that a server gets is
        sent alone, so that a wrong key costs one request; the others wait at most
        `FIRST_ALONE_S`. Where something ends the stage, nothing more is sent, but what was sent is
        waited for and stored.
        """
        if self.exchange.server.example:
            self._first_ended.set()
        left = self.exchange.left()
        waiting = iter(left.items())

        async def worker(number: int) -> None:
            if number > 0:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._first_ended.wait(), FIRST_ALONE_S)
            for key, request in waiting:
                await self._send(key, request)

        try:
            async with asyncio.TaskGroup() as group:
                for number in range(min(self.concurrency, len(left))):
                    group.create_task(worker(number))
        except* UserError:
            await self._end()
            raise
        await self.prove()

    async def _end(self) -> None:
        """Wait for the calls under way, which are paid for, and give back what is reserved for
        others.
        """
        if self._under_way:
            print(f"waiting for {len(self._under_way)} answers under way", flush=True)
            await asyncio.gather(*self._under_way)
        self.exchange.account.release_rest()

    async def prove(self) -> None:
        """Find out whom the held-back refusals concern: send a request again that the server has
        accepted before. If it is accepted again, the refusals are the rows' own; if not, or if
        nothing was ever accepted, they concern the settings or the account, and none is stored.
        """
        async with self._proving:
            held = list(self.exchange.server.refusals.held)
            if not held:
                return
            example = self._example(held[0].entry.request)
            if example is None:
                raise self._refused_as_a_whole(held[0].fault)
            try:
                if not await self._repeat(example):
                    self._leave_open(OVER_BUDGET)
            except Fault as fault:
                if fault.blame is not Blame.PASSING:
                    raise self._refused_as_a_whole(fault) from None
                self._leave_open(failure(str(held[0].fault)))

    async def _require_alive(self, fault: Fault, request: Request) -> None:
        """Raise `UserError` if the server does not even answer a request that it has accepted
        before, so that an outage does not go through all rows.
        """
        async with self._proving:
            if self.exchange.server.failing < max(MOST_UNPROVEN, self.concurrency):
                return  # another request was taken meanwhile
            example = self._example(request)
            try:
                if example is None:
                    raise fault
                await self._repeat(example)
            except Fault as found:
                raise UserError(self.exchange.connection.hint(found)) from None

    async def _repeat(self, example: Request) -> bool:
        """Send a request again that the server has accepted before; return whether the budget
        allows it, and raise `Fault` if it is not accepted again.
        """
        exchange, account = self.exchange, self.exchange.account
        key, bound = key_of(example), Bound.of(example, exchange.price)
        exchange.incoming.flush()  # what it cost before is settled, not mixed with this call
        reserved = False

        async def once() -> bool:
            nonlocal reserved
            if not reserved and not (reserved := await account.reserve(key, bound.usd)):
                return False
            await exchange.server.limiter.reserve(bound.likely_tokens)
            sent_at = time.monotonic()
            try:
                _, answer = await self._call(example, bound)
            except Fault as fault:
                if fault.may_be_charged:
                    account.abandon(key)
                    reserved = False
                raise
            except asyncio.CancelledError:
                account.abandon(key)
                raise
            self._charge(key, cost(exchange.price, bound, answer["usage"]))
            exchange.taken(example, sent_at)
            return True

        try:
            return await patiently(once)
        except Fault:
            if reserved:
                account.release(key)
            raise

    async def _send(self, key: str, request: Request) -> None:
        """Bring one request to its final state."""
        exchange, bound = self.exchange, Bound.of(request, self.exchange.price)
        reserved, fault = False, Fault("never sent")
        for turn in range(limits.RETRIES):
            if not reserved and not (reserved := await exchange.account.reserve(key, bound.usd)):
                exchange.incoming.end(key, OVER_BUDGET)
                self._first_ended.set()
                return
            await exchange.server.limiter.reserve(bound.likely_tokens)
            began, sent_at = time.time(), time.monotonic()
            found = await self._to_its_end(self._try(key, request, bound, began, sent_at))
            if found is None:
                self._first_ended.set()
                return
            fault = found
            if fault.blame is not Blame.PASSING:
                exchange.account.release(key)
                await self._refused(fault, key, request, began, sent_at)
                self._first_ended.set()
                return
            self._first_ended.set()
            reserved = not fault.may_be_charged
            if turn < limits.RETRIES - 1:
                await asyncio.sleep(limits.pause_after(fault.headers, turn))
        if not exchange.server.heard and not fault.timeout:
            raise UserError(exchange.connection.hint(fault, unheard=True))
        if reserved:
            exchange.account.release(key)
        exchange.incoming.end(key, failure(str(fault)))
        exchange.server.failing += 1
        if exchange.server.failing >= max(MOST_UNPROVEN, self.concurrency):
            await self._require_alive(fault, request)

    async def _to_its_end(self, call: Coroutine[None, None, Fault | None]) -> Fault | None:
        """Return what a call returns; it goes on where this worker is cancelled."""
        task = asyncio.create_task(call)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return await asyncio.shield(task)

    async def _try(
        self, key: str, request: Request, bound: Bound, began: float, sent_at: float
    ) -> Fault | None:
        """Send a request once and keep its answer; return what went wrong."""
        exchange = self.exchange
        try:
            text, answer = await self._call(request, bound)
        except Fault as fault:
            if fault.may_be_charged:
                exchange.account.abandon(key)
            return fault
        usd = cost(exchange.price, bound, answer["usage"])
        self._charge(key, usd)
        seconds = time.monotonic() - sent_at
        exchange.incoming.keep(Entry(key, request, answer, text, began, seconds, usd))
        exchange.taken(request, sent_at)
        return None

    async def _call(self, request: Request, bound: Bound) -> tuple[str, dict[str, Any]]:
        """Send a request for which the limiter has reserved room; return the response's text and
        the answer in it.
        """
        server, tokens = self.exchange.server, bound.likely_tokens
        used, headers = tokens, None
        server.sent += 1
        try:
            response = await self.exchange.transport.post(
                ENDPOINTS[request["api"]], arguments(request)
            )
            headers, server.heard = response.headers, True
            text = response.text
            answer = read_text(text, request["api"], request["stop"])
            used = sum(answer["usage"].values()) if len(answer["usage"]) == 2 else tokens
            return text, answer
        except Unreadable as error:
            raise Fault(str(error), headers=headers) from None
        except Fault as fault:
            server.heard |= fault.status is not None
            headers = fault.headers or headers
            used = 0.0 if fault.status else tokens
            raise
        finally:
            server.limiter.give_back(tokens, used, headers)

    async def _refused(
        self, fault: Fault, key: str, request: Request, began: float, sent_at: float
    ) -> None:
        """End a request that the server refuses as it is, or the whole stage."""
        if fault.blame in (Blame.ACCOUNT, Blame.ADDRESS):
            raise UserError(self.exchange.connection.hint(fault))
        now = time.monotonic()
        entry = Entry(key, request, refusal(fault), "", began, now - sent_at, 0.0)
        if fault.blame is Blame.ROW:
            self.exchange.incoming.keep(entry)
            return
        refusals = self.exchange.server.refusals
        refusals.hold(entry, fault, now)
        if len(refusals.held) >= max(MOST_UNPROVEN, self.concurrency):
            await self.prove()

    def _charge(self, key: str, usd: float | None) -> None:
        self.exchange.account.charge(key, usd)
        self.exchange.server.usd += usd or 0.0

    def _example(self, like: Request) -> Request | None:
        """Return a request with the settings of `like` that the server has taken, in this run or in
        an earlier one, or None.
        """
        known = self.exchange.server.example
        return known if known and same_settings(known, like) else self.exchange.store.example(like)

    def _leave_open(self, answer: dict[str, Any]) -> None:
        """End what is held back without calling it the rows' own."""
        refusals = self.exchange.server.refusals
        for refused in refusals.held:
            self.exchange.incoming.end(refused.entry.key, answer)
        refusals.give_up()

    def _refused_as_a_whole(self, fault: Fault) -> UserError:
        """Return the message for refusals that concern the settings or the account, as `fault`
        shows; it is theirs, unless it concerns the account or the address, or none is held back.
        """
        held = self.exchange.server.refusals.give_up()
        if held is None or fault.blame in (Blame.ACCOUNT, Blame.ADDRESS):
            held = fault
        return UserError(self.exchange.connection.hint(held))
