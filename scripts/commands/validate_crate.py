"""Validate ro-crate-metadata.json with roc-validator, without a network. Runs in .venv-crate (`make
crate`), not in the workflow's environment.

Usage: validate_crate.py DIRECTORY …

The validator reads the RO-Crate 1.1 context from its address. Here that address is served from
the copy inside the pinned `rocrate` package, and no other is needed, because the crate spells out
the workflow-run terms.

Exit status: 0 valid · 1 not valid, a line for each finding · 2 it could not be done.
"""

import argparse
import os
import tempfile
from importlib import resources
from io import BytesIO
from pathlib import Path

from bezoar import program
from bezoar.errors import UserError
from bezoar.workflow.wording import counted

PROFILE, CONTEXT = "provenance-run-crate", "https://w3id.org/ro/crate/1.1/context"


def keep_context(cache: Path) -> None:
    """Put the RO-Crate context into the validator's HTTP cache, as if it had been fetched; raise
    `UserError` if the package holds another.
    """
    from requests import PreparedRequest, Response
    from requests.adapters import HTTPAdapter
    from requests_cache import CachedSession
    from urllib3 import HTTPResponse

    text = resources.files("rocrate").joinpath("data/ro-crate.jsonld").read_bytes()
    if CONTEXT.encode() not in text[:200]:
        raise UserError(
            f"rocrate: its context is not {CONTEXT}; pin another version in envs/crate.in"
        )

    class Packaged(HTTPAdapter):
        def send(self, request: PreparedRequest, *_: object, **__: object) -> Response:
            body = HTTPResponse(
                BytesIO(text),
                {"Content-Type": "application/ld+json"},
                200,
                preload_content=False,
                request_url=CONTEXT,
            )
            return self.build_response(request, body)

    session = CachedSession(str(cache), backend="sqlite", expire_after=-1)
    session.mount(CONTEXT, Packaged())
    session.get(CONTEXT)
    session.close()


def findings(folder: Path) -> list[str]:
    """Return a line for each requirement of the profile, and of those it rests on, that the crate
    does not meet.
    """
    from rocrate_validator import services
    from rocrate_validator.models import Severity, ValidationSettings

    with tempfile.TemporaryDirectory(prefix="crate-") as cache:
        keep_context(Path(cache) / "http")
        place = Path(cache) / "crate"  # the validator takes no path with a space in it
        place.symlink_to(folder.resolve(), target_is_directory=True)
        settings = ValidationSettings(
            rocrate_uri=str(place),
            profile_identifier=PROFILE,
            requirement_severity=Severity.REQUIRED,
            offline=True,
            cache_path=Path(cache) / "http",
        )
        result = services.validate(settings)
    return sorted(
        {
            f"{issue.check.identifier}: {issue.violatingEntity or ''} {issue.message}"
            for issue in result.get_issues(settings.requirement_severity)
        }
    )


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and validate."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "folders", type=Path, nargs="+", help="directories with ro-crate-metadata.json"
    )
    args = parser.parse_args(argv)
    for folder in args.folders:
        if not (folder / "ro-crate-metadata.json").is_file():
            raise UserError(
                f"{folder}/ro-crate-metadata.json: no such file; `make crate` writes it"
            )
    os.environ["ROCRATE_VALIDATOR_AUTO_WARM"] = "0"
    valid = True
    for folder in args.folders:
        found = findings(folder)
        verdict = counted(len(found), "finding") if found else "valid"
        print(*found, f"{folder}: {verdict} ({PROFILE})", sep="\n", flush=True)
        valid = valid and not found
    raise SystemExit(not valid)


if __name__ == "__main__":
    program.run(main)
