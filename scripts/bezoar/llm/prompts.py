"""Templates of prompts: texts with fields in braces, in which a brace of the text is written
twice.
"""

from collections.abc import Collection
from string import Formatter

from bezoar.errors import UserError
from bezoar.readers import shown


def check_fields(template: str, fields: Collection[str], where: str) -> None:
    """Raise `UserError` that begins with `where` unless a template has all of `fields` in braces,
    plainly, and no others.
    """
    names = ", ".join(f"{{{field}}}" for field in fields) or "none"
    expected = f"{where}: expected the fields {names} and no others"
    advice = "write a brace that belongs to the text twice"
    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        raise UserError(f"{expected}, found: {error}; {advice}") from None
    found = [
        f"{name}{f'!{conversion}' if conversion else ''}{f':{form}' if form else ''}"
        for _, name, form, conversion in parts
        if name is not None
    ]
    if others := [field for field in found if field not in fields]:
        raise UserError(f"{expected}, found {shown(f'{{{others[0]}}}')}; {advice}")
    if missing := [field for field in fields if field not in found]:
        raise UserError(f"{expected}, {{{missing[0]}}} is missing; add it")
