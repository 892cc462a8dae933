"""What a Slurm cluster has, found out before a run starts, and the Snakemake options that follow.

Clusters differ in what Snakemake's executor takes for granted: without an accounting database it
would wait for ever for the state of a job, where memory is not configured every job that asks for
some is refused, and a job that asks for more time, memory or cores than a partition has is refused
or never starts.
"""

import importlib.util
import math
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bezoar.errors import UserError
from bezoar.readers import read_yaml
from bezoar.surroundings import own
from bezoar.workflow.resources import ASKING, Limits, Need, Place
from bezoar.workflow.wording import counted

WAIT_S = 60  # for an answer of the cluster
# A job that has ended is known for so long (MinJobAge). The executor asks every 30 s, of a busy
# cluster that answers late; for a job that it no longer finds it would wait for ever.
LEAST_AGE_S = 240
UNSET_MB = 1  # Slurm's RealMemory of a node whose memory nobody has configured
# Partition, whether it is up, time limit, memory and cores of a node, generic resources, the state
# of such nodes.
COLUMNS = "%P|%a|%l|%m|%c|%G|%T"
AWAY = ("down", "drain", "fail", "error", "inval", "unknown")  # how the states of lost nodes begin
COMMENT = "rule_"  # with which the executor begins the comment of each of its jobs
ALIVE = "PENDING,CONFIGURING,RUNNING,SUSPENDED"  # states of a job that may still write something


@dataclass(frozen=True)
class Nodes:
    """The nodes of one kind in a partition: minutes of a job at most (None: any), and the memory in
    MB, the cores and the GPUs of a node.
    """

    partition: str
    default: bool
    minutes: int | None
    memory_mb: int
    cores: int
    gpus: int = 0

    def place(self) -> Place:
        """Return what a job may ask for on one."""
        memory = self.memory_mb if self.memory_mb > UNSET_MB else 0
        return Place(self.partition, self.minutes, memory, self.cores)

    def described(self) -> str:
        """Return them in a few words."""
        memory = f"{self.memory_mb:,} MB" if self.memory_mb > UNSET_MB else "memory not configured"
        limit = f"{self.minutes} min" if self.minutes is not None else "no time limit"
        gpus = f", {counted(self.gpus, 'GPU')} a node" if self.gpus else ""
        return f"{self.partition} ({counted(self.cores, 'core')}, {memory}, {limit}{gpus})"


@dataclass(frozen=True)
class Cluster:
    """A cluster: its version, whether `sacct` knows the states of jobs, for how many seconds
    `squeue` knows a job that has ended, and the nodes that can be had.
    """

    version: str
    accounting: bool
    age_s: int
    nodes: tuple[Nodes, ...]


def answer(*command: str) -> str:
    """Return what a program of Slurm prints; raise `UserError` in one line if it cannot."""
    if shutil.which(command[0]) is None:
        raise UserError(
            f"{command[0]}: no such program; profiles/slurm runs on a host that submits to Slurm"
        )
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=WAIT_S, errors="replace"
        )
    except subprocess.TimeoutExpired:
        raise UserError(f"{command[0]}: no answer in {WAIT_S} s; is the cluster up?") from None
    if done.returncode:
        why = " ".join(done.stderr.split()) or f"exit status {done.returncode}"
        raise UserError(f"{' '.join(command)}: {why[:200]}; is the cluster up?")
    return done.stdout


def settings_in(text: str) -> dict[str, str]:
    """Return name -> value of what `scontrol show config` prints."""
    found = re.findall(r"^(\S+) *= ?(.*?) *$", text, re.MULTILINE)
    return {name: value for name, value in found}


def minutes_in(text: str) -> int | None:
    """Return the minutes of a time limit as sinfo prints it: `infinite`, `30:00`, `4-00:00:00`."""
    match = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", text)
    if not match:
        return None
    days, hours, minutes, _ = (int(part or 0) for part in match.groups())
    return 60 * (24 * days + hours) + minutes


def gpus_in(text: str) -> int:
    """Return the GPUs in a node's generic resources: `gpu:a100:4(S:0-1),lustre:1`."""
    return sum(int(count) for count in re.findall(r"\bgpu(?::[^:,()]+)?:(\d+)", text))


def number_in(text: str) -> int:
    """Return the number that a column begins with: sinfo adds a `+` where nodes differ."""
    match = re.match(r"\d+", text)
    return int(match[0]) if match else 0


def nodes_in(text: str) -> tuple[Nodes, ...]:
    """Return the nodes in sinfo's rows of `COLUMNS` that can be had, in its order."""
    rows = [line.split("|") for line in text.splitlines() if line.count("|") == COLUMNS.count("|")]
    return tuple(
        Nodes(
            name.rstrip("*"),
            name.endswith("*"),
            minutes_in(limit),
            number_in(memory),
            number_in(cores),
            gpus_in(generic),
        )
        for name, state, limit, memory, cores, generic, of_nodes in rows
        if state == "up" and not of_nodes.startswith(AWAY)
    )


