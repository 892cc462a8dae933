"""Whether what a run made may be published under the licence that its card declares.

The terms are read from the names of the Creative Commons licences (NC, SA, ND;
https://creativecommons.org/share-your-work/cclicenses/) and no law is applied beyond them: a part
that forbids commercial use forbids it for the whole, data adapted from share-alike data stay
share-alike, and nothing may be made from what allows no adaptation or states no licence.
"""

import re
from collections.abc import Iterable
from typing import Any

from bezoar.surroundings import own


def terms(licence: str) -> set[str]:
    """Return which of `nc`, `sa` and `nd` a licence's name or hub id holds."""
    return {"nc", "sa", "nd"} & set(re.split(r"[^a-z0-9]+", licence.lower()))


def acknowledged() -> set[str]:
    """Return the ids of parts that the user may use for another reason than their licence."""
    return {name.strip() for name in own("ACKNOWLEDGE_LICENCES").split(",")} - {""}


def strictest(names: Iterable[str]) -> str:
    """Return the licence that forbids most: commercial use before other terms before none."""
    return max(names, key=lambda name: ("nc" in terms(name), len(terms(name))))


def refusals(
    name: str, kind: str, declared: str, parts: Iterable[dict[str, Any]], acknowledged: set[str]
) -> list[str]:
    """Return a line for each part that forbids publishing `name` under the declared licence.

    `parts` are entries of config/sources.yaml, or others with `id` and `licence`; `acknowledged`
    are ids of those that may be used for another reason, such as the authors' consent.
    """
    lines = []
    for part in parts:
        identifier, licence = part["id"], part["licence"]
        if identifier in acknowledged:
            continue
        needed = {"nc", "sa"} if kind == "dataset" else {"nc"}
        missing = (terms(licence or "") & needed) - terms(declared)
        if licence is None:
            lines.append(
                f"{name}: made from {identifier}, which states no licence; ask its authors, and add"
                " it to ACKNOWLEDGE_LICENCES if they agree"
            )
        elif "nd" in terms(licence):
            lines.append(f"{name}: made from {identifier}, and {licence} allows no adaptations")
        elif missing:
            lines.append(
                f"{name}: made from {identifier}, which is {licence}, but declared as {declared};"
                f" declare a licence with {' and '.join(sorted(missing)).upper()} in the"
                " configuration"
            )
    return lines
