"""What a request costs at most, what an answer did cost, and a budget that concurrent jobs share.

Prices come from config/prices.yaml, in USD per million tokens. The upper bound of a request counts
one token per UTF-8 byte of its text, which no byte-level tokenizer exceeds, a fixed overhead per
message, and `max_tokens` of output; so a budget is never exceeded, and the last few cents may stay
unspent.
"""

import asyncio
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bezoar.errors import UserError
from bezoar.files import canonical
from bezoar.readers import column, read_yaml, shown
from bezoar.surroundings import own

PRICES = Path(__file__).parents[3] / "config" / "prices.yaml"
PRICE_KEYS = ("input", "output", "batch_share")
OVERHEAD = 16  # tokens a message, for role marks; providers document 3 to 7
BUSY_S = 60
LEDGER = "budget.db"  # beside the stores
SCHEMA = (
    "CREATE TABLE IF NOT EXISTS spent (key TEXT, store TEXT, usd REAL NOT NULL, settled INTEGER NOT"
    " NULL)"
)


@dataclass(frozen=True)
class Price:
    """USD per million tokens, and the share of it that a batch API charges."""

    input: float
    output: float
    batch_share: float = 1.0

    def of(self, tokens_in: float, tokens_out: float, via: str = "online") -> float:
        """Return the price of that many tokens in USD."""
        return (
            (tokens_in * self.input + tokens_out * self.output)
            / 1e6
            * (self.batch_share if via == "batch" else 1.0)
        )

    @property
    def free(self) -> bool:
        """Whether nothing is ever charged (the rehearsal's simulator, one's own server)."""
        return self.input == self.output == 0


@dataclass(frozen=True)
class Bound:
    """The most that one call can take: tokens in (one a byte) and out, and USD. Without
    `max_tokens` an answer has no bound, and `tokens_out` is None.
    """

    tokens_in: int
    tokens_out: int | None
    usd: float

    @classmethod
    def of(cls, request: dict[str, Any], price: Price | None, via: str = "online") -> "Bound":
        """Return the bound of a request."""
        tokens_in, tokens_out = most_tokens_in(request), request["max_tokens"]
        usd = price.of(tokens_in, tokens_out or 0, via) if price else 0.0
        return cls(tokens_in, tokens_out, usd)

    @property
    def likely_tokens(self) -> float:
        """An estimate of the tokens that a provider's limits will count."""
        return self.tokens_in / 4 + (self.tokens_out or 0)


def cost(
    price: Price | None, bound: Bound, usage: dict[str, int], via: str = "online"
) -> float | None:
    """Return the price of an answer in USD, or None if it is unknown; what its usage does not state
    is charged at its bound.
    """
    tokens_out = usage.get("output", bound.tokens_out)
    if price is None or tokens_out is None:
        return None
    return price.of(usage.get("input", bound.tokens_in), tokens_out, via)


def prices_file() -> Path:
    """Return the price file: the environment's BEZOAR_PRICES, or config/prices.yaml."""
    return Path(own("PRICES") or os.path.relpath(PRICES))


def require_bound(model: str, max_tokens: int | None, budget: float | None) -> Price | None:
    """Return a model's price, if it has one; raise `UserError` if there is a budget that could not
    be kept, because an answer of the model may cost anything.
    """
    price = price_of(model)
    if budget is not None and price is None:
        raise UserError(
            f"BEZOAR_BUDGET_USD: {prices_file()} has no price for {model}; add it, or unset"
            " BEZOAR_BUDGET_USD"
        )
    if budget is not None and price and max_tokens is None and not price.free:
        raise UserError(
            f"BEZOAR_BUDGET_USD: without `max_tokens` an answer of {model} may cost anything; set"
            " `max_tokens`, or unset BEZOAR_BUDGET_USD"
        )
    return price


def price_of(model: str, path: Path | None = None) -> Price | None:
    """Return a model's price, or None if the price file does not know it."""
    path = path or prices_file()
    held = read_yaml(path)
    models = held.get("models") if isinstance(held, dict) else None
    if not isinstance(models, dict):
        raise UserError(f"{path}: expected prices by model under `models`, found {shown(models)}")
    entry, where = models.get(model), f"{path}: {model}"
    if entry is None:
        return None
    if not isinstance(entry, dict):
        raise UserError(f"{where}: expected input, output and batch_share, found {shown(entry)}")
    price = Price(*(column(entry, name, float, where) for name in PRICE_KEYS))
    if min(price.input, price.output, price.batch_share) < 0:
        raise UserError(f"{where}: expected no price below 0; correct it")
    return price


def most_tokens_in(request: dict[str, Any]) -> int:
    """Return an upper bound on the tokens of a request's prompt."""
    text = "".join(message["content"] for message in request["messages"]) + (
        request["prompt_form"] or ""
    )
    more = [canonical(request[name]) for name in ("schema", "extra") if request.get(name)]
    return len((text + "".join(more)).encode("utf-8", "surrogatepass")) + OVERHEAD * (
        len(request["messages"]) + 1
    )


def budget_of_environment() -> float | None:
    """Return BEZOAR_BUDGET_USD, or None if it is not set."""
    text = own("BUDGET_USD")
    if not text:
        return None
    try:
        amount = float(text)
    except ValueError:
        amount = -1.0
    if not 0 <= amount < 1e9:
        raise UserError(
            f"BEZOAR_BUDGET_USD: expected an amount in dollars such as 25 or 2.50, found {text!r}"
        )
    return amount


