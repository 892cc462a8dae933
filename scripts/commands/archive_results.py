"""Pack a finished run into one file that a reviewer unpacks and audits elsewhere: the project, the
receipts, every file they name, and the crate.

Usage: archive_results.py --results results/rehearsal --output openbezoar-rehearsal.tar \\
           [--config config/rehearsal.yaml …] [--max-bytes 100000000]

Same files, same archive: entries are sorted, without times, owners and the packer's umask. To audit
it, unpack it into an empty directory and run `make audit CONFIG=…` there; the files of --config are
in it, wherever in the project they lie. Files above --max-bytes (weights of real models) are left
out and listed in it.
"""

import argparse
from pathlib import Path

from bezoar import program
from bezoar.files import sha256_file
from bezoar.provenance import audit, crate
from bezoar.provenance.archive import contents, is_outside, of_evaluated, pack
from bezoar.workflow.wording import counted


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and pack."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, required=True, help="root of the results")
    parser.add_argument("--output", type=Path, required=True, help="archive to write, .tar")
    parser.add_argument(
        "--config", type=Path, nargs="*", default=[], help="configuration files of the run to pack"
    )
    parser.add_argument("--max-bytes", type=int, help="leave out larger files")
    args = parser.parse_args(argv)
    receipts = audit.finished(args.results)
    evaluated = of_evaluated(receipts)
    behind = {path: why for path, why in evaluated.items() if is_outside(Path(path))}
    paths = contents(receipts, args.results, args.config, behind)
    behind |= {
        str(path): f"larger than {args.max_bytes} bytes"
        for path in paths
        if args.max_bytes is not None and path.stat().st_size > args.max_bytes
    }
    pack(paths, crate.text(receipts, args.results).encode(), args.output, behind)
    print(
        *(f"left out: {path}" for path in behind),
        f"{args.output}: {counted(len(set(map(str, paths)) - set(behind)) + 2, 'file')}, sha256"
        f" {sha256_file(args.output)}",
        sep="\n",
    )


if __name__ == "__main__":
    program.run(main)
