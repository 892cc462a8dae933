"""Audit a finished run: hash everything again, follow the chain of receipts to the sources, and
make every table again from raw rows and stored answers.

Usage: audit_results.py --results results/rehearsal [--verdict FILE]

Needs no GPU, no key and no network, and no file that an unpacked archive says it leaves out. Stages
that load a model, read rows from the hub or need such a file cannot be made again here: their files
are held by the hashes of their own receipt and of every receipt that read them. The others are run
again with the recorded command in a scratch directory, those that ask language models in replay
mode from a copy of their store, and compared byte by byte.

Exit status: 0 sound · 1 something differs · 2 the audit could not be done.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

from bezoar import program, surroundings
from bezoar.errors import UserError
from bezoar.files import whole_file
from bezoar.llm.answer_store import edited
from bezoar.provenance import archive, audit
from bezoar.provenance.code_digest import libraries
from bezoar.provenance.fingerprint import files_in

# A stage that imports one of these loads or trains a model.
MODELS = {"torch", "trl", "peft", "lm_eval", "bitsandbytes"}
HUB = {"datasets"}  # a stage that imports this reads rows from the hub
SCRIPTS = Path(__file__).parents[1]


def is_light(program: str) -> bool:
    """Whether a stage's program can be run again here: it needs neither a model nor a network."""
    file = SCRIPTS / program
    return file.is_file() and not libraries(file) & (MODELS | HUB)


def below(scratch: Path, path: str) -> Path:
    """Return the place below `scratch` of a path of a receipt, which may be absolute where the
    results' root is.
    """
    return scratch / path.lstrip("/")


def redirected(receipt: dict[str, Any], scratch: Path) -> list[str]:
    """Return the recorded command with every output, and every directory of outputs only, below
    `scratch`.
    """
    written, read = files_in(receipt["outputs"]), files_in(receipt["inputs"])
    words = list(receipt["command"])
    for position, word in enumerate(words):
        folder = f"{word}/"
        mine = word in written or (
            any(path.startswith(folder) for path in written)
            and not any(path.startswith(folder) for path in read)
        )
        if words[position - 1] == "--receipt" or mine:
            words[position] = str(below(scratch, word))
    return [*words, "--mode", "replay"] if "--store" in words else words


def outside(receipt: dict[str, Any]) -> list[str]:
    """Return the files that a stage would not write below a scratch directory."""
    words = receipt["command"]
    receipts = [word for before, word in pairwise(words) if before == "--receipt"]
    written = {*files_in(receipt["outputs"]), *receipts}
    return sorted(path for path in written if ".." in Path(path).parts)


def make_again(stage: str, receipt: dict[str, Any], scratch: Path) -> list[str]:
    """Run a stage's program below `scratch`; return a line for every file whose bytes differ."""
    outputs = files_in(receipt["outputs"])
    for path in outputs:
        place = below(scratch, path)
        place.parent.mkdir(parents=True, exist_ok=True)
        if path.endswith(".sqlite") and Path(path).is_file():
            shutil.copyfile(path, place)
    program, *arguments = redirected(receipt, scratch)
    hidden = {
        name: value
        for name, value in os.environ.items()
        if not name.upper().endswith(("_KEY", "_TOKEN", "_PROXY"))
    }
    environment = hidden | {"BEZOAR_AGAIN": "1"}
    surroundings.clean(environment, SCRIPTS)
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / program), *arguments],
        capture_output=True,
        encoding="utf-8",  # as `clean` has it write, whatever our own locale
        errors="replace",
        check=False,
        env=environment,
    )
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        why = said[-1] if said else f"status {done.returncode}"  # a kill says nothing
        return [f"{stage}: cannot be made again: {why}"]
    return [
        f"{stage}: {path}: {where}: not what comes out when the stage is run again"
        for path in sorted(outputs)
        if not path.endswith(".sqlite") and (where := difference(path, scratch))
    ]


def difference(path: str, scratch: Path) -> str | None:
    """Return where a file differs from the one that was made again below `scratch`."""
    root = str(scratch) if path.startswith("/") else f"{scratch}/"
    return audit.first_difference(Path(path), below(scratch, path), root)


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and audit."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, required=True, help="root of the results")
    parser.add_argument(
        "--verdict", type=Path, help="file to write the verdict to, beside printing it"
    )
    parser.add_argument("--only", nargs="*", help="make only these stages again")
    args = parser.parse_args(argv)
    if not (args.results / "receipts").is_dir():
        there = [str(found.parent) for found in sorted(Path().glob("results/**/receipts"))]
        raise UserError(
            f"{args.results}/receipts: no such directory; CONFIG names the configuration of the"
            f" run to audit, and the runs here are {', '.join(there) or 'none'}"
        )
    receipts, wrong = audit.read_receipts(args.results)
    if not receipts and not wrong:
        raise UserError(f"{args.results}/receipts: no receipts; finish a run first")
    behind = {path: why for path, why in archive.left_out().items() if not Path(path).exists()}
    wrong += audit.hashes(receipts, behind) + audit.chain(receipts, args.results)
    light = [stage for stage, held in receipts.items() if is_light(held["command"][0])]
    chosen = [stage for stage in light if args.only is None or stage in args.only]
    held_back = {
        stage: f"{paths[0]}: a path with `..`"
        for stage in chosen
        if (paths := outside(receipts[stage]))
    } | {
        stage: f"{paths[0]}: left out of the archive"
        for stage in chosen
        if (paths := sorted(behind.keys() & audit.named_files({stage: receipts[stage]})))
    }
    chosen = [stage for stage in chosen if stage not in held_back]
    left, _ = audit.left_over(receipts, args.results)
    wrong += [
        f"{stage}: {held['command'][0]}: no such program in scripts/; it cannot be made again"
        for stage, held in receipts.items()
        if stage not in left and not (SCRIPTS / held["command"][0]).is_file()
    ]
    missing = [f"left out of the archive: {path}: {why}" for path, why in sorted(behind.items())]
    wrong += [
        f"{stage}: {path}: {what}"
        for stage, held in receipts.items()
        for path in sorted(files_in(held["outputs"]))
        if path.endswith(".sqlite") and Path(path).is_file()
        for what in edited(Path(path))
    ]
    with tempfile.TemporaryDirectory(prefix="audit-") as scratch:
        for stage in chosen:
            wrong += make_again(stage, receipts[stage], Path(scratch))
    page = audit.verdict(
        receipts,
        wrong,
        [*missing, *audit.reservations(receipts, args.results)],
        chosen,
        held_back,
        args.results,
    )
    print(page)
    if args.verdict:
        with whole_file(args.verdict) as stream:
            stream.write(page + "\n")
    if wrong:
        raise SystemExit(1)


if __name__ == "__main__":
    program.run(main)
