"""Promises: before a run starts on a cluster it is known what the cluster has, and a cluster on
which the run could not end is refused in one line.
"""

import importlib.util
from pathlib import Path
from typing import Any

import pytest

import plan_requests
from bezoar.errors import UserError
from bezoar.workflow import cluster, dress_rehearsal, machine_checks, resources, start
from bezoar.workflow.cluster import gpus_in, minutes_in, nodes_in
from bezoar.workflow.configuration import merge, resolved
from bezoar.workflow.layout import Layout
from bezoar.workflow.resources import Limits, Need, Needs, Place

NONE = "AccountingStorageType   = accounting_storage/none\n"
SLURMDBD = "AccountingStorageType   = accounting_storage/slurmdbd\n"
CONFIG = "Configuration data as of 2026-11-26\nMinJobAge = {age} sec\nSLURM_VERSION = 22.05.8\n"
ONE = "main*|up|infinite|64000|8|(null)|idle\n"
MANY = (
    "cpu*|up|1-00:00:00|64000|16|(null)|mixed\n"
    "cpu*|up|1-00:00:00|900000|64|(null)|down*\n"
    "old|down|infinite|900000|64|gpu:8|idle\n"
    "gpu|up|4-12:30:00|128000|8|gpu:rtx:1|allocated\n"
    "gpu|up|4-12:30:00|256000|32|gpu:a100:4(S:0-1)|idle~\n"
)
PLAIN = {"merge": Need(30_000, 60), "base": Need(1000, 60)}
TRAINED = {**PLAIN, "sft": Need(16_000, 60, gpus=1)}


