"""What a finished run publishes: repositories of the hub with their files, licences and cards.

Merged models, the adapters, the data sets with their verdicts, and the archive of the run. A file
that a receipt names is published as it is; cards of models get the addresses on the hub and the
evaluation's results, all from the run's own tables.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bezoar.model_files import WEIGHTS
from bezoar.provenance.archive import LEFT_OUT, of_evaluated
from bezoar.provenance.audit import Receipts, named_files
from bezoar.provenance.fingerprint import files_in
from bezoar.readers import read_json, read_text
from bezoar.release import licences
from bezoar.report.markdown import table
from bezoar.workflow import lineage, recipes, sources
from bezoar.workflow.layout import BASE, Layout

ARCHIVE = "openbezoar.tar"
# How the names of stages begin that copy texts of evaluation items which they read.
COPY_ITEMS = ("task_data_", "data_items", "data_contamination", "explorer")


@dataclass
class Repository:
    """One repository of the hub: its files by their names there, and the refusals that forbid it.

    A file is a path of this machine, or the bytes of one that is written for the hub alone.
    """

    name: str
    kind: str
    licence: str
    files: dict[str, Path | bytes]
    refused: list[str] = field(default_factory=list)

    def size(self) -> int:
        """Return how many bytes its files have."""
        return sum(map(size_of, self.files.values()))


def size_of(file: Path | bytes) -> int:
    """Return how many bytes a file has."""
    return len(file) if isinstance(file, bytes) else file.stat().st_size


def suffix(layout: Layout) -> str:
    """Return what the names of a run's repositories end with: nothing for the paper's scale, else
    the last part of its results' root, so that no run is taken for another.
    """
    return "" if layout.results == "results" else f"-{Path(layout.results).name}"


def dataset_name(layout: Layout, scheme: str) -> str:
    """Return the name of a scheme's repository."""
    return f"openbezoar-{scheme}{suffix(layout)}"


def written(receipt: dict[str, Any], folder: str) -> dict[str, Path | bytes]:
    """Return the files below `folder` that a receipt says were written, by their names in it."""
    inside = f"{folder}/"
    paths = [path for path in files_in(receipt["outputs"]) if path.startswith(inside)]
    return {path.removeprefix(inside): Path(path) for path in sorted(paths)}


def datasets(layout: Layout, acknowledged: set[str]) -> Iterator[Repository]:
    """Yield each scheme's rows with their verdicts, and their card."""
    for scheme in layout.schemes:
        licence = layout.config["data"]["cards"][scheme]["licence"]
        name = dataset_name(layout, scheme)
        parts = [part for part in parts_of_data(layout, scheme) if part]
        yield Repository(
            name,
            "dataset",
            licence,
            {
                f"{scheme}.jsonl": Path(f"{layout.results}/filter/{scheme}.jsonl"),
                "README.md": Path(f"{layout.results}/data/cards/{scheme}/README.md"),
            },
            licences.refusals(name, "dataset", licence, parts, acknowledged),
        )


def parts_of_data(layout: Layout, scheme: str) -> list[dict[str, Any]]:
    """Return the entries of what a scheme's rows were made from, the teacher among them; what was
    invented here has none.
    """
    made_from = entries_of(layout, recipes.origins(layout, scheme))
    teacher = layout.config["teacher"]["model"]
    weights = (layout.config["serve"] or {}).get("weights")
    served = [
        entry
        for entry in layout.registry.values()
        if entry.get("hub") == teacher or entry["id"] == weights
    ]
    return [*made_from, *(served if layout.generated else [])]


def entries_of(layout: Layout, names: list[str]) -> list[dict[str, Any]]:
    """Return the entries of inputs as the configuration names them, without those made here."""
    return [
        sources.entry_of(name, layout.registry) for name in names if not sources.of_project(name)
    ]


