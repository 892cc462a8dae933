"""List which stages are stale and why, without running any.

Usage: list_stale.py config/rehearsal.yaml …

One line per reason: the input, output, key of the recipe, code, lock or variable, with its old and
new value. Stages that are only downstream of these are counted; they really run only if the bytes
of what they read have changed.

Exit status 0: nothing is stale; 1: something is.
"""

import os
import re
import subprocess
import sys

from bezoar import program, surroundings
from bezoar.errors import UserError


def main(arguments: list[str] | None = None) -> None:
    """Ask the workflow for its plan and print its reasons; exit with 1 if something is stale."""
    configs = sys.argv[1:] if arguments is None else arguments
    environment = {name: value for name, value in os.environ.items() if name != "SNAKEMAKE_PROFILE"}
    done = subprocess.run(
        surroundings.snakemake("-n", *(["--configfile", *configs] if configs else [])),
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
        env=environment | {"PYTHONUTF8": "1"},
    )
    if done.returncode:
        output = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        print(*output[-15:], sep="\n", file=sys.stderr)
        raise UserError("the workflow cannot be planned; see above")
    lines = [
        line for line in done.stderr.splitlines() if line.startswith(("stale: ", "not made yet: "))
    ]
    table = done.stdout.split("Job stats:")[-1] if "Job stats:" in done.stdout else ""
    jobs = {
        name: int(count)
        for name, count in re.findall(r"^(\w+)\s+(\d+)$", table, re.MULTILINE)
        if name not in ("total", "all")
    }
    planned = ", ".join(f"{name} ({count})" if count > 1 else name for name, count in jobs.items())
    print(
        *lines,
        f"would be checked, with everything downstream: {planned}" if jobs else "nothing is stale",
        sep="\n",
    )
    if jobs:
        raise SystemExit(1)


if __name__ == "__main__":
    program.run(main)
