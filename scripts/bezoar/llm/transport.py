"""How the door's requests are under way: what has come in and is not stored yet, and a handing-in
to a provider's batch API.
"""

import asyncio
import contextlib
import time
from typing import Any

from bezoar import progress
from bezoar.errors import UserError
from bezoar.files import canonical, sha256_text
from bezoar.llm.answer_store import Entry
from bezoar.llm.batches import MOST_REQUESTS, batch_api
from bezoar.llm.budget import Price, most_tokens_in
from bezoar.llm.protocol import read_text

TURNS = 6  # handings-in of what a batch did not answer
TICK_S = 0.5  # how often answers are stored: what a kill can lose
POLL_S = 30.0  # how often a batch is looked at


def failure(error: str) -> dict[str, Any]:
    """Return the answer of a request that got none."""
    return {"state": "provider_error", "text": "", "usage": {}, "model": "", "error": error}


class Sending:
    """The answers of one `ask` while they come in: what is unstored, and what is reserved for
    it.
    """

    def __init__(self, door: Any, missing: dict[str, dict[str, Any]]) -> None:
        self.door, self.missing = door, missing
        self.answers: dict[str, dict[str, Any]] = {}
        self.entries: list[Entry] = []
        self.costs: dict[str, float] = {}
        self.done, self.settled = asyncio.Event(), asyncio.Event()
        self.held: set[str] = set()  # keys of calls under way, whose reservation will be settled
        self.wanted: dict[str, tuple[float, asyncio.Future[bool]]] = {}

    def end(self, key: str, answer: dict[str, Any], entry: Entry | None = None) -> None:
        """Take a request's answer; with an entry it is for good, and stored at the next tick."""
        if entry is not None:
            self.entries.append(entry)
            self.door.usd += entry.usd or 0.0
            self.costs[key] = entry.usd or 0.0
        if key in self.missing:
            self.answers[key] = answer

    def release(self, key: str) -> None:
        """Give back what was reserved for a call that was refused for certain."""
        self.costs[key] = 0.0

    async def reserve(self, key: str, usd: float) -> bool:
        """Reserve the most that a call can cost; wait for calls under way to give back what they
        did not need. False: over budget.
        """
        if self.door.ledger is None:
            return True
        while True:
            if (
                not self.wanted
            ):  # all that ask during one turn of the event loop share a transaction
                asyncio.get_running_loop().call_soon(self._grant)
            granted: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
            self.wanted[key] = (usd, granted)
            if await granted:
                self.held.add(key)
                return True
            if not self.held and not self.costs:
                return False
            await self.settled.wait()

    def _grant(self) -> None:
        assert self.door.ledger is not None
        wanted, self.wanted = self.wanted, {}
        try:
            taken = self.door.ledger.reserve(
                self.door.path.name, {key: usd for key, (usd, _) in wanted.items()}
            )
        except UserError as error:
            for _, future in wanted.values():
                future.set_exception(error)
            return
        for key, (_, future) in wanted.items():
            if not future.done():
                future.set_result(key in taken)

    def flush(self) -> None:
        """Store the answers that came in, then settle what they cost."""
        self.door.store.put(self.entries)
        self.entries = []
        if self.door.ledger and self.costs:
            self.door.ledger.settle(self.door.path.name, self.costs)
            self.held -= self.costs.keys()
        self.costs = {}
        self.settled.set()
        self.settled = asyncio.Event()

    async def keep(self) -> None:
        """Flush every `TICK_S` until all is done, and say how far it is."""
        told = time.monotonic()
        while not self.done.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.done.wait(), TICK_S)
            self.flush()
            if time.monotonic() - told > 5:
                told = time.monotonic()
                print(
                    f"{progress.MARK}{len(self.answers)} of {len(self.missing)} answers", flush=True
                )


async def in_batches(door: Any, client: Any, sending: Sending) -> None:
    """Collect what an earlier run left open, then hand the rest to the provider's batch API; what
    failed there is handed in again.

    In any mode but batch the rest is sent one by one; what was handed in before is charged, and so
    collected first.
    """
    batches, price, refused = batch_api(door.settings, client), door.price, dict[str, str]()
    try:
        for turn in range(TURNS):
            for number, name, asked, requests in door.store.open_batches():
                name = name or await batches.find(_mark(requests, asked), asked, len(requests))
                if name is not None:
                    door.store.batch_named(number, name)
                    refused |= await _collect(price, batches, sending, name, requests, asked)
                else:  # it never got there
                    for key in requests:
                        sending.release(key)
                sending.flush()
                door.store.batch_collected(number)
            left = {
                key: request
                for key, request in sending.missing.items()
                if key not in sending.answers
            }
            if not left or turn == TURNS - 1:
                break
            if door.mode != "batch":
                return await door.one_by_one(client, sending)
            costs = {
                key: price.of(most_tokens_in(r), r["max_tokens"], "batch") if price else 0.0
                for key, r in left.items()
            }
            taken = door.ledger.reserve(door.path.name, costs) if door.ledger else set(left)
            for key in left.keys() - taken:
                sending.end(key, {**failure(""), "state": "over_budget"})
            chosen = [key for key in left if key in taken]
            for start in range(0, len(chosen), MOST_REQUESTS):
                part = {key: left[key] for key in chosen[start : start + MOST_REQUESTS]}
                number, asked = door.store.batch_asked(part)
                door.sent += len(part)
                door.store.batch_named(number, await batches.submit(part, _mark(part, asked)))
    except door.provider.sdk.APIError as fault:
        status = getattr(fault, "status_code", None)
        raise UserError(
            f"{door.provider.hint(status, door.explain(fault))}; what was handed in is collected by"
            " the next run"
        ) from None
    for key in left.keys() - sending.answers.keys():
        sending.end(key, failure(refused.get(key, "no answer from the batch API")))


async def _collect(
    price: Price | None,
    batches: Any,
    sending: Sending,
    name: str,
    requests: dict[str, dict[str, Any]],
    asked: float,
) -> dict[str, str]:
    """Wait until a batch has ended and take what is in it; return key -> why not, for what is
    missing from it.
    """
    lost, unreadable = dict.fromkeys(requests, "expired or cancelled"), set[str]()
    while not (look := await batches.look(name))[0]:
        print(f"batch {name}: {look[1]}", flush=True)
        await asyncio.sleep(POLL_S)
    async for key, text, error, final in batches.collect(name):
        if key not in requests:
            continue
        request, seconds = requests[key], time.time() - asked
        if text:
            try:
                answer = read_text(text, request["api"])
            except ValueError as fault:
                lost[key] = str(fault)[:200]
                unreadable.add(key)
                continue
            usage = answer["usage"]
            usd = (
                price.of(usage.get("input", 0), usage.get("output", 0), "batch") if price else None
            )
            sending.end(
                key, answer, Entry(key, request, answer, text, asked, seconds, usd, "batch")
            )
        elif final:
            sending.end(
                key,
                failure(error),
                Entry(key, request, failure(error), "", asked, seconds, 0.0, "batch"),
            )
        else:
            lost[key] = error
            continue
        del lost[key]
    for key in lost.keys() - unreadable:  # providers charge for answers only
        sending.release(key)
    print(f"batch {name}: {len(requests) - len(lost)} of {len(requests)} answered", flush=True)
    return lost


def _mark(requests: dict[str, Any], asked: float) -> str:
    """Return the mark of one handing-in of requests."""
    return sha256_text(canonical([sorted(requests), asked]))[:32]
