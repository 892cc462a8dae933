"""MT-Bench's questions, prompts and verdicts, in FastChat's files."""

import re
import unicodedata
from pathlib import Path
from typing import Any

from bezoar.errors import UserError
from bezoar.llm.prompts import check_fields
from bezoar.llm.reasoning import split_reasoning
from bezoar.readers import column, numbered, read_jsonl, read_yaml_entries, shown, texts

MATH_LIKE = ("math", "reasoning", "coding", "arena-hard-200")  # FastChat's NEED_REF_CATS
# States that follow from a judgment's text.
READ = ("rated", "no_rating", "two_ratings", "out_of_range")
FIELDS = {  # of the prompts' templates
    "single-v1": ("question", "answer"),
    "single-math-v1": ("question", "answer", "ref_answer_1"),
    "single-v1-multi-turn": ("question_1", "question_2", "answer_1", "answer_2"),
    "single-math-v1-multi-turn": (
        *("question_1", "question_2", "answer_1", "answer_2"),
        *("ref_answer_1", "ref_answer_2"),
    ),
}
JUDGMENT = {  # the columns of a judgment and their types
    "judge": list,
    "model": str,
    "question_id": int,
    "turn": int,
    "repeat": int,
    "state": str,
    "judgment": str,
    "score": float,
    "category": str,
}
WIDE = str.maketrans({"【": "[", "】": "]", "⟦": "[[", "⟧": "]]", "〚": "[[", "〛": "]]"})
HIDDEN = dict.fromkeys(map(ord, "\u00ad\u200b\u200c\u200d\u2060\ufeff"))
LABEL = r"(?:rating|score|评分)"
NUMBER = r"(\d+\.?\d*)"
OF_TEN = r"(?:\s*(?:/|out of)\s*10)?"
RATING = re.compile(
    rf"(?P<before>{LABEL}\W*|.)?\[\[[\s*`]*(?:{LABEL}\s*:)?\s*{NUMBER}{OF_TEN}[\s*`]*\]\]",
    re.IGNORECASE | re.DOTALL,
)
RATING_BACKUP = re.compile(
    rf"{LABEL}[\s*`]*:[\s*`]*\[[\s*`]*{NUMBER}{OF_TEN}[\s*`]*\](?!\])", re.IGNORECASE
)
INDEX = re.compile(r"[\w)\]]", re.ASCII)  # before brackets: an index, as in m[[1]]


def read_questions(path: Path) -> list[dict[str, Any]]:
    """Return the questions; each has question_id, category, two turns, and perhaps two reference
    answers. Raise `UserError` if there are none.
    """
    rows = read_jsonl(path)
    if not rows:
        raise UserError(f"{path}: no questions; fetch the file again")
    seen: set[int] = set()
    for where, row in numbered(path, rows):
        number = column(row, "question_id", int, where)
        column(row, "category", str, where)
        texts(row.get("turns"), "turns", where, 2)
        if row.get("reference"):
            texts(row["reference"], "reference", where, 2)
        if number in seen:
            raise UserError(f"{where}: question_id {number} appears twice; remove one")
        seen.add(number)
    return rows


def turns_of(row: dict[str, Any], where: str) -> list[str]:
    """Return the two answers of a row in FastChat's form: choices, of which the first has turns."""
    choices = column(row, "choices", list, where)
    if not choices or not isinstance(choices[0], dict):
        raise UserError(f"{where}: expected a choice with turns, found {shown(choices)}; answer it")
    return texts(choices[0].get("turns"), "choices[0].turns", where, 2)


def read_references(path: Path) -> dict[int, list[str]]:
    """Return question_id -> reference answers of both turns."""
    return by_question(path, read_jsonl(path))


def by_question(path: Path, rows: list[dict[str, Any]]) -> dict[int, list[str]]:
    """Return question_id -> both answers of the rows of a file; raise `UserError` at a second row
    of a question.
    """
    found: dict[int, list[str]] = {}
    for where, row in numbered(path, rows):
        number = column(row, "question_id", int, where)
        if number in found:
            raise UserError(f"{where}: question_id {number} appears twice; remove one")
        found[number] = turns_of(row, where)
    return found