class Tools:
    """Slurm's programs, that print what they are told."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.set(scontrol=NONE + CONFIG.format(age=300), sinfo=ONE, sacct="", squeue="")

    def set(self, status: int = 0, **texts: str) -> None:
        for name, text in texts.items():
            path, printed = self.folder / name, self.folder / f"{name}.txt"
            printed.write_text(text)
            path.write_text(f"#!/bin/sh\n/bin/cat '{printed}'; exit {status}\n")
            path.chmod(0o755)


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tools:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("BEZOAR_JOBS", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    return Tools(tmp_path)


def plan(needs: dict[str, Need] = PLAIN, profile: str = "profiles/slurm") -> cluster.Plan:
    return cluster.plan(profile, 2, needs)


def limits(found: cluster.Plan, monkeypatch: pytest.MonkeyPatch) -> Limits:
    monkeypatch.setenv("BEZOAR_LIMITS", found.variables["BEZOAR_LIMITS"])
    return resources.limits_of_environment()


def test_one_machine_is_asked_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert plan(profile="profiles/default") == cluster.Plan(("--cores", "2"), {})


def test_without_accounting_the_states_come_from_squeue(tools: Tools) -> None:
    found = plan()
    assert found.options == (
        *("--jobs", "16"),
        *("--slurm-status-command", "squeue", "--slurm-no-account"),
    )
    assert found.line.startswith("cluster: Slurm 22.05.8, no accounting (squeue), partition main (")
    assert found.line.count("\n") == 0


def test_with_accounting_they_come_from_sacct_if_it_answers(tools: Tools) -> None:
    tools.set(scontrol=SLURMDBD + CONFIG.format(age=5))
    assert plan().options == ("--jobs", "16")
    tools.set(scontrol=SLURMDBD + CONFIG.format(age=300))
    tools.set(status=1, sacct="sacct: error: Problem talking to the database\n")
    assert "squeue" in plan().options


def test_jobs_bounds_the_jobs_and_not_their_cores(
    tools: Tools, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BEZOAR_JOBS", "40")
    assert plan().options[:2] == ("--jobs", "40") and "--cores" not in plan().options


def test_jobs_with_a_gpu_go_where_gpus_are(tools: Tools, monkeypatch: pytest.MonkeyPatch) -> None:
    tools.set(sinfo=MANY)
    found = plan(TRAINED)
    assert limits(found, monkeypatch) == Limits(
        Place("cpu", 1440, 64_000, 16), Place("gpu", 4 * 1440 + 750, 256_000, 32), True
    )
    assert "partition cpu (16 cores, 64,000 MB, 1440 min); GPUs in gpu (" in found.line
    assert limits(plan(), monkeypatch).gpu.partition == "cpu"


def test_a_dress_rehearsal_takes_the_clusters_gpus_where_the_submitting_host_has_none(
    tools: Tools, monkeypatch: pytest.MonkeyPatch
) -> None:
    dressed = resolved(dress_rehearsal.CONFIG)
    for nodes, gpus in ((MANY, 1), (ONE, 0)):
        tools.set(sinfo=nodes)
        assert cluster.devices("profiles/slurm", dressed["scale"]) == gpus
        _, environment = start.command(dressed, dress_rehearsal.CONFIG, [], "profiles/slurm", 2)
        monkeypatch.setenv("BEZOAR_LIMITS", environment["BEZOAR_LIMITS"])
        found = resources.limits_of_environment()
        assert (found.gpus, found.gpu.partition) == (bool(gpus), "gpu" if gpus else "main")
        assert Needs(Layout(dressed)).by_rule["sft"].gpus == gpus, "as Snakemake reads it"
        monkeypatch.delenv("BEZOAR_LIMITS")
        rows = map(str.split, plan_requests.computing(Layout(dressed), "profiles/slurm"))
        assert next(row[4] for row in rows if row[:1] == ["sft"]) == str(gpus or "-")
    for profile, scale in (("profiles/slurm", "paper"), ("profiles/default", dressed["scale"])):
        assert cluster.devices(profile, scale) is None
    tools.set(status=1, sinfo="")
    assert cluster.devices("profiles/slurm", dressed["scale"]) is None


def test_an_evaluation_is_not_held_to_what_trainings_need(
    tools: Tools, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools.set(sinfo=MANY)
    config = merge(resolved(["config/paper.yaml"]), {"launch": {"processes": 16}})
    with pytest.raises(UserError, match="GPU: a job asks for 16 on one node"):
        start.command(config, [], [], "profiles/slurm", 2)
    start.command(config, [], [], "profiles/slurm", 2, rules=machine_checks.EVALUATION)


def test_a_partition_of_the_profile_is_taken(
    tools: Tools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools.set(sinfo=MANY)
    profile = tmp_path / "config.yaml"
    for written in ("[mem_mb=1, slurm_partition=gpu]", "{slurm_partition: gpu}"):
        profile.write_text(f"executor: slurm\njobs: 3\ndefault-resources: {written}\n")
        found = plan(TRAINED, str(tmp_path))
        assert limits(found, monkeypatch).plain.partition == "gpu"
        assert found.options[1] == "3"


def test_jobs_that_still_work_in_this_directory_are_waited_for_or_ended(
    tools: Tools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, linked = tmp_path / "here", tmp_path / "linked"
    here.mkdir()
    linked.symlink_to(here)
    (here / "config.yaml").write_text("executor: slurm\n")
    monkeypatch.chdir(linked)
    tools.set(
        squeue=f"3|rule_sft|/elsewhere\n4_1|rule_base|{linked}\n5|rule_sft_wildcards_orca|{here}\n"
    )
    with pytest.raises(UserError, match=r"if it is no more, end them: scancel 4_1 5$"):
        plan(profile=".")
    # The job in which this runs, and a notebook.
    tools.set(squeue=f"3|rule_sft|{here}/below\n777|(null)|{here}\n778|notebook|{here}\n")
    assert plan(profile=".").line.startswith("cluster: ")


def test_nodes_of_one_partition_are_not_one_large_node(
    tools: Tools, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools.set(
        sinfo="all*|up|infinite|64000|16|gpu:1|idle\nall*|up|infinite|1000000|128|(null)|idle\n"
    )
    found = limits(plan(TRAINED), monkeypatch)
    assert found == Limits(Place("all", None, 1_000_000, 128), Place("all", None, 64_000, 16), True)
    with pytest.raises(UserError, match=r"sft: needs 100,000 MB.* has more than 64,000"):
        plan({**PLAIN, "sft": Need(100_000, 60, gpus=1)})


def test_jobs_with_a_gpu_go_where_they_have_time(
    tools: Tools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    days = "cpu*|up|infinite|64000|16|(null)|idle\n"
    debug, long = (
        f"{name}|up|{limit}|64000|16|gpu:4|idle\n"
        for name, limit in (("debug", "30:00"), ("long", "2-00:00:00"))
    )
    needs = {**PLAIN, "dpo": Need(16_000, 70 * 3600, gpus=1)}
    tools.set(sinfo=days + debug + long)
    found = plan(needs)
    assert limits(found, monkeypatch).gpu.partition == "long"
    note = found.line.splitlines()[1]
    assert note.startswith("note: longer than a partition's limit: dpo (70.0 h at most, 48.0 h in")
    assert limits(plan(TRAINED), monkeypatch).gpu.partition == "long"
    short = plan({**PLAIN, "sft": Need(16_000, 60, gpus=1)})
    tools.set(sinfo=days + debug)
    assert limits(plan(needs), monkeypatch).gpu.partition == "debug" and "\n" not in short.line
    tools.set(sinfo=days + debug + long)
    profile = tmp_path / "config.yaml"
    for wanted, taken in (("debug", "debug"), ("cpu", "long")):
        profile.write_text(f"executor: slurm\ndefault-resources: [slurm_partition={wanted}]\n")
        assert limits(plan(needs, str(tmp_path)), monkeypatch).gpu.partition == taken


def test_memory_is_not_asked_for_where_it_is_not_configured(
    tools: Tools, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools.set(sinfo="main*|up|infinite|1|8|(null)|idle\n")
    found = plan()
    assert limits(found, monkeypatch).plain.memory_mb == 0
    assert "memory not configured" in found.line


def test_what_could_not_run_is_refused_in_one_line(
    tools: Tools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*arguments: Any) -> str:
        with pytest.raises(UserError) as error:
            plan(*arguments)
        assert "\n" not in str(error.value)
        return str(error.value)

    tools.set(sinfo="main*|up|infinite|8000|8|(null)|idle\n")
    assert "merge: needs 30,000 MB of memory, and no such node of partition main" in refused()
    tools.set(sinfo=ONE)
    assert "GPU: a job asks for 1 on one node" in refused(TRAINED)
    for away in ("drain|infinite|8000|8|(null)|idle", "up|infinite|8000|8|(null)|drained"):
        tools.set(sinfo=f"main*|{away}\n")
        assert "no node that is up" in refused()
    tools.set(sinfo=ONE, scontrol=NONE + CONFIG.format(age=30))
    assert "MinJobAge: without accounting a job must be known for 240 s" in refused()
    (tmp_path / "config.yaml").write_text("executor: slurm\ndefault-resources: [slurm_partition=x]")
    tools.set(sinfo=MANY)
    assert "the cluster has no x; it has cpu, gpu" in refused(PLAIN, str(tmp_path))
    tools.set(status=1, scontrol="")
    assert "scontrol show config: exit status 1; is the cluster up?" in refused()
    (tools.folder / "scontrol").write_text("#!/bin/sh\nexec /bin/sleep 60\n")
    monkeypatch.setattr(cluster, "WAIT_S", 0.2)
    assert "scontrol: no answer in 0.2 s" in refused()
    (tools.folder / "scontrol").unlink()
    assert "scontrol: no such program" in refused()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "snakemake-executor-plugin-slurm is not installed" in refused()
    assert "none/config.yaml" in refused(PLAIN, "none")


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        ("infinite", None),
        ("30:00", 30),
        ("12:00:00", 720),
        ("4-12:30:00", 4 * 1440 + 750),
        ("n/a", None),
    ],
)
def test_time_limits_are_read(text: str, minutes: int | None) -> None:
    assert minutes_in(text) == minutes


@pytest.mark.parametrize(
    ("text", "count"),
    [("(null)", 0), ("gpu:2", 2), ("gpu:a100:4(S:0-1),lustre:1", 4), ("gpu:a:1,gpu:b:2", 3)],
)
def test_gpus_are_counted_whatever_their_kind(text: str, count: int) -> None:
    assert gpus_in(text) == count


def test_rows_that_are_none_are_no_partitions() -> None:
    assert nodes_in("\nmain\nslurm_load: error\n") == ()
