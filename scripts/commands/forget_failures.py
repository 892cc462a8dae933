"""Forget stored failures of a kind, so that the next run asks again and what was made of them is
made anew.

Usage: forget_failures.py --config config/paper.yaml --kind refused [provider_error …] [--dry-run]

A run asks again by itself whatever had failed; but a stage that bore a few failures is done and
does not run. Forgetting removes its receipt, too, and thereby makes it stale.

Kinds: refused, unparsable (nothing in the answer, or not ended by an answer), truncated (cut before
the first word), provider_error (not taken by the server, or failed at every try), other_model
(answered by another model than was asked for; its text goes, too), all. Answers with a text stay.
"""

import argparse
import json
from collections import Counter
from itertools import groupby
from pathlib import Path
from typing import Any

from bezoar import program
from bezoar.errors import UserError
from bezoar.llm.answer_store import Store, job_of, stores_of, usable
from bezoar.llm.settings import same_model
from bezoar.provenance.audit import receipts_of
from bezoar.workflow.configuration import checked
from bezoar.workflow.layout import models_asked
from bezoar.workflow.wording import counted

KINDS = ("refused", "unparsable", "truncated", "provider_error", "other_model")


def kind_of(request: dict[str, Any], answer: dict[str, Any], aliases: dict[str, str]) -> str | None:
    """Return the kind of failure that a stored answer is, or None for an answer that counts;
    `aliases` are the ids under which servers are meant to answer, by model.
    """
    expected = aliases.get(request["model"], request["model"])
    if answer["model"] and not same_model(expected, answer["model"]):
        return "other_model"
    return None if usable(answer) else str(answer["state"])


def forget(path: Path, kinds: set[str], aliases: dict[str, str], dry_run: bool) -> dict[str, str]:
    """Take the failures of these kinds out of a store, and its stages' receipts away; return the
    kind of each failure, by its key.
    """
    store, found = Store(path, to_read=dry_run), {}
    for key, request, answer, *_ in store.rows():
        kind = kind_of(json.loads(request), json.loads(answer), aliases)
        if kind in kinds:
            found[key] = kind
    if found and not dry_run:
        if store.open_batches():
            store.close()
            raise UserError(
                f"{path}: has an open batch; run again until it is collected, or cancel"
            )
        for receipt in receipts_of(path):  # first: after a kill the stage runs for nothing at most
            receipt.unlink()
        store.forget(found)
    store.close()
    return found


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and forget."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--config",
        nargs="+",
        required=True,
        help="configuration files; they say where the results and the models are",
    )
    parser.add_argument("--kind", nargs="+", required=True, choices=(*KINDS, "all"), help="which")
    parser.add_argument("--dry-run", action="store_true", help="count, and forget nothing")
    args = parser.parse_args(argv)
    config = checked(args.config)
    aliases = {
        settings["model"]: settings["reported_as"]
        for _, settings in models_asked(config)
        if settings.get("reported_as")
    }
    kinds = set(KINDS) if "all" in args.kind else set(args.kind)
    total = 0
    for job, stores in groupby(stores_of(config["pathvars"]["results"]), job_of):
        found: dict[str, str] = {}  # what a shard's store and the job's own both hold, once
        for path in stores:
            found |= forget(path, kinds, aliases, args.dry_run)
        total += len(found)
        for kind, count in sorted(Counter(found.values()).items()):
            print(f"{job}: {count} {kind}")
    verb = "would be forgotten" if args.dry_run else "forgotten; the next run asks again"
    print(f"{counted(total, 'failure')} {verb}" if total else "no failure of these kinds is stored")


if __name__ == "__main__":
    program.run(main)
