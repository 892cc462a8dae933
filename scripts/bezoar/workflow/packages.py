"""Files inside pinned packages of the Python package index, each named by a package URL:
`pkg:pypi/NAME@VERSION#MEMBER`. pip fetches the package, so its own configuration says from where.
"""

import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from bezoar.errors import UserError

PURL = re.compile(
    r"pkg:pypi/(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)@(?P<version>[0-9][A-Za-z0-9.!]*)#(?P<member>.+)"
)


@dataclass(frozen=True)
class Member:
    """A file of a package: `member` is its path inside the wheel."""

    name: str
    version: str
    member: str

    @property
    def requirement(self) -> str:
        """The package as pip names it."""
        return f"{self.name}=={self.version}"


def member_of(url: str) -> Member | None:
    """Return what a source's package URL names, or None for any other URL.

    Raise `UserError` if it is a package URL that does not name one version and one file.
    """
    if not url.startswith("pkg:"):
        return None
    named = PURL.fullmatch(url)
    if named is None:
        raise UserError(
            f"{url}: expected pkg:pypi/NAME@VERSION#FILE; fix the source's entry in"
            " config/sources.yaml"
        )
    return Member(**named.groupdict())


def _pip(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    common = ["--no-input", "--disable-pip-version-check"]
    return subprocess.run(
        [sys.executable, "-m", "pip", *arguments, *common],
        capture_output=True,
        text=True,
        check=False,
    )


def download(member: Member, folder: Path) -> Path:
    """Download the wheel of a package, without what it requires, into the empty `folder`; return
    its path. Raise `UserError` with pip's reason if that fails.
    """
    done = _pip(
        *("download", "--quiet", "--no-deps", "--only-binary=:all:"),
        *("--dest", folder, member.requirement),
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        errors = [line for line in lines if line.startswith("ERROR:")] or lines
        reason = re.sub(r"//[^/@\s]+@", "//", errors[-1].removeprefix("ERROR:").strip())
        raise UserError(
            f"{member.requirement}: pip cannot download it ({reason}); check the network and"
            " `pip config list`, or put the wheel into MIRROR"
        )
    (wheel,) = folder.glob("*.whl")
    return wheel


def offered(member: Member, timeout_s: int) -> bool:
    """Whether pip finds this version of the package."""
    listed = _pip("index", "versions", member.name, "--timeout", str(timeout_s), "--retries", "0")
    return member.version in re.split(r"[\s,()]+", listed.stdout)


def extract(wheel: Path, member: Member, output: Path) -> None:
    """Copy the file out of the wheel to `output`; raise `UserError` if the wheel lacks it."""
    try:
        with (
            zipfile.ZipFile(wheel) as held,
            held.open(member.member) as source,
            open(output, "wb") as target,
        ):
            shutil.copyfileobj(source, target, 1 << 20)
    except (KeyError, zipfile.BadZipFile):
        raise UserError(
            f"{member.requirement}: expected a wheel with {member.member}, found none; fix the"
            " source's entry in config/sources.yaml"
        ) from None
