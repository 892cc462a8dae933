"""The split into training and validation rows."""

import random
from typing import Any

from bezoar.training.settings import TrainingSettings

Rows = list[dict[str, Any]]


def split(rows: Rows, total: int, share: float, seed: int) -> tuple[Rows, Rows]:
    """Return (training, validation), each in the order of `rows`; a `share` of the file validates.

    The `total` rows of the file are put in an order drawn with `seed`, and its first `share`
    validates; each of `rows` says its `row`, from 1. So stages that read the same file with the
    same seed hold out the same rows, whichever others they leave out: what HH-RLHF SFT with no
    smaller share does not train on holds what DPO is measured on. Only where that would leave one
    side of a few rows empty are the first of `rows` themselves held out.
    """
    order = list(range(1, total + 1))
    random.Random(seed).shuffle(order)
    place = {row: index for index, row in enumerate(order)}
    held = {i for i, row in enumerate(rows) if place[row["row"]] < int(total * share)}
    if len(held) in (0, len(rows)):
        ranked = sorted(range(len(rows)), key=lambda index: place[rows[index]["row"]])
        held = set(ranked[: int(len(rows) * share)])
    return [row for i, row in enumerate(rows) if i not in held], [
        row for i, row in enumerate(rows) if i in held
    ]


def evaluated(validation: Rows, recipe: TrainingSettings) -> Rows:
    """Return the validation rows that evaluations while training use: `max_eval_samples` of them,
    in their order, drawn with `validation_seed`.
    """
    most = min(recipe.get("max_eval_samples", len(validation)), len(validation))
    draw = random.Random(recipe["validation_seed"])
    return [validation[index] for index in sorted(draw.sample(range(len(validation)), most))]
