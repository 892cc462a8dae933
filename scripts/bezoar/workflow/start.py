"""The command that starts Snakemake for a configuration, here or on a cluster."""

import os
from collections.abc import Sequence
from typing import Any

from bezoar import surroundings
from bezoar.errors import UserError
from bezoar.workflow import cluster, dress_rehearsal, machine_checks
from bezoar.workflow.layout import Layout


def command(
    config: dict[str, Any],
    files: Sequence[str],
    targets: Sequence[str],
    profile: str,
    cores: int,
    display: Sequence[str] = ("--logger", "bezoar"),
) -> tuple[list[str], dict[str, str]]:
    """Return Snakemake's command for the configuration that `files` make, and its environment; say
    in a line what a cluster has, if the profile is of one.

    `display` are options of what is shown. Raise `UserError` where no run can start.
    """
    for problem in machine_checks.place():
        raise UserError(problem)
    planned = cluster.plan(profile, cores, dress_rehearsal.needs(Layout(config)).by_rule)
    if planned.line:
        print(planned.line, flush=True)
    arguments = [
        *display,
        *planned.options,  # after `display`, whose last option takes every word up to the next one
        *("--configfile", *files),
        *(["--", *targets] if targets else []),
    ]
    environment = {**os.environ, **planned.variables}
    return surroundings.snakemake(*arguments, profile=profile), environment
