"""What an audit checks without running anything: hashes, the chain of receipts, and what a reader
should know before trusting it.
"""

import os
import re
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from bezoar.errors import UserError, reason
from bezoar.files import brief, canonical, sha256_text
from bezoar.provenance.code_digest import digest
from bezoar.provenance.fingerprint import Hashes, files_in
from bezoar.provenance.fingerprint import recorded as recorded_in
from bezoar.provenance.staleness import first_row_changed
from bezoar.readers import read_json_object
from bezoar.recipe import require
from bezoar.workflow import sources
from bezoar.workflow.layout import LAST
from bezoar.workflow.source_lock import LOCK
from bezoar.workflow.wording import counted

Receipts = dict[str, dict[str, Any]]
FilesByName = dict[str, dict[str, str]]  # name -> path -> sha256


class Held(TypedDict):
    """What an audit reads of a receipt; it holds more."""

    stage: str
    recipe: dict[str, Any]
    code: str
    inputs: FilesByName
    outputs: FilesByName
    rows: dict[str, str]
    facts: dict[str, Any]
    command: list[str]
    environment: dict[str, Any]
    git_commit: str | None
    git_dirty: bool
    versions: dict[str, str]
    started_unix_s: float
    wall_s: float
    peak_memory_bytes: float


def read_receipts(results: Path) -> tuple[Receipts, list[str]]:
    """Return stage name -> receipt, and a line for each file that is not a receipt."""
    receipts, wrong = {}, []
    for path in sorted((results / "receipts").glob("*.json")):
        try:
            found = read_json_object(path)
            require(found, Held, str(path), "not a receipt", extra="ignore")
            if not found["command"]:
                raise UserError(f"{path}: no command; not a receipt")
        except UserError as error:
            wrong.append(f"{path.stem}: {error}")
            continue
        receipts[path.stem] = found
    return receipts, wrong


def finished(results: Path) -> Receipts:
    """Return stage name -> receipt; raise `UserError` if there is none or one is invalid."""
    receipts, wrong = read_receipts(results)
    if wrong or not receipts:
        raise UserError(
            wrong[0] if wrong else f"{results}/receipts: no receipts; finish a run first"
        )
    return receipts


def receipts_of(store: Path) -> list[Path]:
    """Return the receipts of the stages that keep their answers in a store. A command that changes
    the store removes them first: they hold its hash, and what is stale does not follow from stores.
    """
    place = os.path.abspath(store)
    results = Path(place).parents[1]
    receipts, _ = read_receipts(results)
    return [
        results / "receipts" / f"{stage}.json"
        for stage, held in receipts.items()
        if place in map(os.path.abspath, files_in(held["outputs"]))
    ]


def first_difference(old: Path, new: Path, scratch: str = "") -> str | None:
    """Return the row where two files first differ, None if they are the same. A new file that names
    its neighbours names them below `scratch`.
    """
    if not old.is_file() or not new.is_file():
        return f"{'the published' if not old.is_file() else 'the new'} file is not there"
    published, fresh = old.read_bytes(), new.read_bytes().replace(scratch.encode(), b"")
    if published == fresh:
        return None
    left, right = published.splitlines(keepends=True), fresh.splitlines(keepends=True)
    row = next(
        (
            number
            for number, pair in enumerate(zip(left, right, strict=False), start=1)
            if pair[0] != pair[1]
        ),
        min(len(left), len(right)) + 1,
    )
    return f"row {row}"


def named_files(receipts: Receipts) -> set[str]:
    """Return the paths of all inputs and outputs."""
    return {
        path
        for held in receipts.values()
        for kind in ("inputs", "outputs")
        for path in files_in(held[kind])
    }


def hashes(receipts: Receipts, left_out: Container[str] = ()) -> list[str]:
    """Hash every input and output of every stage again, without a cache; return a line for each
    that differs from its record, with the first row that does. What is `left_out` may be absent.
    """
    wrong, seen = [], Hashes()
    for stage, held in receipts.items():
        for kind in ("inputs", "outputs"):
            for path, recorded in files_in(held[kind]).items():
                found = seen.of(path)
                if found is None and path not in left_out:
                    wrong.append(
                        f"{stage}: {path}: not there, though the receipt has it among its {kind}"
                    )
                elif found not in (None, recorded):
                    where = (
                        f" {first_row_changed(held['rows'][path], path)}:"
                        if path in held["rows"]
                        else ""
                    )
                    wrong.append(
                        f"{stage}: {path}:{where} not the bytes that the receipt has among its"
                        f" {kind} ({recorded[:12]}…, found {found[:12]}…)"
                    )
    return wrong