def models(
    layout: Layout, receipts: Receipts, namespace: str, acknowledged: set[str]
) -> Iterator[Repository]:
    """Yield each merged model with its card, then all adapters in one repository."""
    licence = layout.config["model_card"]["licence"]
    sections: set[str] = set()
    for model in layout.merged:
        sections |= {training.section for training in lineage.merge(layout, model).trainings}
        name = f"{model}{suffix(layout)}"
        files = written(receipts[f"merge_{model}"], f"{layout.results}/merge/{model}")
        files["README.md"] = model_card(layout, model, namespace).encode()
        parts = parts_of_model(layout, sections)
        refused = licences.refusals(name, "model", licence, parts, acknowledged)
        yield Repository(name, "model", licence, files, refused)
    name = f"openbezoar-adapters{suffix(layout)}"
    adapters: dict[str, Path | bytes] = {}
    for training in lineage.trainings(layout):
        found = written(receipts[training.stage], training.directory)
        adapters |= {f"{training.stage}/{path}": file for path, file in found.items()}
    adapters["README.md"] = adapters_card(layout, receipts, namespace, licence).encode()
    parts = parts_of_model(layout, sections)
    refused = licences.refusals(name, "model", licence, parts, acknowledged)
    yield Repository(name, "model", licence, adapters, refused)


def parts_of_model(layout: Layout, sections: set[str]) -> list[dict[str, Any]]:
    """Return what a model was trained on, with licences: its base, the data sets, the preference
    pairs where a section trains on them.
    """
    config = layout.config
    named = [name] if (name := config["sources"]["base_model"]) else []
    if sections & {"hh_sft", "dpo"}:
        named += config["sources"]["preferences"]
    cards = config["data"]["cards"]
    data = [{"id": scheme, "licence": cards[scheme]["licence"]} for scheme in layout.schemes]
    return [*entries_of(layout, named), *data]


def evaluations(layout: Layout, model: str) -> list[Any]:
    """Return a model's results as the hub's cards hold them, from the run's two tables; none of a
    model between two schemes, which is not evaluated.
    """
    from huggingface_hub import EvalResult

    if model not in layout.evaluated:
        return []
    harness = read_json(Path(f"{layout.results}/lm_eval.json"))
    chat = read_json(Path(f"{layout.results}/mtbench.json"))
    task: dict[str, Any] = {"task_type": "text-generation", "task_name": "Text generation"}
    limit = harness["settings"].get("limit")
    items = f", {limit} items" if limit else ""
    scores = [
        EvalResult(
            dataset_type=name,
            dataset_name=f"{name} (lm-evaluation-harness{items})",
            metric_type=harness["metric"][name],
            metric_name=harness["metric"][name],
            metric_value=value["mean"],
            **task,
        )
        for name, value in harness["models"][model].items()
    ]
    ratings = [
        EvalResult(
            dataset_type="mt_bench",
            dataset_name="MT-Bench",
            metric_type="rating",
            metric_name=f"rating from 1 to 10 by {judge}",
            metric_value=tables["models"][model]["overall"]["mean"],
            **task,
        )
        for judge, tables in chat["judges"].items()
    ]
    return [result for result in [*scores, *ratings] if result.metric_value is not None]


def model_card(layout: Layout, model: str, namespace: str) -> str:
    """Return the run's card of a model with the addresses of its base and data on the hub, and its
    evaluation as `model-index`.
    """
    from huggingface_hub import ModelCard

    card: Any = ModelCard(read_text(Path(f"{layout.results}/merge/{model}/README.md")))
    below = lineage.merge(layout, model).below
    base = layout.config["sources"]["base_model"]
    of_base = layout.registry.get(base, {}).get("hub")
    card.data.base_model = of_base if below == BASE else f"{namespace}/{below}{suffix(layout)}"
    published = {scheme: f"{namespace}/{dataset_name(layout, scheme)}" for scheme in layout.schemes}
    known = published | {recipes.PREFERENCES: "Anthropic/hh-rlhf"}
    card.data.datasets = [known[name] for name in card.data.datasets if name in known]
    if results := evaluations(layout, model):
        card.data.model_name = f"{model}{suffix(layout)}"
        card.data.eval_results = results
    return str(card)


