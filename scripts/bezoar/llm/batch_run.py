"""Submit requests to a provider's batch API and collect the results.

A submitted batch ends in one of three ways. It is collected and closed, and requests that it did
not answer are submitted again. It failed as a whole and is closed; its requests are submitted again
in smaller batches, or end the stage with one line. Or it stays open, and a later run collects it.
Answers are stored before their batch is closed.
"""

import asyncio
import time
from functools import partial

from bezoar.errors import UserError
from bezoar.files import canonical, sha256_text
from bezoar.llm import limits
from bezoar.llm.answer_store import Entry, Store
from bezoar.llm.batches import (
    MOST_REQUESTS,
    BatchAPI,
    BatchFailure,
    BatchState,
    Result,
    Results,
    batch_api,
    other_model,
    parts_of,
)
from bezoar.llm.budget import Bound, cost
from bezoar.llm.exchange import Exchange
from bezoar.llm.faults import Blame, Fault, failure, refusal
from bezoar.llm.online import OVER_BUDGET, OnlineSender
from bezoar.llm.protocol import Unreadable, read_text
from bezoar.llm.settings import Request
from bezoar.llm.transport import patiently

TURNS = 6  # submissions in a row that bring no further answer
POLL_S = 30.0  # between two polls of a batch
OUTAGE_TURNS = 9  # failed polls in a row: about a minute
# Its number, its id if that was written down, when it was asked, and its requests.
OpenBatch = tuple[int, str | None, float, dict[str, Request]]
LATER = "the next run collects what was submitted, or `make cancel-batches GIVE_UP=1` gives it up"


