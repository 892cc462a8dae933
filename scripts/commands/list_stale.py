"""List which stages are stale and why, without running any.

Usage: list_stale.py config/rehearsal.yaml …

One line per reason: the input, output, key of the recipe, code, lock or variable, with its old and
new value. Stages that are only downstream of these are counted; they really run only if the bytes
of what they read have changed.

Exit status 0: nothing is stale; 1: something is.
"""

import sys

from bezoar import program
from bezoar.workflow.pending import pending


def main(arguments: list[str] | None = None) -> None:
    """Ask the workflow for its plan and print its reasons; exit with 1 if something is stale."""
    reasons, jobs = pending(sys.argv[1:] if arguments is None else arguments)
    planned = ", ".join(f"{name} ({count})" if count > 1 else name for name, count in jobs.items())
    print(
        *reasons,
        f"would be checked, with everything downstream: {planned}" if jobs else "nothing is stale",
        sep="\n",
    )
    if jobs:
        raise SystemExit(1)


if __name__ == "__main__":
    program.run(main)
