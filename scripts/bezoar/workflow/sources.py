"""The registry of external inputs, config/sources.yaml: where each comes from and where it is
stored.
"""

import re
from pathlib import Path
from typing import Any

from bezoar.errors import UserError
from bezoar.readers import column, read_yaml_entries
from bezoar.workflow import packages

WORLD = "world/"  # where the inputs of an invented world lie, below the results
PROMPTS = ("prompts/topics.txt", "prompts/chat_template.json", "prompts/judge_prompts.jsonl")
HUB_MODEL = re.compile(r"(?P<hub>[\w.-]+/[\w.-]+)@(?P<revision>[0-9a-f]{40})")


def load(path: Path) -> dict[str, dict[str, Any]]:
    """Return id -> entry; raise `UserError` if an id appears twice, a key is missing or holds no
    text, or a file inside a package is not pinned by both hashes.
    """
    entries: dict[str, dict[str, Any]] = {}
    for number, entry in enumerate(read_yaml_entries(path, "sources"), start=1):
        column(entry, "id", str, f"{path}: entry {number}")
        where, of_hub = f"{path}: {entry['id']}", "hub" in entry
        texts = ("what", "hub", "type") if of_hub else ("what", "url", "path")
        perhaps = ("revision" if of_hub else "sha256", "licence")
        for name in (*texts, *perhaps):
            if name not in entry:
                known = ", null where it is not known" if name in perhaps else ""
                raise UserError(f"{where}: no `{name}`; add it{known}")
            if name in texts or entry[name] is not None:
                column(entry, name, str, where)
        if not of_hub and packages.member_of(entry["url"]):
            for name in ("package_sha256", "sha256"):
                column(entry, name, str, where)
        if entry["id"] in entries:
            raise UserError(f"{path}: id {entry['id']} appears twice; remove one")
        entries[entry["id"]] = entry
    return entries


def find(identifier: str, entries: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return an entry; raise `UserError` naming the nearest id if there is none."""
    if identifier not in entries:
        import difflib

        near = difflib.get_close_matches(identifier, entries, n=1, cutoff=0.0)[0]
        raise UserError(
            f"config/sources.yaml: no source `{identifier}`; the nearest id is `{near}`"
        )
    return entries[identifier]


def entry_of(name: str, entries: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the entry of an input as the configuration names it: by its id, or by the path of a
    local file or directory, which states no licence.

    Raise `UserError` as `find` does.
    """
    if "/" in name:
        return {"id": name, "what": name, "url": "a local file", "licence": None}
    return find(name, entries)


def of_project(name: str) -> bool:
    """Whether an input, as the configuration names it, is this project's own: made or written
    here.
    """
    return name.startswith(WORLD) or name in PROMPTS


def origins(names: list[str], entries: dict[str, dict[str, Any]]) -> list[dict[str, str]]:
    """Return {what, origin, licence} of inputs as the configuration names them, for a card; those
    made or written here say so.
    """
    rows = []
    for name in names:
        if of_project(name):
            rows.append(
                {"what": name, "origin": "invented by this workflow", "licence": "Apache-2.0"}
            )
        else:
            entry = entry_of(name, entries)
            rows.append(
                {
                    "what": entry["what"],
                    "origin": entry.get("url") or entry["hub"],
                    "licence": entry["licence"] or "not stated",
                }
            )
    return rows


def model_origin(
    what: str, model: str, entries: dict[str, dict[str, Any]], identifier: str | None = None
) -> dict[str, str]:
    """Return {what, origin, licence} of texts that a language model wrote: its own licence if it is
    in the registry, by its name or as `identifier`, else its provider's terms.
    """
    known = (
        entry["licence"]
        for entry in entries.values()
        if entry.get("hub") == model or entry["id"] == identifier
    )
    licence = next(known, None)
    simulated = {"simulator": "Apache-2.0, a program of this workflow"}
    return {
        "what": what,
        "origin": model,
        "licence": licence or simulated.get(model, "the provider's terms on the use of outputs"),
    }


def path_of(identifier: str, entries: dict[str, dict[str, Any]]) -> str:
    """Return where a source is stored: a file below data/, or the manifest of a hub snapshot."""
    entry = find(identifier, entries)
    return f"data/{entry['path']}" if "path" in entry else f"data/hub/{identifier}/manifest.json"


def with_models(
    extra: dict[str, dict[str, Any]],
    entries: dict[str, dict[str, Any]],
    section: str = "extra_models",
    kind: str = "model",
) -> dict[str, dict[str, Any]]:
    """Return the registry and, for each model of `extra_models:` (or data set of `released:`) that
    names a hub repository of its own, an entry for it.

    Raise `UserError` unless each comes from one place: `source`, `hub` or `path`.
    """
    entries = dict(entries)
    for name, model in extra.items():
        places = [key for key in ("source", "hub", "path") if model.get(key)]
        if len(places) != 1:
            raise UserError(
                f"{section}.{name}: expected one of source, hub and path, found"
                f" {' and '.join(places) or 'none'}; null takes away what an earlier file named"
            )
        if places == ["source"]:
            find(model["source"], entries)
        if places == ["hub"]:
            identifier = str(model_source(model))
            entries[identifier] = {
                "id": identifier,
                "what": name,
                "hub": model["hub"],
                "type": kind,
                "revision": model.get("revision"),
                "licence": model.get("licence"),
                "why": f"named under {section}",
            }
    return entries


def with_hub_base(
    config: dict[str, Any], entries: dict[str, dict[str, Any]]
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Return configuration and registry in which a base that is named by its repository and commit,
    `owner/name@<40 hex>`, has an entry of its own.
    """
    base = config["sources"]["base_model"]
    found = HUB_MODEL.fullmatch(base or "")
    if not found:
        return config, entries
    model = found.groupdict()
    named = {**config["sources"], "base_model": base_name(base)}
    return {**config, "sources": named}, with_models({model["hub"]: model}, entries, "sources")


def base_name(base: str) -> str | None:
    """Return a base as `with_hub_base` names it: the id of its entry for a repository and its
    commit, and any other as it is.
    """
    found = HUB_MODEL.fullmatch(base)
    return model_source(found.groupdict()) if found else base


def model_source(model: dict[str, Any]) -> str | None:
    """Return the id of the registry entry of one of `extra_models:` or `released:`, or None for a
    local directory.

    A hub repository's is its name and revision: two revisions are two snapshots.
    """
    if model.get("hub"):
        return re.sub(
            r"[^a-z0-9]+", "_", f"{model['hub']} {model.get('revision') or ''}".lower()
        ).strip("_")
    return model.get("source")