def place_of(path: str) -> str:
    """Return a path as the project names it: relative where it lies inside, without `.` and
    `..`.
    """
    whole, here = os.path.abspath(path), f"{os.getcwd()}/"
    return whole.removeprefix(here)


def snapshot_faults(path: str, recorded: str, pin: str | None) -> Iterator[str]:
    """Yield what is wrong with a file of a hub snapshot: its manifest has another revision than the
    pinned one, or lists other bytes.
    """
    snapshot = Path(*Path(path).parts[:3])
    try:
        manifest = read_json_object(snapshot / "manifest.json", "files", "revision")
    except (UserError, OSError) as error:
        yield f"the snapshot has no manifest ({reason(error)})"
        return
    if pin and manifest["revision"] != pin:
        yield f"of revision {brief(manifest['revision'])}, but {brief(pin)} is pinned"
    name, files = str(Path(path).relative_to(snapshot)), manifest["files"]
    if not isinstance(files, dict):
        yield "the snapshot's manifest lists no files"
    elif name != "manifest.json" and files.get(name) != recorded:
        yield "not as in the snapshot's manifest"


def snapshot_contents(manifest: Path, used: Container[str]) -> Iterator[str]:
    """Yield each file beside a hub snapshot's manifest that it does not list with these bytes: a
    stage may read them by the manifest alone. Those that are `used` have hashes of their own.
    """
    listed, seen = read_json_object(manifest, "files")["files"], Hashes()
    for path in sorted(manifest.parent.rglob("*")):
        name = path.relative_to(manifest.parent)
        if path == manifest or ".cache" in name.parts or str(path) in used or not path.is_file():
            continue
        if seen.of(str(path)) != listed.get(str(name)):
            yield f"{path}: not as {manifest} lists it"


def pin_of(identifier: str, registry: dict[str, Any], pinned: dict[str, Any]) -> str | None:
    """Return the revision at which a hub repository is pinned, if any: by the registry, by the
    lock, or by the id of a repository that a configuration names with its commit.
    """
    published = registry.get(identifier, {}).get("revision") or pinned.get(identifier)
    named = re.search(r"_([0-9a-f]{40})$", identifier)
    return published or (named[1] if named else None)


def places_read(held: Iterable[dict[str, Any]]) -> set[str]:
    """Return the paths of all inputs of receipts, as the project names them."""
    return {place_of(path) for receipt in held for path in files_in(receipt["inputs"])}


def chain(receipts: Receipts, results: Path) -> list[str]:
    """Follow every input to the stage that wrote it, to a pinned source or to a file of the
    project; return a line for each that leads nowhere.
    """
    wrong = []
    made: dict[str, tuple[str, str]] = {}
    for stage, held in receipts.items():
        for path, recorded in files_in(held["outputs"]).items():
            place = place_of(path)
            if place in made:
                wrong.append(f"{stage}: {path}: written by {made[place][0]} too")
            made[place] = (stage, recorded)
        made[place_of(f"{results}/receipts/{stage}.json")] = (stage, "")
    registry = sources.load(Path("config/sources.yaml"))
    pinned = recorded_in(LOCK)
    known = {
        f"data/{entry['path']}": entry["sha256"] or pinned.get(entry["id"])
        for entry in registry.values()
        if "path" in entry
    }
    read, beside = places_read(receipts.values()), dict[str, list[str]]()
    for stage, held in receipts.items():
        for path, recorded in files_in(held["inputs"]).items():
            place = place_of(path)
            if place in made:
                writer, written = made[place]
                if written and written != recorded:
                    wrong.append(
                        f"{stage}: {path}: read as {recorded[:12]}…, but {writer} says it wrote"
                        f" {written[:12]}…"
                    )
            elif place.startswith("data/hub/"):
                pin = pin_of(Path(place).parts[2], registry, pinned)
                faults = list(snapshot_faults(place, recorded, pin))
                wrong += [f"{stage}: {path}: {fault}" for fault in faults]
                if not faults and place.endswith("/manifest.json"):
                    if place not in beside:  # most manifests are read by every evaluation
                        beside[place] = list(snapshot_contents(Path(place), read))
                    wrong += [f"{stage}: {line}" for line in beside[place]]
            elif place.startswith("data/"):
                if known.get(place) != recorded:
                    wrong.append(
                        f"{stage}: {path}: read as {recorded[:12]}…, but config/sources.yaml and"
                        f" sources.lock have {str(known.get(place))[:12]}…"
                    )
            elif place.startswith(f"{place_of(str(results))}/"):
                wrong.append(f"{stage}: {path}: read, but no receipt wrote it")
    _, unread = left_over(receipts, results)
    return [
        *wrong,
        *(
            f"{stage}: no later receipt holds the hash of this one; an edit of it could not be seen"
            for stage in unread
        ),
    ]


