"""Pin in config/sources.yaml what has no revision there yet: each hub repository, and each file of
one at its branch main, at the commit that was fetched here, or that the hub has today.

Usage: pin_sources.py [--registry config/sources.yaml] [--lock config/sources.lock]

Nothing is downloaded, and without an answer from the hub nothing is written. A repository that the
hub does not give is named in one line, with exit status 1; the others are pinned all the same. A
file's sha256 is left to its fetch.
"""

import argparse
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bezoar import hub, program
from bezoar.errors import UserError
from bezoar.files import whole_file
from bezoar.provenance.fingerprint import recorded
from bezoar.workflow import sources
from bezoar.workflow.layout import REGISTRY
from bezoar.workflow.source_lock import LOCK
from bezoar.workflow.wording import counted

MOVING = re.compile(rf"{re.escape(hub.HUB)}/(datasets/)?([^/]+/[^/]+)/resolve/main/")


def moving(entry: dict[str, Any]) -> dict[str, Any] | None:
    """Return the repository that an entry follows without a revision, or None."""
    if "hub" in entry:
        return entry if entry["revision"] is None else None
    if found := MOVING.match(entry["url"]):
        kind = "dataset" if found[1] else "model"
        return {"id": entry["id"], "hub": found[2], "type": kind, "revision": None}
    return None


def written(text: str, identifier: str, commit: str) -> str:
    """Return the registry's text with one entry at a commit; all other bytes stay.

    Raise `UserError` if the entry is not laid out as the others are.
    """
    entry = re.search(rf"(?ms)^ *- id: {re.escape(identifier)}$.*?(?=^ *- |\Z)", text)
    if entry:
        pinned, count = re.subn(
            r"(?m)(^ *revision: )null *$|(^ *url: .*/resolve/)main/",
            lambda found: f"{found[1]}{commit}" if found[1] else f"{found[2]}{commit}/",
            entry[0],
        )
        if count == 1:
            return text[: entry.start()] + pinned + text[entry.end() :]
    raise UserError(
        f"expected a line `- id: {identifier}` and after it one line `revision: null` or one URL of"
        f" the branch main; write {commit} by hand"
    )


def commits(registry: Path, lock: Path) -> Iterator[tuple[str, str | UserError]]:
    """Yield id and commit of each source to pin, or why it has none."""
    fetched = recorded(lock)
    for identifier, entry in sources.load(registry).items():
        repository = moving(entry)
        if repository is None:
            continue
        try:
            known = fetched.get(identifier) if "hub" in entry else None
            yield identifier, known or hub.revision_of(repository)
        except hub.NoAnswerError:
            raise
        except UserError as error:
            yield identifier, error


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and pin."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, what in {"registry": "sources to pin", "lock": "what fetches recorded"}.items():
        default = REGISTRY if name == "registry" else LOCK
        parser.add_argument(f"--{name}", type=Path, default=default, help=what)
    args = parser.parse_args(argv)
    if hub.offline():
        raise UserError("HF_HUB_OFFLINE is set; unset it to ask the hub for its commits")
    try:
        text, left, count = args.registry.read_text(encoding="utf-8"), [], 0
    except UnicodeDecodeError:
        raise UserError(f"{args.registry}: expected UTF-8; save it in that encoding") from None
    for identifier, found in list(commits(args.registry, args.lock)):
        try:
            if isinstance(found, UserError):
                raise found
            text, count = written(text, identifier, found), count + 1
        except UserError as error:
            left.append(f"{identifier}: {error}")
            continue
        print(f"{identifier}: {found}", flush=True)
    if count:
        with whole_file(args.registry) as stream:
            stream.write(text)
    pinned = f"{counted(count, 'source')} pinned in {args.registry}"
    print(pinned + ("; commit that file" if count else ""))
    if left:
        print(*left, sep="\n")
        lacking = counted(len(left), "source has", "sources have")
        raise UserError(f"{lacking} no revision yet; see above, and try again")


if __name__ == "__main__":
    program.run(main)
