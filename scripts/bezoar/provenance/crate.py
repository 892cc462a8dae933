"""A finished run as a Workflow Run RO-Crate (Provenance Run Crate 0.5), made from its receipts and
config/sources.yaml alone.

Terms and profile: https://w3id.org/ro/wfrun/provenance/0.5 over https://w3id.org/ro/crate/1.1.
Every receipt is a job: a HowToStep, the CreateAction that ran it, and the ControlAction between
them. Same receipts, same crate: times are those of the receipts.
"""

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from bezoar.errors import UserError
from bezoar.files import canonical
from bezoar.provenance.audit import Receipts
from bezoar.provenance.code_digest import executed
from bezoar.provenance.fingerprint import Hashes, files_in
from bezoar.provenance.staleness import CACHE
from bezoar.readers import read_yaml_entries
from bezoar.workflow import sources
from bezoar.workflow.wording import counted

Entity = dict[str, Any]

NAME = "ro-crate-metadata.json"
RUN = "https://w3id.org/ro/terms/workflow-run#"
# The profile's own terms are spelled out here, so that the crate can be read without a network.
TERMS = "environment resourceUsage sha256".split()
PROFILES = {
    "https://w3id.org/ro/wfrun/process/0.5": "Process Run Crate",
    "https://w3id.org/ro/wfrun/workflow/0.5": "Workflow Run Crate",
    "https://w3id.org/ro/wfrun/provenance/0.5": "Provenance Run Crate",
    "https://w3id.org/workflowhub/workflow-ro-crate/1.0": "Workflow RO-Crate",
}
LICENCE = "https://www.apache.org/licenses/LICENSE-2.0"
WORKFLOW, ENGINE, PAGE = (
    "Snakefile",
    "https://snakemake.github.io",
    "https://arxiv.org/abs/2404.12195",
)
PROJECT = ["rules/*.smk", "config/*", "envs/*.lock", "README.md", "CITATION.cff", "LICENSE"]
DONE = "http://schema.org/CompletedActionStatus"
FORMATS = {
    ".json": "application/json",
    ".jsonl": "application/jsonl",
    ".yaml": "application/yaml",
    ".sqlite": "application/vnd.sqlite3",
    ".html": "text/html",
    ".md": "text/markdown",
    ".csv": "text/csv",
    ".tsv": "text/tab-separated-values",
    ".py": "text/x-python",
    **dict.fromkeys((".txt", ".smk", ".lock", ".cff", ".j2", ""), "text/plain"),
}


def at(path: str) -> str:
    """Return the id of a file: a relative address, or an absolute one for a file outside the
    project.
    """
    return Path(path).as_uri() if os.path.isabs(path) else quote(path)


def refs(names: Any) -> Any:
    """Return references to ids, sorted; a single one without a list, as RO-Crate asks."""
    found = [{"@id": name} for name in sorted(set(names))]
    return found[0] if len(found) == 1 else found


def moment(unix_s: float) -> str:
    """Return seconds since 1970 as ISO 8601 with milliseconds, UTC."""
    return datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="milliseconds")


class Crate:
    """Entities by id, in the order in which they were first named; `link` gathers references until
    the graph is written.
    """

    def __init__(self) -> None:
        self.entities: dict[str, Entity] = {}
        self.links: dict[tuple[str, str], set[str]] = {}
        self.hashes = Hashes(CACHE)

    def add(self, identifier: str, kind: str | list[str], **facts: Any) -> str:
        """Add an entity, or facts to one; return its id."""
        self.entities.setdefault(identifier, {"@id": identifier}).update({"@type": kind, **facts})
        return identifier

    def link(self, name: str, key: str, *targets: str) -> None:
        """Let `name` refer to entities by `key`."""
        if targets:
            self.links.setdefault((name, key), set()).update(targets)

    def file(self, path: str, recorded: str | None = None) -> str:
        """Add a file with size and sha256; raise `UserError` unless it is there and has the
        recorded hash.
        """
        name = at(path)
        if name in self.entities and recorded is None:
            return name
        found = self.hashes.of(path)
        if found is None or recorded not in (None, found):
            raise UserError(
                f"{path}:"
                f" {'not there' if found is None else 'not the bytes that its receipt names'};"
                " `make stale` says what to run"
            )
        form = FORMATS.get(Path(path).suffix, "application/octet-stream")
        self.link("./", "hasPart", name)
        return self.add(
            name,
            "File",
            name=path,
            contentSize=str(os.path.getsize(path)),
            sha256=found,
            encodingFormat=form,
        )

    def parameter(
        self, owner: str, kind: str, name: str, examples: list[str], additional: str = "File"
    ) -> str:
        """Add a formal parameter of a program or of the workflow, and its value in this run."""
        identifier = self.add(
            f"#{kind}/{owner}/{name}", "FormalParameter", name=name, additionalType=additional
        )
        self.link(owner, kind, identifier)
        self.link(identifier, "workExample", *examples)
        for example in examples:
            self.link(example, "exampleOfWork", identifier)
        return identifier

    def graph(self) -> list[Entity]:
        """Return all entities with their references."""
        for (name, key), targets in self.links.items():
            self.entities[name][key] = refs(targets)
        return list(self.entities.values())


