"""Forget stored failures of a kind, or every answer of a store, so that the next run asks again and
what was made of them is made anew. While a run is at work in this directory, nothing is forgotten.

Usage: forget_failures.py --config config/paper.yaml --kind refused [provider_error …] [--dry-run]
       forget_failures.py --config config/paper.yaml --store results/store/filter-lamini.sqlite …

A run asks again by itself whatever had failed; but a stage that bore a few failures is done and
does not run. Forgetting removes its receipt, too, and thereby makes it stale.

Kinds: refused, unparsable (nothing in the answer, or not ended by an answer), truncated (cut before
the first word), provider_error (not taken by the server, or failed at every try), other_model
(answered by another model than was asked for; its text goes, too), all. Answers with a text stay
but for those of a --store, which goes with its shards': that a server was mended whose texts no
stage could read is nothing that a store sees.
"""

import argparse
import json
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from itertools import groupby
from pathlib import Path
from typing import Any

from bezoar import program
from bezoar.errors import UserError
from bezoar.llm.answer_store import Store, job_of, stores_of, usable
from bezoar.llm.settings import same_model
from bezoar.provenance.audit import receipts_of
from bezoar.provenance.snakemake_patch import one_run
from bezoar.workflow.configuration import checked
from bezoar.workflow.layout import models_asked
from bezoar.workflow.wording import counted

KINDS = ("refused", "unparsable", "truncated", "provider_error", "other_model")
TEXTS = "a text that its stage cannot read is none: STORE=file forgets all answers of a store"
Kind = Callable[[dict[str, Any], dict[str, Any]], str | None]  # of a request and its answer


def kind_of(request: dict[str, Any], answer: dict[str, Any], aliases: dict[str, str]) -> str | None:
    """Return the kind of failure that a stored answer is, or None for an answer that counts;
    `aliases` are the ids under which servers are meant to answer, by model.
    """
    expected = aliases.get(request["model"], request["model"])
    if answer["model"] and not same_model(expected, answer["model"]):
        return "other_model"
    return None if usable(answer) else str(answer["state"])


def of_kinds(config: dict[str, Any], kinds: set[str]) -> Kind:
    """Return the function that finds a configuration's failures of these kinds."""
    aliases = {
        settings["model"]: settings["reported_as"]
        for _, settings in models_asked(config)
        if settings.get("reported_as")
    }

    def found(request: dict[str, Any], answer: dict[str, Any]) -> str | None:
        kind = kind_of(request, answer, aliases)
        return kind if kind in kinds else None

    return found


def state_of(request: dict[str, Any], answer: dict[str, Any]) -> str:
    """Return the state of any answer."""
    return str(answer["state"])


def of_job(store: Path) -> list[Path]:
    """Return a job's store and those of its shards; raise `UserError` if there is none."""
    beside = sorted(store.parent.glob("*.sqlite"))
    found = [path for path in beside if job_of(path) == job_of(store)]
    if not found:
        names = ", ".join(dict.fromkeys(map(job_of, beside))) or "those in results/store"
        raise UserError(f"{store}: no such store; name one of {names}")
    return found


def forget(path: Path, kind: Kind, dry_run: bool) -> dict[str, str]:
    """Take the answers that have a kind out of a store, and its stages' receipts away; return the
    kind of each, by its key.
    """
    store, found = Store(path, to_read=dry_run), {}
    for key, request, answer, *_ in store.rows():
        if name := kind(json.loads(request), json.loads(answer)):
            found[key] = name
    if found and not dry_run:
        if store.open_batches():
            store.close()
            raise UserError(
                f"{path}: has an open batch; run again until it is collected, or, if it is another"
                " configuration's or lost: make cancel-batches GIVE_UP=1 CONFIG=<that one's files>"
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
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--kind", nargs="+", choices=(*KINDS, "all"), help="failures of which kinds")
    which.add_argument("--store", type=Path, help="a job's store, all of whose answers go")
    parser.add_argument("--dry-run", action="store_true", help="count, and forget nothing")
    args = parser.parse_args(argv)
    kind: Kind
    if args.store:
        noun, none = "answer", f"{args.store}: no answer is stored"
        stores, kind = of_job(args.store), state_of
    else:
        noun, none = "failure", f"no failure of these kinds is stored; {TEXTS}"
        config = checked(args.config)
        kinds = set(KINDS) if "all" in args.kind else set(args.kind)
        stores, kind = stores_of(config["pathvars"]["results"]), of_kinds(config, kinds)
    total = 0
    with nullcontext() if args.dry_run else one_run():
        for job, paths in groupby(stores, job_of):
            found: dict[str, str] = {}  # what a shard's store and the job's own both hold, once
            for path in paths:
                found |= forget(path, kind, args.dry_run)
            total += len(found)
            for name, count in sorted(Counter(found.values()).items()):
                print(f"{job}: {count} {name}")
    verb = "would be forgotten" if args.dry_run else "forgotten; the next run asks again"
    print(f"{counted(total, noun)} {verb}" if total else none)


if __name__ == "__main__":
    program.run(main)
