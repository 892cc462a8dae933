"""MT-Bench's questions, prompts and verdicts, in FastChat's files."""

import re
from pathlib import Path
from typing import Any

import yaml

from bezoar.errors import UserError
from bezoar.files import read_jsonl

MATH_LIKE = ("math", "reasoning", "coding", "arena-hard-200")  # FastChat's NEED_REF_CATS
READ = (
    "rated",
    "no_rating",
    "two_ratings",
    "out_of_range",
)  # states that follow from a judgment's text
RATING = re.compile(r"\[\[(\d+\.?\d*)\]\]")
RATING_BACKUP = re.compile(r"\[(\d+\.?\d*)\]")


def read_questions(path: Path) -> list[dict[str, Any]]:
    """Return the questions; each has question_id, category and two turns."""
    rows = read_jsonl(path)
    seen: set[int] = set()
    for number, row in enumerate(rows, start=1):
        turns = row.get("turns")
        if (
            not isinstance(row.get("question_id"), int)
            or not isinstance(row.get("category"), str)
            or not isinstance(turns, list)
            or len(turns) != 2
        ):
            raise UserError(
                f"{path}:{number}: expected question_id, category and two turns, as in MT-Bench"
            )
        if row["question_id"] in seen:
            raise UserError(
                f"{path}:{number}: question_id {row['question_id']} stands twice; remove one"
            )
        seen.add(row["question_id"])
    return rows


def read_references(path: Path) -> dict[int, list[str]]:
    """Return question_id -> reference answers of both turns."""
    return {row["question_id"]: row["choices"][0]["turns"] for row in read_jsonl(path)}


def override(references: dict[int, list[str]], path: Path) -> dict[int, list[str]]:
    """Return the references with those of `path` (config/reference_overrides.yaml) in place of
    wrong ones.

    Raise `UserError` where the passage that an override calls wrong is not in the reference: then
    upstream has changed.
    """
    changed = {number: list(turns) for number, turns in references.items()}
    for row in yaml.safe_load(path.read_text(encoding="utf-8"))["overrides"]:
        number, turn = row["question_id"], row["turn"]
        if number not in references:
            continue  # another set of questions, such as the rehearsal's
        if row["wrong"] not in references[number][turn - 1]:
            raise UserError(
                f"{path}: question {number} turn {turn}: the passage that is overridden is not in"
                " the reference; look at it anew"
            )
        changed[number][turn - 1] = row["right"]
    return changed


def read_judge_prompts(path: Path) -> dict[str, dict[str, Any]]:
    """Return the four single-answer grading prompts by name."""
    prompts = {row["name"]: row for row in read_jsonl(path)}
    for name in (
        "single-v1",
        "single-math-v1",
        "single-v1-multi-turn",
        "single-math-v1-multi-turn",
    ):
        if name not in prompts:
            raise UserError(f"{path}: no prompt {name}; use FastChat's judge_prompts.jsonl")
    return prompts


def judge_messages(
    prompts: dict[str, dict[str, Any]],
    question: dict[str, Any],
    answers: list[str],
    reference: list[str] | None,
    turn: int,
) -> tuple[str, list[dict[str, str]]]:
    """Return (prompt name, messages) that ask for the rating of one turn (1 or 2)."""
    name = ("single-math-v1" if question["category"] in MATH_LIKE else "single-v1") + (
        "-multi-turn" if turn == 2 else ""
    )
    fields = {
        "question": question["turns"][0],
        "answer": answers[0],
        "question_1": question["turns"][0],
        "question_2": question["turns"][1],
        "answer_1": answers[0],
        "answer_2": answers[1],
    }
    if "math" in name:
        if reference is None:
            raise UserError(
                f"question {question['question_id']}: category {question['category']} needs a"
                " reference answer; add one"
            )
        fields |= {"ref_answer_1": reference[0], "ref_answer_2": reference[1]}
    text = prompts[name]["prompt_template"].format(**fields)
    return name, [
        {"role": "system", "content": prompts[name]["system_prompt"]},
        {"role": "user", "content": text},
    ]


def checked(rows: list[dict[str, Any]], path: Path) -> list[dict[str, Any]]:
    """Return the judgments of a file; raise `UserError` where a score is not what the text says, or
    a judgment stands twice.
    """
    seen: set[tuple[Any, ...]] = set()
    for number, row in enumerate(rows, start=1):
        key = (row["judge"][0], row["model"], row["question_id"], row["turn"], row["repeat"])
        if key in seen:
            raise UserError(
                f"{path}:{number}: {row['model']}, question {key[2]}, turn {key[3]}, repeat"
                f" {key[4]} is judged twice; remove one"
            )
        seen.add(key)
        if row["state"] in READ and read_rating(row["judgment"]) != (row["score"], row["state"]):
            raise UserError(
                f"{path}:{number}: score {row['score']} is not what the judgment's text says; judge"
                " again"
            )
    return rows


def read_rating(text: str) -> tuple[float, str]:
    """Return (score, state): the rating as FastChat reads it, [[n]] first and [n] else; -1 unless
    the state is rated.

    States: rated, no_rating, two_ratings (different ones), out_of_range (not 1 to 10).
    """
    found = RATING.findall(text) or RATING_BACKUP.findall(text)
    if not found:
        return -1, "no_rating"
    if len({float(value) for value in found}) > 1:
        return -1, "two_ratings"
    score = float(found[0])
    if not 1 <= score <= 10:
        return -1, "out_of_range"
    return (int(score) if score.is_integer() else score), "rated"
