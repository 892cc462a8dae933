"""Helpers shared by all rules. No rule lives here; no heavy import is allowed here."""

import re
import sys
from os.path import relpath
from pathlib import Path

from snakemake.exceptions import WorkflowError

sys.path.insert(0, str(Path(workflow.basedir) / "scripts"))
from bezoar.provenance import snakemake_patch
from bezoar.workflow import configuration, deviations, sources
from bezoar.provenance.code_digest import digest as code_digest
from bezoar.errors import UserError
from bezoar.files import canonical

CONFIG_FILES = [
    str(path) for path in configuration.files_of(relpath(file) for file in workflow.configfiles)
]

try:
    configuration.check(config, configuration.SCHEMA, [Path(file) for file in CONFIG_FILES])
except UserError as error:
    raise WorkflowError(str(error)) from None

snakemake_patch.install()


def registry():
    """Every source by its id, extra models with it."""
    try:
        return sources.with_models(
            config["extra_models"], sources.load(Path("config/sources.yaml"))
        )
    except UserError as error:
        raise WorkflowError(str(error)) from None


SCHEMES = config["sft"]["order"]
MODELS = ["base", "openbezoar-sft", "openbezoar-hh-rlhf-sft", "openbezoar-hh-rlhf-dpo"]
EXTRA = config["extra_models"]
EVALUATED = [*MODELS, *EXTRA]
COLUMNS = config["mtbench"]["rejudge"]
SECOND_JUDGES = [name for name in COLUMNS if COLUMNS[name]["references"] == "upstream"]
STATES = [
    "base",
    *SCHEMES,
    *MODELS[1:],
]  # of which the SFT stages are adapters over the base
STEPS = (
    [f"sft-{scheme}" for scheme in SCHEMES[:-1]] if config["sft"]["chaining"] == "merge" else []
)  # models between two schemes
MERGED = [*STEPS, *MODELS[1:]]  # each onto the one before it
ADAPTERS = dict(zip(MODELS[1:], [f"sft/{SCHEMES[-1]}", "hh_sft", "dpo"])) | {
    f"sft-{scheme}": f"sft/{scheme}" for scheme in SCHEMES[:-1]
}
RESULTS = config["pathvars"]["results"]
FIRST = 1  # priority of what the trainings wait for, and of the trainings: nothing waits for an evaluation
GPU = (
    0 if config["pretrain"] else 1
)  # a base made here is so small that its jobs share whatever there is
TOKENIZER = (
    "tokenizer.model" if config["pretrain"] else config["base"]["tokenizer"]
)  # the file beside our models that says how text is split
SOURCES = registry()
EVOL_PROMPTS = sorted(str(path) for path in Path("prompts").glob("evol_*.txt"))
WORLD_FILES = (
    "corpus.jsonl alpaca_seeds.jsonl topics.txt dolly.jsonl flan.tsv preferences.jsonl questions.jsonl references.jsonl facts.json "
    "lm_eval/world_facts.jsonl lm_eval/world_facts.yaml lm_eval/world_skills.jsonl lm_eval/world_skills.yaml "
    "heldout/lamini.jsonl heldout/orca.jsonl heldout/evol.jsonl heldout/preferences.jsonl"
).split()
HELDOUT = expand(
    "<results>/world/heldout/{name}.jsonl",
    name=["lamini", "orca", "evol", "preferences"],
)