def override(references: dict[int, list[str]], path: Path) -> dict[int, list[str]]:
    """Return the references with those of `path` (config/reference_overrides.yaml) in place of
    wrong ones.

    Raise `UserError` where the passage that an override calls wrong is not in the reference: then
    upstream has changed.
    """
    changed = {number: list(turns) for number, turns in references.items()}
    for place, row in enumerate(read_yaml_entries(path, "overrides"), start=1):
        where = f"{path}: entry {place}"
        number, turn = column(row, "question_id", int, where), column(row, "turn", int, where)
        if turn not in (1, 2):
            raise UserError(f"{where}: expected turn 1 or 2, found {turn}")
        for name in ("wrong", "right"):
            column(row, name, str, where)
        if number not in references:
            continue  # another set of questions, such as the rehearsal's
        if row["wrong"] not in references[number][turn - 1]:
            raise UserError(
                f"{path}: question {number} turn {turn}: the passage that is overridden is not in"
                " the reference; look at it anew"
            )
        changed[number][turn - 1] = row["right"]
    return changed


def corrected(
    questions: list[dict[str, Any]], before: dict[int, list[str]], after: dict[int, list[str]]
) -> list[dict[str, Any]]:
    """Return the questions whose reference answers `override` has changed."""
    return [
        row for row in questions if after.get(row["question_id"]) != before.get(row["question_id"])
    ]


def read_judge_prompts(path: Path) -> dict[str, dict[str, Any]]:
    """Return the prompts by name, among them the four of single-answer grading, whose templates
    have their `FIELDS`; raise `UserError` where one is missing, is there twice or has others.
    """
    prompts: dict[str, dict[str, Any]] = {}
    for where, row in numbered(path, read_jsonl(path)):
        name = column(row, "name", str, where)
        if name in prompts:
            raise UserError(f"{where}: prompt {name} appears twice; remove one")
        prompts[name] = row
    for name, fields in FIELDS.items():
        if name not in prompts:
            raise UserError(f"{path}: no prompt {name}; use FastChat's judge_prompts.jsonl")
        for part in ("prompt_template", "system_prompt"):
            column(prompts[name], part, str, f"{path}: {name}")
        check_fields(prompts[name]["prompt_template"], fields, f"{path}: {name}")
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


def checked(rows: list[dict[str, Any]], path: Path, required: bool = False) -> list[dict[str, Any]]:
    """Return the judgments of a file; raise `UserError` where a score is not what the text says, a
    judgment appears twice or, where some are `required`, there are none.
    """
    if required and not rows:
        raise UserError(f"{path}: no judgments; judge the model's answers again")
    seen: set[tuple[Any, ...]] = set()
    for where, row in numbered(path, rows):
        for name, kind in JUDGMENT.items():
            column(row, name, kind, where)
        if "user_prompt" in row:
            column(row, "user_prompt", str, where)
        if not texts(row["judge"], "judge", where):
            raise UserError(f"{where}: expected the judge's name and its prompt; judge again")
        key = (row["judge"][0], row["model"], row["question_id"], row["turn"], row["repeat"])
        if key in seen:
            raise UserError(
                f"{where}: {row['model']}, question {key[2]}, turn {key[3]}, repeat"
                f" {key[4]} is judged twice; remove one"
            )
        seen.add(key)
        if row["state"] in READ and read_rating(row["judgment"]) != (row["score"], row["state"]):
            raise UserError(
                f"{where}: score {row['score']} is not what the judgment's text says; judge again"
            )
    return rows


def read_rating(text: str) -> tuple[float, str]:
    """Return (score, state): the number in double brackets, as the judge's prompt asks for it; -1
    unless the state is rated.

    FastChat falls back on any number in single brackets, which takes a citation [2] for a rating.
    Here single brackets count only after "Rating:", and double ones that index something, as in
    m[[1]], are not a rating. Brackets may be full-width or escaped, and hold "8/10" or
    "rating: 8". A reasoning block before the judgment is not read.

    States: rated, no_rating, two_ratings (different ones), out_of_range (not 1 to 10).
    """
    plain = unicodedata.normalize("NFKC", split_reasoning(text)[1]).translate(HIDDEN)
    plain = re.sub(r"\\([\[\]])", r"\1", plain.translate(WIDE))
    double = (m[2] for m in RATING.finditer(plain) if not INDEX.fullmatch(m["before"] or ""))
    found = list(double) or RATING_BACKUP.findall(plain)
    if not found:
        return -1, "no_rating"
    if len({float(value) for value in found}) > 1:
        return -1, "two_ratings"
    score = float(found[0])
    if not 1 <= score <= 10:
        return -1, "out_of_range"
    return (int(score) if score.is_integer() else score), "rated"
