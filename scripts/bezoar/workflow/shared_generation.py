"""What the jobs of a shared generation (`generate: shards`) are given by their rules."""

from collections.abc import Callable
from typing import Any

from bezoar.workflow.layout import Layout


def before_whole(layout: Layout, scheme: str) -> Callable[[Any], list[str]]:
    """Return the input function of the job that puts a scheme's shards together: their marks, and
    nothing for a shard itself.
    """
    return lambda wildcards: [] if wildcards.get("number") else layout.shard_marks(scheme)


def share(layout: Layout) -> Callable[[Any], str]:
    """Return the options of one shard, by its wildcards."""
    wait_s = layout.config["generate"]["shard_wait_s"]
    return lambda wildcards: f"--shard {wildcards.number}/{layout.shards} --wait {wait_s}"


def own_server(layout: Layout) -> Callable[[Any], str]:
    """Return the shell line that gives a shard the server of its number, where one is named; a
    replay needs none at all.
    """
    name = layout.config["teacher"]["base_url_env"]
    if not name:
        return lambda _: ""
    return lambda wildcards: f'export {name}="${{{name}_{wildcards.number}:-${{{name}-}}}}"'
