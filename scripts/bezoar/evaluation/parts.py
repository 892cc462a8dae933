"""Finished parts of a long evaluation, kept until all of it is written, so that a killed stage can
continue.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bezoar import progress
from bezoar.errors import UserError
from bezoar.files import write_json
from bezoar.provenance.resumption import keep_if_same
from bezoar.readers import read_json_object


class Parts:
    """Parts beside `output`, each a JSON file; those of a stage that was not `begun_with` the same
    (see bezoar.provenance.resumption) are removed, and a line says so.
    """

    def __init__(self, output: Path, begun_with: dict[str, Any]) -> None:
        self.folder, self.begun_with = output.with_name(f".{output.name}.parts"), begun_with
        self.checked = False

    def get(self, name: str, make: Callable[[], Any], units: int = 0) -> Any:
        """Return the part of this name, or make it and keep it; a part must survive JSON
        unchanged. Its `units` count in the progress of the stage.
        """
        if not self.checked:
            keep_if_same(self.folder, self.begun_with)
            self.checked = True
        path = self.folder / f"{name.replace('/', '_')}.json"
        if path.is_file():
            try:
                value = read_json_object(path, "value")["value"]
            except UserError:
                print(f"{name}: the kept part cannot be read and is made again", flush=True)
            else:
                progress.resumed("parts of an interrupted run")
                print(f"{name}: kept from an interrupted run", flush=True)
                progress.kept(units)
                return value
        value = make()
        write_json(path, {"value": value})
        progress.advance(units)
        return value

    def clear(self) -> None:
        """Remove the parts, once everything is written."""
        shutil.rmtree(self.folder, ignore_errors=True)
