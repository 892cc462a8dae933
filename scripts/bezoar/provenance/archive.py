"""The archive of a finished run, one file that a reviewer unpacks and audits elsewhere: the
project, the receipts, every file they name, and the crate.

What it leaves out is listed in it, each file with the reason, so that its audit can tell what the
packer left out from what is lost.
"""

import json
import tarfile
from collections.abc import Container, Iterable, Mapping
from io import BytesIO
from pathlib import Path

from bezoar.errors import UserError
from bezoar.files import whole_file
from bezoar.provenance import audit, crate
from bezoar.provenance.fingerprint import files_in
from bezoar.readers import read_json_object

LEFT_OUT = "left_out.json"
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


def of_evaluated(receipts: audit.Receipts) -> dict[str, str]:
    """Return path -> why of the files of models that were only evaluated: somebody else's, which
    may lie anywhere.
    """
    held = [receipt for stage, receipt in receipts.items() if stage.startswith("import_model_")]
    files = {
        path for each in held for kind in ("inputs", "outputs") for path in files_in(each[kind])
    }
    return dict.fromkeys(files, "of a model that was only evaluated")


def is_outside(path: Path) -> bool:
    """Whether a path leads, or may lead, out of the project."""
    return path.is_absolute() or ".." in path.parts


def contents(
    receipts: audit.Receipts,
    results: Path,
    config: Iterable[Path] = (),
    behind: Container[str] = (),
) -> list[Path]:
    """Return the project's files with those of the run's configuration, the receipts, and every
    file that a receipt read or wrote, sorted; but for those left `behind`, all must be there.
    """
    read = {path for path in audit.named_files(receipts) if path not in behind}
    named = {Path(path) for path in read}.union(config)
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
    outside = sorted(str(path) for path in named if is_outside(path))
    if outside:
        raise UserError(f"{outside[0]}: lies outside the project; give inputs by paths within it")
    return sorted(
        path
        for path in named
        if "__pycache__" not in path.parts and not path.name.endswith(".guard")
    )


def pack(paths: list[Path], described: bytes, output: Path, left_out: Mapping[str, str]) -> None:
    """Write the archive, whole or not at all, of those `paths` that are not in `left_out`, path ->
    why. Its description as an RO-Crate comes first, then what it leaves out.
    """
    listed = json.dumps(left_out, indent=1, sort_keys=True).encode()
    with (
        whole_file(output, "wb") as stream,
        tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for name, content in ((crate.NAME, described), (LEFT_OUT, listed)):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o644
            archive.addfile(entry, BytesIO(content))
        for path in (path for path in paths if str(path) not in left_out):
            entry = tarfile.TarInfo(str(path))
            entry.size, entry.mode = path.stat().st_size, 0o755 if path.suffix == ".sh" else 0o644
            with open(path, "rb") as stored:
                archive.addfile(entry, stored)


def left_out() -> dict[str, str]:
    """Return path -> why of what the archive that was unpacked here leaves out; nothing where none
    was.
    """
    return read_json_object(Path(LEFT_OUT)) if Path(LEFT_OUT).is_file() else {}