def left_over(receipts: Receipts, results: Path) -> tuple[list[str], list[str]]:
    """Return the stages whose receipts the report of a finished run does not hold: those of another
    configuration, which nothing of the run reads, and those that something of it does read.
    """
    if "report" not in receipts:
        return [], []
    read = places_read(receipts.values())
    loose = {
        stage
        for stage in receipts
        if stage not in LAST and place_of(f"{results}/receipts/{stage}.json") not in read
    }
    left, needed = set(loose), places_read(receipts[stage] for stage in receipts.keys() - loose)
    while used := {
        stage for stage in left if needed & set(map(place_of, files_in(receipts[stage]["outputs"])))
    }:
        left -= used
        needed |= places_read(receipts[stage] for stage in used)
    return sorted(left), sorted(loose - left)


def from_elsewhere(receipts: Receipts, results: Path) -> list[str]:
    """Return a line for each directory of inputs that no stage wrote and nothing pins, such as a
    base of one's own: the receipts alone hold their hashes.
    """
    inside = ("data/", "config/", "prompts/", "scripts/", f"{place_of(str(results))}/")
    made = {place_of(path) for held in receipts.values() for path in files_in(held["outputs"])}
    names: dict[str, set[str]] = {}
    readers: dict[str, set[str]] = {}
    for stage, held in receipts.items():
        for path in map(place_of, files_in(held["inputs"])):
            if path not in made and not path.startswith(inside):
                folder, name = os.path.split(path)
                names.setdefault(folder or ".", set()).add(name)
                readers.setdefault(folder or ".", set()).add(stage)
    return [
        f"from elsewhere: {folder}: {', '.join(sorted(names[folder]))}: read by"
        f" {', '.join(sorted(readers[folder]))}; no stage made it and nothing pins it, the receipts"
        " alone hold its hashes"
        for folder in sorted(names)
    ]


def chain_digest(receipts: Receipts) -> str:
    """Return one sha256 over what all receipts say about bytes: once it is quoted, no later
    edit of files and receipts together can pass.
    """
    digests = {
        stage: [held["recipe"], held["code"], files_in(held["inputs"]), files_in(held["outputs"])]
        for stage, held in receipts.items()
    }
    return sha256_text(canonical(digests))


def reservations(receipts: Receipts, results: Path) -> list[str]:
    """Return a line for whatever is not forged but should be known, kind by kind."""
    return [
        *unfinished(receipts),
        *unpinned(receipts),
        *from_elsewhere(receipts, results),
        *of_another_configuration(receipts, results),
        *dirty(receipts),
        *other_code(receipts),
        *undeclared(receipts, results),
    ]


def unfinished(receipts: Receipts) -> Iterator[str]:
    """Yield a line if there is no report, which is a run's last stage."""
    if "report" not in receipts:
        yield "unfinished: there is no report, whose receipt holds the hashes of the others"


def unpinned(receipts: Receipts) -> Iterator[str]:
    """Yield a line for each source that was read and has no published hash or revision."""
    used, registry = places_read(receipts.values()), sources.load(Path("config/sources.yaml"))
    names = [
        name
        for name, entry in registry.items()
        if sources.path_of(name, registry) in used
        and not (entry.get("sha256") or entry.get("revision"))
    ]
    fetched = {Path(path).parts[2] for path in used if path.startswith("data/hub/")}
    names += sorted(name for name in fetched - registry.keys() if not pin_of(name, {}, {}))
    for name in names:
        yield (
            f"unpinned: {name} has no published hash or revision; it is held by config/sources.lock"
            " alone"
        )