class BatchRun:
    """Collects the batches that are open, then sends what an exchange still needs: in batches, or
    one by one in any mode but batch.
    """

    def __init__(self, exchange: Exchange, online: OnlineSender) -> None:
        self.exchange, self.online = exchange, online
        self.api: BatchAPI = batch_api(exchange.settings.api, exchange.transport)
        self.most = MOST_REQUESTS
        self.lost: dict[str, str] = {}  # why a request has no answer yet
        self.unfunded: set[str] = set()  # what the budget had no room for in this turn

    async def run(self, in_batches: bool) -> None:
        """Bring every remaining request to its final state."""
        fruitless = -1
        while True:
            before = len(self.exchange.left()), self.most
            await self._collect_open()
            left = self.exchange.left()
            if left and not in_batches:
                return await self.online.send_all()
            fruitless = fruitless + 1 if (len(left), self.most) == before else 0
            if not left or fruitless == TURNS:
                break
            untried_first = sorted(left, key=lambda key: key in self.lost)
            self.unfunded.clear()
            submitted = False
            for part in parts_of({key: left[key] for key in untried_first}, self.most):
                submitted |= await self._submit_part(part)
                if submitted and self.most < MOST_REQUESTS:
                    break
            if not submitted:  # and no batch is open that could give something back
                break
        for key in left:
            why = self.lost.get(key, "no answer from the batch API")
            self.exchange.incoming.end(key, OVER_BUDGET if key in self.unfunded else failure(why))
        await self.online.prove()

    async def _submit_part(self, part: dict[str, Request]) -> bool:
        """Submit one batch of what fits into the budget, and say whether anything does; the rest
        waits for what this one gives back. A batch that is too large is halved.
        """
        exchange = self.exchange
        costs = {key: Bound.of(r, exchange.price, "batch").usd for key, r in part.items()}
        reserved = exchange.account.reserve_many(costs)
        self.unfunded |= part.keys() - reserved
        part = {key: request for key, request in part.items() if key in reserved}
        if not part:
            return False
        number, asked = exchange.store.batch_asked(part)
        exchange.server.sent += len(part)
        try:
            name = await self._submit(number, part, asked)
        except Fault as fault:
            if fault.status == 413 and len(part) > 1:
                self.most = (len(part) + 1) // 2
                return True
            advice = "; where there is no batch API, set `use_batch_api: false`"
            raise UserError(
                exchange.connection.hint(fault) + (advice if fault.status in (404, 405) else "")
            ) from None
        if name:
            exchange.store.batch_named(number, name)
        return True

    async def _submit(self, number: int, part: dict[str, Request], asked: float) -> str | None:
        """Return the id of a batch; after a submission that may have been accepted, look first
        whether it was. None: there is one that may be it, which only its results can tell.

        Raise `Fault` if the batch is refused: it is closed if each submission of it certainly was,
        and stays open otherwise. Raise `UserError` if it cannot be looked for.
        """
        mark, lost = mark_of(part, asked), False
        for turn in range(limits.RETRIES):
            try:
                return await self.api.submit(part, mark)
            except Fault as fault:
                lost |= fault.status is None or fault.status >= 500
                if fault.blame is not Blame.PASSING or turn == limits.RETRIES - 1:
                    if not lost:
                        self._close(number, part)
                    raise
                print(f"submitting a batch: {fault}; trying again", flush=True)
                await asyncio.sleep(limits.pause_after(fault.headers, turn))
            if not lost:
                continue
            known = self.exchange.store.batch_names()
            try:
                found = await self._find(mark, asked, len(part), known)
            except Fault as fault:
                raise UserError(self._unreachable(fault, None)) from None
            if found:
                return found if self.api.marks else None
        raise AssertionError("unreachable")

    async def _find(self, mark: str, asked: float, count: int, known: set[str]) -> str | None:
        return await patiently(
            partial(self.api.find, mark, asked, count, known), what="looking for a batch"
        )

    async def _collect_open(self) -> None:
        """Collect this model's open batches as they end: another one's have another price, and may
        be at another address.
        """
        said = self.exchange.server.left_open
        for number, name, asked, requests in self.exchange.store.open_batches():
            if other := other_model(requests, self.exchange.settings):
                if number not in said:
                    said.add(number)
                    print(
                        f"batch {name or 'without an id'} of {' '.join(other)} stays open: it is"
                        " another model's; run with that one to collect it, or cancel it with `make"
                        " cancel-batches` and its CONFIG",
                        flush=True,
                    )
                continue
            try:
                await self._collect(number, name, asked, requests)
            except Fault as fault:
                raise UserError(self._unreachable(fault, name)) from None

    def _unreachable(self, fault: Fault, name: str | None) -> str:
        """Return the line for a batch that can be neither found nor read."""
        return unknown_batch(name, fault) or f"{self.exchange.connection.hint(fault)}; {LATER}"

    async def _collect(
        self, number: int, name: str | None, asked: float, requests: dict[str, Request]
    ) -> None:
        """Wait for one batch, store its results, and close it."""
        store, searched = self.exchange.store, name is None
        known = store.batch_names()
        while True:
            if searched:
                name = await self._find(mark_of(requests, asked), asked, len(requests), known)
            if name is None:  # it was never accepted
                self._close(number, requests)
                return
            state = await self._ended(name)
            if state.failed:
                self._failed(number, name, requests, state.failed)
                return
            results = await patiently(partial(self.api.collect, name), what=f"batch {name}")
            certain = self.api.marks or not searched
            if certain or results.by_key.keys() & requests.keys():
                break
            known.add(name)  # somebody else's, of the same size
        store.batch_named(number, name)
        fault = self._take(name, results, requests, asked)
        self.exchange.incoming.flush()
        store.batch_collected(number)
        if fault:
            raise UserError(self.exchange.connection.hint(fault))

    async def _ended(self, name: str) -> BatchState:
        """Wait until a batch has ended; return its last status."""
        while True:
            state = await patiently(partial(self.api.state, name), OUTAGE_TURNS, f"batch {name}")
            if state.ended:
                return state
            print(f"batch {name}: {state.progress}", flush=True)
            await asyncio.sleep(POLL_S)

    def _take(
        self, name: str, results: Results, requests: dict[str, Request], asked: float
    ) -> Fault | None:
        """Record the results of a batch; return a fault that concerns the account or the model."""
        fatal: Fault | None = None
        answered = 0
        for key, request in requests.items():
            result = results.by_key.get(key)
            if result is None:
                self.lost[key] = "missing from the batch's results"
                if not results.damaged:  # providers charge for answers only
                    self.exchange.account.release(key)
            elif result.fault is None:
                answered += self._answered(key, request, result, asked)
            else:
                self.exchange.account.release(key)
                fault = self._not_answered(key, request, result.fault, asked)
                fatal = fatal or fault
        print(f"batch {name}: {answered} of {len(requests)} answered", flush=True)
        return fatal

    def _answered(self, key: str, request: Request, result: Result, asked: float) -> bool:
        """Record an answer and return whether it could be read; one that could not may have been
        charged all the same.
        """
        try:
            answer = read_text(result.text, request["api"], request["stop"])
        except (Fault, Unreadable) as error:
            self.lost[key] = str(error)[:200]
            self.exchange.account.abandon(key)
            return False
        price = self.exchange.price
        usd = cost(price, Bound.of(request, price, "batch"), answer["usage"], "batch")
        self.exchange.account.charge(key, usd)
        self.exchange.server.usd += usd or 0.0
        seconds = max(0.0, time.time() - asked)
        entry = Entry(key, request, answer, result.text, asked, seconds, usd, "batch")
        self.exchange.incoming.keep(entry)
        self.exchange.taken(request, time.monotonic())
        return True

    def _not_answered(self, key: str, request: Request, fault: Fault, asked: float) -> Fault | None:
        """End a request that was refused for good; return the fault if it concerns all of them."""
        if fault.blame in (Blame.ACCOUNT, Blame.ADDRESS):
            return fault
        if fault.blame is Blame.PASSING:
            self.lost[key] = str(fault)
            return None
        seconds = max(0.0, time.time() - asked)
        entry = Entry(key, request, refusal(fault), "", asked, seconds, 0.0, "batch")
        if fault.blame is Blame.ROW:
            self.exchange.incoming.keep(entry)
        else:
            self.exchange.server.refusals.hold(entry, fault, time.monotonic())
        return None

    def _failed(
        self, number: int, name: str, requests: dict[str, Request], failure: BatchFailure
    ) -> None:
        """Close a batch that failed as a whole; decide how its requests can be submitted again."""
        self._close(number, requests)
        print(f"batch {name} failed as a whole: {failure.reason}", flush=True)
        keys = list(requests)
        lines = [line for line in failure.lines if line <= len(keys)]
        if lines and len(lines) < len(keys):
            now = time.time()
            for line in lines:
                key, fault = keys[line - 1], Fault(failure.reason, 400)
                entry = Entry(key, requests[key], refusal(fault), "", now, 0.0, 0.0, "batch")
                self.exchange.server.refusals.hold(entry, fault, time.monotonic())
        elif failure.room and len(keys) > 1:
            self.most = min(self.most, (len(keys) + 1) // 2)
        else:
            raise UserError(
                f"model {self.exchange.settings.model}: batch {name} was refused: {failure.reason};"
                + (
                    " run again later, or with MODE=online"
                    if failure.room
                    else " change the model's settings, look at the account of"
                    f" {self.exchange.settings.api_key_env or '`api_key_env`'}, or run with"
                    " MODE=online"
                )
                + "; the batch is closed and nothing was charged"
            )

    def _close(self, number: int, requests: dict[str, Request]) -> None:
        """Release what was reserved for a batch, and close it."""
        for key in requests:
            self.exchange.account.release(key)
        self.exchange.incoming.flush()
        self.exchange.store.batch_collected(number)


async def cancel_one(
    api: BatchAPI, store: Store, batch: OpenBatch
) -> tuple[str | None, Fault | None]:
    """Ask for a batch to be cancelled, and look for it first if its id was not written down. Return
    its id, None if it was never accepted or could not be looked for, and the fault if there is one.
    """
    number, name, asked, requests = batch
    try:
        if name is None:  # killed before the id was written down
            known = store.batch_names()
            name = await api.find(mark_of(requests, asked), asked, len(requests), known)
            if name is None:
                return None, None
            store.batch_named(number, name)
        await api.cancel(name)
    except Fault as fault:
        return name, fault
    return name, None


def unknown_batch(name: str | None, fault: Fault) -> str:
    """Return the line for a batch that the provider does not know; nothing for any other fault."""
    if not name or fault.status not in (404, 410):
        return ""
    return (
        f"batch {name}: {fault}; it is not known to this address with this key: use the ones it was"
        " submitted with, or give it up with `make cancel-batches GIVE_UP=1`"
    )


def mark_of(requests: dict[str, Request], asked: float) -> str:
    """Return the mark of one submission of requests."""
    return sha256_text(canonical([sorted(requests), asked]))[:32]
