"""How a program of the project starts, and how it ends when something goes wrong."""

import errno
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout, suppress
from io import TextIOWrapper
from typing import NoReturn

from bezoar.errors import MACHINE, UserError, number, shortage
from bezoar.files import NO_LOCKS, UNLOCKABLE
from bezoar.progress import signs_of_life

DENIED = (
    *(errno.EACCES, errno.EPERM, errno.EROFS),
    *(errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP),
)
ELSEWHERE = {**dict.fromkeys(UNLOCKABLE, NO_LOCKS), **MACHINE}  # -> what to do about it
INTERRUPTED, BROKEN_PIPE = 130, 141  # 128 and the number of the signal, as shells count
BUG = (
    "error: this is a bug of the project, not of your input: report it where you found the project,"
    " with the lines below and the command line"
)


def run(main: Callable[[], None], quiet: bool = False, forked: bool = False) -> None:
    """Run a program's `main` unless its receipt says that nothing changed.

    What a user can act on ends in one line on stderr: exit status 2 for a `UserError`, a full disk,
    a path that may not be written and too little memory, 130 for an interrupt. A reader that closed
    the pipe ends the program silently with 141. Anything else is a bug, and its traceback follows a
    line that says so.

    A program that takes longer than a few seconds says what it is doing: the first clause of its
    docstring, until it names something else; a server is `quiet`. Of a distributed training's
    processes, the first alone says anything that is no error.

    A program that imports torch runs `forked`, where a server of such processes answers.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            # A locale that lacks a letter must not end the program.
            stream.reconfigure(errors="replace")
    from bezoar.provenance.fingerprint import AGAIN, nothing_to_do, recorded_command

    try:
        if nothing_to_do(recorded_command()):
            print(
                "unchanged: same command, inputs, code and environment, and the outputs are as"
                f" they were left ({AGAIN}=1 runs it anyway)"
            )
        elif forked and (status := _served()) is not None:
            _end_alike(status)
        else:
            what = purpose(sys.modules[main.__module__].__doc__ or main.__module__)
            first = os.environ.get("RANK", "0") == "0"
            with (
                nullcontext() if quiet or not first else signs_of_life(what),
                nullcontext() if first else _unheard(),
            ):
                main()
        if sys.stdout:  # None where it was closed before the start
            sys.stdout.flush()
    except UserError as error:
        _end(str(error), 2)
    except KeyboardInterrupt:
        _end("interrupted; run it again to continue", INTERRUPTED)
    except BrokenPipeError:
        _give_up_stdout()
        raise SystemExit(BROKEN_PIPE) from None
    except Exception as error:
        if line := _advice(error):
            _end(line, 2)
        print(BUG, file=sys.stderr)
        raise


@contextmanager
def _unheard() -> Iterator[None]:
    """Drop what is printed to stdout."""
    with open(os.devnull, "w") as nothing, redirect_stdout(nothing):
        yield


def _advice(error: Exception) -> str:
    """Return the line for what the machine lacks or denies, or an empty text."""
    lacking, code = shortage(error), number(error)
    if lacking == "memory":
        return "out of memory; end other programs or use a machine with more, and run it again"
    name = getattr(error, "filename", None)
    what = f"{name}: {os.strerror(code)}" if name else os.strerror(code)
    of_system = isinstance(error, OSError) and bool(error.errno)
    if lacking == "disk":
        return f"{what if of_system else 'the disk is full'}; free some space and run it again"
    if advice := ELSEWHERE.get(code):
        return f"{what}; {advice}"
    if of_system and name and code in DENIED:
        return f"{what}; change its permissions or name another"
    if isinstance(error, FileNotFoundError) and "temporary directory" in str(error):
        return "no place for temporary files can be written; free some space or name one in TMPDIR"
    if isinstance(error, FileNotFoundError) and name and of_system:
        return f"{what}; bring it or name another"
    return ""


def _end(message: str, status: int) -> NoReturn:
    """End the program with one line on stderr."""
    with suppress(OSError):
        print(f"error: {message}", file=sys.stderr)
    try:
        if sys.stdout:
            sys.stdout.flush()
    except OSError:  # it is what could not be written
        _give_up_stdout()
    raise SystemExit(status) from None


def _served() -> int | None:
    """The status of the forked process that this program ran in, or None; imported here, because
    most programs are not forked.
    """
    from bezoar import fork_server

    return fork_server.served()


def _end_alike(status: int) -> None:
    """End as another process did: with its exit status or, if it is negative, by that signal."""
    if status < 0:
        with suppress(OSError):  # SIGKILL has no handler
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    raise SystemExit(status)


def _give_up_stdout() -> None:
    """Let what stdout still holds go: the interpreter would complain of it once more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def purpose(docstring: str) -> str:
    """Return the first clause of a docstring, on one line and without what is in brackets."""
    text = re.sub(r" \([^)]*\)", "", " ".join(docstring.split()))
    return re.split(r"[:;,.](?:\s|$)", text, maxsplit=1)[0]