def accounts(settings: Mapping[str, str]) -> bool:
    """Say whether `sacct` answers: where a database is configured, it may still be unreachable."""
    if settings.get("AccountingStorageType", "").rpartition("/")[2] in ("", "none", "(null)"):
        return False
    try:
        answer("sacct", "-X", "--noheader", "--starttime", "now-1minute")
    except UserError:
        return False
    return True


def nodes() -> tuple[Nodes, ...]:
    """Return the nodes that can be had; raise `UserError` if there is no cluster."""
    return nodes_in(answer("sinfo", "--noheader", "--exact", "--format", COLUMNS))


def detected() -> Cluster:
    """Return what the cluster says of itself; raise `UserError` if there is none."""
    settings = settings_in(answer("scontrol", "show", "config"))
    return Cluster(
        settings.get("SLURM_VERSION", "of an unknown version"),
        accounts(settings),
        number_in(settings.get("MinJobAge", "300")),
        nodes(),
    )


def nothing_at_work() -> None:
    """Raise `UserError` if jobs that Snakemake submitted from this directory still wait or run:
    those of a run whose host died, say. Two jobs would write the same files.
    """
    mine = ("--user", str(os.getuid()), "--states", ALIVE)
    rows = answer("squeue", "--noheader", *mine, "--format", "%i|%k|%Z").splitlines()
    here = os.path.realpath(".")
    jobs = []
    for job, comment, place in (row.split("|", 2) for row in rows if row.count("|") >= 2):
        if comment.startswith(COMMENT) and os.path.realpath(place.strip()) == here:
            jobs.append(job)
    if jobs:
        raise UserError(
            "jobs of another run in this directory are on the cluster; wait until that run has"
            f" ended, or, if it is no more, end them: scancel {' '.join(jobs)}"
        )


def largest(nodes: Iterable[Nodes]) -> Nodes:
    """Return the nodes that have most memory, of those the ones with most cores."""
    return max(nodes, key=lambda kind: (kind.memory_mb, kind.cores))


def usual(cluster: Cluster, wanted: str) -> Nodes:
    """Return the nodes for jobs without a GPU: the largest of the partition that is `wanted`, else
    of the cluster's default, else of its first. Raise `UserError` if it is not there.
    """
    if not cluster.nodes:
        raise UserError("sinfo: the cluster has no node that is up; ask who runs it")
    names = list(dict.fromkeys(kind.partition for kind in cluster.nodes))
    if wanted and wanted not in names:
        raise UserError(f"slurm_partition: the cluster has no {wanted}; it has {', '.join(names)}")
    default = next((kind.partition for kind in cluster.nodes if kind.default), names[0])
    return largest(kind for kind in cluster.nodes if kind.partition == (wanted or default))


def with_gpus(cluster: Cluster, plain: Nodes, wanted: str, needs: Iterable[Need]) -> Nodes:
    """Return the nodes for jobs that ask for GPUs: of those with as many, in the partition that is
    `wanted` if it has some, the ones with memory and time for them or with most of it, if possible
    in the usual partition. Raise `UserError` if none has as many GPUs.
    """
    asking = [need for need in needs if need.gpus]
    if not asking:
        return plain
    gpus = max(need.gpus for need in asking)
    kinds = [kind for kind in cluster.nodes if kind.gpus >= gpus]
    if not kinds:
        most = max(kind.gpus for kind in cluster.nodes)
        raise UserError(
            f"GPU: a job asks for {gpus} on one node, and the cluster's nodes have {most} at most"
            " (sinfo --format '%P %G'); lower launch.processes or serve.tensor_parallel_size, or"
            " ask who runs it whether GPUs are configured as generic resources"
        )

    def minutes(kind: Nodes) -> float:
        return min(max(need.minutes for need in asking), kind.minutes or math.inf)

    def memory(kind: Nodes) -> int:
        most = max(need.mem_mb for need in asking)
        return min(most, kind.memory_mb) if kind.memory_mb > UNSET_MB else most

    kinds = [kind for kind in kinds if kind.partition == wanted] or kinds
    best = max(  # the first of those that are alike
        kinds, key=lambda kind: (memory(kind), minutes(kind), kind.partition == plain.partition)
    )
    return largest(kind for kind in kinds if kind.partition == best.partition)


