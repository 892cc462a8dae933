"""Describe a finished run as a Workflow Run RO-Crate, so that other tools can read what was read,
run and written.

Usage: write_crate.py --results results/rehearsal [--output ro-crate-metadata.json]

Made from the receipts and config/sources.yaml, without a clock: same receipts, same crate. The
crate's root is the project's, because receipts name files from there. `make archive` packs the same
description with the files themselves.
"""

import argparse
from pathlib import Path

from bezoar import program
from bezoar.files import sha256_file, whole_file
from bezoar.provenance import audit, crate
from bezoar.workflow.wording import counted


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and write the crate's metadata."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--results", type=Path, required=True, help="root of the results of a finished run"
    )
    parser.add_argument("--output", type=Path, default=Path(crate.NAME), help="file to write")
    args = parser.parse_args(argv)
    receipts = audit.finished(args.results)
    with whole_file(args.output) as stream:
        stream.write(crate.text(receipts, args.results))
    print(f"{args.output}: {counted(len(receipts), 'job')}, sha256 {sha256_file(args.output)}")


if __name__ == "__main__":
    program.run(main)
