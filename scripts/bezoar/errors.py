"""The one kind of error a user is meant to see, and how a program shows it."""

import sys
from collections.abc import Callable


class UserError(Exception):
    """Bad input. The message is one line: file and row, what was expected, what to do."""


def cli(main: Callable[[], None]) -> None:
    """Run a program's `main` unless its receipt says that nothing changed; a `UserError` becomes one line on stderr and exit status 2."""
    from bezoar.provenance.staleness import AGAIN, nothing_to_do, recorded_command

    if nothing_to_do(recorded_command()):
        print(f"unchanged: same command, inputs, code and environment, and the outputs are as they were left ({AGAIN}=1 runs it anyway)")
        return
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
