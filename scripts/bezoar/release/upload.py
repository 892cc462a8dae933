"""The upload of repositories to the hub, each in one commit that leaves there what was sent and
nothing of an earlier release.

Large files go first, and the hub knows them by their sha256; the commit that names them comes
last. So an interrupted upload shows nothing half-written, and a repeated one sends only what the
hub does not hold yet.
"""

from collections.abc import Sequence
from typing import Any

from bezoar import hub, network
from bezoar.errors import UserError
from bezoar.release.contents import Repository

HUBS_OWN = ".gitattributes"  # the hub writes it: which files are large


def is_name(name: str) -> bool:
    """Whether the hub takes `owner/name` as a repository's name."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def superseded(repository: Repository, namespace: str, token: str) -> list[str]:
    """Return the files of an earlier release that `send` deletes; none where there is no such
    repository, or none that may be seen with this token.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError

    network.require_network()
    name = f"{namespace}/{repository.name}"
    try:
        api = HfApi(endpoint=hub.endpoint(), token=token or False)
        held = set(api.list_repo_files(name, repo_type=repository.kind))
    except RepositoryNotFoundError:
        return []
    except Exception as error:  # the client raises many kinds
        raise _explained(name, namespace, error, "its files could not be listed") from None
    return sorted(held - repository.files.keys() - {HUBS_OWN})


def send(repository: Repository, namespace: str, token: str, old: Sequence[str]) -> str:
    """Publish one repository below `namespace`, without the `old` files that `superseded` found
    there, and return its commit.

    Raise `UserError` if the hub refuses or the upload breaks off.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    network.require_network()
    name = f"{namespace}/{repository.name}"
    api = HfApi(endpoint=hub.endpoint(), token=token)
    try:
        api.create_repo(name, repo_type=repository.kind, exist_ok=True)
        new = sorted(repository.files.items())
        done = api.create_commit(
            name,
            [
                *(CommitOperationDelete(path) for path in old),
                *(CommitOperationAdd(path, file) for path, file in new),
            ],
            repo_type=repository.kind,
            commit_message="A run of the OpenBezoar reproduction",
        )
    except Exception as error:  # the client raises many kinds
        raise _explained(name, namespace, error, "the upload broke off") from None
    return str(done.oid)


def _explained(name: str, namespace: str, error: BaseException, what: str) -> UserError:
    """Return the one line that a user can act on for an error of the hub's client."""
    status: Any = None
    cause: BaseException | None = error
    while cause is not None and status is None:
        status = getattr(getattr(cause, "response", None), "status_code", None)
        cause = cause.__cause__
    if hub.offline():
        return UserError(f"{name}: HF_HUB_OFFLINE is set; unset it to publish")
    if status == 401:
        return UserError(f"{name}: the hub does not know this HF_TOKEN; make a new one")
    if status == 403:
        return UserError(
            f"{name}: HF_TOKEN may not write to {namespace}; use a token with write access to it,"
            " or another NAMESPACE"
        )
    reason = f"status {status}" if status else type(error).__name__
    return UserError(
        f"{name}: {what} ({reason} from {hub.shown_endpoint()}); run it again, and"
        " what has arrived is not sent again"
    )
