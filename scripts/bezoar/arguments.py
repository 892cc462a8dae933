"""Kinds of arguments that several programs take."""

from collections.abc import Iterable
from pathlib import Path

from bezoar.errors import UserError

WEIGHTS = ("model.safetensors", "adapter_model.safetensors", "manifest.json")


def model_directory(text: str) -> Path:
    """Return the directory of a model, an adapter or a snapshot, given as the directory or as the
    one file by which the workflow names it.
    """
    path = Path(text)
    return path.parent if path.name in WEIGHTS else path


def cores(text: str) -> int:
    """Return a number of cores or jobs, at least 1: Snakemake would wait for ever with none."""
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f"JOBS={text}: expected a whole number, at least 1")
    return int(text)


def by_stem(paths: Iterable[Path]) -> dict[str, Path]:
    """Return name without suffix -> file, in order; raise `UserError` if two have the same, by
    which results name what was in a file.
    """
    found: dict[str, Path] = {}
    for path in paths:
        if found.setdefault(path.stem, path) is not path:
            raise UserError(
                f"{path}: {found[path.stem]} is called {path.stem}, too; expected files of"
                " different names, by which their rows are told apart; rename one"
            )
    return found
