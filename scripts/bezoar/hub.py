"""The Hugging Face hub as a source: where it is, how a repository is fetched, and what its errors
mean to a user.

Addresses and status codes: https://huggingface.co/docs/hub/api and
https://huggingface.co/docs/huggingface_hub/package_reference/environment_variables.
"""

import os
import shutil
from pathlib import Path
from typing import Any

from bezoar import network
from bezoar.errors import UserError, reason, shortage
from bezoar.files import whole_directory

HUB = "https://huggingface.co"
LOCAL = ("disk", "memory")  # of `shortage`; a limit or file system may be the network's, too
TRUE = ("1", "ON", "YES", "TRUE")  # as huggingface_hub reads its switches


class NoAnswerError(UserError):
    """The hub cannot be reached, whatever it is asked for."""


def endpoint() -> str:
    """Return the address of the hub: HF_ENDPOINT, or the public one; it may hold a password."""
    found = (os.environ.get("HF_ENDPOINT") or HUB).rstrip("/")
    if not network.is_address(found):
        raise UserError(
            f"HF_ENDPOINT: expected an address such as {HUB}, found something else; correct it"
            f" ({network.ENCODE})"
        )
    return found


def shown_endpoint() -> str:
    """Return the address of the hub as it may be printed."""
    return network.shown(endpoint())


def offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids requests to the hub."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in TRUE


def is_on_hub(url: str) -> bool:
    """Whether a URL of config/sources.yaml is one of the hub's."""
    return url.startswith(f"{HUB}/")


def address(url: str) -> str:
    """Return a URL of config/sources.yaml at the hub that HF_ENDPOINT names."""
    return endpoint() + url.removeprefix(HUB) if is_on_hub(url) else url


def page(repository: str, kind: str = "model") -> str:
    """Return the address of a repository's page."""
    return f"{shown_endpoint()}/{'datasets/' if kind == 'dataset' else ''}{repository}"


def login(place: str, status: int) -> str:
    """Return what to do about a refusal of access: 401 without a valid token, 403 with one."""
    if status == 403:
        return (
            f"the account of HF_TOKEN has no access; accept the conditions on {place}, or use"
            " another token"
        )
    return (
        f"needs a login; accept the conditions on {place} and set HF_TOKEN to a token of that"
        " account"
    )


def explained(entry: dict[str, Any], error: Exception, revision: str | None = None) -> UserError:
    """Return the one line that a user can act on for an error of the hub's client.

    `entry` is the repository's: `hub`, `type`, and `id`, under which MIRROR may hold it. Raise the
    error itself if it is the machine's disk or memory that is full.
    """
    if shortage(error) in LOCAL:
        raise error
    from httpx2 import TransportError
    from huggingface_hub import errors

    name, place = entry["hub"], page(entry["hub"], entry["type"])
    mirror = f"MIRROR/hub/{entry['id']}"
    status = getattr(getattr(error, "response", None), "status_code", None)
    cause = error.__cause__ if isinstance(error, errors.LocalEntryNotFoundError) else None
    if offline():
        what = (
            "HF_HUB_OFFLINE is set, and the cache (HF_HOME) does not hold the whole of"
            f" {revision or 'it'}; unset it, or put the repository into {mirror}"
        )
    elif isinstance(error, errors.GatedRepoError):
        what = f"gated: {login(place, status or 401)}"
    elif isinstance(error, errors.RepositoryNotFoundError):
        what = (
            f"no such {entry['type']} at {shown_endpoint()}, or a private one; correct the name,"
            f" set HF_TOKEN to a token that may read it, or put it into {mirror}"
        )
    elif isinstance(error, errors.RevisionNotFoundError):
        what = f"no revision {revision}; look it up on {place}/commits/main"
    elif status == 401:
        what = "the hub does not know this HF_TOKEN; make a new one, or unset it"
    elif status == 403:
        what = login(place, 403)
    elif status == 429:
        what = "too many requests; wait some minutes, or set HF_TOKEN for a higher limit"
    elif isinstance(error, TransportError) or isinstance(cause, TransportError):
        look = (
            network.advice(endpoint(), str(cause or error)) or "check the network and HF_ENDPOINT"
        )
        return NoAnswerError(
            f"{name}: no answer from {shown_endpoint()}; {look}, or put it into {mirror}"
        )
    else:
        said = network.shown(reason(error))
        why = f"status {status}" if status else f"{type(error).__name__} ({said})"
        what = f"{why} from {shown_endpoint()}; try again later, or put it into {mirror}"
    return UserError(f"{name}: {what}")


def lacking(entry: dict[str, Any], wait_s: float) -> str | None:
    """Return in one line why a repository cannot be fetched, or None; the hub has `wait_s` for an
    answer.
    """
    try:
        _cached(entry) if offline() else revision_of(entry, wait_s)
    except UserError as error:
        return str(error)
    return None


def revision_of(entry: dict[str, Any], wait_s: float | None = None) -> str:
    """Return the commit at an entry's revision, or at its main branch; raise `UserError` if the
    hub has none. A repository that has another name by now is named once.
    """
    from huggingface_hub import HfApi

    network.require_network()
    try:
        info = HfApi().repo_info(
            entry["hub"], repo_type=entry["type"], revision=entry["revision"], timeout=wait_s
        )
    except Exception as error:  # the client raises many kinds
        raise explained(entry, error, entry["revision"]) from None
    if info.id != entry["hub"]:
        print(f"note: {entry['hub']} is called {info.id} now; correct the source's entry")
    return str(info.sha)


def fetch(entry: dict[str, Any], folder: Path) -> str:
    """Bring a repository's files at its revision into `folder`, each compared with the hash that
    the hub lists for it, and return the commit. Files of another commit are removed.

    With HF_HUB_OFFLINE they are copied from the cache below HF_HOME. Raise `UserError` if they
    cannot be had, or if a file is not what the hub lists; that file is removed.
    """
    from huggingface_hub import HfApi, snapshot_download

    if offline():
        return _from_cache(entry, folder)
    commit = revision_of(entry)
    try:
        snapshot_download(entry["hub"], repo_type=entry["type"], revision=commit, local_dir=folder)
        found = HfApi().verify_repo_checksums(
            entry["hub"], repo_type=entry["type"], revision=commit, local_dir=folder
        )
    except Exception as error:  # the client raises many kinds
        raise explained(entry, error, commit) from None
    for name in found.extra_paths:
        (folder / name).unlink()
    wrong = [str(mismatch["path"]) for mismatch in found.mismatches]
    for name in wrong:
        (folder / name).unlink()
    if wrong or found.missing_paths:
        name = [*wrong, *found.missing_paths][0]
        raise UserError(
            f"{entry['hub']}: {name} is not what the hub lists at {commit}; fetch it again"
        )
    return commit


def _from_cache(entry: dict[str, Any], folder: Path) -> str:
    """Copy a repository from the cache of the hub's client in place of what is in `folder`, and
    return the commit.
    """
    held = _cached(entry)
    with whole_directory(folder) as fresh:  # without what an earlier revision left
        shutil.copytree(held, fresh, dirs_exist_ok=True)  # the cache's links become files
    return held.name


def _cached(entry: dict[str, Any]) -> Path:
    """Return where the cache of the hub's client holds a whole repository."""
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                entry["hub"],
                repo_type=entry["type"],
                revision=entry["revision"] or "main",
                local_files_only=True,
            )
        )
    except Exception as error:  # the client raises many kinds
        raise explained(entry, error, entry["revision"]) from None
