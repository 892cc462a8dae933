"""The command that starts Snakemake for a configuration, here or on a cluster."""

import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from bezoar import surroundings
from bezoar.errors import UserError
from bezoar.readers import read_json_object
from bezoar.workflow import cluster, dress_rehearsal, machine_checks
from bezoar.workflow.layout import Layout

# Stages whose receipts name the scale, the first of them soon after the filter.
SCALED = ("data_card_*", "model_card_*", "claims", "evaluate")
IMPORT = "import_released.py"  # what the filter's place has in a run from released rows


def whole_receipts(results: Path, *names: str) -> Iterator[dict[str, Any]]:
    """Yield the receipts of these names, without damaged ones: their stages are made again."""
    for name in names:
        for path in sorted((results / "receipts").glob(f"{name}.json")):
            with suppress(UserError, OSError):
                yield read_json_object(path)


def refuse_other_run(results: Path, scale: str, entry: str | None = None) -> None:
    """Raise `UserError` if a results root holds a run of another scale, or, where `entry` decides
    anything, from rows that were released where this one generates its own or the other way round:
    its stages would be made again in place of that run's.
    """
    found = []
    for receipt in whole_receipts(results, *SCALED):
        recipe = receipt.get("recipe")
        if isinstance(recipe, dict) and "scale" in recipe:
            found.append(("of the {} scale", recipe["scale"], scale))
    for receipt in whole_receipts(results, "filter_*"):
        command = receipt.get("command")
        if entry and isinstance(command, list) and command:
            began = "released" if command[0] == IMPORT else "generate"
            found.append(("with `entry: {}`", began, entry))
    for which, held, ours in found:
        if held != ours:
            raise UserError(
                f"{results}: holds a run {which.format(held)}, and this one is"
                f" {which.format(ours)}; name another place in a configuration of your own,"
                f" such as `pathvars: {{results: {results}-{ours}}}`, or move that run away"
            )


def command(
    config: dict[str, Any],
    files: Sequence[str],
    targets: Sequence[str],
    profile: str,
    cores: int,
    display: Sequence[str] = ("--logger", "bezoar"),
    rules: Collection[str] | None = None,
) -> tuple[list[str], dict[str, str]]:
    """Return Snakemake's command for the configuration that `files` make, and its environment; say
    in a line what a cluster has, if the profile is of one.

    `display` are options of what is shown, `rules` those that the targets need, if not all. Raise
    `UserError` where no run can start.
    """
    for problem in machine_checks.place():
        raise UserError(problem)
    gpus = cluster.devices(profile, config["scale"])
    every = dress_rehearsal.needs(Layout(config), gpus).by_rule
    needs = {rule: need for rule, need in every.items() if rules is None or rule in rules}
    planned = cluster.plan(profile, cores, needs)
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
