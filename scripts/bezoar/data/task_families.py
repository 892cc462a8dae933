"""The task-family audit: how the Flan task of a row is related to the evaluation tasks, according
to config/task_families.yaml.
"""

import re
from pathlib import Path
from typing import Any

from bezoar.errors import UserError
from bezoar.readers import read_yaml_entries, texts

RELATIONS = ("training_split", "same_form", "none", "unlisted")


def load(path: Path) -> list[dict[str, Any]]:
    """Return the table; raise `UserError` naming the entry that lacks a key, or names no
    relation.
    """
    table = read_yaml_entries(path, "families")
    for number, entry in enumerate(table, start=1):
        if (
            set(entry) != {"match", "evaluation", "relation", "reason"}
            or entry["relation"] not in RELATIONS[:3]
            or not isinstance(entry["reason"], str)
        ):
            raise UserError(
                f"{path}: entry {number}: expected match, evaluation, relation"
                f" ({', '.join(RELATIONS[:3])}) and reason"
            )
        texts(entry["evaluation"], "evaluation", f"{path}: entry {number}")
        try:
            re.compile(entry["match"])
        except (re.error, TypeError) as error:
            raise UserError(
                f"{path}: entry {number}: expected a regular expression as `match`, {error}"
            ) from None
    return table


def family_of(task_name: str, table: list[dict[str, Any]], tasks: list[str]) -> dict[str, Any]:
    """Return {relation, evaluation, reason} of a Flan task to the evaluation tasks in use: those of
    the first entry that matches.
    """
    for entry in table:
        if re.search(entry["match"], task_name.lower()):
            concerned = [task for task in entry["evaluation"] if task in tasks]
            relation = entry["relation"] if concerned else "none"
            return {"relation": relation, "evaluation": concerned, "reason": entry["reason"]}
    return {
        "relation": "unlisted",
        "evaluation": [],
        "reason": "no entry in config/task_families.yaml matches; look at it and add one",
    }
