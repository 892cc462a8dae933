"""The split into training and validation rows."""

import random
from typing import Any

Rows = list[dict[str, Any]]


def split(rows: Rows, total: int, share: float, seed: int) -> tuple[Rows, Rows]:
    """Return (training, validation), each in the order of `rows`; a `share` of them validates.

    The `total` rows of the file are put in an order drawn with `seed`, and those of `rows` that
    come first validate; each says its `row`, from 1. So stages that read the same file with the
    same seed hold out the same rows, whichever others they leave out: what HH-RLHF SFT with a
    larger share does not train on holds what DPO with a smaller one is measured on.
    """
    order = list(range(1, total + 1))
    random.Random(seed).shuffle(order)
    place = {row: index for index, row in enumerate(order)}
    ranked = sorted(range(len(rows)), key=lambda index: place[rows[index]["row"]])
    held = set(ranked[: int(len(rows) * share)])
    return [row for i, row in enumerate(rows) if i not in held], [
        row for i, row in enumerate(rows) if i in held
    ]
