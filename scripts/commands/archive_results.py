"""Pack a finished run into one file that a reviewer unpacks and audits elsewhere: the project, the
receipts, every file they name, and the crate.

Usage: archive_results.py --results results/rehearsal --output openbezoar-rehearsal.tar [--max-bytes
100000000]

Same files, same archive: entries are sorted, without times, owners and the packer's umask. To audit
it, unpack it and run `make environment` and `make audit CONFIG=…`. Files above --max-bytes (weights
of real models) are left out and listed; audit such an archive with --absent-ok.
"""

import argparse
import tarfile
from io import BytesIO
from pathlib import Path

from bezoar import program
from bezoar.errors import UserError
from bezoar.files import sha256_file, whole_file
from bezoar.provenance import audit, crate
from bezoar.provenance.fingerprint import files_in

PROJECT = [
    "Makefile",
    "Snakefile",
    "README.md",
    "LICENSE",
    "CITATION.cff",
    "Dockerfile",
    "config",
    "docs",
    "envs",
    "profiles",
    "prompts",
    "rules",
    "scripts",
]


def contents(receipts: audit.Receipts, results: Path) -> list[Path]:
    """Return the project's files, the receipts, and every file that a receipt read or wrote,
    sorted; all must be there.
    """
    named = {
        Path(path)
        for held in receipts.values()
        for kind in ("inputs", "outputs")
        for path in files_in(held[kind])
    }
    named |= {results / "receipts" / f"{stage}.json" for stage in receipts}
    for name in PROJECT:
        place = Path(name)
        named |= {
            path for path in (place.rglob("*") if place.is_dir() else [place]) if path.is_file()
        }
    missing = sorted(str(path) for path in named if not path.is_file())
    if missing:
        raise UserError(
            f"{missing[0]}: a receipt names it, but it does not exist; finish the run first"
        )
    outside = sorted(str(path) for path in named if path.is_absolute() or ".." in path.parts)
    if outside:
        raise UserError(f"{outside[0]}: lies outside the project; give inputs by paths within it")
    return sorted(
        path
        for path in named
        if "__pycache__" not in path.parts and not path.name.endswith(".guard")
    )


def pack(paths: list[Path], described: bytes, output: Path) -> None:
    """Write the archive, whole or not at all; its description as an RO-Crate comes first."""
    with (
        whole_file(output, "wb") as stream,
        tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        first = tarfile.TarInfo(crate.NAME)
        first.size, first.mode = len(described), 0o644
        archive.addfile(first, BytesIO(described))
        for path in paths:
            entry = tarfile.TarInfo(str(path))
            entry.size, entry.mode = path.stat().st_size, 0o755 if path.suffix == ".sh" else 0o644
            with open(path, "rb") as content:
                archive.addfile(entry, content)


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and pack."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, required=True, help="root of the results")
    parser.add_argument("--output", type=Path, required=True, help="archive to write, .tar")
    parser.add_argument("--max-bytes", type=int, help="leave out larger files")
    args = parser.parse_args(argv)
    receipts = audit.finished(args.results)
    paths = contents(receipts, args.results)
    behind = [
        path
        for path in paths
        if args.max_bytes is not None and path.stat().st_size > args.max_bytes
    ]
    packed = [path for path in paths if path not in behind]
    pack(packed, crate.text(receipts, args.results).encode(), args.output)
    print(
        *(f"left out: {path}" for path in behind),
        f"{args.output}: {len(packed) + 1} files, sha256 {sha256_file(args.output)}",
        sep="\n",
    )


if __name__ == "__main__":
    program.run(main)
