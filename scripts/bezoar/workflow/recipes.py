"""The settings of stages whose recipe is more than one section of the configuration.

Each function returns what decides the stage's outputs beside its inputs, and nothing else: a value
that is not in here can change without making the stage stale.
"""

from pathlib import Path
from typing import Any

from bezoar.files import brief
from bezoar.workflow import deviations, lineage, served, sources
from bezoar.workflow.layout import BASE, Layout

Recipe = dict[str, Any]

SEEDS = {"lamini": ["alpaca_seeds", "topics"], "orca": ["flan"], "evol": ["dolly"]}
PREFERENCES = "hh-rlhf"
AS_RELEASED = "as released"  # in the name of a rater that was not asked here
PAPERS: dict[str, list[Any]] = {  # what the paper's statements are about
    "sources.base_model": ["open_llama_3b_v2"],
    "teacher.model": [
        "h2oai/h2ogpt-gm-oasst1-en-2048-falcon-40b-v2",
        "h2ogpt-gm-oasst1-en-2048-falcon-40b-v2-Q6_K",  # in 6 bits, as the authors ran it
    ],
    "sources.dolly": ["databricks_dolly_15k"],
    "sources.flan": [["flan_cot_submix", "flan_niv2_submix", "flan_t0_submix", "flan_2021_submix"]],
    "released.lamini": ["released_lamini"],
    "released.orca": ["released_orca"],
    "released.evol": ["released_evol"],
    "data.remove": [[]],
    "sft.order": [["lamini", "orca", "evol"]],
    "sources.preferences": [
        [
            "hh_rlhf_harmless_base_train",
            "hh_rlhf_helpful_base_train",
            "hh_rlhf_helpful_online_train",
            "hh_rlhf_helpful_rejection_sampled_train",
        ]
    ],
    "preferences.first": [100_000],
    "lm_eval.tasks": [
        [
            *("arc_challenge", "arc_easy", "boolq", "hellaswag", "openbookqa", "piqa", "rte"),
            *("truthfulqa_mc2", "wic", "winogrande"),
        ]
    ],
    "lm_eval.limit": [None],
    "sources.mt_bench_questions": ["mt_bench_questions"],
    "sources.mt_bench_references": ["mt_bench_references"],
    "sources.mt_bench_judge_prompts": ["mt_bench_judge_prompts"],
}
OF_GENERATION = ("teacher.model", "sources.dolly", "sources.flan")


def section(layout: Layout, name: str, **more: Any) -> Recipe:
    """Return a section of the configuration by its dotted name, with the seed and `more`."""
    settings: Any = layout.config
    for key in name.split("."):
        settings = settings[key]
    return {**(settings or {}), "seed": layout.config["seed"], **more}


def seeded(layout: Layout, **settings: Any) -> Recipe:
    """Return these settings and the seed."""
    return {**settings, "seed": layout.config["seed"]}


def generation(layout: Layout, scheme: str) -> Recipe:
    """Return a scheme's settings with the teacher's and, where the workflow serves it, the
    server's.
    """
    teacher = layout.config["teacher"]
    evaluator = layout.config["generate"]["evol"]["evaluator"] if scheme == "evol" else None
    server = served.recipe(layout, f"generate-{scheme}", teacher, evaluator)
    return section(layout, f"generate.{scheme}", teacher=teacher, **server)


def flan(layout: Layout) -> Recipe:
    """Return what decides which rows of a submix are kept: the quotas, the draw, and of the teacher
    only how much fits its context.
    """
    orca, teacher = layout.config["generate"]["orca"], layout.config["teacher"]
    limited = teacher.get("context") is not None
    names = ("context", "max_tokens", "prompt_form")
    room = {name: teacher[name] if limited else None for name in names}
    return seeded(layout, quotas=orca["quotas"], rows_per_task=orca["rows_per_task"], teacher=room)


def rating(layout: Layout) -> Recipe:
    """Return the filter's settings with the teacher's name; which rater the paper had decides
    nothing.
    """
    filtering = layout.config["filter"]
    server = served.recipe(layout, "filter", filtering["rater"], filtering["second_rater"])
    settings = section(layout, "filter", teacher=layout.config["teacher"]["model"], **server)
    return {key: value for key, value in settings.items() if key != "paper_rater"}


def training(layout: Layout, name: str) -> Recipe:
    """Return a training's settings. The order of the schemes shows in what each is trained on."""
    settings = section(layout, name)
    others = "order", "chaining", "reference_batch_size"  # what no weight of its own depends on
    return {key: value for key, value in settings.items() if key not in others}


def reference(layout: Layout) -> Recipe:
    """Return what decides the reference's log-probabilities; beta and learning rate do not."""
    dpo = layout.config["dpo"]
    kept = ["max_prompt_length", "max_length", "cache_dequantized", "threads"]
    settings = {key: dpo[key] for key in kept}
    return seeded(layout, **settings, batch_size=dpo["reference_batch_size"])


def removal(layout: Layout) -> Recipe:
    """Return what decides which rows are removed."""
    config = layout.config
    return seeded(layout, remove=config["data"]["remove"], tasks=config["lm_eval"]["tasks"])


def origins(layout: Layout, scheme: str) -> list[str]:
    """Return what a scheme's rows were made from, as the configuration names it: seeds, or the
    released set.
    """
    if not layout.generated:
        return [layout.released(scheme)]
    entries = [layout.config["sources"][key] for key in SEEDS[scheme]]
    return [name for entry in entries for name in (entry if isinstance(entry, list) else [entry])]


