"""Whether this machine can run the paper's scale: GPU, driver, torch, memory, disk.

What cannot work is a problem, and a line that begins with `note: ` says what may still work. Needs
are those of `bezoar.workflow.resources`: GPU and host memory of the largest job, and no less than
the dress rehearsal took here.
"""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bezoar.errors import UserError
from bezoar.readers import read_yaml
from bezoar.surroundings import own
from bezoar.workflow import cluster, dress_rehearsal, served
from bezoar.workflow import machine as machine_of
from bezoar.workflow.layout import Layout, models_asked
from bezoar.workflow.resources import ASKING, UNKNOWN_TIME, Need, Needs, jobs, most_gpu_mb
from bezoar.workflow.wording import counted

PROBE_S = 180  # a cold file system reads torch's libraries in a minute
# Estimates are this far off at most, we think: below this share of the need it cannot work, above
# the other there is no doubt.
TOO_LITTLE, ENOUGH = 0.7, 1.1
SOURCES_GB = 20  # [ours] data sets, stores of answers, adapters with their checkpoints
BF16_CAPABILITY = (8, 0)
CPU_HINT = "CPU=1 computes without one all the same"
# The rules of `make evaluate` whose jobs are not light.
EVALUATION = ("import_model", "lm_eval", "mtbench_answers", "mtbench_judgments")

# What torch sees, in a process of its own: a driver that hangs or crashes ends that one alone.
PROBE = """
import json, warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import torch
    seen = {"version": torch.__version__, "cuda": torch.version.cuda, "devices": [], "error": ""}
    try:
        for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
            free, total = torch.cuda.mem_get_info(number)
            one = torch.ones(64, 64, device=f"cuda:{number}")
            (one @ one).sum().item()
            seen["devices"].append({
                "name": torch.cuda.get_device_name(number), "free_mb": free // 2**20,
                "total_mb": total // 2**20,
                "capability": list(torch.cuda.get_device_capability(number)),
            })
    except Exception as error:
        seen["error"] = str(error).strip().partition(chr(10))[0]
if not seen["devices"] and not seen["error"]:
    seen["error"] = " ".join(str(found.message) for found in caught if "CUDA" in str(found.message))
print(json.dumps(seen))
"""


@dataclass(frozen=True)
class Card:
    """A GPU as nvidia-smi shows it; memory in MiB."""

    name: str
    driver: str
    total_mb: int


def cards() -> tuple[list[Card], str]:
    """Return the GPUs that nvidia-smi shows, and what it complains of."""
    rows, said = machine_of.nvidia_smi("name,driver_version,memory.total", PROBE_S)
    found = [Card(name, driver, int(total)) for name, driver, total in rows if total.isdigit()]
    return found, "" if found else said[:160] or "nvidia-smi shows no GPU"


def torch_view() -> dict[str, Any]:
    """Return what torch sees: version, cuda (None in the CPU build), devices, error."""
    command = [sys.executable, "-c", PROBE]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PROBE_S)
        seen: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return seen
    except subprocess.TimeoutExpired:
        why = f"no answer in {PROBE_S} s"
    except (ValueError, IndexError):
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        why = lines[-1][:160]
    return {"version": "", "cuda": None, "devices": [], "error": why}


# Major version of CUDA -> least driver: "CUDA Toolkit and Minimum Required Driver Version", in
# NVIDIA's release notes of CUDA 13.
DRIVERS = {"12": "525", "13": "580"}


def gpu(need_mb: int, processes: int = 1, server: bool = False) -> Iterator[str]:
    """Yield what is wrong with this machine's GPUs for jobs that need `need_mb` of the memory of
    each, a training in as many `processes`: they take the first ones. With `server`, one that the
    run asks and does not start may compute here.
    """
    shown, complaint = cards()
    seen = torch_view()
    if not seen["version"]:
        yield f"torch: cannot be loaded ({seen['error']}); remove .venv, then make environment"
        return
    if not shown and not seen["devices"]:
        yield (
            f"GPU: none found ({complaint}); training and evaluation at this scale need one with"
            f" {need_mb / 1024:.0f} GiB, or PROFILE=profiles/slurm; {CPU_HINT}"
        )
        return
    if seen["cuda"] is None:
        yield (
            f"torch: {seen['version']} is the CPU build, and there is a GPU ({shown[0].name}); run"
            " `make environment TORCH=cuda`"
        )
        return
    if not seen["devices"]:
        least = DRIVERS.get(str(seen["cuda"]).split(".")[0], "of its time")
        here = f", here is {shown[0].driver}" if shown else ""
        yield (
            f"GPU: {shown[0].name if shown else 'one'} is there, and torch {seen['version']} cannot"
            f" use it ({seen['error'] or 'CUDA_VISIBLE_DEVICES may hide it'}); it is built for CUDA"
            f" {seen['cuda']}, which needs driver {least} or newer{here}"
        )
        return
    if seen["error"]:
        built = f"torch is built for CUDA {seen['cuda']}"
        yield f"GPU: a product on it fails ({seen['error']}); {built}"
    used = seen["devices"][:processes]
    if len(used) < processes:
        yield (
            f"GPU: {len(used)} can be seen, and a training is to start {processes} processes, each"
            " on one of its own; lower `launch: processes`"
        )
    least = min(used, key=lambda device: int(device["total_mb"]))
    yield from memory(f"GPU: {least['name']}", least["total_mb"], need_mb, GPU_REMEDY)
    fullest = min(used, key=lambda device: int(device["free_mb"]))
    if fullest["free_mb"] < need_mb <= least["total_mb"]:
        yield (
            f"note: GPU: {fullest['free_mb'] / 1024:.1f} GiB are free now, and jobs need"
            f" {need_mb / 1024:.1f}; end what else computes there (nvidia-smi lists it)"
            + (OWN_SERVER if server else "")
        )
    oldest = min(used, key=lambda device: tuple(device["capability"]))
    if tuple(oldest["capability"]) < BF16_CAPABILITY:
        yield (
            f"note: GPU: {oldest['name']} does not compute in bfloat16; trainings compute in"
            " float32, which takes longer and more memory"
        )
    yield from compiler()


