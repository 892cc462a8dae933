"""List everything that is missing for a configuration, each with what to do; exit 1 if anything is.

Usage: doctor.py [--short] --config config/paper.yaml [more.yaml …]

Looks at the machine, the keys, the judge, the licences and the sources; sends nothing but a HEAD
request to each source and server.
"""

import argparse
import os
import shutil
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bezoar import program
from bezoar.progress import clock
from bezoar.surroundings import own
from bezoar.workflow import duration, sources
from bezoar.workflow import machine as machine_of
from bezoar.workflow.configuration import SCHEMA, check, files_of, resolved
from bezoar.workflow.source_lock import recorded

RETIRED = {"claude-2.1": "2025-07-21", "claude-2.0": "2025-07-21", "claude-1.3": "2024-11-06"}
PAPER_GPU_GIB, PAPER_DISK_GIB = (
    24,
    120,
)  # 3B QLoRA at length 1,024 fits 24 GiB; base, three merges, snapshots and stores on disk
KNOCK_S = 3


def models(config: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
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


def machine(config: dict[str, Any]) -> Iterator[str]:
    """Yield what the machine lacks."""
    free = shutil.disk_usage(".").free / 2**30
    need = PAPER_DISK_GIB if config["scale"] == "paper" else 3
    if free < need:
        yield (
            f"disk: {free:.0f} GiB free here, {need} needed; free space or work on a larger volume"
        )
    try:
        tempfile.gettempdir()
    except OSError:
        yield "temporary files: no directory can be written; set TMPDIR to one that can"
    sizes, processes = machine_of.gpus(), config["launch"]["processes"]
    if len(sizes) > 1 and processes == 1:
        yield (
            f"GPU: {len(sizes)} are visible and `launch: processes` is 1, which TRL refuses when"
            f" training starts; set it to {len(sizes)}, or CUDA_VISIBLE_DEVICES=0"
        )
    if config["scale"] != "paper":
        return
    if shutil.which("nvidia-smi") is None:
        yield (
            "GPU: none found (no nvidia-smi); training and evaluation at paper scale need one with"
            f" {PAPER_GPU_GIB} GiB, or PROFILE=profiles/slurm"
        )
        return
    if not sizes or max(sizes) < PAPER_GPU_GIB:
        yield (
            f"GPU: {max(sizes, default=0):.0f} GiB of memory, {PAPER_GPU_GIB} needed; take a larger"
            " one or lower micro_batch_size"
        )


def language_models(config: dict[str, Any]) -> Iterator[str]:
    """Yield missing keys, servers that do not answer, and models that are gone."""
    for role, settings in models(config):
        if settings["provider"] == "simulator":
            continue
        if role == "teacher" and config["serve"]:
            if shutil.which(config["serve"]["executable"]) is None:
                yield (
                    f"teacher: no program {config['serve']['executable']}; make its environment"
                    " (docs/reproducing.md) or correct serve.executable"
                )
            continue
        if not os.environ.get(settings["api_key_env"] or ""):
            yield (
                f"{role}: {settings['api_key_env']} is not set; put the key for {settings['model']}"
                " into it (any text for a local server)"
            )
        if settings["model"] in RETIRED:
            yield (
                f"{role}: {settings['model']} was retired on {RETIRED[settings['model']]}; name"
                " another model in the config, as a deviation"
            )
        address = os.environ.get(settings["base_url_env"] or "")
        if role == "teacher" and not address:
            yield (
                f"teacher: {settings['base_url_env']} is not set; start `vllm serve"
                f" {settings['model']}` and put its address (…/v1) into it"
            )
        elif address and not answers(f"{address}/models"):
            yield (
                f"{role}: no answer from {address}; start the server or correct"
                f" {settings['base_url_env']}"
            )


def answers(url: str) -> bool:
    """Say whether anything answers at `url`; a refusal by the server is an answer."""
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=KNOCK_S).close()
    except urllib.error.HTTPError as error:
        return error.code != 404
    except (OSError, ValueError):
        return False
    return True


