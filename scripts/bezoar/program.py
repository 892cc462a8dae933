"""How a program of the project starts, and how it shows an error to a user."""

import sys
from collections.abc import Callable

from bezoar.errors import UserError


def run(main: Callable[[], None]) -> None:
    """Run a program's `main` unless its receipt says that nothing changed; a `UserError` becomes
    one line on stderr and exit status 2.
    """
    from bezoar.provenance.fingerprint import AGAIN, nothing_to_do, recorded_command

    if nothing_to_do(recorded_command()):
        print(
            "unchanged: same command, inputs, code and environment, and the outputs are as they"
            f" were left ({AGAIN}=1 runs it anyway)"
        )
        return
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
