"""Which jobs ask the model that the workflow serves (`serve:`), and how their rules get its server.

A shared server runs beside the generation jobs, for the teacher alone. Otherwise every job that
asks the model starts a server and ends it: right for a small model, which loads in a second, on a
machine with few cores.
"""

import shlex
from typing import Any

from bezoar.files import canonical
from bezoar.workflow.layout import Layout

Settings = dict[str, Any]


def shared(layout: Layout) -> bool:
    """Whether one server is for all generation jobs."""
    return bool(layout.config["serve"]) and layout.config["serve"].get("shared", True)


def own(layout: Layout) -> bool:
    """Whether each job that asks the model starts its own server."""
    return bool(layout.config["serve"]) and not shared(layout)


def asks(layout: Layout, settings: Settings | None) -> bool:
    """Whether a model of the configuration is the one that the workflow serves, to the job that
    asks it. A shared server is the teacher's only.
    """
    teacher = layout.config["teacher"]
    if settings is None or not layout.config["serve"]:
        return False
    return settings is teacher or (
        own(layout) and settings["base_url_env"] == teacher["base_url_env"]
    )


def threads(layout: Layout, *models: Settings | None) -> int:
    """Return the cores of a job that asks these models: those of the server it starts."""
    if not own(layout) or not any(asks(layout, model) for model in models):
        return 1
    return int(layout.config["serve"].get("options", {}).get("threads", 1))


def weights(layout: Layout, *models: Settings | None) -> list[str]:
    """Return the weights that the server of a job reads, where the configuration names them."""
    named = (layout.config["serve"] or {}).get("weights")
    used = any(asks(layout, model) for model in models)
    return [layout.place(named)] if named and used else []


def recipe(layout: Layout, *models: Settings | None) -> dict[str, Any]:
    """Return what the recipe of a job holds of the server: precision decides answers, how often it
    is started does not.
    """
    if not any(asks(layout, model) for model in models):
        return {}
    named = layout.config["serve"]
    return {"serve": {key: value for key, value in named.items() if key != "shared"}}


def command(layout: Layout) -> dict[str, Any]:
    """Return the recipe of the server itself."""
    config = layout.config
    named = {key: value for key, value in config["serve"].items() if key != "shared"}
    if "weights" in named:
        named["weights"] = layout.place(named["weights"])
    teacher = {key: config["teacher"][key] for key in ("model", "revision")}
    return {**named, **teacher, "seed": config["seed"]}


def before(layout: Layout, job: str, *models: Settings | None) -> str:
    """Return what stands before the program of a job that asks these models, on its command line:
    it waits for the shared server, or starts one for the program.
    """
    used = [model for model in models if model and asks(layout, model)]
    if not used:
        return ""
    folder, teacher = f"{layout.results}/serve", layout.config["teacher"]
    if own(layout):
        names = [model[key] for model in used for key in ("base_url_env", "api_key_env")]
        export = " ".join(dict.fromkeys(name for name in names if name))
        return (
            f"python scripts/serve_model.py --recipe {shlex.quote(canonical(command(layout)))}"
            f" --record {folder}/{job}.json --export {export} -- "
        )
    address, key = teacher["base_url_env"], teacher["api_key_env"]
    return (
        f"{address}=$(python scripts/serve_model.py"
        f" --await {folder}/teacher.url --record {folder}/teacher.json);"
        f" export {address} {key}=none; "
    )
