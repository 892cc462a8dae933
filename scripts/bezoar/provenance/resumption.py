"""What unfinished work was begun with; it is continued only if none of that has changed."""

import os
import re
import shutil
from pathlib import Path
from typing import Any

from bezoar import precision
from bezoar.errors import UserError
from bezoar.files import canonical, same_json, write_json
from bezoar.provenance.receipt import Receipt
from bezoar.readers import read_json

MARK = "begun_with.json"


def begun_with(receipt: Receipt, **more: Any) -> dict[str, Any]:
    """Return what decides the result of a stage: recipe, code, digests of every input, locks and
    variables, the device and its precision, the number of processes, and `more`.

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


def difference(old: Any, new: Any, name: str = "") -> str:
    """Return the first value that is not the same as one line (`recipe.lora.r: 16 -> 8`), or an
    empty text.
    """
    if isinstance(old, dict) and isinstance(new, dict):
        lines = (
            difference(old.get(key), new.get(key), f"{name}.{key}" if name else str(key))
            for key in sorted({*old, *new})
        )
        return next(filter(None, lines), "")
    return "" if same_json(old, new) else f"{name or 'contents'}: {_short(old)} -> {_short(new)}"


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else canonical(value)
    if re.fullmatch(r"[0-9a-f]{64}", text):
        return f"{text[:12]}…"
    return text if len(text) <= 40 else f"{text[:39]}…"


def keep_if_same(folder: Path, new: dict[str, Any]) -> None:
    """Empty a directory of unfinished work unless it was begun with `new`, and say why in one line;
    leave it marked with `new`.
    """
    mark = folder / MARK
    if folder.is_dir() and any(folder.iterdir()):
        try:
            changed = difference(read_json(mark), new)
        except UserError:
            changed = "settings: it does not say which"
        if not changed:
            return
        print(f"{folder}: starting afresh, an interrupted run had other {changed}", flush=True)
        shutil.rmtree(folder)
    write_json(mark, new)
