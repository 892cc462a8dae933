"""List every text of every evaluation item, so that the training data can be searched for them.

Usage: list_evaluation_items.py --questions question.jsonl --references gpt-4.jsonl \\
           --task-data arc_easy=…/manifest.json … [--task-files own.yaml …] \\
           --recipe '{"tasks": ["arc_easy"], …}' --code … \\
           --items …/data/evaluation_items.jsonl --receipt …

The tasks are the harness's task objects, loaded as run_lm_eval.py loads them; a text is any string
in an item's document. Its part is `gold` or `choice` where it is one of the answers the task
offers, otherwise `question`. MT-Bench gives its turns (question) and its reference answers (gold).

Items have task, item (number in the split, or question_id), part, text. A text appears once for
each item that holds it.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from bezoar import program
from bezoar.evaluation.harness import add_task_arguments, assignments, load_tasks
from bezoar.evaluation.mtbench import read_questions, read_references
from bezoar.files import write_jsonl
from bezoar.provenance.receipt import Receipt, stage_parser


class Recipe(TypedDict):
    """The settings of the stage, with their units."""

    tasks: list[str]
    seed: int


def strings(value: Any) -> Iterator[str]:
    """Yield every text in a nested document, in order."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from strings(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from strings(inner)


def answers_of(task: Any, doc: dict[str, Any]) -> tuple[set[str], set[str]]:
    """Return (right answers, all answers) that a task offers for a document, stripped; both empty
    where it offers none. Several are right where the document labels them, as TruthfulQA's does.
    """
    try:
        choices = [str(choice).strip() for choice in task.doc_to_choice(doc) or []]
    # Generative tasks offer none; the harness then has no rule for it.
    except (TypeError, KeyError, AttributeError):
        return set(), set()
    if right := labelled(doc, choices):
        return right, set(choices)
    target = task.doc_to_target(doc)
    gold = (
        {choices[target]}
        if isinstance(target, int) and 0 <= target < len(choices)
        else {str(target).strip()}
    )
    return gold, set(choices)


def labelled(doc: dict[str, Any], choices: list[str]) -> set[str]:
    """Return the choices that a document gives the label 1, if a part of it labels just these."""
    for part in doc.values():
        if not isinstance(part, dict) or not isinstance(part.get("choices"), list):
            continue
        labels, own = part.get("labels"), [str(text).strip() for text in part["choices"]]
        if isinstance(labels, list) and len(labels) == len(choices) and own == choices:
            return {text for text, label in zip(choices, labels, strict=True) if label == 1}
    return set()


def of_task(name: str, task: Any) -> Iterator[dict[str, Any]]:
    """Yield the texts of a task's evaluation documents."""
    for number, doc in enumerate(task.eval_docs):
        gold, choices = answers_of(task, doc)
        for text in dict.fromkeys(strings(doc)):
            bare = text.strip()
            part = "gold" if bare in gold else "choice" if bare in choices else "question"
            if bare:
                yield {"task": name, "item": number, "part": part, "text": text}


def of_chat(
    questions: list[dict[str, Any]], references: dict[int, list[str]]
) -> Iterator[dict[str, Any]]:
    """Yield the texts of MT-Bench, each with its turn, from 1: questions, and answers that are
    references.
    """
    known = [
        (row["question_id"], part, texts)
        for row in questions
        for part, texts in (("question", row["turns"]), ("gold", row.get("reference") or []))
    ]
    for number, part, texts in [*known, *((n, "gold", texts) for n, texts in references.items())]:
        for turn, text in enumerate(texts, 1):
            if text.strip():
                item = {"task": "mt_bench", "item": number, "part": part, "turn": turn}
                yield {**item, "text": text}


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and list."""
    parser = stage_parser(__doc__, Recipe)
    parser.add_argument("--questions", type=Path, required=True, help="MT-Bench's questions, JSONL")
    parser.add_argument(
        "--references", type=Path, required=True, help="MT-Bench's reference answers, JSONL"
    )
    add_task_arguments(parser)
    parser.add_argument("--items", type=Path, required=True, help="texts to write, JSONL")
    args = parser.parse_args(argv)
    data, manifests = assignments(args.task_data)
    with Receipt(
        args.receipt,
        stage="data_items",
        recipe=args.recipe,
        code=args.code,
        inputs={
            "questions": args.questions,
            "references": args.references,
            "tasks": args.task_files,
            "data": manifests,
        },
        outputs={"items": args.items},
    ) as receipt:
        tasks = load_tasks(sorted(args.recipe["tasks"]), args.task_files, data)
        rows = [row for name, task in tasks.items() for row in of_task(name, task)]
        rows += of_chat(read_questions(args.questions), read_references(args.references))
        write_jsonl(args.items, rows)
        receipt.facts["texts"] = {
            name: sum(row["task"] == name for row in rows)
            for name in sorted({row["task"] for row in rows})
        }
        print(receipt.facts["texts"], flush=True)


if __name__ == "__main__":
    program.run(main)