def adapters_card(layout: Layout, receipts: Receipts, namespace: str, licence: str) -> str:
    """Return the card of the adapters: the stage, base and sha256 of each."""
    from huggingface_hub import ModelCardData

    data = ModelCardData(license=licence, library_name="peft", tags=["qlora", "lora"])
    rows = [
        (
            training.stage,
            training.base.removeprefix(f"{layout.results}/").removesuffix("/model.safetensors"),
            training.parent.removeprefix(f"{layout.results}/") if training.parent else "",
            files_in(receipts[training.stage]["outputs"])[training.adapter],
        )
        for training in lineage.trainings(layout)
    ]
    return (
        "\n\n".join(
            [
                f"---\n{data.to_yaml()}\n---",
                f"# Adapters of {layout.config['model_card']['title']}",
                f"Scale: **{layout.config['scale']}**. One folder a training; `merge/…` is a"
                f" repository of `{namespace}`, `base` the base model.",
                table(("folder", "trained over", "goes on from", "sha256 of the weights"), rows),
            ]
        )
        + "\n"
    )


def left_behind(layout: Layout, receipts: Receipts, acknowledged: set[str]) -> dict[str, str]:
    """Return path -> why a file is not in the published archive: weights have repositories of
    their own, models that were only evaluated are somebody else's, and what states no licence may
    not be passed on unless it is `acknowledged`, nor a file that copies the evaluation items in it.
    """
    behind = of_evaluated(receipts)
    unlicensed: set[str] = set()
    named = named_files(receipts)
    tasks = [file for file in layout.task_files() if not file.startswith(f"{layout.results}/")]
    places = {path: Path(path) for path in [*layout.local_files(), *tasks]}
    snapshots = set()  # their manifests, which hold hashes alone
    for entry in layout.registry.values():
        if entry["licence"] is None:
            place = Path(sources.path_of(entry["id"], {entry["id"]: entry}))
            snapshots |= {str(place)} if "hub" in entry else set()
            places[entry["id"]] = place.parent if "hub" in entry else place
    for name in sorted(places.keys() - acknowledged):
        found = {path for path in named if Path(path).is_relative_to(places[name])}
        unlicensed |= found
        behind |= dict.fromkeys(found - snapshots, f"{name} states no licence")
    copied: set[str] = set()
    copying = [held for stage, held in receipts.items() if stage.startswith(COPY_ITEMS)]
    for _ in copying:  # as many times as the longest chain of copies has links, at most
        for held in copying:
            if (unlicensed | copied) & set(files_in(held["inputs"])):
                copied |= set(files_in(held["outputs"]))
    copied -= set(behind)
    behind |= dict.fromkeys(copied, "copies evaluation items that state no licence")
    weights = {path for path in named if path.endswith(WEIGHTS)}
    return behind | dict.fromkeys(weights - set(behind), "weights, in repositories of their own")


def archive_card(layout: Layout, behind: dict[str, str], commands: str, licence: str) -> str:
    """Return the card of the archive: what it is for and what it leaves out."""
    from huggingface_hub import DatasetCardData

    data = DatasetCardData(license=licence, pretty_name="The run, to audit")
    reasons = sorted(set(behind.values()))
    rows: list[tuple[Any, ...]] = [
        (reason, sum(found == reason for found in behind.values())) for reason in reasons
    ]
    return (
        "\n\n".join(
            [
                f"---\n{data.to_yaml()}\n---",
                f"# A run of {layout.config['model_card']['title']}",
                f"Scale: **{layout.config['scale']}**. `{ARCHIVE}` holds the project, every receipt"
                " and the files that they name; AUDIT.md is the verdict before it was published."
                f" Unpack it into an empty directory and run `{commands}` there. Files keep the"
                " licences of their sources, which `config/sources.yaml` names.",
                "## Left out",
                f"`{LEFT_OUT}` lists these files. An audit does without them: what was made"
                " from them is held by hashes.",
                table(("why", "files"), rows),
            ]
        )
        + "\n"
    )
