"""Kinds of arguments that several programs take."""

from pathlib import Path

WEIGHTS = ("model.safetensors", "adapter_model.safetensors", "manifest.json")


def model_directory(text: str) -> Path:
    """Return the directory of a model, an adapter or a snapshot, named by itself or by its one
    file that the workflow knows it by.
    """
    path = Path(text)
    return path.parent if path.name in WEIGHTS else path
