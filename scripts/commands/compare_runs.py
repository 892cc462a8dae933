"""Compare two finished runs: which settings, inputs, code and environment differ, which stages
wrote other bytes, and which numbers moved, in pairs where the items are the same.

Usage: compare_runs.py A B         two results roots, or archives made by `make archive`

Everything comes from receipts and artifacts; nothing is recomputed. Exit status: 0 every stage
wrote the same bytes · 1 something differs · 2 the comparison could not be made.
"""

import argparse
import json
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bezoar import program
from bezoar.errors import UserError, reason
from bezoar.evaluation.statistics import BETWEEN_RATINGS, clustered_difference
from bezoar.files import differences
from bezoar.provenance.audit import Receipts, finished
from bezoar.provenance.fingerprint import files_in
from bezoar.readers import read_json, read_jsonl
from bezoar.workflow.wording import counted

HERE = "<results>"  # in place of the root's own name in paths
NAMED = 4  # stages that a line names; more are counted
Values = dict[tuple[Any, ...], float]


class Run:
    """A finished run: its receipts by stage, in the order in which the stages began, with paths
    relative to its root.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        if not (root / "receipts").is_dir():
            raise UserError(
                f"{root}/receipts: no such directory; name the results of a finished run, such as"
                " results/rehearsal, or its archive"
            )
        read = finished(root)
        begun = sorted(read, key=lambda stage: (read[stage]["started_unix_s"], stage))
        self.receipts: Receipts = {stage: read[stage] for stage in begun}
        command = next(iter(self.receipts.values()))["command"]
        written = Path(command[command.index("--receipt") + 1])
        self.name = str(written.parents[1])  # the root as receipts name it

    def settings(self, stage: str, kind: str) -> Any:
        """Return a part of a stage's receipt, with `HERE` in place of the root's name."""
        text = json.dumps(self.receipts[stage][kind], ensure_ascii=False)
        return json.loads(text.replace(f"{self.name}/", f"{HERE}/"))

    def files(self, stage: str, kind: str) -> dict[str, str]:
        """Return path -> sha256 of a stage's inputs or outputs, but for stores: they only grow."""
        return {
            path.replace(f"{self.name}/", f"{HERE}/", 1): digest
            for path, digest in files_in(self.receipts[stage][kind]).items()
            if not path.endswith(".sqlite")
        }

    def json(self, name: str) -> Any:
        """Return a JSON artifact, or nothing if the run has none."""
        path = self.root / name
        return read_json(path) if path.is_file() else None

    def rows(self, name: str) -> list[dict[str, Any]]:
        """Return a JSONL artifact, or no rows."""
        path = self.root / name
        return read_jsonl(path) if path.is_file() else []


def opened(path: Path, stack: ExitStack) -> Run:
    """Return the run at a path: a results root, or an archive, unpacked until `stack` closes."""
    if not path.is_file():
        return Run(path)
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bezoar-compare-")))
    try:
        with tarfile.open(path) as archive:
            archive.extractall(folder, filter="data")
    except (tarfile.TarError, OSError, EOFError) as error:
        raise UserError(
            f"{path}: expected an archive of a run ({reason(error)}); fetch it again"
        ) from None
    roots = [found.parent for found in folder.rglob("receipts") if found.is_dir()]
    if len(roots) != 1:
        raise UserError(f"{path}: expected the receipts of one run, found those of {len(roots)}")
    return Run(roots[0])


def causes(a: Run, b: Run) -> Iterator[str]:
    """Yield what differs in the settings, sources, code and environment of the stages that both
    runs have: a line for each difference, with the stages that have it.
    """
    stages: dict[str, list[str]] = {}
    for stage in both(a, b):
        lines = [
            line
            for kind in ("recipe", "environment")
            for line in differences(a.settings(stage, kind), b.settings(stage, kind), kind)
        ]
        if a.receipts[stage]["code"] != b.receipts[stage]["code"]:
            lines.append("code: the program or a module of it")
        sources = [
            {path: sha for path, sha in run.files(stage, "inputs").items() if HERE not in path}
            for run in (a, b)
        ]
        lines += differences(*sources, "source")
        for line in lines:
            stages.setdefault(line, []).append(stage)
    for line, names in stages.items():
        shown = ", ".join(names[:NAMED])
        yield f"{line}   ({shown}{f' and {len(names) - NAMED} more' if names[NAMED:] else ''})"


def both(a: Run, b: Run) -> list[str]:
    """Return the stages of both runs, in the order of the first."""
    return [stage for stage in a.receipts if stage in b.receipts]


def other_bytes(a: Run, b: Run) -> list[str]:
    """Return the stages whose outputs are not the same."""
    return [stage for stage in both(a, b) if a.files(stage, "outputs") != b.files(stage, "outputs")]


def harness_items(samples: list[dict[str, Any]], task: str, metric: str) -> Values:
    """Return (item, right answer) -> score of a model's samples on a task."""
    return {
        (row["doc_id"], row["target"]): row[metric]
        for row in samples
        if row["task"] == task and metric in row
    }


def chat_items(run: Run, model: str) -> Values:
    """Return (question, turn, repeat) -> rating of a model's answers that have one."""
    return {
        (row["question_id"], row["turn"], row["repeat"]): row["score"]
        for row in run.rows(f"mtbench/{model}/judgments.jsonl")
        if row["state"] == "rated"
    }


