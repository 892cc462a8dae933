"""Repeat the trainings of a finished run with other seeds, on its data and its base.
measure_held_out.py shows what each seed learned beside the run itself.

Usage: repeat_trainings.py --results results/trial --seeds 1 2 [--only dpo]

A seed decides the adapter's first weights, the order of the rows and dropout; the held-out rows are
the same. Each training and merge is the run's own recorded command with another seed, below
`<results>-seed-1` and so on; what is there already is not computed again. With --only, the named
stages alone are repeated, from what the run itself has trained before them.
"""

import argparse
import os
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from bezoar import program
from bezoar.errors import UserError
from bezoar.files import canonical
from bezoar.provenance.audit import Receipts, finished
from bezoar.provenance.code_digest import digest
from bezoar.provenance.fingerprint import files_in

SCRIPTS = Path(__file__).parents[1]
PROGRAMS = ("train_sft.py", "merge_adapter.py", "score_reference.py", "train_dpo.py")


def trainings(results: Path) -> Receipts:
    """Return the receipts of the trainings and of the stages between them, in their order; a merge
    on which nothing is trained is left out.

    Raise `UserError` if there are none, or if the code of one has changed since.
    """
    held = {
        stage: receipt
        for stage, receipt in finished(results).items()
        if receipt["command"][0] in PROGRAMS
    }
    if not held:
        raise UserError(f"{results}: no training among its receipts; finish a run first")
    for stage, receipt in held.items():
        if digest(SCRIPTS / receipt["command"][0]) != receipt["code"]:
            raise UserError(
                f"{stage}: its code has changed since commit {receipt['git_commit'][:7]}; bring the"
                " run up to date first, or go back to that commit"
            )
    makers = {path: stage for stage, one in held.items() for path in files_in(one["outputs"])}
    before = {
        stage: {makers[path] for path in files_in(one["inputs"]) if path in makers}
        for stage, one in held.items()
    }
    read = set().union(*before.values())
    return {
        stage: held[stage]
        for stage in TopologicalSorter(before).static_order()
        if stage in read or held[stage]["command"][0].startswith("train_")
    }


def as_recorded(results: Path, held: Receipts) -> Path:
    """Return the results' directory as receipts name it, relative or absolute; raise `UserError`
    if they name files elsewhere.
    """
    written = [path for receipt in held.values() for path in files_in(receipt["outputs"])]
    for form in (results, Path(os.path.relpath(results)), results.absolute()):
        if all(Path(path).is_relative_to(form) for path in written):
            return form
    raise UserError(
        f"{results}: its receipts name {written[0]}; start where the run was made, with its results"
        " in their place"
    )


def seed_root(results: Path, seed: int) -> Path:
    """Where a seed's models are."""
    return results.with_name(f"{results.name}-seed-{seed}")


def command(receipt: dict[str, Any], results: Path, made: set[str], seed: int) -> list[str]:
    """Return a recorded command with another seed, in which the files `made` and the receipt are
    below the seed's root.
    """
    line = list(receipt["command"])
    for place, word in enumerate(line):
        if word in made or word.startswith(f"{results}/receipts/"):
            line[place] = str(seed_root(results, seed) / Path(word).relative_to(results))
    line[line.index("--recipe") + 1] = canonical(receipt["recipe"] | {"seed": seed})
    return line


def repeat(results: Path, held: Receipts, seed: int) -> None:
    """Run every stage with another seed; raise `UserError` if one fails."""
    made = {path for receipt in held.values() for path in files_in(receipt["outputs"])}
    for path in (*made, results / "receipts/stage.json"):
        folder = seed_root(results, seed) / Path(path).relative_to(results).parent
        folder.mkdir(parents=True, exist_ok=True)
    for stage, receipt in held.items():
        print(f"seed {seed}: {stage}", file=sys.stderr, flush=True)
        name, *line = command(receipt, results, made, seed)
        done = subprocess.run(
            [sys.executable, str(SCRIPTS / name), *line], stdout=sys.stderr, check=False
        )
        if done.returncode:
            raise UserError(f"seed {seed}: {stage} failed; its last lines above say why")


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, required=True, help="directory of a finished run")
    parser.add_argument("--seeds", type=int, nargs="+", required=True, help="further seeds")
    parser.add_argument("--only", nargs="+", metavar="STAGE", help="stages to repeat; else all")
    args = parser.parse_args(argv)
    held = trainings(args.results)
    results = as_recorded(args.results, held)
    if unknown := sorted({*(args.only or ())} - held.keys()):
        raise UserError(f"--only {unknown[0]}: expected one of {', '.join(held)}")
    held = {stage: receipt for stage, receipt in held.items() if stage in (args.only or held)}
    for seed in args.seeds:
        repeat(results, held, seed)
    roots = [args.results, *(seed_root(args.results, seed) for seed in args.seeds)]
    print(f"what was learned: measure_held_out.py --results {' '.join(map(str, roots))}")


if __name__ == "__main__":
    program.run(main)
