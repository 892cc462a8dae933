"""The command line of the programs that write one page of docs/."""

import argparse
from collections.abc import Callable
from pathlib import Path

from bezoar.files import whole_file


def write(
    description: str | None, default: Path, page: Callable[[], str], argv: list[str] | None
) -> None:
    """Parse the command line and write the page to `--output`, without it to `default`."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=default, help="document to write")
    args = parser.parse_args(argv)
    with whole_file(args.output) as stream:
        stream.write(page())