def judges(run: Run, model: str) -> list[str]:
    """Return who judged a model's answers."""
    return sorted({row["judge"][0] for row in run.rows(f"mtbench/{model}/judgments.jsonl")})


def same_source(a: Run, b: Run, stage: str, name: str) -> bool:
    """Whether a stage of both runs read the same files under an input's name."""
    found = [run.receipts.get(stage, {"inputs": {}})["inputs"].get(name) for run in (a, b)]
    return None not in found and sorted(found[0].values()) == sorted(found[1].values())


def listed_items(run: Run) -> dict[str, list[dict[str, Any]]]:
    """Return task -> the texts that a run lists of its items."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in run.rows("data/evaluation_items.jsonl"):
        found.setdefault(row["task"], []).append(row)
    return found


def compared(what: str, one: Values, other: Values, same: bool, most: float = 1.0) -> str:
    """Return a line on the means of two runs, with the paired difference of the items of both; the
    first part of an item names its cluster: the question that several turns belong to. `most` is
    the largest difference that an item can have.
    """
    means = [f"{sum(found.values()) / len(found):.3f}" for found in (one, other)]
    line = f"{what}: {means[0]} -> {means[1]}"
    items = sorted(one.keys() & other.keys()) if same else []
    if not items:
        return f"{line}, other items"
    gaps: dict[Any, list[float]] = {}
    for item in items:
        gaps.setdefault(item[0], []).append(other[item] - one[item])
    moved = sum(one[item] != other[item] for item in items)
    if not moved:
        return f"{line}, none of {len(items)} items moved"
    gap = clustered_difference(gaps, 0, most)
    return (
        f"{line}, in pairs {gap['mean']:+.3f} ({gap['low']:+.3f} to {gap['high']:+.3f}),"
        f" {moved} of {len(items)} items moved"
    )


def numbers(a: Run, b: Run) -> Iterator[str]:
    """Yield a line for each model and benchmark that both runs have; scores by two metrics, or
    ratings by two judges, are not compared.
    """
    tables = [run.json("lm_eval.json") or {"models": {}, "metric": {}} for run in (a, b)]
    same = same_source(a, b, "data_items", "tasks") and same_source(a, b, "data_items", "data")
    one, other = (table["metric"] for table in tables)
    for task in [task for task in one if other.get(task, one[task]) != one[task]]:
        yield f"{task}: by {one[task]} -> {other[task]}, not compared"
    equal = set(one)
    if not same:  # a task more or fewer leaves the others' items as they are
        ours, theirs = listed_items(a), listed_items(b)
        equal = {task for task, rows in ours.items() if theirs.get(task) == rows}
    for model in [name for name in tables[0]["models"] if name in tables[1]["models"]]:
        samples = [run.rows(f"lm_eval/{model}.samples.jsonl") for run in (a, b)]
        for task in [task for task in one if one[task] == other.get(task)]:
            found = [harness_items(rows, task, one[task]) for rows in samples]
            if all(found):
                yield compared(f"{model}, {task}", found[0], found[1], task in equal)
        chat = [chat_items(run, model) for run in (a, b)]
        by = [" and ".join(judges(run, model)) for run in (a, b)]
        if all(chat) and by[0] != by[1]:
            yield f"{model}, chat: judged by {by[0]} -> {by[1]}, not compared"
        elif all(chat):
            asked = same_source(a, b, f"mtbench_judgments_{model}", "questions")
            yield compared(f"{model}, chat", chat[0], chat[1], asked, BETWEEN_RATINGS)
    verdicts = [
        {
            row["statement"]: row["verdict"]
            for row in (run.json("claims.json") or {"claims": []})["claims"]
        }
        for run in (a, b)
    ]
    for statement in [text for text in verdicts[0] if text in verdicts[1]]:
        if verdicts[0][statement] != verdicts[1][statement]:
            yield f"claim: {statement} {verdicts[0][statement]} -> {verdicts[1][statement]}"


def page(a: Run, b: Run, moved: list[str]) -> list[str]:
    """Return the comparison, a line each; `moved` are the stages that wrote other bytes."""
    lines = [
        f"{name}: {run.root}, {counted(len(run.receipts), 'stage')}"
        for name, run in (("A", a), ("B", b))
    ]
    for title, run, than in (("only in A", a, b), ("only in B", b, a)):
        if names := [stage for stage in run.receipts if stage not in than.receipts]:
            lines.append(f"{title}: {', '.join(names)}")
    stages = both(a, b)
    lines += ["", "What differs before any stage ran (A -> B):"]
    lines += [f"  {line}" for line in causes(a, b)] or ["  nothing"]
    lines += [
        "",
        f"Outputs: {len(stages) - len(moved)} of {len(stages)} stages wrote the same bytes.",
    ]
    if moved:
        lines.append(f"  others, in order: {', '.join(moved)}")
    lines += ["", "Numbers (A -> B; 95 % intervals of the differences):"]
    return [*lines, *[f"  {line}" for line in numbers(a, b)]]


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs=2, help="two results roots or archives")
    args = parser.parse_args(argv)
    with ExitStack() as stack:
        a, b = (opened(path, stack) for path in args.runs)
        moved = other_bytes(a, b)
        print(*page(a, b, moved), sep="\n")
        if moved or a.receipts.keys() != b.receipts.keys():
            raise SystemExit(1)


if __name__ == "__main__":
    program.run(main)
