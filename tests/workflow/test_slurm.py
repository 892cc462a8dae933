"""Jobs of the workflow on a real slurmctld and slurmd: submitted as `make plan` says and the
cluster allows, killed, submitted again with more, and resumed; a run that Ctrl-C stops and goes on.
"""

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import pytest
import slurm_cluster
import yaml
from smallest import CONFIG, RESULTS, fresh

from bezoar.errors import UserError
from bezoar.workflow import cluster, resources
from bezoar.workflow.configuration import resolved
from bezoar.workflow.layout import Layout

PLUGIN = importlib.util.find_spec("snakemake_executor_plugin_slurm")
WHOLE = os.environ.get("BEZOAR_TEST_SLURM") == "1"
MISSING = slurm_cluster.missing() + ([] if PLUGIN else ["snakemake-executor-plugin-slurm"])
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(
        bool(MISSING), reason=f"slurmctld and slurmd: {', '.join(MISSING)} not installed"
    ),
]
PATIENCE_S = 300
# The base's training, in the project's copy: after its first checkpoint it waits to be killed.
SHORTER = "pretrain: {steps: 6, checkpoint_steps: 3}\n"
WRITTEN = "                torch.save(state, stream)\n"
WAITS = "            if not first:\n                __import__('time').sleep(600)\n"
# Two jobs that ask for what the paper's scale asks for, and end when both have been given a GPU.
GPU_JOBS = """
from bezoar.workflow import configuration, layout, resources
PAPER = resources.Needs(layout.Layout(configuration.resolved(["config/paper.yaml"]))).by_rule
for stage in ("dpo", "merge"):
    rule:
        name: f"paper_{stage}"
        output: f"gpu/{stage}"
        retries: 0
        resources: **resources.asked(PAPER[stage], NEEDS.limits)
        shell: "echo $CUDA_VISIBLE_DEVICES >{output}; timeout 200 sh -c"
            " 'until [ -s gpu/dpo ] && [ -s gpu/merge ]; do sleep 0.2; done'"
"""


class Job(NamedTuple):
    """A job as the cluster knows it; memory, time and GPUs are what was asked for."""

    id: str
    rule: str
    state: str
    memory: str
    time: str
    gpus: str


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of a user of a cluster whose node has room for the jobs of all tests."""
    bin = Path(sys.executable).parent
    folder = tmp_path_factory.mktemp("slurm")
    with slurm_cluster.cluster(folder, cores=4, memory_mb=64_000) as named:
        yield os.environ | named | {"PATH": f"{bin}:{named['PATH']}", "PYTHONPATH": "scripts"}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the project with a profile that asks the cluster every second."""
    folder = fresh(tmp_path / "project")
    profile = yaml.safe_load((folder / "profiles/slurm/config.yaml").read_text())
    for name in ("seconds-between-status-checks", "slurm-init-seconds-before-status-checks"):
        assert profile[name] >= 10
        profile[name] = 1
    (folder / "profiles/quick").mkdir()
    (folder / "profiles/quick/config.yaml").write_text(yaml.safe_dump(profile))
    return folder