OWN_SERVER = (
    "; a server that the run asks gets other GPUs than the run (CUDA_VISIBLE_DEVICES of both), or"
    " leaves it room (vLLM: --gpu-memory-utilization)"
)


def asks_own_server(config: dict[str, Any]) -> bool:
    """Whether a run asks a server that neither it nor a provider starts."""
    ours = config["teacher"]["base_url_env"] if config["serve"] else None
    asked = {settings["base_url_env"] for _, settings in models_asked(config)}
    return not served.replayed() and bool(asked - {None, "", ours})


def processes_on_gpus(launch: dict[str, Any]) -> int:
    """Return on how many GPUs of this machine a training computes."""
    file = Path(launch["accelerate"] or "")
    settings = read_yaml(file) if file.is_file() else {}
    on_cpu = isinstance(settings, dict) and settings.get("use_cpu") is True
    return 1 if on_cpu else int(launch["processes"])


def compiler() -> Iterator[str]:
    """Yield what Triton lacks to compile a kernel's launcher: it takes `CC`, gcc or clang."""
    names = [os.environ["CC"]] if os.environ.get("CC") else ["gcc", "clang"]
    headers = Path(sysconfig.get_path("include"), "Python.h")
    missing = ["C compiler"] * (not any(map(shutil.which, names)))
    missing += ["Python.h"] * (not headers.is_file())
    if missing:
        yield (
            f"note: GPU: no {' and no '.join(missing)} found, and Triton compiles with them what"
            " vLLM and some trainings start on a GPU; install gcc and python3-dev"
        )


def place() -> Iterator[str]:
    """Yield why a run cannot write where it is started."""
    for path in (Path.cwd(), Path.cwd() / ".snakemake"):
        if path.exists() and not os.access(path, os.W_OK | os.X_OK):
            yield (
                f"{path}: this user (uid {os.getuid()}) may not write there, and a run keeps its"
                " results below it; take a copy of the project that the user owns"
            )
            return


GPU_REMEDY = "take a larger one, as the first, or lower micro_batch_size and batch_size"
HOST_REMEDY = "use a machine with more, or a smaller model"


def memory(what: str, there_mb: float, need_mb: float, remedy: str) -> Iterator[str]:
    """Yield a problem, or a note where it may still work."""
    have, need = f"{there_mb / 1024:.1f} GiB", f"{need_mb / 1024:.1f} GiB"
    if there_mb < TOO_LITTLE * need_mb:
        yield f"{what}: {have} of memory, and a job needs about {need}; {remedy}"
    elif there_mb < ENOUGH * need_mb:
        yield f"note: {what}: {have} of memory may not do, a job needs about {need}; {remedy}"


def disk(layout: Layout, size: int) -> Iterator[str]:
    """Yield what is wrong with the free space here for models of `size` parameters: the base and
    its snapshot, each merged and each extra model, 16 bits a weight. What lies here already counts
    as free.
    """
    models = 2 + len(layout.merged) + 2 * len(layout.extra)
    places = [Path(layout.weights(model)) for model in {*layout.evaluated, *layout.merged}]
    made = sum(path.stat().st_size for path in places if path.is_file()) / 1e9
    need = models * 2 * size / 1e9 + SOURCES_GB
    free = shutil.disk_usage(".").free / 1e9 + made
    if free < need:
        yield (
            f"disk: {free:.0f} GB free here, {need:.0f} needed; free space or work on a larger"
            " volume"
        )
    elif free < 2 * need:
        yield f"note: disk: {free:.0f} GB free here, and a run fills about {need:.0f}"


def on_cluster(profile: str, needs: Mapping[str, Need]) -> Iterator[str]:
    """Yield what the cluster is, or what is wrong with it; and whether torch is the jobs' build."""
    try:
        yield f"note: {cluster.plan(profile, 1, needs).line}"
    except UserError as error:
        yield str(error)
    if most_gpu_mb(needs.values()) and torch_view()["cuda"] is None:
        yield (
            "torch: the CPU build, and jobs are to compute on GPUs; run `make environment"
            f" TORCH=cuda PROFILE={profile}`"
        )