def add_program(crate: Crate, program: str, versions: set[str]) -> str:
    """Add a program as a tool of the workflow, and as files the modules it executes."""
    tool = crate.file(f"scripts/{program}")
    crate.add(tool, ["File", "SoftwareSourceCode"], version=", ".join(sorted(versions)), url=PAGE)
    crate.link(
        tool,
        "programmingLanguage",
        crate.add("https://www.python.org", "ComputerLanguage", name="Python"),
    )
    crate.link(WORKFLOW, "hasPart", tool)
    for module in executed(Path("scripts") / program):
        crate.file(str(module))
    return tool


def add_job(
    crate: Crate, stage: str, held: Entity, position: int, results: Path, written: set[str]
) -> None:
    """Add one receipt: step, action, control, parameters and usage."""
    tool, run = at(f"scripts/{held['command'][0]}"), f"#run/{stage}"
    step = crate.add(f"#step/{stage}", "HowToStep", name=stage, position=str(position))
    crate.link(step, "workExample", tool)
    crate.link(WORKFLOW, "step", step)
    crate.add(
        run,
        "CreateAction",
        name=stage,
        description=" ".join(held["command"]),
        startTime=moment(held["started_unix_s"]),
        endTime=moment(held["started_unix_s"] + held["wall_s"]),
        actionStatus=DONE,
    )
    crate.link(run, "instrument", tool)
    crate.link("./", "mentions", run)
    control = crate.add(
        f"#control/{stage}", "ControlAction", name=f"starting {stage}", actionStatus=DONE
    )
    crate.link(control, "instrument", step)
    crate.link(control, "object", run)
    crate.link("#engine", "object", control)
    recipe = crate.add(
        f"#recipe/{stage}", "PropertyValue", name="recipe", value=canonical(held["recipe"])
    )
    crate.link(run, "object", recipe)
    crate.parameter(tool, "input", "recipe", [recipe], "PropertyValue")
    for name, files in held["inputs"].items():
        found = [crate.file(path, digest) for path, digest in files.items()]
        if not found:
            continue
        crate.parameter(tool, "input", name, found)
        crate.link(run, "object", *found)
        for path in files:
            if path not in written:
                crate.parameter(WORKFLOW, "input", at(path), [at(path)])
    for name, files in {
        **held["outputs"],
        "receipt": {f"{results}/receipts/{stage}.json": None},
    }.items():
        found = [crate.file(path, digest) for path, digest in files.items()]
        crate.parameter(tool, "output", name, found)
        crate.link(run, "result", *found)
        crate.parameter(WORKFLOW, "output", f"{stage} {name}", found)
    # UN/ECE's codes of a second and a byte.
    for name, unit in (("wall_s", "SEC"), ("peak_memory_bytes", "AD")):
        usage = crate.add(
            f"#usage/{stage}/{name}",
            "PropertyValue",
            name=name,
            propertyID=name,
            value=held[name],
            unitCode=unit,
        )
        crate.link(run, "resourceUsage", usage)
    for name, value in held["environment"]["variables"].items():
        if value is not None:
            crate.link(
                run,
                "environment",
                crate.add(
                    f"#variable/{name}/{quote(value)}", "PropertyValue", name=name, value=value
                ),
            )
    for name in held["environment"]["locks"]:
        crate.file(f"envs/{name}")


def add_sources(crate: Crate) -> None:
    """Say of every input that is in the registry where it came from and under which licence."""
    registry = sources.load(Path("config/sources.yaml"))
    for identifier, entry in registry.items():
        name = at(sources.path_of(identifier, registry))
        if name in crate.entities:
            crate.add(
                name,
                "File",
                url=entry.get("url") or f"https://huggingface.co/{entry['hub']}",
                description=entry["what"],
                version=str(entry.get("revision") or entry.get("sha256")),
                license=entry["licence"] or "not stated",
            )


