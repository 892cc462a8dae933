"""Helpers shared by all rules. No rule lives here; no heavy import is allowed here."""

import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

sys.path.insert(0, str(Path(workflow.basedir) / "scripts"))
from bezoar import configuration, sources
from bezoar.code import digest as code_digest
from bezoar.errors import UserError
from bezoar.files import canonical

try:
    configuration.check(config, Path("config/schema.yaml"), [Path(file) for file in workflow.configfiles])
except UserError as error:
    raise WorkflowError(str(error)) from None

SCHEMES = config["sft"]["order"]
MODELS = ["base", "openbezoar-sft", "openbezoar-hh-rlhf-sft", "openbezoar-hh-rlhf-dpo"]
SOURCES = sources.load(Path("config/sources.yaml"))


wildcard_constraints:
    scheme="|".join(SCHEMES),
    model="|".join(MODELS),


def recipe(section, **more):
    """The resolved settings of one stage and the seed, as canonical JSON: one string, so no value can hide."""
    settings = config
    for key in section.split("."):
        settings = settings[key]
    return canonical({**settings, "seed": config["seed"], **more})


def code(program):
    """sha256 over a program and the project modules it imports. Content, never mtime."""
    return code_digest(Path(program))


def source(name):
    """Path or paths of an input named under `sources:`; `world/...` is made here, `prompts/...` ships, the rest is fetched."""
    entry = config["sources"][name]
    paths = [
        f"<results>/{item}" if item.startswith("world/") else item if item.startswith("prompts/") else sources.path_of(item, SOURCES)
        for item in (entry if isinstance(entry, list) else [entry])
    ]
    return paths if isinstance(entry, list) else paths[0]
