"""Have a judge grade MT-Bench answers one by one, both turns, as FastChat's single-answer grading
does; no failure is dropped.

Usage: judge_mtbench.py --questions question.jsonl --answers answers.jsonl \\
           --references reference_answer.jsonl \\
           --judge-prompts judge_prompts.jsonl --store … [--facts …] --concurrency 16 \\
           --recipe '{"judge": {…}, "repeats": 1, …}' --code … --judgments judgments.jsonl --counts
             … --receipt …

Every (question, turn, repeat) is one row with one state: rated, no_rating, two_ratings,
out_of_range, refused, truncated, unparsable or provider_error. The columns are FastChat's
(question_id, model, judge, user_prompt, judgment, score, turn, tstamp), score -1 unless rated, and
state and repeat. With --overrides the questions whose reference answer is overridden are judged,
and no others.
"""

from collections import Counter
from pathlib import Path
from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict

from bezoar import program
from bezoar.errors import UserError
from bezoar.evaluation.mtbench import (
    by_question,
    corrected,
    judge_messages,
    override,
    read_judge_prompts,
    read_questions,
    read_rating,
    read_references,
)
from bezoar.files import write_json, write_jsonl
from bezoar.llm.arguments import add_client_arguments
from bezoar.llm.client import LLMClient
from bezoar.llm.settings import ModelSettings, ServerSettings
from bezoar.provenance.receipt import Receipt, stage_parser
from bezoar.readers import column, numbered, read_jsonl


class Recipe(TypedDict):
    """The settings of the stage, with their units."""

    judge: ModelSettings
    references: NotRequired[Literal["upstream", "corrected"]]
    repeats: int
    max_failure_share: float  # of rows without a rating
    serve: NotRequired[ServerSettings]  # of the judge, where the workflow serves it
    seed: int


def judge(
    client: LLMClient,
    questions: list[dict],
    answers: dict[int, list[str]],
    references: dict[int, list[str]],
    prompts: dict[str, Any],
    name: str,
    repeats: int,
) -> list[dict[str, Any]]:
    """Return one row for each question, turn and repeat."""
    rows: list[dict[str, Any]] = []
    for repeat in range(repeats):
        asked = []
        for question in questions:
            number = question["question_id"]
            reference = references.get(number) or question.get("reference")
            for turn in (1, 2):
                asked.append(
                    (
                        question,
                        turn,
                        *judge_messages(prompts, question, answers[number], reference, turn),
                    )
                )
        names = [
            f"{name} question {question['question_id']} turn {turn}"
            for question, turn, _, _ in asked
        ]
        replies = client.ask([messages for *_, messages in asked], names, repeat)
        for (question, turn, prompt, messages), reply in zip(asked, replies, strict=True):
            score, state = (
                read_rating(reply.text) if reply.state == "answered" else (-1, reply.state)
            )
            rows.append(
                {
                    "question_id": question["question_id"],
                    "model": name,
                    "judge": [client.settings.model, prompt],
                    "user_prompt": messages[1]["content"],
                    "judgment": reply.text,
                    "score": score,
                    "turn": turn,
                    "tstamp": 0.0,
                    "category": question["category"],
                    "repeat": repeat,
                    "state": state,
                }
            )
    return rows


def read_answers(path: Path, questions: list[dict]) -> tuple[str, dict[int, list[str]]]:
    """Return (model name, question_id -> both answers); the rows are one model's, and every
    question is answered once.
    """
    rows = read_jsonl(path)
    for where, row in numbered(path, rows):
        model = column(row, "model_id", str, where)
        if model != rows[0]["model_id"]:
            raise UserError(
                f"{where}: model_id {model!r}, but the rows before it are of"
                f" {rows[0]['model_id']!r}; give each model's answers a file of their own"
            )
    answers = by_question(path, rows)
    missing = [
        question["question_id"] for question in questions if question["question_id"] not in answers
    ]
    if missing or not rows:
        raise UserError(
            f"{path}: no answer to question {missing[0] if missing else 'any'}; answer all"
            " questions of the file first"
        )
    return rows[0]["model_id"], answers


def require_rated(rows: list[dict[str, Any]], share: float, client: LLMClient) -> None:
    """Raise `UserError` naming a judgment if more than `share` of the client's have no rating."""
    bad = [row for row in rows if row["state"] != "rated"]
    if len(bad) > share * len(rows):
        raise UserError(
            f"mtbench: {len(bad)} of {len(rows)} judgments without a rating, e.g. question"
            f" {bad[0]['question_id']} turn {bad[0]['turn']} ({bad[0]['state']});"
            f" {client.remedy(any(row['judgment'] for row in bad))}"
        )


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and judge."""
    parser = stage_parser(__doc__, Recipe)
    for name, text in {
        "questions": "questions",
        "answers": "answers of one model",
        "references": "reference answers",
        "judge-prompts": "prompts",
    }.items():
        parser.add_argument(
            f"--{name}", type=Path, required=True, help=f"{text}, in FastChat's JSONL"
        )
    parser.add_argument(
        "--overrides",
        type=Path,
        nargs="?",
        help="right reference answers in place of wrong ones, YAML",
    )
    add_client_arguments(parser)
    parser.add_argument("--judgments", type=Path, required=True, help="judgments to write, JSONL")
    parser.add_argument("--counts", type=Path, required=True, help="states to write, JSON")
    args = parser.parse_args(argv)
    inputs = {
        "questions": args.questions,
        "answers": args.answers,
        "references": args.references,
        "prompts": args.judge_prompts,
    }
    inputs |= {name: path for name in ("facts", "overrides") if (path := getattr(args, name))}
    with Receipt(
        args.receipt,
        stage="mtbench_judgments",
        recipe=args.recipe,
        code=args.code,
        inputs=inputs,
        outputs={"judgments": args.judgments, "counts": args.counts, "store": args.store},
    ) as receipt:
        questions = read_questions(args.questions)
        name, answers = read_answers(args.answers, questions)
        references, prompts = (
            read_references(args.references),
            read_judge_prompts(args.judge_prompts),
        )
        if args.overrides:
            upstream, references = references, override(references, args.overrides)
            questions = corrected(questions, upstream, references)
        with LLMClient.of(
            args.recipe["judge"], args.store, args.concurrency, args.facts, args.mode
        ) as client:
            rows = judge(
                client, questions, answers, references, prompts, name, args.recipe["repeats"]
            )
            receipt.facts |= client.facts_for_receipt()
        require_rated(rows, args.recipe["max_failure_share"], client)
        states = Counter(row["state"] for row in rows)
        write_jsonl(args.judgments, rows)
        empty = sum(not turn.strip() for row in questions for turn in answers[row["question_id"]])
        write_json(
            args.counts,
            {
                "judgments": len(rows),
                "answers": sum(len(answers[row["question_id"]]) for row in questions),
                "empty_answers": empty,
                **dict(sorted(states.items())),
            },
        )
        print(dict(states), flush=True)


if __name__ == "__main__":
    program.run(main)
