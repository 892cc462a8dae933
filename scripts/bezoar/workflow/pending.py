"""What a run would do now, as Snakemake plans it, and why."""

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from typing import NamedTuple

from bezoar import surroundings
from bezoar.errors import UserError
from bezoar.workflow.wording import counted

# Rules that only read what other stages have made: they take seconds, and ask nobody.
TABLES = frozenset(
    "lm_eval_table mtbench bridge learning_table data_description data_card model_card claims"
    " explorer report".split()
)


class Pending(NamedTuple):
    """What is stale: a line for each reason, and the jobs by rule, with all that is downstream."""

    reasons: list[str]
    jobs: dict[str, int]


def pending(configs: Sequence[str], targets: Sequence[str] = ()) -> Pending:
    """Return what Snakemake would do for `targets`, or for everything; raise `UserError`, after its
    last lines, if it cannot plan.
    """
    environment = {name: value for name, value in os.environ.items() if name != "SNAKEMAKE_PROFILE"}
    done = subprocess.run(
        surroundings.snakemake(
            "-n",
            *(["--configfile", *configs] if configs else []),
            *(["--", *targets] if targets else []),
        ),
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
    reasons = [
        line for line in done.stderr.splitlines() if line.startswith(("stale: ", "not made yet: "))
    ]
    table = done.stdout.split("Job stats:")[-1] if "Job stats:" in done.stdout else ""
    jobs = {
        name: int(count)
        for name, count in re.findall(r"^(\w+)\s+(\d+)$", table, re.MULTILINE)
        if name not in ("total", "all")
    }
    return Pending(reasons, jobs)


def require_finished(results: str, configs: Sequence[str], targets: Sequence[str]) -> None:
    """Raise `UserError` unless `targets` can be made from what is there, by `TABLES` alone."""
    jobs = pending(configs, targets).jobs
    if work := sum(count for rule, count in jobs.items() if rule not in TABLES):
        raise UserError(
            f"{results}: {counted(work, 'stage')} that {' '.join(targets)} reads"
            f" {'is' if work == 1 else 'are'} missing or stale; `make stale` with the same CONFIG"
            " says which and why, and the command that began the run makes them"
        )
