"""Finished parts of a long evaluation, kept until the whole is written: what a killed stage goes on
from.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bezoar.files import canonical, read_json, sha256_text, write_json


class Parts:
    """Parts beside `output`, each a JSON file; those made from anything else than `made_from`
    (settings, digests of inputs) do not count.
    """

    def __init__(self, output: Path, made_from: Any) -> None:
        self.folder = output.with_name(f".{output.name}.parts")
        self.key = sha256_text(canonical(made_from))

    def get(self, name: str, make: Callable[[], Any]) -> Any:
        """Return the part of this name, or make it and keep it; a part must be what JSON gives back
        unchanged.
        """
        path = self.folder / f"{name}.json"
        if path.is_file() and (found := read_json(path))["key"] == self.key:
            print(f"{name}: kept from an interrupted run", flush=True)
            return found["value"]
        value = make()
        write_json(path, {"key": self.key, "value": value})
        return value

    def clear(self) -> None:
        """Remove the parts; the whole is written."""
        shutil.rmtree(self.folder, ignore_errors=True)
