"""What unfinished work was begun with; it is continued only if none of that has changed."""

import os
import shutil
from pathlib import Path
from typing import Any

from bezoar import precision
from bezoar.errors import UserError
from bezoar.files import differences, write_json
from bezoar.provenance.receipt import Receipt
from bezoar.readers import read_json

MARK = "begun_with.json"


def begun_with(receipt: Receipt, **more: Any) -> dict[str, Any]:
    """Return what decides the result of a stage: recipe, code, digests of every input, locks and
    variables, the device and its precision, the number of processes, and `more`, which may replace
    one of these.

    `receipt` is one that has been entered.
    """
    return {
        "recipe": receipt.recipe,
        "code": receipt.code,
        "inputs": receipt.before,
        "environment": receipt.environment,
        "device": device(),
        "compute_dtype": precision.name(precision.compute_dtype()),
        "processes": os.environ.get("WORLD_SIZE", "1"),
        **more,
    }


def device() -> str:
    """Return the name of the accelerator, or cpu."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def keep_if_same(folder: Path, new: dict[str, Any]) -> None:
    """Empty a directory of unfinished work unless it was begun with `new`, and say why in one line;
    leave it marked with `new`.
    """
    mark = folder / MARK
    if folder.is_dir() and any(folder.iterdir()):
        try:
            changed = next(differences(read_json(mark), new), "")
        except UserError:
            changed = "settings: it does not say which"
        if not changed:
            return
        print(f"{folder}: starting afresh, an interrupted run had other {changed}", flush=True)
        shutil.rmtree(folder)
    write_json(mark, new)
