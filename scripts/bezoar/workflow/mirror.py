"""What MIRROR, a directory of the user's, holds of the sources: files, wheels, hub snapshots."""

from pathlib import Path
from typing import Any

from bezoar.errors import UserError
from bezoar.files import sha256_file
from bezoar.readers import column, read_json
from bezoar.surroundings import own

MANIFEST = "manifest.json"  # of a snapshot: what a fetch writes beside its files


def mirror_directory() -> Path | None:
    """Return the directory that MIRROR names, or None; raise `UserError` if there is none."""
    if not (name := own("MIRROR")):
        return None
    if not Path(name).is_dir():
        raise UserError(
            f"MIRROR={name}: no such directory; set it to one that holds the sources, or unset it"
        )
    return Path(name)


def in_mirror(mirror: Path, entry: dict[str, Any]) -> Path | None:
    """Return the mirror's copy of a file: under its path, or under its name with the right
    content.
    """
    place = mirror / str(entry["path"])
    if place.is_symlink() and not place.exists():
        raise UserError(
            f"{place}: a link to a file that does not exist; fetch it, for git-annex with `git"
            " annex get`"
        )
    if place.is_file():
        return place
    return with_content(mirror, place.suffix, entry["sha256"]) if entry["sha256"] else None


def with_content(mirror: Path, suffix: str, sha256: str) -> Path | None:
    """Return a file anywhere in the mirror with this suffix and this content, if there is one."""
    candidates = (path for path in sorted(mirror.rglob(f"*{suffix}")) if path.is_file())
    return next((path for path in candidates if sha256_file(path) == sha256), None)


def manifest_of(copy: Path) -> dict[str, Any]:
    """Return the manifest that a fetch wrote into a snapshot; an empty one if there is none, also
    where a repository has a file of its own by that name.
    """
    path = copy / MANIFEST
    content = read_json(path) if path.is_file() else None
    keys = {"id", "hub", "revision", "files"}
    if not isinstance(content, dict) or "revision" not in content or not keys.issuperset(content):
        return {}
    if "files" in content:
        column(content, "files", dict, str(path))
    return content
