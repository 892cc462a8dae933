"""The split into training and validation rows."""

import random


def split(rows: list[dict], share: float, seed: int) -> tuple[list[dict], list[dict]]:
    """Return (training, validation); a `share` of the rows, drawn with `seed`, validates."""
    order = list(range(len(rows)))
    random.Random(seed).shuffle(order)
    held = set(order[: int(len(rows) * share)])
    return [row for i, row in enumerate(rows) if i not in held], [
        row for i, row in enumerate(rows) if i in held
    ]