class Ledger:
    """What a run has spent and reserved: one small SQLite file beside its stores, shared by all its
    jobs.

    It has a rollback journal, not a write-ahead log, because jobs on several machines may share it.
    A reservation whose call never came back (a kill, a lost answer) stays at its upper bound: it
    may have been charged.
    """

    def __init__(self, path: Path, budget: float | None) -> None:
        self.path, self.budget = path, budget
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)
            self.connection.execute(SCHEMA)
        except (sqlite3.Error, OSError) as error:
            raise UserError(
                f"{path}: cannot be used as a ledger ({error}); restore it, or move it away to"
                " count from zero"
            ) from None

    def reserve(self, store: str, costs: dict[str, float]) -> set[str]:
        """Take the costs of as many keys, in order, as fit into the budget; return those keys."""
        taken: set[str] = set()
        with self._transaction():
            total = self.execute("SELECT total(usd) FROM spent").fetchone()[0]
            for key, usd in costs.items():
                if self.budget is not None and total + usd > self.budget:
                    continue
                total += usd
                taken.add(key)
                self.execute("INSERT INTO spent VALUES (?, ?, ?, 0)", (key, store, usd))
        return taken

    def settle(self, store: str, costs: dict[str, float]) -> None:
        """Replace reservations by what was really charged; 0 releases a reservation."""
        with self._transaction():
            for key, usd in costs.items():
                query = (
                    "SELECT rowid FROM spent WHERE key = ? AND store = ? AND NOT settled ORDER BY"
                    " rowid DESC LIMIT 1"
                )
                found = self.execute(query, (key, store)).fetchone()
                if found:
                    self.execute(
                        "UPDATE spent SET usd = ?, settled = 1 WHERE rowid = ?", (usd, found[0])
                    )

    def unsettled(self, store: str) -> dict[str, float]:
        """Return key -> USD of a store's reservations whose calls were never settled."""
        query = (
            "SELECT key, usd FROM spent WHERE store = ?1 AND NOT settled AND key NOT IN (SELECT key"
            " FROM spent WHERE store = ?1 AND settled)"
        )
        return dict(self.execute(query, (store,)).fetchall())

    def reserved_by_others(self, store: str) -> float:
        """Return USD that other stores' calls have reserved and may give back."""
        query = "SELECT total(usd) FROM spent WHERE store <> ? AND NOT settled"
        usd: float = self.execute(query, (store,)).fetchone()[0]
        return usd

    def total(self) -> float:
        """Return USD spent and reserved."""
        usd: float = self.execute("SELECT total(usd) FROM spent").fetchone()[0]
        return usd

    def execute(self, statement: str, values: tuple[Any, ...] = ()) -> sqlite3.Cursor:
        """Run one statement; raise `UserError` if the file is full, damaged or held by another
        program.
        """
        try:
            return self.connection.execute(statement, values)
        except sqlite3.Error as error:
            raise UserError(
                f"{self.path}: cannot be read or written ({error}); free space and run again, what"
                " is stored is kept"
            ) from None

    def close(self) -> None:
        """Close the file."""
        self.connection.close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Take the lock at once, so that what the block reads still holds when it writes."""
        self.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            if self.connection.in_transaction:  # a full disk may have ended it
                self.execute("ROLLBACK")
            raise
        self.execute("COMMIT")


class Account:
    """Reserves calls in a ledger that other jobs share, and settles what they were charged; without
    a ledger every call fits.

    A reservation ends in one of three ways: `charge`, `release` (refused for certain, so not
    charged) or `abandon` (it may have been charged, so it stays at its bound).
    """

    def __init__(self, ledger: Ledger | None, store: str) -> None:
        self.ledger, self.store = ledger, store
        self._costs: dict[str, float] = {}
        self._held: set[str] = set()  # keys of calls under way
        self._wanted: dict[str, tuple[float, asyncio.Future[bool]]] = {}
        self._settled = asyncio.Event()

    async def reserve(self, key: str, usd: float) -> bool:
        """Reserve the most that a call can cost; wait for pending calls to release what they did
        not need. False means over budget.
        """
        if self.ledger is None:
            return True
        loop = asyncio.get_running_loop()
        while True:
            if not self._wanted:  # all that ask during one turn of the loop share a transaction
                loop.call_soon(self._grant, self.ledger)
            granted: asyncio.Future[bool] = loop.create_future()
            self._wanted[key] = (usd, granted)
            if await granted:
                return True
            if not self._held and not self._costs:
                return False
            await self._settled.wait()

    def reserve_many(self, costs: dict[str, float]) -> set[str]:
        """Reserve as many calls, in order, as fit into the budget; return their keys."""
        return self.ledger.reserve(self.store, costs) if self.ledger else set(costs)

    def charge(self, key: str, usd: float | None) -> None:
        """Replace a reservation by what was charged."""
        self._costs[key] = usd or 0.0

    def release(self, key: str) -> None:
        """Give back what was reserved for a call that was refused for certain."""
        self._costs[key] = 0.0

    def abandon(self, key: str) -> None:
        """Leave a reservation as it is: whether the call was charged is unknown."""
        self._held.discard(key)

    def release_rest(self) -> None:
        """Give back what is reserved for calls that are no longer made."""
        for key in self._held - self._costs.keys():
            self.release(key)

    def settle(self) -> None:
        """Record what was charged and released since the last call of this method."""
        if self.ledger and self._costs:
            self.ledger.settle(self.store, self._costs)
        self._held -= self._costs.keys()
        self._costs = {}
        self._settled.set()
        self._settled = asyncio.Event()

    def _grant(self, ledger: Ledger) -> None:
        wanted = {key: want for key, want in self._wanted.items() if not want[1].done()}
        self._wanted = {}
        try:
            taken = ledger.reserve(self.store, {key: usd for key, (usd, _) in wanted.items()})
        except UserError as error:
            for _, future in wanted.values():
                future.set_exception(error)
            return
        self._held |= taken
        for key, (_, future) in wanted.items():
            future.set_result(key in taken)
