"""What both ways of sending share: the requests of one `ask`, the answers that have come in but are
not stored yet, and what is known of the server.
"""

import asyncio
import contextlib
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from bezoar import progress
from bezoar.llm.answer_store import Entry, Store, same_settings
from bezoar.llm.budget import Account, Price
from bezoar.llm.connection import Connection
from bezoar.llm.faults import Refusals
from bezoar.llm.limits import Limiter
from bezoar.llm.settings import ModelSpec, Request
from bezoar.llm.transport import Transport

TICK_S = 0.5  # between two writes of answers: what a kill can lose


@dataclass
class ServerState:
    """What one process knows of a model's server, and what it has sent there."""

    limiter: Limiter = field(default_factory=Limiter)
    refusals: Refusals = field(default_factory=Refusals)
    example: Request | None = None  # a request that the server has taken
    heard: bool = False  # whether anything ever came from the address
    failing: int = 0  # requests that it gave no answer, since it last took one
    sent: int = 0  # calls
    usd: float = 0.0  # charged for them
    left_open: set[int] = field(default_factory=set)  # other models' batches, each said once


class Incoming:
    """The answers of one `ask` while they come in; those to `again` take a stored one's place."""

    def __init__(
        self,
        store: Store,
        account: Account,
        missing: dict[str, Request],
        again: Collection[str] = (),
    ) -> None:
        self.store, self.account, self.missing, self.again = store, account, missing, again
        self.answers: dict[str, dict[str, Any]] = {}
        self.done = asyncio.Event()
        self._entries: list[Entry] = []

    def end(self, key: str, answer: dict[str, Any]) -> None:
        """Record an answer that is not final: a later run asks again."""
        if key in self.missing:
            self.answers[key] = answer

    def keep(self, entry: Entry) -> None:
        """Record a final answer; it is stored at the next flush."""
        self._entries.append(entry)
        self.end(entry.key, entry.answer)

    def flush(self) -> None:
        """Store the answers that came in, then settle what they cost."""
        self.store.put(self._entries, self.again)
        self._entries = []
        self.account.settle()

    async def flush_until_done(self) -> None:
        """Flush every `TICK_S` until `done` is set, and count the answers."""
        with progress.task("ask the model", len(self.missing), "answers") as asked:
            while not self.done.is_set():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.done.wait(), TICK_S)
                self.flush()
                asked.done = len(self.answers)


@dataclass
class Exchange:
    """One `ask` of a server: what it sends with, and where the answers go."""

    settings: ModelSpec
    connection: Connection
    transport: Transport
    store: Store
    price: Price | None
    server: ServerState
    incoming: Incoming

    @property
    def account(self) -> Account:
        """What is reserved and charged."""
        return self.incoming.account

    def left(self) -> dict[str, Request]:
        """Return the requests that have neither an answer nor a refusal that is held back."""
        held = {refused.entry.key for refused in self.server.refusals.held}
        ended = self.incoming.answers.keys() | held
        return {key: r for key, r in self.incoming.missing.items() if key not in ended}

    def taken(self, request: Request, sent_at: float) -> None:
        """Note that the server took a request that was sent at that monotonic time; refusals that
        are thereby the rows' own are stored.
        """
        example = self.server.example
        if example is None or not same_settings(example, request):
            self.server.example = request
        self.server.failing = 0
        for refused in self.server.refusals.taken(sent_at):
            self.incoming.keep(refused.entry)
