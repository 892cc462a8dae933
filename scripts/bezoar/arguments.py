"""Kinds of arguments that several programs take."""

from pathlib import Path

WEIGHTS = ("model.safetensors", "adapter_model.safetensors", "manifest.json")


def model_directory(text: str) -> Path:
    """Return the directory of a model, an adapter or a snapshot, given as the directory or as the
    one file by which the workflow names it.
    """
    path = Path(text)
    return path.parent if path.name in WEIGHTS else path