def add_root(crate: Crate, receipts: Receipts, results: Path, ended: float) -> None:
    """Add the crate itself: what it is, whose, under which profiles."""
    descriptor = crate.add(NAME, "CreativeWork")
    crate.link(descriptor, "about", "./")
    crate.link(
        descriptor,
        "conformsTo",
        "https://w3id.org/ro/crate/1.1",
        "https://w3id.org/workflowhub/workflow-ro-crate/1.0",
    )
    description = (
        f"What {counted(len(receipts), 'job')} of the workflow read and wrote, by sha256, with the"
        " settings, code and environment of each."
    )
    crate.add(
        "./",
        "Dataset",
        name=f"OpenBezoar, rebuilt: {results}",
        datePublished=moment(ended)[:10],
        description=description,
    )
    crate.link(
        "./",
        "license",
        crate.add(
            LICENCE,
            "CreativeWork",
            name="Apache License 2.0",
            description="Of the code; inputs keep their own.",
        ),
    )
    for profile, title in PROFILES.items():
        crate.link(
            "./",
            "conformsTo",
            crate.add(profile, "CreativeWork", name=title, version=profile.rsplit("/", 1)[1]),
        )
    authors = read_yaml_entries(Path("CITATION.cff"), "authors")
    crate.link(
        "./",
        "author",
        *(
            crate.add(f"#author/{quote(author['name'])}", "Organization", **author)
            for author in authors
        ),
    )
    for pattern in PROJECT:
        for path in sorted(Path().glob(pattern)):
            crate.file(str(path))
    crate.link("README.md", "about", "./")


def add_workflow(crate: Crate, receipts: Receipts, results: Path, ended: float) -> None:
    """Add the workflow, the engine that ran it, and the run as a whole."""
    crate.file(WORKFLOW)
    commits = ", ".join(sorted({str(held["git_commit"]) for held in receipts.values()}))
    crate.add(
        WORKFLOW,
        ["File", "SoftwareSourceCode", "ComputationalWorkflow", "HowTo"],
        version=commits,
        url=PAGE,
    )
    crate.link(
        WORKFLOW, "conformsTo", "https://bioschemas.org/profiles/ComputationalWorkflow/1.0-RELEASE"
    )
    language = crate.add(
        "https://w3id.org/workflowhub/workflow-ro-crate#snakemake",
        "ComputerLanguage",
        name="Snakemake",
        url=ENGINE,
    )
    crate.link(WORKFLOW, "programmingLanguage", language)
    crate.link("./", "mainEntity", WORKFLOW)
    versions = ", ".join(
        sorted({held["versions"].get("snakemake", "unknown") for held in receipts.values()})
    )
    engine = crate.add(
        ENGINE, "SoftwareApplication", name="Snakemake", softwareVersion=versions, url=ENGINE
    )
    begun = min(held["started_unix_s"] for held in receipts.values())
    span = {"startTime": moment(begun), "endTime": moment(ended), "actionStatus": DONE}
    run = crate.add(
        "#workflow-run",
        "CreateAction",
        name=f"run of {results}",
        description=counted(len(receipts), "job"),
        **span,
    )
    crate.link(run, "instrument", WORKFLOW)
    crate.link("./", "mentions", run)
    crate.add("#engine", "OrganizeAction", name="Snakemake at work", **span)
    crate.link("#engine", "instrument", engine)
    crate.link("#engine", "result", run)


def build(receipts: Receipts, results: Path) -> Entity:
    """Return the crate's metadata; raise `UserError` naming the first file that is gone or not as
    its receipt says.
    """
    crate = Crate()
    ended = max(held["started_unix_s"] + held["wall_s"] for held in receipts.values())
    add_root(crate, receipts, results, ended)
    add_workflow(crate, receipts, results, ended)
    for program in sorted({held["command"][0] for held in receipts.values()}):
        add_program(
            crate,
            program,
            {held["code"] for held in receipts.values() if held["command"][0] == program},
        )
    written = {f"{results}/receipts/{stage}.json" for stage in receipts}
    written |= {path for held in receipts.values() for path in files_in(held["outputs"])}
    for position, stage in enumerate(
        sorted(receipts, key=lambda stage: (receipts[stage]["started_unix_s"], stage)), start=1
    ):
        add_job(crate, stage, receipts[stage], position, results, written)
    for key, parameters in (("object", "input"), ("result", "output")):
        for name in crate.links.get((WORKFLOW, parameters), set()):
            crate.link("#workflow-run", key, *crate.links[(name, "workExample")])
    add_sources(crate)
    crate.hashes.save()
    return {
        "@context": [
            "https://w3id.org/ro/crate/1.1/context",
            {term: f"{RUN}{term}" for term in TERMS},
        ],
        "@graph": crate.graph(),
    }


def text(receipts: Receipts, results: Path) -> str:
    """Return the crate's metadata as the text of its file."""
    return json.dumps(build(receipts, results), indent=1, ensure_ascii=False) + "\n"