GENERATED = SCHEMES if config["entry"] == "generate" else []
EVALUATIONS = [
    *expand("<results>/lm_eval/{model}.json", model=EVALUATED),
    *expand("<results>/mtbench/{model}/judgments.jsonl", model=EVALUATED),
]
REPORT_TEMPLATES = sorted(str(path) for path in Path("scripts/bezoar/report").glob("*.html.j2"))
REPORTED = [
    *expand(
        "<results>/data/{table}.json",
        table=["description", "duplicates", "contamination"],
    ),
    *expand(
        "<results>/{table}.json",
        table=["claims", "lm_eval", "mtbench", "preferences/counts"],
    ),
    *expand("<results>/generate/{scheme}.counts.json", scheme=GENERATED),
    *expand("<results>/filter/{scheme}.counts.json", scheme=SCHEMES),
    *expand("<results>/sft/{scheme}/metrics.jsonl", scheme=SCHEMES),
    *expand("<results>/{stage}/metrics.jsonl", stage=["hh_sft", "dpo"]),
    "<results>/dpo/held_out.json",
    *expand("<results>/merge/{model}/merge.json", model=MODELS[1:]),
    *expand("<results>/mtbench/{model}/counts.json", model=EVALUATED),
    *expand("<results>/bridge/{column}.json", column=COLUMNS),
    *(["<results>/base.metrics.jsonl"] if config["pretrain"] else []),
    *(["<results>/learning.json"] if config["learning"] else []),
]
STAGES = [
    *("base preferences hh_sft dpo_reference dpo lm_eval_table mtbench claims".split()),
    *expand("generate_{scheme}", scheme=GENERATED),
    *[
        f"flan_{name}"
        for name in config["sources"]["flan"]
        if GENERATED
        if "hub" in SOURCES.get(name, {})
    ],
    *expand("{stage}_{scheme}", stage=["filter", "data_card", "sft"], scheme=SCHEMES),
    *("data_items data_duplicates data_contamination data_description".split()),
    *(expand("data_clean_{scheme}", scheme=SCHEMES) if config["data"]["remove"] else []),
    *expand(
        "{stage}_{model}",
        stage=["lm_eval", "mtbench_answers", "mtbench_judgments"],
        model=EVALUATED,
    ),
    *expand("{stage}_{model}", stage=["merge", "model_card"], model=MERGED),
    *expand("import_model_{extra}", extra=EXTRA),
    *expand("mtbench_rejudge_{column}_{model}", column=COLUMNS, model=EVALUATED),
    *expand("bridge_{column}", column=COLUMNS),
    *(["world"] if config["world"] else []),
    *(expand("learning_{state}", state=[*STATES, "table"]) if config["learning"] else []),
]

EVALUATE_STAGES = [
    *expand("import_model_{extra}", extra=EXTRA),
    *expand(
        "{stage}_{model}", stage=["lm_eval", "mtbench_answers", "mtbench_judgments"], model=EXTRA
    ),
    "evaluate_lm_eval",
    "evaluate_mtbench",
]


wildcard_constraints:
    scheme="|".join(SCHEMES),
    model="|".join(map(re.escape, [*EVALUATED, *STEPS])),
    column="|".join(map(re.escape, COLUMNS)) or "(?!)",
    extra="|".join(map(re.escape, EXTRA)) or "(?!)",
    state="|".join(STATES),


def recipe(section, **more):
    """The resolved settings of one stage and the seed, as canonical JSON: one string, so no value can hide."""
    settings = config
    for key in section.split("."):
        settings = settings[key]
    return canonical({**(settings or {}), "seed": config["seed"], **more})


def code(program):
    """sha256 over a program and the project modules it imports. Content, never mtime."""
    return code_digest(Path(program))


def place(item):
    """Where a source lies: `world/...` is made here, `prompts/...` ships, a path is taken as it is, an id is fetched."""
    if item.startswith("world/"):
        return f"{RESULTS}/{item}"
    return item if "/" in item else sources.path_of(item, SOURCES)


def source(name):
    """Path or paths of an input named under `sources:`; None where none is named."""
    entry = config["sources"][name]
    if entry is None:
        return None
    return list(map(place, entry)) if isinstance(entry, list) else place(entry)


FLAN_STREAMED = [
    f"<results>/flan/{name}.jsonl"
    for name in config["sources"]["flan"]
    if "hub" in SOURCES.get(name, {})
]
FLAN_FILES = [
    (f"<results>/flan/{name}.jsonl" if "hub" in SOURCES.get(name, {}) else path)
    for name, path in zip(config["sources"]["flan"], source("flan"))
]


def flan_recipe(wildcards):
    """What decides which rows of a submix are kept: the quotas and the draw, not the teacher."""
    orca = config["generate"]["orca"]
    return canonical(
        {
            "quotas": orca["quotas"],
            "rows_per_task": orca["rows_per_task"],
            "seed": config["seed"],
        }
    )


def optional(flag, path):
    """A flag with its path, or nothing where there is no path."""
    return f"{flag} {path}" if path else ""