def of_another_configuration(receipts: Receipts, results: Path) -> Iterator[str]:
    """Yield a line if there are stages that the finished run knows nothing of."""
    left, _ = left_over(receipts, results)
    if left:
        yield (
            f"left over: {', '.join(left)}: the report does not hold their receipts, and nothing of"
            " the run reads what they wrote; of another configuration, or added"
        )


def dirty(receipts: Receipts) -> Iterator[str]:
    """Yield a line if there are stages whose code no commit holds."""
    stages = [
        stage for stage, held in receipts.items() if held["git_dirty"] or not held["git_commit"]
    ]
    if stages:
        yield (
            "dirty: made from uncommitted or unversioned files, though their code digests are"
            f" known: {', '.join(stages)}"
        )


def other_code(receipts: Receipts) -> Iterator[str]:
    """Yield a line for each program whose code is not what its stages have recorded."""
    for program in sorted({held["command"][0] for held in receipts.values()}):
        file = Path("scripts") / program
        code = digest(file) if file.is_file() else None
        other = [
            stage
            for stage, held in receipts.items()
            if held["command"][0] == program and held["code"] != code
        ]
        if other:
            what = "or a module of it has been edited since" if code else "is not there any more"
            yield f"other code: {program} {what}: {', '.join(other)}"


def undeclared(receipts: Receipts, results: Path) -> Iterator[str]:
    """Yield a line for each other run below the results, and for each file that is of no run."""
    declared = {path for held in receipts.values() for path in files_in(held["outputs"])}
    declared |= {f"{results}/receipts/{stage}.json" for stage in receipts}
    there = list(results.rglob("*"))
    runs = sorted(
        str(path.parent)
        for path in there
        if path.name == "receipts" and path.is_dir() and path.parent != results
    )
    for run in runs:
        yield f"another run: {run}: it has receipts of its own"
    kept = (  # answers, what served them, and what is not of this run
        *(f"{results}/{name}/" for name in ("store", "serve")),
        *(f"{run}/" for run in runs),
    )
    for path in sorted(str(path) for path in there if path.is_file()):
        if (
            path not in declared
            and "/." not in path
            and not path.startswith(kept)
            and place_of(path) != "results/README.md"
        ):
            yield f"undeclared: {path}: no receipt wrote it"


def verdict(
    receipts: Receipts,
    wrong: list[str],
    reserved: list[str],
    again: list[str],
    held_back: Mapping[str, str],
    results: Path,
) -> str:
    """Return the page a reviewer can paste; `held_back` has each stage that needs no model and was
    not made `again` all the same, and why.
    """
    held = [stage for stage in receipts if stage not in again and stage not in held_back]
    less = counted(
        len(held_back), "stage that needs no model was", "stages that need no model were"
    )
    sound = f"SOUND, but {less} not made again" if held_back else "SOUND"
    findings, files = counted(len(wrong), "finding"), counted(len(named_files(receipts)), "file")
    commits = Counter(str(receipt["git_commit"])[:12] for receipt in receipts.values())
    return "\n".join(
        [
            f"# Audit of {results}: {f'NOT SOUND, {findings}' if wrong else sound}",
            "",
            (
                f"- {counted(len(receipts), 'receipt')}, {files} hashed again; chain digest"
                f" `{chain_digest(receipts)}`"
            ),
            (
                f"- made again, byte for byte compared: {counted(len(again), 'stage')}"
                f" ({', '.join(again) or 'none'})"
            ),
            (
                "- held by hashes alone (they load a model, read from the hub, or were not asked"
                f" for): {counted(len(held), 'stage')} ({', '.join(held) or 'none'})"
            ),
            *(
                f"- held by hashes alone: {stage}, though it needs no model: {why}"
                for stage, why in held_back.items()
            ),
            f"- commits: {', '.join(f'{commit} ({count})' for commit, count in commits.items())}",
            "",
            *(["## Findings", "", *(f"- {line}" for line in wrong), ""] if wrong else []),
            "## To be known",
            "",
            *(f"- {line}" for line in reserved or ["nothing"]),
        ]
    )
