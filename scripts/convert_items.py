"""Write the evaluation items of a file in the form of the data set that a harness task reads.

Usage: convert_items.py --task hellaswag --file hellaswag_val_full.txt.bz2 --recipe … --code … \\
           --data results/task_data/hellaswag/manifest.json --receipt …

The task's own definition then reads them as it reads the hub's data set: prompts, choices and
metrics are the harness's. Known forms:

- hellaswag: six lines an item: `activity: context`, the number of the right ending, four endings.
  Where the context goes on in a new sentence (`ctx_b`) is not marked; it is what follows the last
  end of a sentence before a small letter, in items of ActivityNet. The harness writes it with a
  capital. Those of WikiHow, whose contexts begin with "How to" or keep its brackets, have none.
- openbookqa: tab-separated, with `Question Stem`, `Choices` as "(A) … (B) …", and `Answer Key`.
- truthfulqa_mc1, truthfulqa_mc2: TruthfulQA's own CSV; several answers in a cell are separated by
  semicolons.

Items are written in an order drawn with the seed, because an evaluation with a `limit` takes the
first: HellaSwag's file has all of ActivityNet's before all of WikiHow's.
"""

import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml
from typing_extensions import TypedDict

from bezoar import program
from bezoar.errors import UserError
from bezoar.files import sha256_file, whole_directory, write_json, write_jsonl
from bezoar.provenance.receipt import Receipt, stage_parser
from bezoar.readers import iter_rows, numbered_lines, shown

Row = dict[str, Any]
ENDINGS = 4
CONTINUED = re.compile(r"(?P<a>.*[.!?]) (?P<b>[a-z].*)", re.DOTALL)
WIKIHOW = re.compile(r"How to |.*\[", re.DOTALL)
LETTER = re.compile(r"\(([A-Z])\) ")
OPENBOOKQA = ("ID", "Question Stem", "Choices", "Answer Key")


class Recipe(TypedDict):
    """The settings of the stage, with their units."""

    num_fewshot: int  # of the evaluation; a file of items holds no examples
    seed: int  # of the order of the items


class Form(NamedTuple):
    """How a task's items are read, the configuration that the task asks for, and the split."""

    read: Callable[[Path], Iterator[Row]]
    name: str
    split: Literal["validation", "test"]


def hellaswag(path: Path) -> Iterator[Row]:
    """Yield HellaSwag's items with the columns that the task uses; blank lines are skipped."""
    lines = numbered_lines(path)
    size = ENDINGS + 2
    if len(lines) % size:
        raise UserError(f"{path}: expected {size} lines an item, found {len(lines)} lines")
    for start in range(0, len(lines), size):
        head, label, *endings = (line for _, line in lines[start : start + size])
        activity, found, context = head.partition(": ")
        if not found or label not in map(str, range(ENDINGS)):
            raise UserError(
                f"{path}:{lines[start][0]}: expected `activity: context`, and below it the number"
                f" of the right ending, 0 to {ENDINGS - 1}; fetch the file again"
            )
        parts = None if WIKIHOW.match(context) else CONTINUED.fullmatch(context)
        a, b = (parts["a"], parts["b"]) if parts else (context, "")
        yield {
            "activity_label": activity,
            "ctx_a": a,
            "ctx_b": b,
            "endings": endings,
            "label": label,
        }


def openbookqa(path: Path) -> Iterator[Row]:
    """Yield OpenBookQA's items with the columns of its data set; each ID is there once."""
    seen: set[str] = set()
    for number, row in enumerate(iter_rows(path), start=1):
        named = all(isinstance(row.get(name), str) and row[name].strip() for name in OPENBOOKQA)
        before, *pieces = LETTER.split(row["Choices"] if named else "")
        letters, texts = pieces[::2], [text.strip() for text in pieces[1::2]]
        listed = len(set(letters)) == len(letters) > 1 and all(texts) and not before.strip()
        if not listed or row["Answer Key"] not in letters:
            raise UserError(
                f"{path}: row {number}: expected `ID`, `Question Stem`, `Choices` as (A) … (B) …,"
                " each letter once and with a text, and the letter of one under `Answer Key`; fetch"
                " the file again"
            )
        if row["ID"] in seen:
            raise UserError(f"{path}: row {number}: ID {row['ID']} appears twice; remove one")
        seen.add(row["ID"])
        yield {
            "id": row["ID"],
            "question_stem": row["Question Stem"],
            "choices": {"text": texts, "label": letters},
            "answerKey": row["Answer Key"],
        }


