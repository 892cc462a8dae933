"""Publish a finished run on the Hugging Face hub: merged models, adapters, the data sets with their
verdicts, cards with the evaluation's results, and the archive.

Usage: HF_TOKEN=… release.py --config config/paper.yaml --namespace owner [--dry] \\
           [--overlay openbezoar-released.yaml]

The run is audited first. What its licences forbid, or an audit that is not SOUND, ends it in one
line each and nothing is sent. An interrupted upload goes on when it is repeated. At the end
--overlay names the repositories and their commits, as a configuration for another run.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from bezoar import hub, program
from bezoar.errors import UserError
from bezoar.files import whole_file
from bezoar.provenance import archive, audit, crate
from bezoar.release import contents, licences, upload
from bezoar.workflow.configuration import checked
from bezoar.workflow.layout import MODELS, Layout
from bezoar.workflow.wording import counted

AUDIT = Path(__file__).with_name("audit_results.py")


def audited(results: str, verdict: Path) -> list[str]:
    """Audit the run, write its verdict, and return the findings; none if it is SOUND."""
    command = [sys.executable, str(AUDIT), "--results", results, "--verdict", str(verdict)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1):
        raise UserError(f"{results}: the audit ended early; run `make audit` to see why")
    page = verdict.read_text(encoding="utf-8")
    found = page.partition("## Findings")[2].partition("## To be known")[0]
    return [
        f"audit: {line.removeprefix('- ')}" for line in found.splitlines() if line.startswith("- ")
    ]


def planned(
    layout: Layout, namespace: str, receipts: audit.Receipts, scratch: Path, config: list[str]
) -> tuple[list[contents.Repository], list[str]]:
    """Return the repositories and everything that forbids publishing them; the archive is written
    below `scratch`.
    """
    acknowledged = licences.acknowledged()
    verdict = scratch / "AUDIT.md"
    refused = audited(layout.results, verdict)
    if refused:  # a file that a receipt names may be missing
        return [], refused
    repositories = [
        *contents.datasets(layout, acknowledged),
        *contents.models(layout, receipts, namespace, acknowledged),
    ]
    behind = contents.left_behind(layout, receipts, acknowledged)
    results, packed = Path(layout.results), scratch / contents.ARCHIVE
    paths = archive.contents(receipts, results, map(Path, config), behind)
    archive.pack(paths, crate.text(receipts, results).encode(), packed, behind)
    command = f'make audit CONFIG="{" ".join(config)}"'
    licence = licences.strictest(repository.licence for repository in repositories)
    card = contents.archive_card(layout, behind, command, licence)
    repositories.append(
        contents.Repository(
            f"openbezoar-run{contents.suffix(layout)}",
            "dataset",
            licence,
            {contents.ARCHIVE: packed, "AUDIT.md": verdict, "README.md": card.encode()},
        )
    )
    return repositories, [line for repository in repositories for line in repository.refused]


def described(repository: contents.Repository, namespace: str) -> list[str]:
    """Return what would go where: a line for the repository and one for each file."""
    size, files = repository.size(), counted(len(repository.files), "file")
    lines = [
        f"{hub.page(f'{namespace}/{repository.name}', repository.kind)}"
        f"  {repository.kind}, {repository.licence}, {files}, {size:,} bytes"
    ]
    for name, file in sorted(repository.files.items()):
        lines.append(f"  {contents.size_of(file):>15,}  {name}")
    return lines


def say_superseded(repository: contents.Repository, namespace: str, token: str) -> list[str]:
    """Return the files of an earlier release that go, and name them in a line if there are any."""
    old = upload.superseded(repository, namespace, token)
    if old:
        address = hub.page(f"{namespace}/{repository.name}", repository.kind)
        print(f"{address}: deletes {counted(len(old), 'file')}: {', '.join(old)}", flush=True)
    return old


def overlay(
    layout: Layout, namespace: str, repositories: list[contents.Repository], commits: dict[str, str]
) -> str:
    """Return a configuration that starts from what was published: the data sets for
    `entry: released`, the models beside those of the other run, and a place of its own for that
    run, beside the published one.
    """
    licence = {repository.name: repository.licence for repository in repositories}
    data: dict[str, Any] = {}
    for scheme in layout.schemes:
        name = contents.dataset_name(layout, scheme)
        place = {"source": None, "hub": f"{namespace}/{name}", "revision": commits[name]}
        data[scheme] = {**place, "licence": licence[name]}
    template = layout.config["sources"]["chat_template"]
    models = {}
    for model in MODELS[1:]:
        name = f"{model}{contents.suffix(layout)}"
        place = {"hub": f"{namespace}/{name}", "revision": commits[name]}
        models[f"published-{model}"] = {**place, "template": template, "compare_with": model}
    top = "" if layout.results == "results" else layout.results.partition("/")[2] or layout.results
    name = f"{top}-published" if top else "published"
    places = {kind: f"{kind}/{name}" for kind in ("results", "logs", "benchmarks")}
    head = "# Written by `make release`: what was published, for another run.\n"
    content = {"pathvars": places, "released": data, "extra_models": models}
    return head + yaml.safe_dump(content, sort_keys=False)


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and publish."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--config", nargs="+", required=True, help="configuration files, the later over the earlier"
    )
    parser.add_argument("--namespace", required=True, help="user or organisation on the hub")
    parser.add_argument("--dry", action="store_true", help="say what would go where, send nothing")
    parser.add_argument(
        "--overlay",
        type=Path,
        default=Path("openbezoar-released.yaml"),
        help="configuration to write: what was published, for another run",
    )
    args = parser.parse_args(argv)
    namespace, token = args.namespace.strip(), os.environ.get("HF_TOKEN", "").strip()
    if not upload.is_name(f"{namespace}/{MODELS[-1]}"):
        raise UserError(
            f"NAMESPACE={namespace}: expected a user or an organisation of the hub, as in"
            " `make release NAMESPACE=owner`"
        )
    if not token and not args.dry:
        raise UserError(
            "HF_TOKEN is not set; export a token with write access to the namespace, or see what"
            " would be sent with DRY=1"
        )
    config = checked(args.config)
    layout = Layout(config)
    ending = contents.suffix(layout)
    if not upload.is_name(f"{namespace}/{MODELS[-1]}{ending}"):
        raise UserError(
            f"{layout.results}: its last part ends the repositories' names, and {ending!r} can end"
            " none on the hub (letters, digits and single - . _); make the run under another root"
        )
    receipts = audit.finished(Path(layout.results))
    if "report" not in receipts:
        raise UserError(f"{layout.results}: no report yet; finish the run before publishing it")
    with tempfile.TemporaryDirectory(prefix="release-") as scratch:
        repositories, refused = planned(layout, namespace, receipts, Path(scratch), args.config)
        if args.dry:
            for repository in repositories:
                print(*described(repository, namespace), sep="\n")
            try:
                for repository in repositories:
                    say_superseded(repository, namespace, token)
            except UserError as error:
                print(f"note: what is deleted of an earlier release is not known: {error}")
            for line in refused:
                print(f"refused: {line}")
            size = sum(repository.size() for repository in repositories)
            verdict = "nothing forbids it"
            if refused:
                verdict = counted(len(refused), "thing forbids it", "things forbid it")
            print(
                f"{counted(len(repositories), 'repository', 'repositories')}, {size:,} bytes in"
                f" all; {verdict}; nothing was sent"
            )
        elif refused:
            print(*(f"error: {line}" for line in refused[:-1]), sep="\n", file=sys.stderr)
            raise UserError(refused[-1])
        else:
            publish(repositories, layout, namespace, token, args.overlay)
            again = dict.fromkeys([*args.config, "config/released.yaml", str(args.overlay)])
            print(f'{args.overlay}: start another run from it with CONFIG="{" ".join(again)}"')


def publish(
    repositories: list[contents.Repository], layout: Layout, namespace: str, token: str, place: Path
) -> None:
    """Send every repository and write the overlay of what was published."""
    commits = {}
    for repository in repositories:
        old = say_superseded(repository, namespace, token)
        commits[repository.name] = upload.send(repository, namespace, token, old)
        address = hub.page(f"{namespace}/{repository.name}", repository.kind)
        print(f"{address}: {commits[repository.name]}", flush=True)
    with whole_file(place) as stream:
        stream.write(overlay(layout, namespace, repositories, commits))


if __name__ == "__main__":
    program.run(main)