def wanted(config: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the registry entries a configuration fetches."""
    extra, harness = config["extra_models"], config["lm_eval"]
    registry = sources.with_models(extra, sources.load(Path("config/sources.yaml")))
    used = dict(config["sources"])
    if config["entry"] == "released":
        used |= {
            "flan": [f"released_{scheme}" for scheme in config["sft"]["order"]],
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
    return [sources.find(name, registry) for name in dict.fromkeys(names) if "/" not in name]


def licences(entries: list[dict[str, Any]]) -> Iterator[str]:
    """Yield licences that forbid commercial use and are not acknowledged."""
    acknowledged = own("ACKNOWLEDGE_LICENCES").split(",")
    for entry in entries:
        if "NC" in str(entry["licence"]) and entry["id"] not in acknowledged:
            yield (
                f"licence: {entry['id']} is {entry['licence']} (no commercial use); add it to"
                " ACKNOWLEDGE_LICENCES=id,id if you accept"
            )


def reachable(entry: dict[str, Any]) -> str | None:
    """Return what is wrong with a source, or None."""
    mirror = Path(own("MIRROR")) if own("MIRROR") else None
    place = entry.get("path") or f"hub/{entry['id']}"
    if (Path("data") / place).exists() or (mirror and (mirror / place).exists()):
        return None
    kind = "datasets/" if entry.get("type") == "dataset" else ""
    url = entry.get("url") or f"https://huggingface.co/{kind}{entry['hub']}"
    return (
        None
        if answers(url)
        else (
            f"source: {entry['id']} is not in MIRROR and {url} does not answer; put it into"
            f" MIRROR/{place}"
        )
    )


def unpinned(entries: list[dict[str, Any]]) -> Iterator[str]:
    """Yield sources that nothing pins yet; the first fetch will."""
    lock = Path("config/sources.lock")
    held = recorded(lock)
    for entry in entries:
        if (entry["revision"] if "hub" in entry else entry["sha256"]) is None and entry[
            "id"
        ] not in held:
            yield (
                f"note: {entry['id']} has no published hash; the first fetch records one in {lock},"
                " keep that file"
            )


def expected(config: dict[str, Any], cores: int) -> str:
    """Return how long a run will take, as far as that can be known."""
    known = sum(duration.recorded(config["pathvars"]["results"]).values())
    earlier = f"; the stages of earlier runs here took {clock(known)} in all" if known else ""
    if config["scale"] == "rehearsal":
        about = clock(duration.rehearsal_s(cores))
        return f"expected time: about {about} on {cores} cores for a first run{earlier}"
    return f"expected time: unknown before a first run{earlier}"


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and examine."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--config", nargs="+", required=True, help="configuration files, the later over the earlier"
    )
    parser.add_argument("--cores", type=int, default=machine_of.cores(), help="cores of the run")
    parser.add_argument("--short", action="store_true", help="say what the machine has, no more")
    args = parser.parse_args(argv)
    config = resolved(args.config)
    check(config, SCHEMA, files_of(args.config))
    print(f"this machine: {machine_of.described()}")
    if args.short:
        for line in machine(config):
            print(f"note: {line}")
        return
    print(expected(config, args.cores))
    entries = wanted(config)
    with ThreadPoolExecutor(32) as pool:
        knocks = [problem for problem in pool.map(reachable, entries) if problem]
    missing = [*machine(config), *language_models(config), *licences(entries), *knocks]
    for line in [*missing, *unpinned(entries)]:
        print(line)
    print(
        f"{len(missing)} things are missing for the {config['scale']} scale"
        if missing
        else f"nothing is missing for the {config['scale']} scale"
    )
    if missing:
        raise SystemExit(1)


if __name__ == "__main__":
    program.run(main)