def data_card(layout: Layout, scheme: str, files: list[str]) -> Recipe:
    """Return what the card of a scheme's rows says beside the numbers: titles, licences, models,
    and the configuration `files` to make them again with.
    """
    config, made = layout.config, bool(layout.generated)
    names = origins(layout, scheme)
    teacher, rater = config["teacher"]["model"], config["filter"]["rater"]["model"]
    if not made:
        released = layout.released(scheme)
        theirs = released in PAPERS[f"released.{scheme}"]
        unknown = f"{AS_RELEASED} by {sources.origins([released], layout.registry)[0]['origin']}"
        teacher = PAPERS["teacher.model"][0] if theirs else unknown
        rater = f"GPT-4, {AS_RELEASED}" if theirs else unknown

    def origin_of(what: str, model: dict[str, Any]) -> dict[str, str]:
        return sources.model_origin(
            what, model["model"], layout.registry, served.registered(layout, model)
        )

    return seeded(
        layout,
        scheme=scheme,
        scale=config["scale"],
        title=config["data"]["cards"][scheme]["title"],
        licence=config["data"]["cards"][scheme]["licence"],
        sources=[
            *sources.origins(names, layout.registry),
            *([origin_of("responses", config["teacher"])] if made else []),
            origin_of("verdicts", config["filter"]["rater"])
            if made
            else sources.model_origin("verdicts", rater, layout.registry),
        ],
        teacher=teacher,
        rater=rater,
        target=f"{layout.results}/filter/{scheme}.jsonl",
        config=files,
        remove=config["data"]["remove"],
    )


def preference_data(layout: Layout) -> list[str]:
    """Return the names of the preference data: HH-RLHF for all of its files, an own file or entry
    of config/sources.yaml as the configuration names it.
    """
    names = set()
    for name in layout.config["sources"]["preferences"]:
        place = layout.registry.get(name, {}).get("path", "")
        names.add(PREFERENCES if place.startswith("hh_rlhf/") else name)
    return sorted(names)


def model_card(layout: Layout, model: str, files: list[str]) -> Recipe:
    """Return what the card of a merged model says beside the numbers: names, licence, and the tags
    in force of the settings in the configuration's `files`.
    """
    merge, base = lineage.merge(layout, model), layout.config["sources"]["base_model"]
    hub = (base and layout.registry.get(base, {}).get("hub")) or f"{layout.results}/base"
    sections = {training.section for training in merge.trainings}
    paths = [Path(file) for file in files]
    tags: dict[str, dict[str, list[str]]] = {}
    for name, value in deviations.in_force(paths, deviations.tagged(paths)).items():
        group, key = f"{name}.".split(".")[:2]
        if group in sections and key and value.tag:
            tags.setdefault(group, {}).setdefault(key, []).append(value.tag)
    pairs = preference_data(layout)
    data = {"sft": layout.schemes, "hh_sft": pairs, "dpo": pairs}
    return seeded(
        layout,
        **layout.config["model_card"],
        model=model,
        scale=layout.config["scale"],
        base_model=hub if merge.below == BASE else merge.below,
        datasets=sorted({name for section in sections for name in data[section]}),
        tags={
            group: {key: ", ".join(sorted(set(of))) for key, of in found.items()}
            for group, found in tags.items()
        },
    )


def judging(layout: Layout, **more: Any) -> Recipe:
    """Return the settings of the main judgments, or with `more` of a column; which judge the paper
    had decides nothing.
    """
    settings = section(layout, "mtbench.judgments", **more)
    del settings["paper_judge"]
    return settings | served.recipe(layout, "judge", settings["judge"])


def rejudge(layout: Layout, column: str) -> Recipe:
    """Return the settings of a column: those of the main judgments, with another judge."""
    return judging(layout, **layout.columns[column])


def harness_table(layout: Layout, pairs: list[list[str]]) -> Recipe:
    """Return the table's settings with the models that are compared, and of the published values
    those of this run's base.
    """
    settings = section(layout, "lm_eval_table", pairs=pairs)
    published = settings["published_base"] or {}
    of_base = {sources.base_name(base): values for base, values in published.items()}
    return settings | {"published_base": of_base.get(layout.config["sources"]["base_model"])}


def differs(layout: Layout) -> list[str]:
    """Return what of a run's base, data and questions is not the paper's, as `key: value`; nothing
    at another scale, which says so itself.
    """
    if layout.config["scale"] != "paper":
        return []
    unused = ("released.",) if layout.generated else OF_GENERATION

    def value_of(key: str) -> Any:
        name, _, inner = key.partition(".")
        return layout.released(inner) if name == "released" else layout.config[name][inner]

    found = {key: value_of(key) for key in PAPERS if not key.startswith(unused)}
    return [f"{key}: {brief(value)}" for key, value in found.items() if value not in PAPERS[key]]


def claims(layout: Layout) -> Recipe:
    """Return what the verdicts depend on beside the tables."""
    judged = layout.config["mtbench"]["judgments"]
    return seeded(
        layout,
        scale=layout.config["scale"],
        differs=differs(layout),
        paper_judge=judged["paper_judge"],
        judge=judged["judge"]["model"],
        models=layout.evaluated,
    )


def evaluate(layout: Layout) -> Recipe:
    """Return what the table's rows say about the extra models."""
    judge = layout.config["mtbench"]["judgments"]["judge"]["model"]
    return seeded(layout, judge=judge, models=layout.extra, scale=layout.config["scale"])


def explorer(layout: Layout) -> Recipe:
    """Return what the page of rows names: the scale."""
    return seeded(layout, scale=layout.config["scale"])


def report(layout: Layout, files: list[str]) -> Recipe:
    """Return what the page says beside the artifacts: the scale, the configuration files, and the
    values that are ours.
    """
    ours = deviations.ours([Path(file) for file in files])
    return seeded(layout, scale=layout.config["scale"], config=files, deviations=ours)
