"""Say which stages are stale and why, without running any.

Usage: list_stale.py config/rehearsal.yaml …

One line a reason: the input, output, key of the recipe, code, lock or variable, and from what to
what. Stages that are only downstream of these are counted; one of them runs in earnest only if what
it reads comes out with other bytes.

Exit status 0: nothing is stale; 1: something is.
"""

import re
import subprocess
import sys


def main(arguments: list[str] | None = None) -> int:
    """Ask the workflow for its plan and print its reasons."""
    configs = sys.argv[1:] if arguments is None else arguments
    done = subprocess.run(
        ["snakemake", "-n", *(["--configfile", *configs] if configs else [])],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.stderr.write(done.stdout[-3000:] + done.stderr[-3000:])
        return done.returncode
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
        f"to look at, with what is downstream: {planned}" if jobs else "nothing is stale",
        sep="\n",
    )
    return int(bool(jobs))


if __name__ == "__main__":
    raise SystemExit(main())