def entry_of_file(wildcards):
    """The registry entry of data/{file}, as canonical JSON."""
    return canonical(
        next(entry for entry in SOURCES.values() if entry.get("path") == wildcards.file)
    )


def entry_of_snapshot(wildcards):
    """The registry entry of a hub repository, as canonical JSON."""
    return canonical(sources.find(wildcards.source, SOURCES))


def store(name):
    """One job's store of answers; kept when the job's outputs are deleted, so that nothing is paid twice."""
    return f"{RESULTS}/store/{name}.sqlite"


def simulator():
    """The world's facts, for a stage that may ask the simulator; nothing where there is no world."""
    return "<results>/world/facts.json" if config["world"] else []


def facts_argument():
    """The command-line argument that goes with `simulator`."""
    return f"--facts {config['pathvars']['results']}/world/facts.json" if config["world"] else ""


def teacher_server():
    """The address of the teacher's server, for a stage that asks it, if the workflow keeps one."""
    return "<results>/serve/teacher.url" if config["serve"] else []


def teacher_address():
    """The shell line that goes with `teacher_server`; a server on the loopback interface takes any key."""
    if not config["serve"]:
        return ""
    folder, teacher = f"{RESULTS}/serve", config["teacher"]
    wait = (
        f"python scripts/serve_model.py --await {folder}/teacher.url --record {folder}/teacher.json"
    )
    return f"{teacher['base_url_env']}=$({wait}); export {teacher['base_url_env']} {teacher['api_key_env']}=none"


def served():
    """What the workflow serves, for the recipe of a stage that asks it: precision decides answers."""
    return {"serve": config["serve"]} if config["serve"] else {}


def model_path(name):
    """The weights of a model by its name."""
    folder = "models" if name in EXTRA else "merge"
    return f"{RESULTS}/{'base' if name == 'base' else f'{folder}/{name}'}/model.safetensors"


def extra_folder(wildcards):
    """The directory that an extra model is imported from."""
    model = EXTRA[wildcards.extra]
    return model.get("path") or str(
        Path(sources.path_of(sources.model_source(model), SOURCES)).parent
    )


def extra_files(wildcards):
    """What an extra model is imported from: the manifest of its snapshot, or every file of its directory."""
    folder = Path(extra_folder(wildcards))
    if not EXTRA[wildcards.extra].get("path"):
        return str(folder / "manifest.json")
    return sorted(str(file) for file in folder.glob("*") if file.is_file()) or str(
        folder / "config.json"
    )


def template_of(wildcards):
    """The chat template file of {model}; nothing where the model brings its own."""
    name = EXTRA.get(wildcards.model, {}).get("template", config["sources"]["chat_template"])
    return [] if name == "tokenizer" else place(name)


def template_argument(wildcards):
    """The command-line argument that goes with `template_of`."""
    return template_of(wildcards) or "tokenizer"


def task_files():
    """The task files and, where they exist or are made here, the data beside them."""
    files = list(map(place, config["lm_eval"]["task_files"]))
    data = [str(Path(file).with_suffix(".jsonl")) for file in files]
    return files + [file for file in data if config["world"] or Path(file).is_file()]


def task_data():
    """task=manifest of its data set, for those of the harness's own tasks that are asked for."""
    named = config["lm_eval"]["data"]
    return {task: place(named[task]) for task in config["lm_eval"]["tasks"] if task in named}


def rejudge_recipe(wildcards):
    """The settings of {column}: those of the main judgments, with another judge."""
    return recipe("mtbench.judgments", **COLUMNS[wildcards.column])


def bridge_recipe(wildcards):
    """What names a comparison of {column} with the main judgments."""
    return canonical({"column": wildcards.column, "seed": config["seed"]})


def overrides(wildcards):
    """The right reference answers, where {column} is judged with them; nothing elsewhere."""
    corrected = COLUMNS[wildcards.column]["references"] == "corrected"
    return "config/reference_overrides.yaml" if corrected else []


def overrides_argument(wildcards):
    """The command-line argument that goes with `overrides`."""
    path = overrides(wildcards)
    return f"--overrides {path}" if path else ""


def task_data_arguments():
    """The command-line arguments that go with `task_data`."""
    return [f"{task}={path}" for task, path in task_data().items()]


