"""Names that all rules share. No rule lives here; no heavy import is allowed here.

The facts of the DAG are in scripts/bezoar/workflow: layout.py (models, paths, receipts),
lineage.py (what is trained on what), recipes.py (settings that are more than one section).
"""

import sys
from os.path import dirname, relpath
from pathlib import Path

sys.path.insert(0, str(Path(workflow.basedir) / "scripts"))
from bezoar.errors import UserError
from bezoar.files import canonical
from bezoar.provenance import snakemake_patch
from bezoar.provenance.code_digest import digest as code_digest
from bezoar.rehearsal.world import WORLD_FILES
from bezoar.workflow import configuration, dress_rehearsal, lineage, recipes, sources
from bezoar.workflow.layout import MODELS, PAIRS, Layout, alternatives

CONFIG_FILES = [
    str(path) for path in configuration.files_of(relpath(file) for file in workflow.configfiles)
]

try:
    configuration.check(config, configuration.SCHEMA, [Path(file) for file in CONFIG_FILES])
    LAYOUT = Layout(config)
    NEEDS = dress_rehearsal.needs(LAYOUT)  # memory, minutes and GPUs of each rule
    workflow.localrules(*NEEDS.light())
    snakemake_patch.install()
except UserError as error:
    print(f"error: {error}", file=sys.stderr)
    raise SystemExit(2) from None

SCHEMES = LAYOUT.schemes
GENERATED = LAYOUT.generated
EXTRA = LAYOUT.extra
EVALUATED = LAYOUT.evaluated
EVALUATIONS = [
    *expand("<results>/lm_eval/{model}.json", model=EVALUATED),
    *expand("<results>/mtbench/{model}/judgments.jsonl", model=EVALUATED),
]
FACTS = LAYOUT.facts()  # for a stage that may ask the simulator

# Priority of the trainings and of what they wait for; nothing waits for an evaluation.
FIRST = 1


wildcard_constraints:
    scheme=alternatives(SCHEMES),
    rows=alternatives([*SCHEMES, PAIRS]),
    model=alternatives([*EVALUATED, *LAYOUT.steps]),
    column=alternatives(LAYOUT.columns),
    extra=alternatives(EXTRA),
    state=alternatives(LAYOUT.states),
    number="[0-9]+",


def as_json(value):
    """Canonical JSON, by a function: Snakemake takes {1,3} in a plain text for a wildcard."""
    return lambda wildcards: canonical(value)


def recipe(section, **more):
    """The settings of one stage and the seed as one string of canonical JSON: none can hide."""
    return as_json(recipes.section(LAYOUT, section, **more))


def code(program):
    """sha256 over a program and the project modules it imports. Content, never mtime."""
    return code_digest(Path(program))


def source(name):
    """Path of an input named under `sources:`; no path where none is named."""
    return LAYOUT.source(name) or []


def store(name):
    """One job's store of answers; it outlives the job's outputs, so nothing is paid for twice."""
    return LAYOUT.store(name)


def model_file(wildcards):
    """The weights of {model}."""
    return LAYOUT.weights(wildcards.model)


def chat_template(wildcards):
    """The chat template file of {model}; nothing where the model brings its own."""
    return LAYOUT.chat_template(wildcards.model)


def entry_of_snapshot(wildcards):
    """The registry entry of a hub repository, as canonical JSON."""
    return canonical(sources.find(wildcards.source, LAYOUT.registry))


def entry_of_file(wildcards):
    """The registry entry of data/{file}, as canonical JSON."""
    named = [entry for entry in LAYOUT.registry.values() if entry.get("path") == wildcards.file]
    return canonical(named[0])


def card_receipts(wildcards):
    """The receipts of the stages that made the rows of {scheme}."""
    return list(map(LAYOUT.receipt, LAYOUT.stages_of_rows(wildcards.scheme)))


def trainings(wildcards):
    """The trainings that {model} combines, in order."""
    return lineage.merge(LAYOUT, wildcards.model).trainings


def card_of_model(wildcards):
    """What the card of {model} says beside the numbers."""
    return canonical(recipes.model_card(LAYOUT, wildcards.model, CONFIG_FILES))
