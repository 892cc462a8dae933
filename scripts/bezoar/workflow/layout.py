"""What the DAG of one configuration consists of: models, paths, receipts, and which jobs ask which
language model.

Plain functions of the resolved configuration, without Snakemake: the rules, `make plan`, the
audit's test and the report take the same facts from here, and `tests/workflow/test_layout.py`
compares them with Snakemake's own DAG. Paths are relative to the project's root.
"""

import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from bezoar.errors import UserError
from bezoar.files import same_json
from bezoar.provenance.fingerprint import Hashes
from bezoar.provenance.staleness import CACHE
from bezoar.workflow import sources

REGISTRY = Path("config/sources.yaml")
OVERRIDES = "config/reference_overrides.yaml"
BASE, SFT, HH_SFT, DPO = MODELS = (
    "base",
    "openbezoar-sft",
    "openbezoar-hh-rlhf-sft",
    "openbezoar-hh-rlhf-dpo",
)
# The stages whose receipts hold the hashes of all others: of a whole run, and of `make evaluate`.
# No later stage reads them; the audit's chain digest covers them.
LAST = ("report", "evaluate")
PAIRS = "pairs"  # of preferences, beside the schemes' rows


def files_of_model(folder: Path) -> list[str]:
    """Return the files of a model's directory; of an empty one, the file that is missed first."""
    found = sorted(str(file) for file in folder.glob("*") if file.is_file())
    return found or [f"{folder}/config.json"]


