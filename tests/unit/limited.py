"""Run a stage's program with a limit on the size of a file, which stands for a full disk.

Usage: limited.py BYTES start|checkpoint PROGRAM ARGUMENT…

The limit holds from the start, or from the first complete checkpoint of a training on. The program
sets it itself, so that it can be forked.
"""

import importlib
import resource
import sys
from pathlib import Path

from bezoar import program
from bezoar.training import trainer_setup


def main() -> None:
    """Run the program's own `main` with the limit."""
    most, moment, name, *arguments = sys.argv[1:]
    stage = importlib.import_module(name)
    mark = trainer_setup.mark_complete

    def limit() -> None:
        sys.dont_write_bytecode = True  # it would be cut short, for everybody
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(most), int(most)))

    def mark_and_limit(checkpoint: Path) -> None:
        mark(checkpoint)
        limit()

    if moment == "start":
        limit()
    else:
        trainer_setup.mark_complete = mark_and_limit
    stage.main(arguments)


if __name__ == "__main__":
    program.run(main, forked=True)
