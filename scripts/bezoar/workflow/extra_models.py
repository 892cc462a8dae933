"""Other people's models as entries of `extra_models:`, for `make evaluate` and its plan."""

import re
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

from bezoar.errors import UserError
from bezoar.files import same_json
from bezoar.readers import shown
from bezoar.workflow.configuration import SCHEMA, load


def entry(model: str, revision: str, template: str) -> dict[str, Any]:
    """Return the `extra_models:` entry of a local directory or a hub repository."""
    if Path(model).is_dir():
        if not (Path(model) / "config.json").is_file():
            raise UserError(f"{model}: no config.json; expected a Hugging Face model directory")
        if revision:
            raise UserError(f"{model}: a local directory has no revision; leave REVISION out")
        return {"path": model, "template": template}
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", model):
        raise UserError(f"MODEL={model}: neither a directory nor owner/name of a hub repository")
    if revision and not re.fullmatch(r"[0-9a-f]{40}", revision):
        raise UserError(f"REVISION={revision}: expected a commit of {model}, 40 hex digits")
    return {"hub": model, "revision": revision or None, "template": template}


def name_of(model: str, revision: str) -> str:
    """Return a name for the tables from the last part of a path or hub id, with the revision's
    first digits.
    """
    base = re.sub(
        r"[^A-Za-z0-9._-]+",
        "-",
        Path(model).resolve().name if Path(model).is_dir() else model.split("/")[-1],
    )
    return f"{base}-{revision[:8]}" if revision else base


def named(name: str) -> str:
    """Return a name that the table can have; raise `UserError` if it cannot."""
    allowed = load(SCHEMA)["properties"]["extra_models"]["propertyNames"]
    if not Draft202012Validator(allowed).is_valid(name):
        raise UserError(
            f"{name!r}: cannot be a model's name here ({allowed['description']}); give it a NAME"
        )
    return name


def add(models: dict[str, Any], name: str, new: dict[str, Any]) -> dict[str, Any]:
    """Return the models with a new one; raise `UserError` if the name is another model's."""
    if not same_json(models.get(name, new), new):
        raise UserError(
            f"{name}: the table has another model of this name ({models[name]}); give this one a"
            " NAME of its own"
        )
    return {**models, name: new}


def evaluated(config: dict[str, Any]) -> Path:
    """Return the file that holds the models evaluated before, a configuration."""
    return Path(config["pathvars"]["results"]) / "evaluate" / "models.yaml"


def with_model(
    config: dict[str, Any], model: str, revision: str, template: str, name: str
) -> dict[str, Any]:
    """Return the configuration that adds a model, and those evaluated before, to `config`."""
    models = evaluated(config)
    known = load(models).get("extra_models") if models.is_file() else {}
    if not isinstance(known, dict):
        raise UserError(f"{models}: expected models under `extra_models`, found {shown(known)}")
    for other, held in known.items():
        path = held.get("path") if isinstance(held, dict) else None
        if path and not Path(path).is_dir():  # it would be evaluated again
            raise UserError(
                f"{models}: {other} was evaluated from {path}, which is not there any more; bring"
                " it back, or remove its lines from this file"
            )
    new = entry(model, revision, template or config["sources"]["chat_template"])
    return {"extra_models": add(known, named(name or name_of(model, revision)), new)}