def models_asked(config: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (role, settings) of every language model behind an API."""
    if config["entry"] == "generate":
        yield "teacher", config["teacher"]
        if "evol" in config["sft"]["order"]:
            yield "evaluator", config["generate"]["evol"]["evaluator"]
        yield "rater", config["filter"]["rater"]
        if config["filter"]["second_rater"]:
            yield "second rater", config["filter"]["second_rater"]
    yield "judge", config["mtbench"]["judgments"]["judge"]
    for name, column in config["mtbench"]["rejudge"].items():
        yield f"judge {name}", column["judge"]


def per_job(config: dict[str, Any]) -> bool:
    """Whether each job that asks the served model starts a server of its own."""
    return bool(config["serve"]) and not config["serve"].get("shared", True)


def sha256_of(item: str, entries: dict[str, dict[str, Any]]) -> str:
    """Return the sha256 of a file that is named by its id in the registry or by its path.

    Raise `UserError` if there is no such file, or the registry pins none.
    """
    if "/" not in item:
        found = sources.find(item, entries).get("sha256")
    else:
        hashes = Hashes(CACHE)
        found = hashes.of(item)
        hashes.save()
    if not found:
        raise UserError(
            f"{item}: expected a file, or an entry of config/sources.yaml with a sha256; bring it,"
            " or correct its name"
        )
    return str(found)


def with_served_weights(
    config: dict[str, Any], registry: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """Return the configuration in which what is served is the revision of every model that it is
    served as, so that no stored answer of other weights is taken for theirs: the sha256 of `serve:
    weights`, with the type they are requantised to, or the commit that the registry has of the
    teacher's repository, if vLLM serves that; other programs take none.

    Raise `UserError` if the teacher's variables have no names, or the weights no known sha256.
    """
    serve, teacher = config["serve"], config["teacher"]
    if not serve:
        return config
    for name in ("base_url_env", "api_key_env"):
        if not teacher[name]:
            raise UserError(
                f"teacher.{name}: expected the name of a variable, because `serve` puts the"
                " server's into it; name one, such as TEACHER_BASE_URL and TEACHER_API_KEY"
            )
    served: str | None
    if serve.get("weights"):
        served = f"sha256:{sha256_of(serve['weights'], registry)[:16]}"
    else:
        pins = (e["revision"] for e in registry.values() if e.get("hub") == teacher["model"])
        served = next(pins, None) if serve["program"] == "vllm" else None
    if not served:
        return config

    def filled(value: Any, section: str, key: str) -> Any:
        if isinstance(value, dict):
            same = value.get("base_url_env") == teacher["base_url_env"]
            asks = key in ("teacher", "evaluator") or per_job(config)  # a shared server: generation
            if same and asks and value["revision"] is None:
                again = serve.get("requantize", {}).get(section)
                return {**value, "revision": f"{served}{f' {again}' if again else ''}"}
            return {name: filled(inner, section, name) for name, inner in value.items()}
        return value

    return {
        name: filled(value, "generate" if name == "teacher" else name, name)
        for name, value in config.items()
    }


def each(pattern: str, names: Iterable[str]) -> list[str]:
    """Return the pattern with each name in place of its `*`."""
    return [pattern.replace("*", name) for name in names]


@dataclass(frozen=True)
class LanguageModelJob:
    """One job that asks a language model: its receipt's name, its store and the model's settings.

    `second` are the settings of a further model that the same job asks, by role.
    """

    stage: str
    store: str
    settings: dict[str, Any]
    second: dict[str, dict[str, Any]] = field(default_factory=dict)


class Layout:
    """The facts of one resolved configuration's DAG.

    `schemes` are trained on in this order, `generated` are those that are generated here; `extra`
    are other people's models by name, `evaluated` all that are evaluated; `columns` are the further
    judgments by name, `second_judges` those of them that enter the chat table; `steps` are the
    models between two schemes, `merged` all merged models, each onto the one before it; `states`
    are the models and adapters whose learning is measured; `tokenizer` is the file beside our
    models that decides how text is split.

    Raise `UserError` if a model or a source is not in the registry, an extra model is to be
    compared with none of those evaluated, two judges cannot be told apart, or a local file lies
    where sources are fetched to, or in a world that there is not.
    """

    def __init__(
        self, config: dict[str, Any], registry: dict[str, dict[str, Any]] | None = None
    ) -> None:
        known = sources.load(REGISTRY) if registry is None else registry
        known = sources.with_models(config["released"], known, "released", "dataset")
        known = sources.with_models(config["extra_models"], known)
        config, self.registry = sources.with_hub_base(config, known)
        self.config = config = with_served_weights(config, self.registry)
        for item in self._named():
            if item.startswith(sources.WORLD) and not config["world"]:
                raise UserError(
                    f"sources: {item}: world/ holds what is invented, and this configuration has"
                    " `world: null`; put a file of your own elsewhere"
                )
            if "/" in item and str(Path(item)).startswith("data/"):
                raise UserError(
                    f"sources: {item}: data/ holds what is fetched; name the id of its entry in"
                    " config/sources.yaml, or put a file of your own elsewhere"
                )
        self.results: str = config["pathvars"]["results"]
        self.schemes: list[str] = config["sft"]["order"]
        self.generated = self.schemes if config["entry"] == "generate" else []
        self.extra: dict[str, dict[str, Any]] = config["extra_models"]
        self.evaluated = [*MODELS, *self.extra]
        for name, model in self.extra.items():
            if (other := model.get("compare_with") or BASE) not in self.evaluated:
                raise UserError(
                    f"extra_models.{name}.compare_with: expected one of"
                    f" {', '.join(self.evaluated)}, found {other!r}"
                )
            template = model.get("template")
            if template not in (None, "tokenizer", *self.registry) and "/" not in template:
                raise UserError(
                    f"extra_models.{name}.template: expected `tokenizer`, an id of {REGISTRY}, or"
                    f" the path of a file with a slash in it (./mine.json), found {template!r}"
                )
        self.columns: dict[str, dict[str, Any]] = config["mtbench"]["rejudge"]
        self._check_judges()
        self.second_judges = [
            name for name, column in self.columns.items() if column["references"] == "upstream"
        ]
        one_by_one = config["sft"]["chaining"] == "merge"
        self.steps = each("sft-*", self.schemes[:-1]) if one_by_one else []
        self.merged = [*self.steps, *MODELS[1:]]
        made_here = bool(config["pretrain"])
        self.tokenizer: str = "tokenizer.model" if made_here else config["base"]["tokenizer"]
        self.states = [BASE, *self.schemes, *MODELS[1:]]

    def _check_judges(self) -> None:
        """Raise `UserError` if two tables of scores would have one judge's name, or a column with
        corrected references another judge than the scores that it corrects.
        """
        main = self.config["mtbench"]["judgments"]["judge"]
        taken = {main["model"]: "mtbench.judgments"}
        for name, column in self.columns.items():
            judge, where = column["judge"], f"mtbench.rejudge.{name}"
            if column["references"] == "upstream":
                if (other := taken.setdefault(judge["model"], where)) != where:
                    raise UserError(
                        f"{where}.judge: {judge['model']} judges in {other}, too, and scores are"
                        " kept by the judge's name; take another model"
                    )
            elif not same_json(judge, main):
                raise UserError(
                    f"{where}.judge: expected the settings of mtbench.judgments.judge, whose scores"
                    f" this column corrects, found other ones ({judge['model']} for"
                    f" {main['model']}); make them equal"
                )

    # Paths

    def receipt(self, stage: str) -> str:
        """Return where the receipt of a stage is written."""
        return f"{self.results}/receipts/{stage}.json"

    def store(self, job: str) -> str:
        """Return a job's store of answers; it is kept when the job's outputs are deleted, so that
        nothing is paid for twice.
        """
        return f"{self.results}/store/{job}.sqlite"

    def weights(self, model: str) -> str:
        """Return the weights of a model by its name."""
        if model == BASE:
            return f"{self.results}/base/model.safetensors"
        folder = "models" if model in self.extra else "merge"
        return f"{self.results}/{folder}/{model}/model.safetensors"

    def place(self, item: str) -> str:
        """Return the path of an input: `world/…` is made here, other paths are used as they are, an
        id of the registry is fetched.
        """
        if item.startswith(sources.WORLD):
            return f"{self.results}/{item}"
        return str(Path(item)) if "/" in item else sources.path_of(item, self.registry)

    def source(self, name: str) -> str | None:
        """Return the path of an input named under `sources:`, or None where none is named."""
        entry = self.config["sources"][name]
        return None if entry is None else self.place(entry)

    def seeds(self) -> list[str]:
        """Return the files of seeds, one that two schemes start from once."""
        found = [self.source(name) for name in ("alpaca_seeds", "dolly")]
        return list(dict.fromkeys(place for place in found if place))

    def local_files(self) -> list[str]:
        """Return the inputs that `sources:` names by the path of a file or directory which is
        neither made here nor part of the project.
        """
        return [item for item in self._named() if "/" in item and not sources.of_project(item)]

    def _named(self) -> list[str]:
        named = self.config["sources"].values()
        items = [one for entry in named for one in (entry if isinstance(entry, list) else [entry])]
        return [item for item in items if item]

    def released(self, scheme: str) -> str:
        """Return the id of the released data set of a scheme."""
        return str(sources.model_source(self.config["released"][scheme]))

    def source_list(self, name: str) -> list[str]:
        """Return the paths of an input that is a list under `sources:`."""
        return [self.place(item) for item in self.config["sources"][name]]

    @cached_property
    def streamed(self) -> list[str]:
        """The submixes of Flan that are streamed: ids whose source is a repository of the hub."""
        return [
            name for name in self.config["sources"]["flan"] if "hub" in self.registry.get(name, {})
        ]

    @cached_property
    def shards(self) -> int:
        """Into how many jobs each scheme's requests are shared.

        Raise `UserError` if the workflow itself serves the teacher: that is one server.
        """
        count = int(self.config["generate"]["shards"])
        if count > 1 and self.config["serve"]:
            raise UserError(
                "generate.shards: `serve` starts one server, for one job a scheme; start several"
                " yourself, name them in the variables of docs/reproducing.md and set serve: null"
            )
        return count

    def shard_marks(self, scheme: str) -> list[str]:
        """Return what the shards of a scheme leave once they have asked what they can; nothing
        where there is one.
        """
        if self.shards == 1:
            return []
        return [f"{self.results}/generate/.{scheme}.{k}.rows" for k in range(1, self.shards + 1)]

    def rows_of(self, submix: str) -> str:
        """Return where the rows that are taken of a streamed submix are kept."""
        return f"{self.results}/flan/{submix}.jsonl"

    def flan_files(self) -> list[str]:
        """Return the files of Flan rows that Orca reads."""
        return [
            self.rows_of(name) if name in self.streamed else self.place(name)
            for name in self.config["sources"]["flan"]
        ]

    def facts(self) -> list[str]:
        """Return what a job that asks the simulator reads: the world's facts, if there are any."""
        return [f"{self.results}/world/facts.json"] if self.config["world"] else []

    def chat_template(self, model: str) -> list[str]:
        """Return the file of a model's chat template; nothing where its tokenizer brings one."""
        name = self.extra.get(model, {}).get("template", self.config["sources"]["chat_template"])
        return [] if name == "tokenizer" else [self.place(name)]

    def import_directory(self, name: str) -> str:
        """Return the directory that an extra model is imported from."""
        model = self.extra[name]
        if model.get("path"):
            return str(model["path"])
        identifier = str(sources.model_source(model))
        return str(Path(sources.path_of(identifier, self.registry)).parent)

    def import_files(self, name: str) -> list[str]:
        """Return what an extra model is imported from: the manifest of its snapshot, or every file
        of its directory.
        """
        folder = Path(self.import_directory(name))
        if not self.extra[name].get("path"):
            return [f"{folder}/manifest.json"]
        return files_of_model(folder)

    def base_files(self) -> list[str]:
        """Return what the base is imported from: a file, the manifest of its snapshot, or every
        file of its directory.
        """
        place = self.source("base_model")
        if place is None:
            return []
        return files_of_model(Path(place)) if Path(place).is_dir() else [place]

    def task_files(self) -> list[str]:
        """Return the task files of lm-eval and, where they exist or are made here, the data beside
        them.
        """
        files = [self.place(item) for item in self.config["lm_eval"]["task_files"]]
        data = [str(Path(file).with_suffix(".jsonl")) for file in files]
        return files + [file for file in data if self.config["world"] or Path(file).is_file()]

    def task_data(self) -> dict[str, str]:
        """Return task -> manifest of its data set, for those of the harness's own tasks that are
        asked for.
        """
        named = self.config["lm_eval"]["data"]
        return {
            task: f"{self.results}/task_data/{task}/manifest.json"
            if task in self.converted
            else self.place(named[task])
            for task in self.config["lm_eval"]["tasks"]
            if task in named
        }

    @cached_property
    def converted(self) -> dict[str, str]:
        """Task -> file of its items, where that is no repository of the hub: it gets the form of
        one here.
        """
        named = self.config["lm_eval"]["data"]
        return {
            task: self.place(named[task])
            for task in self.config["lm_eval"]["tasks"]
            if "url" in self.registry.get(named.get(task, ""), {})
        }

    def overrides(self, column: str) -> list[str]:
        """Return the file of right reference answers, where a column is judged with them."""
        return [OVERRIDES] if self.columns[column]["references"] == "corrected" else []

    def launch(self) -> str:
        """Return how a training is started: by itself, or by accelerate in several processes."""
        processes, file = (self.config["launch"][name] for name in ("processes", "accelerate"))
        if processes == 1:
            return "python"
        return (
            f"export BEZOAR_PROCESSES={processes} PYTHONPATH=scripts\n"
            f"python -m bezoar.training.launch --config_file {shlex.quote(file)}"
            f" --num_processes {processes}"
        )

    def judge(self, column: str) -> dict[str, Any]:
        """Return the settings of the judge of a column."""
        return dict(self.columns[column]["judge"])

    # Comparisons

    def comparisons(self) -> list[list[str]]:
        """Return which models are compared: each of ours with the one before it and with the base,
        an extra one with the base and with what it names.
        """
        ours = [*zip(MODELS[1:], MODELS, strict=False), *((name, BASE) for name in MODELS[1:])]
        beside = [(name, model.get("compare_with") or BASE) for name, model in self.extra.items()]
        pairs = [*ours, *((name, BASE) for name in self.extra), *beside]
        return [list(pair) for pair in dict.fromkeys(pairs)]

    def comparisons_of_extra(self) -> list[list[str]]:
        """Return each extra model with the first of them."""
        names = list(self.extra)
        return [[name, names[0]] for name in names[1:]]

    # Stages, by the names of their receipts

    def stages(self) -> list[str]:
        """Return every stage of a whole run but the report, which reads their receipts."""
        config, schemes = self.config, self.schemes
        return [
            *"base preferences hh_sft dpo_reference dpo lm_eval_table mtbench".split(),
            *"claims explorer".split(),
            *(["world"] if config["world"] else []),
            *each("generate_*", self.generated),
            *(each("flan_*", self.streamed) if "orca" in self.generated else []),
            *each("filter_*", schemes),
            *"data_items data_duplicates data_contamination data_description".split(),
            *(each("data_clean_*", [*schemes, PAIRS]) if config["data"]["remove"] else []),
            *each("data_card_*", schemes),
            *each("sft_*", schemes),
            *each("merge_*", self.merged),
            *each("model_card_*", self.merged),
            *each("import_model_*", self.extra),
            *each("task_data_*", self.converted),
            *self._stages_of_models(self.evaluated),
            *(f"mtbench_rejudge_{column}_{m}" for column in self.columns for m in self.evaluated),
            *each("bridge_*", self.columns),
            *(each("learning_*", [*self.states, "table"]) if config["learning"] else []),
        ]

    def stages_of_rows(self, scheme: str) -> list[str]:
        """Return the stages that made the rows of a scheme."""
        if scheme not in self.generated:
            return [f"filter_{scheme}"]
        streamed = each("flan_*", self.streamed) if scheme == "orca" else []
        return [*streamed, f"generate_{scheme}", f"filter_{scheme}"]

    def evaluation_stages(self) -> list[str]:
        """Return every stage of `make evaluate` but the last, which reads their receipts."""
        return [
            *each("import_model_*", self.extra),
            *each("task_data_*", self.converted),
            *self._stages_of_models(self.extra),
            "evaluate_lm_eval",
            "evaluate_mtbench",
        ]

    def _stages_of_models(self, models: Iterable[str]) -> list[str]:
        names = "lm_eval", "mtbench_answers", "mtbench_judgments"
        return [f"{name}_{model}" for model in models for name in names]

    def language_model_jobs(self) -> list[LanguageModelJob]:
        """Return every job of a whole run that asks a language model, in the order of the data."""
        config = self.config
        evaluator = config["generate"]["evol"]["evaluator"]
        second = {"evol": {"evaluator": evaluator}}
        generating = [
            LanguageModelJob(
                f"generate_{scheme}",
                self.store(f"generate-{scheme}"),
                config["teacher"],
                second.get(scheme, {}),
            )
            for scheme in self.generated
        ]
        other = config["filter"]["second_rater"]
        filtering = [
            LanguageModelJob(
                f"filter_{scheme}",
                self.store(f"filter-{scheme}"),
                config["filter"]["rater"],
                {"second": other} if other else {},
            )
            for scheme in self.generated
        ]
        again = [
            LanguageModelJob(
                f"mtbench_rejudge_{column}_{model}",
                self.store(f"rejudge-{column}.{model}"),
                settings["judge"],
            )
            for column, settings in self.columns.items()
            for model in self.evaluated
        ]
        return [*generating, *filtering, *self.judging_jobs(self.evaluated), *again]

    def judging_jobs(self, models: Iterable[str]) -> list[LanguageModelJob]:
        """Return the jobs that judge these models' answers in the main column: those of the extra
        models are all that `make evaluate` asks.
        """
        judge = self.config["mtbench"]["judgments"]["judge"]
        return [
            LanguageModelJob(f"mtbench_judgments_{model}", self.store(f"judge-{model}"), judge)
            for model in models
        ]

    # What the report reads

    def reported(self) -> list[str]:
        """Return the tables, counts and curves that the report may show."""
        names = [
            *each("data/*.json", ["description", "duplicates", "contamination"]),
            "data/duplicates.jsonl",
            *each("*.json", ["claims", "lm_eval", "mtbench", "preferences/counts"]),
            *each("generate/*.counts.json", self.generated),
            *each("filter/*.counts.json", self.schemes),
            *each("sft/*/metrics.jsonl", self.schemes),
            *each("*/metrics.jsonl", ["hh_sft", "dpo"]),
            "dpo/held_out.json",
            *each("merge/*/merge.json", MODELS[1:]),
            *each("mtbench/*/counts.json", self.evaluated),
            *each("bridge/*.json", self.columns),
            *(["base.metrics.jsonl"] if self.config["pretrain"] else []),
            *(["learning.json"] if self.config["learning"] else []),
        ]
        return each(f"{self.results}/*", names)


def alternatives(names: Iterable[str]) -> str:
    """Return a regular expression for just these names, for a wildcard; of no names, one that
    matches nothing.
    """
    return "|".join(map(re.escape, names)) or "(?!)"
