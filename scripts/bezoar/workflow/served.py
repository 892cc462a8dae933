"""Which jobs ask the model that the workflow serves (`serve:`), and how their rules get its server.

A shared server runs beside the generation jobs, for the teacher alone. Otherwise every job that
asks the model starts a server and ends it: right for a small model, which loads in a second, on a
machine with few cores.
"""

import shlex
from collections.abc import Callable
from typing import Any

from bezoar.files import canonical
from bezoar.llm.settings import server_count
from bezoar.provenance.fingerprint import LOCKS, Hashes
from bezoar.surroundings import own
from bezoar.workflow.layout import Layout, per_job

Settings = dict[str, Any]
LOCK = LOCKS / "llama-cpp.lock"
SECTIONS = {"judge": "mtbench", "rejudge": "mtbench"}  # of the configuration, by kind of job


def shared(layout: Layout) -> bool:
    """Whether one server is for all generation jobs."""
    return bool(layout.config["serve"]) and not per_job(layout.config)


def replayed() -> bool:
    """Whether all answers come from the store, so that no server is needed."""
    return own("MODE") == "replay"


def asked(layout: Layout, job: str, *models: Settings | None) -> list[Settings]:
    """Return those of a job's models that the workflow serves to it: none but the teacher by a
    shared server, and that to generation jobs.
    """
    teacher = layout.config["teacher"]
    if shared(layout):
        return [teacher] if job.startswith("generate-") else []
    if not per_job(layout.config):
        return []
    return [model for model in models if model and model["base_url_env"] == teacher["base_url_env"]]


def threads(layout: Layout, job: str, *models: Settings | None) -> int:
    """Return the cores of a job: those of the server that it starts."""
    alone = not shared(layout) and asked(layout, job, *models)
    return server_threads(layout) if alone else 1


def server_threads(layout: Layout) -> int:
    """Return the cores of the server."""
    return server_count(layout.config["serve"].get("options", {}), "threads")


def weights_files(layout: Layout) -> list[str]:
    """Return the weights that the server reads, where the configuration names them."""
    named = layout.config["serve"].get("weights")
    return [layout.place(named)] if named else []


def files(layout: Layout, job: str, *models: Settings | None) -> list[str]:
    """Return the files that a job's server is there with: the shared one's address, or the weights
    of its own; none where MODE=replay answers from the store.
    """
    if replayed() or not asked(layout, job, *models):
        return []
    return [f"{layout.results}/serve/teacher.url"] if shared(layout) else weights_files(layout)


def registered(layout: Layout, model: Settings) -> str | None:
    """Return the id in config/sources.yaml of the weights that a model is served from, if it is
    served here and they have one.
    """
    serve, teacher = layout.config["serve"] or {}, layout.config["teacher"]
    named = serve.get("weights")
    same = model["base_url_env"] == teacher["base_url_env"]
    return named if named in layout.registry and same else None


def settings(layout: Layout, job: str) -> dict[str, Any]:
    """Return what decides the answers of a job's server beside the model's own settings: how often
    it is started does not, nor what `make doctor` looks for.
    """
    serve = layout.config["serve"]
    apart = ("shared", "gpu_gib", "fetched_gb", "requantize")
    named = {key: value for key, value in serve.items() if key not in apart}
    kind = job.partition("-")[0]
    if again := serve.get("requantize", {}).get(SECTIONS.get(kind, kind)):
        named["requantize"] = again
    if named["program"] == "xllamacpp":
        named["lock"] = Hashes().of(LOCK)
    return named


def recipe(layout: Layout, job: str, *models: Settings | None) -> dict[str, Any]:
    """Return what the recipe of a job holds of the server."""
    return {"serve": settings(layout, job)} if asked(layout, job, *models) else {}


def server_recipe(layout: Layout, job: str = "generate") -> dict[str, Any]:
    """Return the recipe of a job's server itself."""
    config, found = layout.config, settings(layout, job)
    if "weights" in found:
        found["weights"] = layout.place(found["weights"])
    named = {name: config["teacher"][name] for name in ("model", "revision")}
    return {**found, **named, "seed": config["seed"]}


def before(layout: Layout, job: str, *models: Settings | None) -> str:
    """Return the shell line before the program of a job that asks these models: it waits for the
    shared server, or begins the command that starts one for the program, which ends it. Snakemake
    is that command's parent, so that it ends with Snakemake.
    """
    used = asked(layout, job, *models)
    if not used or replayed():
        return ""
    folder = f"{layout.results}/serve"
    if shared(layout):
        address, key = used[0]["base_url_env"], used[0]["api_key_env"]
        files = [shlex.quote(f"{folder}/teacher.{end}") for end in ("url", "json")]
        return (
            f"{address}=$(python scripts/serve_model.py --await {files[0]} --record {files[1]});"
            f" export {address} {key}=none"
        )
    named = (model[key] for model in used for key in ("base_url_env", "api_key_env"))
    names = filter(None, named)  # a model of a server may do without a key
    text = shlex.quote(canonical(server_recipe(layout, job)))
    record = shlex.quote(f"{folder}/{job}.json")
    return (
        f"exec python scripts/serve_model.py --recipe {text}"
        f" --record {record} --export {' '.join(dict.fromkeys(names))} -- \\"
    )


def before_column(layout: Layout) -> Callable[[Any], str]:
    """Return the function that gives a job which judges a column its line, by its wildcards."""

    def line(wildcards: Any) -> str:
        job = f"rejudge-{wildcards.column}.{wildcards.model}"
        return before(layout, job, layout.judge(wildcards.column))

    return line
