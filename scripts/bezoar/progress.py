"""Progress lines: what a program is doing, printed at fixed intervals.

`program.run` starts the clock; `task` and `track` name what is being done and count it. The lines
go to stderr, begin with `MARK` so that the display of the whole run finds them in a log, and never
enter a result. Without a clock, as in a test that calls `main`, nothing is printed.
"""

import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import Any, TextIO, TypeVar

MARK = "-- "
RESUMED = "resuming: "  # a line of a stage that goes on from an earlier run
FIRST_S = 3.0  # until the first line; shorter programs stay silent
EVERY_S = 10.0  # between two lines

T = TypeVar("T")


def clock(seconds: float) -> str:
    """Return seconds as `m:ss`, or `h:mm:ss` from an hour on."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Task:
    """A task in progress: `done` of `total` units, or of an unknown number."""

    def __init__(
        self, what: str, total: int | None = None, unit: str = "rows", first: int = 0
    ) -> None:
        self.what, self.total, self.unit = what, total, unit
        self.done = self.first = first  # units of an earlier run do not count for the rate
        self.note = ""
        self.started = time.monotonic()

    def line(self) -> str:
        """Return the state as text, with rate and time left as far as they are known."""
        elapsed = time.monotonic() - self.started
        if self.total is None and not self.done:
            return self.what if elapsed < 1 else f"{self.what}, for {clock(elapsed)}"
        count = f"{self.done:,}" if self.total is None else f"{self.done:,} of {self.total:,}"
        parts = [f"{self.what}: {count} {self.unit}"]
        rate = (self.done - self.first) / elapsed if elapsed else 0.0
        if self.note:
            parts.append(self.note)
        if rate:
            parts.append(f"{rate:,.1f}/s")
            if self.total is not None:
                parts.append(f"{clock((self.total - self.done) / rate)} left")
        return ", ".join(parts)


_open: list[Task] = []  # what is being done, the innermost last


@contextmanager
def task(what: str, total: int | None = None, unit: str = "rows", first: int = 0) -> Iterator[Task]:
    """Name what the block does; its progress is shown in place of what is around it."""
    current = Task(what, total, unit, first)
    _open.append(current)
    try:
        yield current
    finally:
        _open.remove(current)


_resumed = False


def resumed(what: str) -> None:
    """Say, once, what of an earlier run this process goes on from. The time that it takes is then
    not the stage's.
    """
    global _resumed
    if not _resumed:
        print(f"{RESUMED}{what}", flush=True)
    _resumed = True


def kept(count: int) -> None:
    """Count units of the innermost task that an earlier run has done: they say nothing of the
    rate.
    """
    if _open:
        _open[-1].done += count
        _open[-1].first += count


def advance(count: int = 1) -> None:
    """Count `count` more units of the innermost task."""
    if _open:
        _open[-1].done += count


def reached(done: int) -> None:
    """Set how many units of the innermost task are done."""
    if _open:
        _open[-1].done = done


def note(text: str) -> None:
    """Show a text, such as a loss, with the innermost task until the next one."""
    if _open:
        _open[-1].note = text


def track(items: Iterable[T], what: str, unit: str = "rows", first: int = 0) -> Iterator[T]:
    """Yield the items, each counted once the next is asked for; `first` were done before."""
    total = first + len(items) if isinstance(items, Sized) else None
    with task(what, total, unit, first) as current:
        for item in items:
            yield item
            current.done += 1


@contextmanager
def signs_of_life(what: str, stream: TextIO | None = None) -> Iterator[None]:
    """Print a line after `FIRST_S` seconds and then every `EVERY_S`, from a thread, as long as the
    block lasts.
    """
    ended = threading.Event()

    def beat(to: Any) -> None:
        wait = FIRST_S
        while not ended.wait(wait):
            wait = EVERY_S
            try:
                print(f"{MARK}{_open[-1].line()}", file=to, flush=True)
            # The reader is gone, or the task has just ended.
            except (OSError, ValueError, IndexError):
                continue

    with task(what):
        thread = threading.Thread(target=beat, args=(stream or sys.stderr,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
