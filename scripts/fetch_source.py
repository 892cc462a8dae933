"""Fetch one source: from MIRROR if it holds the file, else from the network; checked, resumed,
whole or not at all.

Usage: BEZOAR_MIRROR=dir fetch_source.py \\
           --entry '{"id": …}' --output data/… --lock config/sources.lock

--entry is the source's entry of config/sources.yaml as JSON. A file is looked for in MIRROR under
  its path, then by its sha256 anywhere
below. An interrupted download goes on from its .part file. Where no sha256 or revision is
published, the first fetch writes it to --lock and later ones must match it. A hub repository is
fetched at its revision into the directory of --output, a manifest of every file's sha256.
"""

import argparse
import json
import shutil
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from bezoar import program, progress
from bezoar.errors import UserError
from bezoar.files import read_json, sha256_file, whole_file, write_json
from bezoar.surroundings import own
from bezoar.workflow.source_lock import require

ATTEMPTS = 5
TIMEOUT_S = 30


def in_mirror(mirror: Path, entry: dict[str, Any]) -> Path | None:
    """Return the mirror's copy of a file: under its path, or under its name with the right
    content.
    """
    place = mirror / entry["path"]
    if place.is_file():
        return place
    if entry["sha256"] is None:
        return None
    candidates = (path for path in sorted(mirror.rglob(f"*{place.suffix}")) if path.is_file())
    return next((path for path in candidates if sha256_file(path) == entry["sha256"]), None)


def download(url: str, part: Path) -> None:
    """Bring `url` into `part`, going on from what is there; retry with pauses; raise `UserError`
    when it cannot be had.
    """
    for attempt in range(ATTEMPTS):
        start = part.stat().st_size if part.is_file() else 0
        request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
        try:
            with (
                urllib.request.urlopen(request, timeout=TIMEOUT_S) as response,
                open(part, "ab" if response.status == 206 else "wb") as out,
            ):
                wanted = response.headers.get("Content-Length")
                size = int(wanted) >> 20 if wanted else None
                with progress.task("download", size, "MiB"):
                    while block := response.read(1 << 20):
                        out.write(block)
                        progress.advance()
                if wanted is None or part.stat().st_size >= int(wanted) + (
                    start if response.status == 206 else 0
                ):
                    return
                problem = "connection closed early"
        except urllib.error.HTTPError as error:
            if error.code == 416:  # nothing after what is there: the part is the whole
                return
            problem = f"HTTP {error.code}"
            if error.code in (401, 403, 404, 410):
                raise UserError(
                    f"{url}: {problem}; the file is gone or needs a login; put it into MIRROR"
                ) from None
        except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
            problem = str(getattr(error, "reason", error))
        if attempt < ATTEMPTS - 1:
            print(f"{url}: {problem}, attempt {attempt + 2} of {ATTEMPTS}", flush=True)
            time.sleep(min(10, 0.5 * 2**attempt))
    raise UserError(
        f"{url}: {problem} after {ATTEMPTS} attempts; check the network, or set MIRROR to a"
        " directory that holds the file"
    )


def fetch_file(entry: dict[str, Any], output: Path, lock: Path, mirror: Path | None) -> None:
    """Fetch one file to `output`."""
    output.parent.mkdir(parents=True, exist_ok=True)
    part = output.with_name(f".{output.name}.part")
    copy = in_mirror(mirror, entry) if mirror else None
    if copy:
        print(f"{entry['id']}: from {copy}", flush=True)
        shutil.copyfile(copy, part)
    else:
        print(f"{entry['id']}: from {entry['url']}", flush=True)
        download(entry["url"], part)
    found = sha256_file(part)
    try:
        require(entry["id"], "sha256", found, entry["sha256"], lock)
    except UserError:
        part.unlink()
        raise
    with open(part, "rb") as source, whole_file(output, "wb") as target:
        shutil.copyfileobj(source, target)
    part.unlink()


def fetch_snapshot(entry: dict[str, Any], output: Path, lock: Path, mirror: Path | None) -> None:
    """Fetch a hub repository into `output`'s directory, and write the manifest of its files
    last.
    """
    folder = output.parent
    copy = mirror / "hub" / entry["id"] if mirror else None
    if copy and copy.is_dir():
        shutil.copytree(copy, folder, dirs_exist_ok=True)
        recorded = copy / "manifest.json"
        revision = read_json(recorded)["revision"] if recorded.is_file() else entry["revision"]
    else:
        from huggingface_hub import HfApi, snapshot_download

        try:
            revision = (
                entry["revision"] or HfApi().repo_info(entry["hub"], repo_type=entry["type"]).sha
            )
            snapshot_download(
                entry["hub"], repo_type=entry["type"], revision=revision, local_dir=folder
            )
        except (
            Exception
        ) as error:  # the hub's client raises many kinds; all of them mean that it cannot be had
            raise UserError(
                f"{entry['hub']}: {type(error).__name__} from the hub; check the network, or put it"
                f" into MIRROR/hub/{entry['id']}"
            ) from None
    if revision:
        require(entry["id"], "revision", revision, entry["revision"], lock)
    files = [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != output and ".cache" not in path.parts
    ]
    if not files:
        raise UserError(f"{entry['id']}: the snapshot holds no files; fetch it again")
    digests = {str(path.relative_to(folder)): sha256_file(path) for path in files}
    write_json(
        output, {"id": entry["id"], "hub": entry["hub"], "revision": revision, "files": digests}
    )


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and fetch."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--entry", type=json.loads, required=True, help="entry of config/sources.yaml, JSON"
    )
    parser.add_argument(
        "--output", type=Path, required=True, help="file, or manifest of a snapshot, to write"
    )
    parser.add_argument(
        "--lock", type=Path, required=True, help="hashes of what has none published, JSON"
    )
    args = parser.parse_args(argv)
    mirror = Path(own("MIRROR")) if own("MIRROR") else None
    if mirror and not mirror.is_dir():
        raise UserError(
            f"MIRROR={mirror}: no such directory; set it to one that holds the sources, or unset it"
        )
    fetch = fetch_file if "path" in args.entry else fetch_snapshot
    fetch(args.entry, args.output, args.lock, mirror)


if __name__ == "__main__":
    program.run(main)