def pairs():
    """Which models are compared: each of ours with the one before it and with the base, an extra one with the base and with what it names."""
    ours = [*zip(MODELS[1:], MODELS), *((model, "base") for model in MODELS[1:])]
    beside = [(name, model.get("compare_with") or "base") for name, model in EXTRA.items()]
    return list(map(list, dict.fromkeys([*ours, *((name, "base") for name in EXTRA), *beside])))


def pairs_of_extra():
    """Each extra model against the first of them."""
    names = list(EXTRA)
    return [[name, names[0]] for name in names[1:]]


def evaluate_recipe():
    """What the rows of the extra models say of them."""
    judge = config["mtbench"]["judgments"]["judge"]["model"]
    return canonical(
        {
            "judge": judge,
            "models": EXTRA,
            "scale": config["scale"],
            "seed": config["seed"],
        }
    )


def model_file(wildcards):
    """The weights of {model}."""
    return model_path(wildcards.model)


def sft_data(wildcards):
    """The rows of {scheme} that training reads: all with their verdicts, or those left by config: data: remove."""
    return f"{RESULTS}/{'data/clean' if config['data']['remove'] else 'filter'}/{wildcards.scheme}.jsonl"


def released_recipe(wildcards):
    """Which of the released sets {scheme} is."""
    return canonical({"scheme": wildcards.scheme, "seed": config["seed"]})


def card_receipts(wildcards):
    """The receipts of the stages that made the rows of {scheme}."""
    stages = ["generate", "filter"] if GENERATED else ["filter"]
    streamed = FLAN_STREAMED if GENERATED and wildcards.scheme == "orca" else []
    return [
        *(f"{RESULTS}/receipts/flan_{Path(path).stem}.json" for path in streamed),
        *(f"{RESULTS}/receipts/{stage}_{wildcards.scheme}.json" for stage in stages),
    ]


def card_recipe(wildcards):
    """What the card of {scheme} says beside the numbers: titles, licences, models."""
    scheme = wildcards.scheme
    seeds = {"lamini": ["alpaca_seeds", "topics"], "orca": ["flan"], "evol": ["dolly"]}
    names = [
        name
        for key in seeds[scheme]
        for name in ([config["sources"][key]] if key != "flan" else config["sources"][key])
    ]
    names = names if GENERATED else [f"released_{scheme}"]
    teacher = config["teacher"]["model"]
    rater = config["filter"]["rater"]["model"] if GENERATED else "GPT-4, as released"
    return canonical(
        {
            "scheme": scheme,
            "scale": config["scale"],
            "title": config["data"]["cards"][scheme]["title"],
            "licence": config["data"]["cards"][scheme]["licence"],
            "sources": [
                *sources.origins(names, SOURCES),
                *([sources.model_origin("responses", teacher, SOURCES)] if GENERATED else []),
                sources.model_origin("verdicts", rater, SOURCES),
            ],
            "teacher": teacher,
            "rater": rater,
            "target": f"{RESULTS}/filter/{scheme}.jsonl",
            "seed": config["seed"],
        }
    )


def sft_base(wildcards):
    """The model that {scheme} is trained over: the base, or what the schemes before it were merged into."""
    return model_path(["base", *STEPS][SCHEMES.index(wildcards.scheme) if STEPS else 0])


def sft_parent(wildcards):
    """The adapter of the scheme before {scheme}; nothing for the first, and nothing where each scheme is merged."""
    before = SCHEMES.index(wildcards.scheme)
    return (
        f"{RESULTS}/sft/{SCHEMES[before - 1]}/adapter_model.safetensors"
        if before and not STEPS
        else []
    )


def sft_parent_argument(wildcards):
    """The command-line argument that goes with `sft_parent`."""
    parent = sft_parent(wildcards)
    return f"--parent {Path(parent).parent}" if parent else ""


def launch():
    """How a training is started: by itself, or by accelerate in several processes."""
    settings = config["launch"]
    if settings["processes"] == 1:
        return "python"
    count = settings["processes"]
    return (
        f"export BEZOAR_PROCESSES={count} PYTHONPATH=scripts\n"
        f"python -m bezoar.training.launch --config_file {settings['accelerate']} --num_processes {count}"
    )


