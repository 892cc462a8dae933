"""A stage's recipe: the settings that the workflow hands to its program as JSON.

Each program describes its recipe once, as a `TypedDict` named `Recipe`: the keys, their types and,
in comments, their units. The JSON must hold exactly these keys.
"""

import argparse
import inspect
from pathlib import Path
from typing import Any, Literal, get_type_hints

from bezoar.errors import UserError
from bezoar.readers import parse_json


def add_recipe_argument(parser: argparse.ArgumentParser, kind: type, required: bool = True) -> None:
    """Add `--recipe`, whose JSON must match the `TypedDict` `kind`."""
    parser.add_argument(
        "--recipe",
        type=lambda text: parse(text, kind),
        required=required,
        help=f"settings of the stage, JSON: {keys(kind)}",
    )


def parse(text: str, kind: type) -> dict[str, Any]:
    """Return the recipe in JSON `text`; raise `UserError` in one line that names every key which is
    missing, unknown or of another type than `kind`, a `TypedDict`, gives it.
    """
    program = Path(inspect.getfile(kind)).stem
    recipe: dict[str, Any] = parse_json(text, f"--recipe of {program}")
    require(recipe, kind, f"--recipe of {program}", f"`{program}.py --help` lists its keys")
    return recipe


def require(
    value: Any, kind: type, where: str, advice: str, extra: Literal["forbid", "ignore"] = "forbid"
) -> None:
    """Raise `UserError` in one line, from `where` to `advice`, that names every key of `value`
    which is missing, unknown (unless those are ignored) or of another type than `kind`, a
    `TypedDict`, gives it.
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        TypeAdapter(kind).validate_python(value, strict=True, extra=extra)
    except ValidationError as error:
        faults = _faults(error.errors(include_url=False))
        raise UserError(f"{where}: {faults}; {advice}") from None


def _faults(errors: list[Any]) -> str:
    """Return pydantic's errors in a line: keys that are missing, keys that are unknown, values."""
    keys_of: dict[str, list[str]] = {"missing": [], "extra_forbidden": []}
    values = []
    for error in errors:
        key = '"' + ".".join(map(str, error["loc"])) + '"'
        if error["type"] in keys_of:
            keys_of[error["type"]].append(key)
        else:
            what = f"{error['msg'][0].lower()}{error['msg'][1:]}"
            values.append(f"{key if error['loc'] else 'it'}: {what}, found {error['input']!r:.60}")
    named = zip(("lacks", "has no key"), keys_of.values(), strict=True)
    return "; ".join([*(f"{word} {', '.join(keys)}" for word, keys in named if keys), *values])


def keys(kind: type) -> str:
    """Return the keys of a recipe in a line, for `--help`."""
    return ", ".join(get_type_hints(kind))
