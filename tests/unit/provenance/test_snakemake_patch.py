"""The patch of Snakemake meets only versions that it was tested in."""

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import snakemake

import serve_model
from bezoar.errors import UserError
from bezoar.provenance import snakemake_patch

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("version", ["9.26.0", "9.27.2", "9.28.0", "10.0.0", "9.27.1.post1"])
def test_a_version_that_was_never_tested_is_refused_in_one_line_that_names_the_tested_ones(
    version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snakemake, "__version__", version)
    with pytest.raises(UserError) as refused:
        snakemake_patch.install()
    text = str(refused.value)
    assert "\n" not in text and version in text
    assert all(tested in text for tested in snakemake_patch.TESTED)


def printed(program: str) -> str:
    """What a program prints in a process of its own: the patches are for good."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(ROOT / "scripts")},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout


def test_the_locked_version_is_a_tested_one() -> None:
    lock = (ROOT / "envs/main.lock").read_text(encoding="utf-8")
    pinned = re.findall(r"^snakemake==(\S+)", lock, re.MULTILINE)
    assert pinned and set(pinned) <= set(snakemake_patch.TESTED)


@pytest.mark.parametrize(
    ("log", "ended"),
    [
        ([], False),
        (["step 7 of 60", "-- pretrain, for 0:12"], False),
        (["step 7", "error: sft: 3 usable rows, expected enough"], True),
        (["error: this is a bug of the project", "Traceback", "KeyError: 'x'"], True),
        (["error: out of memory; end other programs"], False),
        (["warning: an error: none"], False),
        ([f"error: the server of x ended with {serve_model.ended(-9)} while it was needed"], False),
        ([f"error: the server of x ended with {serve_model.ended(1)} while it was needed"], True),
    ],
)
def test_only_a_job_that_was_killed_is_worth_another_attempt(log: list[str], ended: bool) -> None:
    assert snakemake_patch.ended_by_itself(log) == ended


def test_a_run_that_is_refused_does_not_take_over_another_hosts_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a file system shares no locks between hosts, the host that the file names decides."""
    from snakemake.exceptions import LockException
    from snakemake.persistence import PersistenceBase

    class Dag:
        workflow = type("Workflow", (), {"local_exec": False})

    class Run:
        path, dag, cleaned = tmp_path, Dag, 0

        def cleanup_locks(self) -> None:
            self.cleaned += 1

    @contextmanager
    def locked(self: Run) -> Iterator[None]:
        raise LockException
        yield

    monkeypatch.setattr(PersistenceBase, "lock", locked)
    monkeypatch.setattr(snakemake_patch, "RUN_LOCK", tmp_path / "run")
    (tmp_path / "run").write_text("another 1")
    snakemake_patch._allow_one_run()
    run = Run()
    for _ in range(2):
        with pytest.raises(LockException), PersistenceBase.lock(run):
            pass
    assert (run.cleaned, (tmp_path / "run").read_text()) == (0, "another 1")


@pytest.mark.parametrize(("age_s", "attempts"), [(0, 0), (3600, 2)])
def test_the_log_of_an_earlier_run_says_nothing_of_this_one(
    tmp_path: Path, age_s: int, attempts: int
) -> None:
    program = f"""
import os, time
import snakemake.cli
from types import SimpleNamespace as Some
from bezoar.provenance import snakemake_patch
from snakemake.jobs import GroupJob, Job
Job.restart_times = GroupJob.restart_times = property(lambda job: 2)
snakemake_patch.install()
log = {str(tmp_path / "log")!r}
with open(log, "w") as stream:
    stream.write("error: sft: no rows\\n")
written = time.time() + 1 - {age_s}
os.utime(log, (written, written))
def job(*logs):
    return Some(rule=Some(_restart_times=None), log=logs)
alone = Job.restart_times.fget(job(log))
print(alone, GroupJob.restart_times.fget(Some(jobs=[job("none"), job(log)])))
"""
    assert printed(program) == f"{attempts} {attempts}\n"


def test_a_scheduler_that_does_not_answer_loses_no_job(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[Any] = [(None, None), ({"7": "PREEMPTED", "8": "RUNNING"}, 0.1)]
    cancelled = ({"7": "PREEMPTED", "8": "CANCELLED by 1000"}, 0.1)

    async def query(*args: Any) -> Any:
        return answers[-1]

    states = snakemake_patch.patient(query)
    assert asyncio.run(states("squeue", None)) == answers.pop()
    assert asyncio.run(states("squeue", None)) == ({}, 0.0)
    answers.append(cancelled)
    assert asyncio.run(states("squeue", None))[0] == {"7": "PREEMPTED", "8": "CANCELLED"}
    answers.append(({}, 0.1))
    assert asyncio.run(states("squeue", None))[0] == {}, "8 is gone for the first time"
    monkeypatch.setattr(snakemake_patch, "GONE_S", -1)
    assert asyncio.run(states("squeue", None))[0] == {"7": "CANCELLED", "8": "CANCELLED"}


def test_two_sigterms_while_the_scheduler_holds_its_lock_end_the_run() -> None:
    program = """
import os, signal, threading
import snakemake.cli
from bezoar.provenance import snakemake_patch
from snakemake.scheduling.job_scheduler import JobScheduler
snakemake_patch.install()
scheduler = object.__new__(JobScheduler)
scheduler._lock, scheduler._open_jobs = threading.Lock(), threading.Semaphore(0)
signal.signal(signal.SIGTERM, scheduler.exit_gracefully)
with scheduler._lock:
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGTERM)
assert scheduler._open_jobs.acquire(timeout=60) and scheduler._open_jobs.acquire(timeout=60)
print(scheduler._user_kill)
"""
    assert printed(program) == "graceful\n"


def test_a_cluster_is_asked_as_often_as_the_profile_says_and_an_end_is_noticed_at_once() -> None:
    program = """
import asyncio, time
from types import SimpleNamespace
import snakemake.cli
from bezoar.provenance import snakemake_patch
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor
snakemake_patch.install()
settings = SimpleNamespace(seconds_between_status_checks=30)

def waited(wanted, ends):
    now = 0.0
    executor = SimpleNamespace(
        workflow=SimpleNamespace(remote_execution_settings=settings),
        next_seconds_between_status_checks=wanted,
        wait=True,
    )

    async def sleep(seconds):
        nonlocal now
        now += seconds
        executor.wait = now < ends

    asyncio.sleep, time.monotonic = sleep, lambda: now
    asyncio.run(RemoteExecutor.sleep(executor))
    return now

print(waited(10, 1000), waited(180, 1000), waited(180, 3))
"""
    assert printed(program) == "10.0 30.0 3.0\n"


def test_an_interrupt_cancels_the_jobs_whose_states_are_being_asked_for() -> None:
    program = """
import threading
import snakemake.cli
from types import SimpleNamespace
from bezoar.provenance import snakemake_patch
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor
snakemake_patch.install()
asked, answered = threading.Event(), threading.Event()

def ask():  # as RemoteExecutor does: it takes its jobs away, asks, and puts them back
    executor.active_jobs.clear()
    asked.set()
    answered.wait()
    executor.active_jobs.append(7)

executor = SimpleNamespace(lock=threading.Lock(), wait=True, active_jobs=[7])
executor.cancel_jobs, executor.shutdown = print, lambda: print("shut down")
executor.wait_thread = threading.Thread(target=ask)
executor.wait_thread.start()
asked.wait()
threading.Timer(0.5, answered.set).start()
RemoteExecutor.cancel(executor)
"""
    assert printed(program) == "[7]\nshut down\n"