def reference_recipe():
    """What decides the reference's log-probabilities; beta and learning rate do not."""
    dpo = config["dpo"]
    kept = ["max_prompt_length", "max_length", "cache_dequantized", "threads"]
    return canonical(
        {
            **{key: dpo[key] for key in kept},
            "batch_size": dpo["reference_batch_size"],
            "seed": config["seed"],
        }
    )


def merge_base(wildcards):
    """What the adapter of {model} is merged onto: the model one step before."""
    return model_path(["base", *MERGED][MERGED.index(wildcards.model)])


def merge_adapter(wildcards):
    """The adapter that makes {model}."""
    return f"{RESULTS}/{ADAPTERS[wildcards.model]}/adapter_model.safetensors"


def merge_probe(wildcards):
    """The rows on which a merge is measured: those its adapter was trained on."""
    folder, _, scheme = ADAPTERS[wildcards.model].partition("/")
    return (
        f"{RESULTS}/filter/{scheme}.jsonl"
        if folder == "sft"
        else f"{RESULTS}/preferences/pairs.jsonl"
    )


def trained_since(model):
    """The trainings between the merge before {model} and its own, in order: names below <results>/."""
    if model == MODELS[1] and not STEPS:
        return [f"sft/{scheme}" for scheme in SCHEMES]
    return [ADAPTERS[model]]


def model_card_receipts(wildcards):
    """The receipts of those trainings."""
    names = trained_since(wildcards.model)
    return [f"{RESULTS}/receipts/{'_'.join(Path(name).parts)}.json" for name in names]


def model_card_adapters(wildcards):
    """The directories of those trainings' adapters."""
    return [f"{RESULTS}/{name}" for name in trained_since(wildcards.model)]


def model_card_recipe(wildcards):
    """What the card says beside the numbers: names, licence, the tags of the settings."""
    below = ["base", *MERGED][MERGED.index(wildcards.model)]
    base = config["sources"]["base_model"]
    hub = (base and SOURCES[base].get("hub")) or f"{RESULTS}/base"
    stages = {name.partition("/")[0] for name in trained_since(wildcards.model)}
    tags = {}
    for row in deviations.tagged([Path(file) for file in CONFIG_FILES]):
        section, _, key = row["key"].partition(".")
        if section in stages and key:
            tags.setdefault(section, {})[key.partition(".")[0]] = row["tag"]
    data = {"sft": SCHEMES, "hh_sft": ["hh-rlhf"], "dpo": ["hh-rlhf"]}
    return canonical(
        {
            **config["model_card"],
            "model": wildcards.model,
            "scale": config["scale"],
            "base_model": hub if below == "base" else below,
            "datasets": sorted({name for stage in stages for name in data[stage]}),
            "tags": tags,
            "seed": config["seed"],
        }
    )


def learning_model(wildcards):
    """The weights of {state}; an SFT stage is an adapter over what it was trained over."""
    if wildcards.state not in SCHEMES:
        return model_path(wildcards.state)
    return model_path(["base", *STEPS][SCHEMES.index(wildcards.state) if STEPS else 0])


def learning_adapter(wildcards):
    """The adapter of {state} if it is an SFT stage; nothing for whole models."""
    return (
        f"{RESULTS}/sft/{wildcards.state}/adapter_model.safetensors"
        if wildcards.state in SCHEMES
        else []
    )


def learning_adapter_argument(wildcards):
    """The command-line argument that goes with `learning_adapter`."""
    return f"--adapter {RESULTS}/sft/{wildcards.state}" if wildcards.state in SCHEMES else ""


def claims_recipe():
    """What the verdicts depend on beside the tables."""
    judged = config["mtbench"]["judgments"]
    return canonical(
        {
            "scale": config["scale"],
            "paper_judge": judged["paper_judge"],
            "judge": judged["judge"]["model"],
            "models": EVALUATED,
            "seed": config["seed"],
        }
    )


def report_recipe():
    """What the page says beside the artifacts: the scale, and the values that are ours."""
    return canonical(
        {
            "scale": config["scale"],
            "deviations": deviations.ours([Path(file) for file in CONFIG_FILES]),
            "seed": config["seed"],
        }
    )