def truthfulqa(path: Path) -> Iterator[Row]:
    """Yield TruthfulQA's questions with both sets of answers: one right answer first among wrong
    ones, and all right ones before all wrong ones.
    """
    for number, row in enumerate(iter_rows(path), start=1):
        try:
            right, wrong = (
                [text.strip() for text in row[name].split(";") if text.strip()]
                for name in ("Correct Answers", "Incorrect Answers")
            )
            question, best = row["Question"].strip(), row["Best Answer"].strip()
            if not (question and best and right and wrong):
                raise KeyError
        except (KeyError, AttributeError):
            raise UserError(
                f"{path}: row {number}: expected texts under Question, Best Answer, Correct Answers"
                " and Incorrect Answers; fetch the file again"
            ) from None
        if best in wrong:
            raise UserError(
                f"{path}: row {number}: the best answer, {shown(best)}, is also among the incorrect"
                " ones; remove it from either"
            )
        sets = {"mc1": ([best], wrong), "mc2": (list(dict.fromkeys([best, *right])), wrong)}
        yield {"question": question} | {
            f"{name}_targets": {
                "choices": [*true, *false],
                "labels": [1] * len(true) + [0] * len(false),
            }
            for name, (true, false) in sets.items()
        }


FORMS = {
    "hellaswag": Form(hellaswag, "default", "validation"),
    "openbookqa": Form(openbookqa, "main", "test"),
    "truthfulqa_mc1": Form(truthfulqa, "multiple_choice", "validation"),
    "truthfulqa_mc2": Form(truthfulqa, "multiple_choice", "validation"),
}


def write(rows: list[Row], form: Form, manifest: Path) -> None:
    """Write a data set that `datasets` loads by its directory, and last the manifest of its files,
    with the splits that the task has in it.
    """
    with whole_directory(manifest.parent) as fresh:
        write_jsonl(fresh / f"{form.split}.jsonl", rows)
        files = [{"split": form.split, "path": f"{form.split}.jsonl"}]
        head = yaml.safe_dump({"configs": [{"config_name": form.name, "data_files": files}]})
        (fresh / "README.md").write_text(f"---\n{head}---\n", encoding="utf-8")
        digests = {path.name: sha256_file(path) for path in sorted(fresh.iterdir())}
        splits = {f"{split}_split": None for split in ("training", "validation", "test")}
        splits[f"{form.split}_split"] = form.split
        write_json(fresh / manifest.name, {"files": digests, "task": splits})


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and convert."""
    parser = stage_parser(__doc__, Recipe)
    parser.add_argument("--task", required=True, help=f"the harness's task: {', '.join(FORMS)}")
    parser.add_argument("--file", type=Path, required=True, help="its items, in a form named above")
    parser.add_argument("--data", type=Path, required=True, help="manifest of the data to write")
    args = parser.parse_args(argv)
    if args.task not in FORMS:
        raise UserError(
            f"lm_eval.data: {args.task}: expected a repository of the hub; items in a file can be"
            f" read for {', '.join(FORMS)}"
        )
    if args.recipe["num_fewshot"]:
        raise UserError(
            f"lm_eval.num_fewshot: {args.task}: expected 0, because {args.file} holds no examples;"
            " take the hub's data set for more"
        )
    form = FORMS[args.task]
    with Receipt(
        args.receipt,
        stage="task_data",
        recipe=args.recipe,
        code=args.code,
        inputs={"file": args.file},
        outputs={
            "data": [
                args.data.with_name(name)
                for name in (args.data.name, f"{form.split}.jsonl", "README.md")
            ]
        },
    ) as receipt:
        rows = list(form.read(args.file))
        if not rows:
            raise UserError(f"{args.file}: no items; fetch the file again")
        write(random.Random(args.recipe["seed"]).sample(rows, len(rows)), form, args.data)
        receipt.facts["items"] = len(rows)
        print(f"{args.task}: {len(rows):,} items", flush=True)


if __name__ == "__main__":
    program.run(main)