def fits(needs: Mapping[str, Need], limits: Limits) -> None:
    """Raise `UserError` naming the first rule whose jobs ask for more memory or cores than a node
    has, with the jobs that run beside them.
    """
    for rule, need in needs.items():
        place = limits.of(need)
        mem_mb = need.mem_mb + need.beside_mb
        if place.memory_mb and mem_mb > place.memory_mb:
            raise UserError(
                f"{rule}: needs {mem_mb:,} MB of memory, and no such node of partition"
                f" {place.partition} has more than {place.memory_mb:,}; name another under"
                " slurm_partition in the profile"
            )
        cores = 1 + need.beside_cores
        if place.cores and cores > place.cores:
            raise UserError(
                f"{rule}: needs {counted(cores, 'core')}, and no such node of partition"
                f" {place.partition} has more than {place.cores}; name another under"
                " slurm_partition in the profile"
            )


def too_short(needs: Mapping[str, Need], limits: Limits) -> str:
    """Return a note on the rules that may take longer than their partition lets a job run."""
    found = []
    for rule, need in needs.items():
        place = limits.of(need)
        if place.minutes and need.seconds > 60 * place.minutes:
            there = f"{place.minutes / 60:.1f} h in {place.partition}"
            found.append(f"{rule} ({need.seconds / 3600:.1f} h at most, {there})")
    if not found:
        return ""
    return (
        f"\nnote: longer than a partition's limit: {', '.join(found)}; a job that is ended is asked"
        " for again and goes on from its checkpoint, if its stage has one"
    )


def read_profile(folder: str) -> dict[str, Any]:
    """Return a profile of Snakemake; raise `UserError` if there is none."""
    path = Path(folder) / "config.yaml"
    profile = read_yaml(path)
    if not isinstance(profile, dict):
        raise UserError(f"{path}: expected a mapping of Snakemake's options")
    return profile


def is_slurm(folder: str) -> bool:
    """Tell whether a profile sends jobs to a Slurm cluster."""
    return read_profile(folder).get("executor") == "slurm"


def default_resource(profile: Mapping[str, Any], name: str) -> str:
    """Return a default resource of a profile, written as a list or as a mapping; else nothing."""
    given = profile.get("default-resources") or []
    if not isinstance(given, dict):
        given = dict(str(item).partition("=")[::2] for item in given)
    return str(given.get(name) or "")


def devices(folder: str, scale: str) -> int | None:
    """Return how many GPUs a job asks for on a profile's cluster, where what it has decides that:
    of a dress rehearsal. None where it does not, or the cluster gives no answer, of which `plan`
    says why.
    """
    if scale != "dress-rehearsal" or own("CPU") or not is_slurm(folder):
        return None
    try:
        return int(any(kind.gpus for kind in nodes()))
    except UserError:
        return None


@dataclass(frozen=True)
class Plan:
    """How Snakemake is started: options, variables for it and its jobs, and a line that says what
    was found.
    """

    options: tuple[str, ...]
    variables: Mapping[str, str]
    line: str = ""


def plan(folder: str, cores: int, needs: Mapping[str, Need]) -> Plan:
    """Return how a run with the profile in `folder` is started. On one machine `cores` bound it; on
    a cluster BEZOAR_JOBS does, or the profile's `jobs`, and light steps alone run here.

    Raise `UserError` if there is no cluster, or one on which the jobs could not run.
    """
    profile = read_profile(folder)
    if profile.get("executor") != "slurm":
        return Plan(("--cores", str(cores)), {})
    if importlib.util.find_spec("snakemake_executor_plugin_slurm") is None:
        raise UserError(
            f"{folder}: snakemake-executor-plugin-slurm is not installed; make installs it with"
            " PROFILE=profiles/slurm, or: pip install --no-deps -r envs/slurm.lock"
        )
    cluster, wanted = detected(), default_resource(profile, "slurm_partition")
    plain = usual(cluster, wanted)
    gpu = with_gpus(cluster, plain, wanted, needs.values())
    limits = Limits(plain.place(), gpu.place(), any(kind.gpus for kind in cluster.nodes))
    fits(needs, limits)
    nothing_at_work()
    options = ["--jobs", own("JOBS") or str(profile.get("jobs", 16))]
    if not cluster.accounting:
        if cluster.age_s < LEAST_AGE_S:
            raise UserError(
                f"MinJobAge: without accounting a job must be known for {LEAST_AGE_S} s after its"
                f" end, here it is for {cluster.age_s}; ask who runs the cluster to raise it"
            )
        options += ["--slurm-status-command", "squeue", "--slurm-no-account"]
    states = "accounting (sacct)" if cluster.accounting else "no accounting (squeue)"
    places = [plain.described(), *([f"GPUs in {gpu.described()}"] if gpu != plain else [])]
    line = f"cluster: Slurm {cluster.version}, {states}, partition {'; '.join(places)};"
    line += " steps that need a network or take only moments run here"
    line += ", but for those that ask the workflow's server" if needs.keys() & set(ASKING) else ""
    return Plan(
        tuple(options), {"BEZOAR_LIMITS": limits.text()}, f"{line}{too_short(needs, limits)}"
    )