TEACHER_REMEDY = "take a quantised teacher (docs/reproducing.md), or a server elsewhere"


def teacher_gpus(config: dict[str, Any]) -> Iterator[str]:
    """Yield what is wrong with this machine's GPUs for the server that the workflow starts."""
    serve, sizes = config["serve"] or {}, machine_of.gpus()
    wanted = int(serve.get("tensor_parallel_size", 0))
    said = not sizes and not own("CPU")  # by `gpu`
    if said or config["entry"] != "generate" or served.replayed():
        return  # a replay starts no server
    if len(sizes) < wanted:
        yield (
            f"teacher: its server wants {counted(wanted, 'GPU')} (serve: tensor_parallel_size), and"
            f" {len(sizes)} can be seen; {TEACHER_REMEDY}"
        )
    elif wanted and "gpu_gib" in serve:
        least = sorted(sizes)[-wanted]
        yield from memory(
            "teacher: its server's GPU", 1024 * least, 1024 * serve["gpu_gib"], TEACHER_REMEDY
        )


def teacher_disk(config: dict[str, Any]) -> Iterator[str]:
    """Yield as a note that what the workflow's server fetches may not fit into its cache: some of
    it may lie there already.
    """
    from huggingface_hub.constants import HF_HOME

    wanted = (config["serve"] or {}).get("fetched_gb", 0)
    if not wanted or config["entry"] != "generate" or served.replayed():
        return
    cache = Path(HF_HOME)
    there = next(path for path in (cache, *cache.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(there).free / 1e9
    if free < wanted:
        yield (
            f"note: disk: the teacher's server fetches {wanted:.0f} GB into {cache}, and"
            f" {free:.0f} are free there; set HF_HOME to a larger volume, unless it has them"
        )


def asked_from_nodes(layout: Layout, needs: Mapping[str, Need]) -> Iterator[str]:
    """Yield as notes what jobs on a cluster's nodes ask the network for: those beside a server of
    the workflow ask a provider from there, and the server may fetch its weights.
    """
    from_there = {
        f"{job.stage} asks {model['model']}"
        for job in layout.language_model_jobs()
        if any(job.stage.startswith(rule) for rule in ASKING if rule in needs)
        for model in (job.settings, *job.second.values())
        if not model["base_url_env"] and model["provider"] != "simulator"
    }
    see = '(docs/reproducing.md, "On a cluster")'
    if from_there:
        yield (
            f"note: network: {', '.join(sorted(from_there))} from a node, beside the server; if"
            f" nodes have no network, ask a server that they reach {see}"
        )
    wanted = (layout.config["serve"] or {}).get("fetched_gb", 0)
    if wanted and UNKNOWN_TIME & needs.keys():
        yield (
            f"note: network: the teacher's server fetches {wanted:.0f} GB on a node; if nodes have"
            f" no network, fill an HF_HOME that they share beforehand {see}"
        )


def with_threads(settings: Any, most: int) -> Any:
    """Return settings in which no `threads` are more than `most`."""
    if not isinstance(settings, dict):
        return settings
    return {
        key: min(value, most)
        if key == "threads" and isinstance(value, int)
        else with_threads(value, most)
        for key, value in settings.items()
    }


def cpu_hours(config: dict[str, Any], rules: Collection[str] | None = None) -> float:
    """Return the hours in which this machine computes without a GPU what all jobs of a run do, or
    one job of each of these `rules`.
    """
    layout = Layout(with_threads(config, machine_of.cores()))
    counts = jobs(layout)
    return sum(
        need.seconds * (counts[rule] if rules is None else rule in rules) / 3600
        for rule, need in Needs(layout).by_rule.items()
        if rule not in UNKNOWN_TIME
    )


def problems(
    config: dict[str, Any], profile: str = "profiles/default", rules: Collection[str] | None = None
) -> Iterator[str]:
    """Yield what this machine, or the cluster of a profile, lacks for a configuration; of `rules`,
    for the jobs of these alone.
    """
    layout = Layout(config)
    made = dress_rehearsal.needs(layout, cluster.devices(profile, config["scale"]))
    needs = {rule: n for rule, n in made.by_rule.items() if rules is None or rule in rules}
    if config["scale"] == "paper" and rules is None:
        yield from disk(layout, made.size)
    if cluster.is_slurm(profile):
        yield from on_cluster(profile, needs)
        yield from asked_from_nodes(layout, needs)
        return
    most = max(need.mem_mb for need in needs.values())
    yield from memory("memory", 1024 * machine_of.memory_gib(), most, HOST_REMEDY)
    if config["scale"] != "paper":
        return
    if own("CPU"):
        hours = cpu_hours(config, rules)
        yield f"note: CPU=1: computing without a GPU takes about {hours:,.0f} hours here, or more"
    else:
        processes = processes_on_gpus(config["launch"]) if rules is None else 1
        yield from gpu(most_gpu_mb(needs.values()), processes, asks_own_server(config))
    if rules is None:
        yield from teacher_gpus(config)
        yield from teacher_disk(config)
