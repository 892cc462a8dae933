"""Repeat the trainings of a finished run with other seeds, on its data and its base, and show what
each seed learned beside the run itself.

Usage: repeat_trainings.py --results results/trial --seeds 1 2

A seed decides the adapter's first weights, the order of the rows and dropout; the held-out rows are
the same. Each training and merge is the run's own recorded command with another seed, below
`<results>-seed-1` and so on; what is there already is not computed again. Prints Markdown.
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
from bezoar.evaluation.held_out import compared
from bezoar.files import canonical
from bezoar.provenance.audit import Receipts, finished
from bezoar.provenance.code_digest import digest
from bezoar.provenance.fingerprint import files_in
from bezoar.readers import read_json

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
    """Return a recorded command with another seed, in which whatever lies in one of the directories
    `made` of the results is below the seed's root.
    """
    line = list(receipt["command"])
    for place, word in enumerate(line):
        if word.startswith(f"{results}/"):
            below = Path(word).relative_to(results)
            line[place] = str(seed_root(results, seed) / below) if below.parts[0] in made else word
    line[line.index("--recipe") + 1] = canonical(receipt["recipe"] | {"seed": seed})
    return line


def repeat(results: Path, held: Receipts, seed: int) -> None:
    """Run every stage with another seed; raise `UserError` if one fails."""
    written = {path for receipt in held.values() for path in files_in(receipt["outputs"])}
    made = {"receipts"} | {Path(path).relative_to(results).parts[0] for path in written}
    for path in (*written, results / "receipts/stage.json"):
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


def learned(root: Path) -> dict[str, str]:
    """Return what the models below `root` have learned, each measure with its value."""
    receipts, found = finished(root), {}
    for stage, receipt in receipts.items():
        facts = receipt["facts"]
        if receipt["command"][0] == "train_sft.py" and facts.get("saved_eval_loss") is not None:
            found[f"{stage}: held-out loss, nats per token"] = (
                f"{facts['first_eval_loss']:.3f} → {facts['saved_eval_loss']:.3f}"
                f" (n = {facts['evaluated']})"
            )
    file = root / "dpo/held_out.json"
    if file.is_file():
        dpo = compared(read_json(file), receipts["dpo"]["recipe"]["seed"])
        before, after, gap = dpo["reference"], dpo["policy"], dpo["difference"]
        found["preference accuracy before → after DPO"] = (
            f"{before['mean']:.3f} → {after['mean']:.3f} (n = {dpo['pairs']})"
        )
        found["its paired difference"] = (
            f"{gap['mean']:+.3f} ({gap['low']:+.3f} – {gap['high']:+.3f})"
        )
        found["KL divergence, nats per token"] = f"{dpo['kl_nats_per_token']:.3f}"
    return found


def table(columns: dict[str, dict[str, str]]) -> str:
    """Return the Markdown table of several seeds."""
    lines = [f"| measure | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for measure in next(iter(columns.values())):
        values = " | ".join(column.get(measure, "–") for column in columns.values())
        lines.append(f"| {measure} | {values} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Parse the command line, train, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, required=True, help="directory of a finished run")
    parser.add_argument("--seeds", type=int, nargs="+", required=True, help="further seeds")
    args = parser.parse_args(argv)
    held = trainings(args.results)
    results = as_recorded(args.results, held)
    own = next(iter(held.values()))["recipe"]["seed"]
    columns = {f"seed {own}": learned(results)}
    for seed in args.seeds:
        repeat(results, held, seed)
        columns[f"seed {seed}"] = learned(seed_root(results, seed))
    print(table(columns))


if __name__ == "__main__":
    program.run(main)
