"""Check a configuration against the closed schema and say in one line what is wrong, where, and
what was probably meant.
"""

import difflib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError, best_match

from bezoar.errors import UserError
from bezoar.llm.settings import ModelSpec
from bezoar.readers import read_yaml

PAPER = Path("config/paper.yaml")
SCHEMA = Path("config/schema.yaml")
TRAININGS = ("sft", "hh_sft", "dpo")


def load(path: Path) -> dict[str, Any]:
    """Read one YAML mapping; raise `UserError` naming file and line if it is not one."""
    value = read_yaml(path)
    if not isinstance(value, dict):
        raise UserError(f"{path}:1: expected a mapping of stages to settings")
    return value


def merge(base: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    """Return `base` with `overrides` merged over it, mapping by mapping; lists and scalars are
    replaced whole.
    """
    merged = dict(base)
    for key, value in overrides.items():
        old = merged.get(key)
        merged[key] = (
            merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
        )
    return merged


def files_of(names: Iterable[str]) -> list[Path]:
    """Return the files of a configuration: the paper's, then the named ones."""
    return list(dict.fromkeys([PAPER, *(Path(name) for name in names)]))


def resolved(names: Iterable[str]) -> dict[str, Any]:
    """Return the configuration that the named files give over the paper's, as the workflow
    sees it.

    Raise `UserError` for an order that Snakemake, which is given the same names, reads otherwise:
    the paper's file after another one, or a file twice.
    """
    names = list(names)
    paths = [Path(name) for name in names]
    for number, path in enumerate(paths):
        if path == PAPER and number:
            raise UserError(f"CONFIG: {PAPER} is what the others override; name it first")
        if path in paths[:number]:
            raise UserError(f"CONFIG: {path} is named twice; the later file overrides, once")
    config: dict[str, Any] = {}
    for path in files_of(names):
        config = merge(config, load(path))
    return config


def _holds(config: Any, path: Iterable[Any]) -> bool:
    for key in path:
        if (isinstance(config, dict) and key in config) or (
            isinstance(config, list) and isinstance(key, int) and key < len(config)
        ):
            config = config[key]
        else:
            return False
    return True


def _describe(error: ValidationError) -> tuple[list[Any], str]:
    """Return the path of the offending key and what to do about it."""
    path: list[Any] = list(error.absolute_path)
    schema = error.schema if isinstance(error.schema, dict) else {}
    if error.validator == "additionalProperties":
        known = list(schema.get("properties", {}))
        unknown = next(key for key in error.instance if key not in known)
        near = difflib.get_close_matches(str(unknown), known, n=1, cutoff=0.0)
        return [*path, unknown], (
            f"unknown key; the nearest valid key is `{near[0]}`" if near else "unknown key"
        )
    if error.validator == "required":
        missing = next(key for key in error.validator_value if key not in error.instance)
        return [*path, missing], "missing; add it"
    about = f" ({schema['description']})" if "description" in schema else ""
    if error.validator == "enum":
        near = difflib.get_close_matches(
            str(error.instance), map(str, error.validator_value), n=1, cutoff=0.0
        )
        return (
            path,
            (
                f"expected one of {error.validator_value}, found {error.instance!r}; nearest is"
                f" `{near[0]}`{about}"
            ),
        )
    if error.validator == "type":
        return path, f"expected {error.validator_value}, found {error.instance!r}{about}"
    if error.validator == "not":
        return path, f"{error.instance!r} is taken; give it another name{about}"
    return path, f"{error.message}{about}"


def _holder(files: list[Path], path: list[Any]) -> Path | None:
    """Return the last of those files that are there which holds the key; none of them: None."""
    there = (file for file in reversed(files) if file.is_file())
    return next((file for file in there if _holds(load(file), path)), None)


def most_processes(config: dict[str, Any], most: int) -> int:
    """Return how many processes, up to `most`, can share the global batch of every training: each
    takes micro-batches, as many as the others. 0 if not even one can.
    """
    recipes = [config[section] for section in TRAININGS]
    return max(
        (
            count
            for count in range(1, most + 1)
            if not any(r["batch_size"] % (r["micro_batch_size"] * count) for r in recipes)
        ),
        default=0,
    )


def _check_batches(config: dict[str, Any], files: list[Path]) -> None:
    """Raise `UserError` if the processes of a training cannot share its global batch."""
    processes = config["launch"]["processes"]
    for section in TRAININGS:
        batch, micro = (config[section][key] for key in ("batch_size", "micro_batch_size"))
        if batch % (micro * processes) == 0:
            continue
        keys = [["launch", "processes"], [section, "micro_batch_size"], [section, "batch_size"]]
        holders = [(file, key) for key in keys if (file := _holder(files, key))]
        order = {file: number for number, file in enumerate(files)}
        holder, key = max(holders, key=lambda held: order[held[0]], default=(SCHEMA, keys[0]))
        fewer = most_processes(config, processes)
        remedy = f"take {fewer} processes, or change" if 0 < fewer < processes else "change"
        raise UserError(
            f"{holder}: `{'.'.join(key)}`: expected {section}.batch_size, {batch}, to be a multiple"
            f" of micro_batch_size x processes, {micro} x {processes}; {remedy} one of the sizes"
        )


def _models(config: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[list[Any], dict[str, Any]]]:
    """Yield (path, settings) of each language model in a part of a configuration."""
    if isinstance(config, dict):
        if "prompt_form" in config:
            yield [*path], config
        for key, value in config.items():
            yield from _models(value, (*path, key))


def _check_models(config: dict[str, Any], files: list[Path]) -> None:
    """Raise `UserError` if the settings of a language model contradict each other or its server's:
    it would show when the first job asks the model, or in every answer.
    """
    serve, teacher = config["serve"] or {}, config["teacher"]
    for path, settings in _models(config):
        where = f"{_holder(files, path) or SCHEMA}: `{'.'.join(map(str, path))}`"
        try:
            context = ModelSpec.of(settings).context
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
        served = settings["base_url_env"] == teacher["base_url_env"] is not None
        if serve and served and context and context > serve["max_model_len"]:
            raise UserError(
                f"{where}: a `context` of {context} tokens, and `serve.max_model_len` has"
                f" {serve['max_model_len']}; make them equal"
            )


def check(config: dict[str, Any], schema: Path, files: list[Path]) -> None:
    """Raise `UserError` with one line if `config`, merged from those of `files` that are there, in
    order, breaks `schema`, has a global batch that its processes cannot share, or settings of a
    language model that contradict each other.
    """
    error = best_match(Draft202012Validator(load(schema)).iter_errors(config))
    if error is None:
        _check_batches(config, files)
        _check_models(config, files)
        return
    path, what = _describe(error)
    written = path[:-1] if error.validator == "required" else path  # the part that a file holds
    holder = _holder(files, written) or (files[0] if files else schema)
    raise UserError(f"{holder}: `{'.'.join(map(str, path)) or 'config'}`: {what}")


def checked(names: list[str]) -> dict[str, Any]:
    """Return the configuration that the named files give; raise `UserError` if it breaks the
    schema.
    """
    config = resolved(names)
    check(config, SCHEMA, files_of(names))
    return config