def jobs(variables: dict[str, str]) -> list[Job]:
    """Every job that the cluster knows, the oldest first."""
    columns = "JobID:9,Comment:60,State:20,MinMemory:20,TimeLimit:20,tres-per-job:20"
    command = ["squeue", "--states=all", "--noheader", f"--Format={columns}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=variables)
    found = [Job(*line.split()) for line in done.stdout.splitlines()]
    return sorted(found, key=lambda job: int(job.id))


@contextmanager
def started(
    folder: Path, variables: dict[str, str], *command: str
) -> Iterator[subprocess.Popen[str]]:
    """A command in a session of its own, as a terminal starts it, that does not outlive the
    test.
    """
    with open(folder / "out.txt", "w") as out, open(folder / "err.txt", "w") as err:
        run = subprocess.Popen(
            command,
            cwd=folder,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            text=True,
            start_new_session=True,
        )
    try:
        yield run
    finally:
        with suppress(ProcessLookupError):
            os.killpg(run.pid, signal.SIGKILL)
        run.wait()


def said(folder: Path) -> tuple[str, str]:
    return (folder / "out.txt").read_text(), (folder / "err.txt").read_text()


def wait_for(ready: Callable[[], object], run: subprocess.Popen[str], folder: Path) -> None:
    """Wait for a sign of a run that has not ended."""
    until = time.monotonic() + PATIENCE_S
    while not ready():
        assert run.poll() is None and time.monotonic() < until, said(folder)
        time.sleep(0.1)


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def outage(folder: Path, variables: dict[str, str]) -> dict[str, str]:
    """The environment of a user to whom the cluster answers only while there is no `outage`."""
    real = shutil.which("squeue", path=variables["PATH"])
    (folder / "bin").mkdir()
    squeue = folder / "bin/squeue"
    squeue.write_text(
        "#!/bin/sh\n"
        f"[ ! -e '{folder}/outage' ] || {{ echo once >> '{folder}/asked'; exit 1; }}\n"
        f'exec {real} "$@"\n'
    )
    squeue.chmod(0o755)
    return variables | {"PATH": f"{folder}/bin:{variables['PATH']}"}


def layout_of(*configs: str) -> Layout:
    return Layout(resolved(configs))


def planned(*configs: str) -> dict[str, tuple[str, str, str]]:
    """Rule -> memory, time limit and GPUs of a job in the words of Slurm, from `make plan`."""
    row = re.compile(r"(\w+) +\d+ +([\d,]+) MB +([\d-]+) .* ([\d,]+) min")
    found = {}
    for line in resources.table(layout_of(*configs)):
        if match := row.match(line):
            rule, memory, gpus, minutes = (text.replace(",", "") for text in match.groups())
            generic = "N/A" if gpus == "-" else f"gres:gpu:{gpus}"
            found[rule] = (f"{memory}M", clock(int(minutes)), generic)
    return found


def clock(minutes: int) -> str:
    """A time limit as squeue prints it."""
    days, hours, rest = minutes // 1440, minutes // 60 % 24, minutes % 60
    if days:
        return f"{days}-{hours:02}:{rest:02}:00"
    return f"{hours}:{rest:02}:00" if hours else f"{rest}:00"


def interrupted(
    folder: Path, variables: dict[str, str], rule: str, *command: str
) -> tuple[list[Job], str]:
    """Start a command, and press Ctrl-C when a job of a rule has been submitted; return the jobs
    that it left and its messages.
    """
    before = len(jobs(variables))
    with started(folder, variables, *command) as run:
        # Snakemake's own log says when the executor has been told a job's number.
        logs = folder / ".snakemake/log"
        wait_for(
            lambda: any(f"/{rule}/" in path.read_text() for path in logs.glob("*")), run, folder
        )
        time.sleep(0.5)
        os.killpg(run.pid, signal.SIGINT)
        assert run.wait(PATIENCE_S) != 0
    until = time.monotonic() + PATIENCE_S
    while any(job.state == "COMPLETING" for job in jobs(variables)):
        assert time.monotonic() < until, jobs(variables)
        time.sleep(0.1)
    return jobs(variables)[before:], said(folder)[1]


def test_jobs_are_asked_for_as_planned_get_a_gpu_each_and_go_on_when_killed(
    project: Path, slurm: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "shorter.yaml").write_text(SHORTER)
    training = project / "scripts/pretrain_base.py"
    training.write_text(training.read_text().replace(WRITTEN, WRITTEN + WAITS))
    with open(project / "Snakefile", "a") as snakefile:
        snakefile.write(GPU_JOBS)
    command = [sys.executable, "scripts/commands/run_workflow.py", "--profile", "profiles/quick"]
    options = ["--cores", "1", "--config", *CONFIG, "shorter.yaml", "--target"]
    base = f"{RESULTS}/base/model.safetensors"

    [stopped], stderr = interrupted(project, slurm, "rule_base", *command, *options, base)
    assert stopped.state == "CANCELLED", "the world, a light step, was made here"
    assert "Traceback" not in stderr
    assert stderr.splitlines()[-1].startswith("interrupted: what runs is ended, here and on a")

    refused = outage(project, slurm)
    with started(project, refused, *command, *options, base, "gpu/dpo", "gpu/merge") as run:
        wait_for((project / RESULTS / ".base.checkpoint.pt").exists, run, project)
        (project / "outage").touch()
        # At each look the executor asks five times, and would then forget every job.
        wait_for(lambda: len(lines(project / "asked")) > 5, run, project)
        (project / "outage").unlink()
        first = next(job for job in jobs(slurm)[1:] if job.rule == "rule_base")
        with monkeypatch.context() as here:
            here.chdir(project)
            for name in ("PATH", "SLURM_CONF"):
                here.setenv(name, slurm[name])
            with pytest.raises(UserError, match=rf"another run .*: scancel .*\b{first.id}\b"):
                cluster.nothing_at_work()
        subprocess.run(["scancel", first.id], check=True, env=slurm)
        run.wait(PATIENCE_S)
    stdout, stderr = said(project)
    assert run.returncode == 0, stdout[-3000:] + stderr[-3000:]
    assert stdout.startswith("cluster: Slurm ") and "no accounting" in stdout
    assert "base: ended early (CANCELLED); once more, from where it stopped" in stderr
    assert "error: base" not in stderr and "Traceback" not in stderr

    first, again, *gpu = sorted(jobs(slurm)[1:], key=lambda job: (job.rule, int(job.id)))
    assert (first.state, again.state) == ("CANCELLED", "COMPLETED")
    assert first.rule == again.rule == "rule_base" and len(gpu) == 2
    assert "resuming: step 3\n" in (project / "logs/smallest/base.txt").read_text()

    memory, limit, none = planned(*CONFIG, str(project / "shorter.yaml"))["base"]
    assert first[3:] == stopped[3:] == (memory, limit, none)
    twice = clock(2 * int(limit.split(":")[0]))
    assert again[3:] == (f"{2 * int(memory[:-1])}M", twice, none), "asked for again with more"
    paper = planned("config/paper.yaml")
    assert {job.rule.removeprefix("rule_paper_"): job[3:] for job in gpu} == {
        stage: paper[stage] for stage in ("dpo", "merge")
    }
    given = [(project / "gpu" / stage).read_text().strip() for stage in ("dpo", "merge")]
    assert sorted(given) == ["0", "1"]


@pytest.mark.skipif(
    not WHOLE, reason="a whole rehearsal on a cluster of one node, minutes: BEZOAR_TEST_SLURM=1"
)
def test_a_whole_rehearsal_asks_for_every_job_as_planned(
    project: Path, slurm: dict[str, str]
) -> None:
    before = len(jobs(slurm))
    settings = ["PROFILE=profiles/quick", f"CONFIG={' '.join(CONFIG)}", f"ENV={sys.prefix}"]
    with started(project, slurm, "make", "--no-print-directory", "rehearsal", *settings) as run:
        run.wait(1200)
    stdout, stderr = said(project)
    assert run.returncode == 0, stdout[-3000:] + stderr[-3000:]
    assert stdout.endswith(f"report: {RESULTS}/report/index.html\n")
    plan, sent = planned(*CONFIG), jobs(slurm)[before:]
    rules = [job.rule.removeprefix("rule_").partition("_wildcards_")[0] for job in sent]
    counts = resources.jobs(layout_of(*CONFIG))
    assert Counter(rules) == {rule: counts[rule] for rule in plan}
    for rule, job in zip(rules, sent, strict=True):
        assert (job.state, *job[3:]) == ("COMPLETED", *plan[rule]), job
