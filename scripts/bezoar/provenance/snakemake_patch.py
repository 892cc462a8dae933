"""Receipts decide what Snakemake runs: content in place of dates and metadata.

Snakemake offers no hook for this, so some of its methods are replaced, for plain `snakemake` as for
`make`. `tests/workflow` tests them in the versions that `TESTED` names, and any other version is
refused, because a patch that no longer takes effect would let stale results pass.
"""

import asyncio
import fcntl
import json
import os
import socket
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from threading import Thread
from typing import Any

from bezoar import fork_server, surroundings
from bezoar.errors import UserError
from bezoar.files import NO_LOCKS, UNLOCKABLE, differences
from bezoar.provenance import code_digest, fingerprint, staleness
from bezoar.readers import read_json_object
from bezoar.workflow.source_lock import LOCK
from bezoar.workflow.wording import counted

# The versions of Snakemake in which tests/workflow has passed; envs/main.lock pins one of them.
TESTED = ("9.27.1",)
RUN_LOCK = Path(".snakemake/bezoar-run")
WAKES_S = 0.5  # how often a run that waits for a cluster looks whether it is to end
GONE_S = 300  # in which Slurm has queued a preempted job again, if it does


def job_reasons(job: Any, hashes: fingerprint.Hashes) -> list[str]:
    """Return why a job of the DAG is stale. Stages are judged by their receipt, fetched files by
    the hash that the registry gives.
    """
    if not job.output:
        return []
    if getattr(job.params, "share", ""):
        return []  # it only fills a store: whoever reads that is stale or not
    receipt = job.output.get("receipt")
    if receipt is None and not hasattr(job.params, "entry"):
        return []  # a server: it exists while it runs
    if receipt is None:
        return source_reasons(str(job.output[0]), json.loads(job.params.entry), hashes)
    # Compared as code, as environment, and, for a server's address or weights, by the recipe, which
    # says what is served.
    known = {str(path) for name in ("script", "lock") if (path := job.input.get(name))}
    for name in ("shards", "server"):
        found = job.input.get(name) or []
        known.update([found] if isinstance(found, str) else map(str, found))
    return staleness.reasons(
        Path(receipt),
        inputs=[str(path) for path in job.input if str(path) not in known],
        outputs=[str(path) for path in job.output],
        recipe=job.params.recipe,
        code=job.params.code,
        command=staleness.command_in(shell_of(job)),
        hashes=hashes,
    )


def shell_of(job: Any) -> str:
    """Return the shell text of a job, filled in; Snakemake's own property needs numbers that jobs
    get only later.
    """
    from snakemake.utils import format as fill

    known = {
        name: getattr(job, name)
        for name in ("input", "output", "params", "wildcards", "threads", "resources", "log")
    }
    return str(fill(job.rule.shellcmd, **known))


def source_reasons(
    path: str, entry: dict[str, Any], hashes: fingerprint.Hashes, lock: Path = LOCK
) -> list[str]:
    """Return why a fetched file, or any file of a fetched snapshot, is not what the registry or the
    first fetch says.
    """
    if not Path(path).is_file():
        return [staleness.NEVER]
    try:
        expected = fingerprint.pin(entry, lock)
    except UserError as error:
        return [str(error)]
    if "path" in entry:
        if not expected:
            return [
                f"source {path}: no hash is published, and none recorded in {lock}; fetching"
                " records it"
            ]
        return list(staleness.changed_files("source", {path: expected}, [], hashes))
    try:
        held = read_json_object(Path(path), "revision", "files")
    except UserError as error:
        return [str(error)]
    folder = Path(path).parent
    files = {str(folder / name): digest for name, digest in held["files"].items()}
    return [
        *differences(held["revision"], expected, "revision"),
        *staleness.changed_files("source", files, [], hashes),
    ]


def messages(stale: dict[Any, list[str]]) -> list[str]:
    """Return a line for each reason, and one that counts the stages that have never ended."""
    names = {
        Path(job.output.get("receipt", job.output[0])).stem: found for job, found in stale.items()
    }
    waiting = sum(found == [staleness.NEVER] for found in names.values())
    unmade = counted(waiting, "stage or source", "stages and sources")
    lines = [
        f"stale: {name}: {reason}"
        for name, found in sorted(names.items())
        if found != [staleness.NEVER]
        for reason in found
    ]
    return [*lines, *([f"not made yet: {unmade}"] if waiting else []), *([""] if names else [])]


def can_be_written(folder: Path) -> bool:
    """Whether a directory can be written, or made if it is not there; a plan needs none."""
    return os.access(folder if folder.exists() else folder.parent, os.W_OK)


@contextmanager
def one_run() -> Iterator[bool]:
    """Hold this directory's lock, as every run does and every command that changes its stores;
    yield whether locks of Snakemake that still exist can only be left over from a run that was
    killed.

    The system releases the lock when its holder dies, however it dies. If another run holds it,
    this one ends with one line: of an exception Snakemake prints the stack, too. The file names
    host and process, because not every network file system shares such locks between machines:
    another host's are not touched.
    """
    file = RUN_LOCK
    file.parent.mkdir(exist_ok=True)
    with open(os.open(file, os.O_RDWR | os.O_CREAT, 0o666), "r+", encoding="utf-8") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            host, _, process = stream.read().partition(" ")
            holder = f"process {process} on {host}" if process else "it has just begun"
            print(
                f"error: another run is at work in this directory ({holder}); wait until it has"
                " ended, or end it",
                file=sys.stderr,
            )
            raise SystemExit(2) from None
        except OSError as error:
            advice = NO_LOCKS if error.errno in UNLOCKABLE else "run it again"
            print(f"error: {file}: {error.strerror}; {advice}", file=sys.stderr)
            raise SystemExit(2) from None
        host = stream.read().partition(" ")[0]
        stream.seek(0)
        stream.truncate()
        print(socket.gethostname(), os.getpid(), end="", file=stream, flush=True)
        yield host in ("", socket.gethostname())


def ended_by_itself(log: list[str]) -> bool:
    """Whether a log says that its program ended with an error of its own, so that it would end the
    same way with more memory or time. One that is killed writes no such line.
    """
    errors = [line for line in log if line.startswith("error: ")]
    return bool(errors) and "out of memory" not in errors[-1]


def patient(query: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Return the Slurm executor's query for the states of jobs, so that it loses none of them.

    Where it fails, the executor would forget every job, and the run would neither end nor cancel
    them; no state at all makes it ask again later. sacct names who cancelled a job (`CANCELLED by
    1000`), which the executor takes for a job at work; so it does with one that was preempted, or
    that Slurm has forgotten. These are cancelled, too, if they are not back in `GONE_S`.
    """
    gone: dict[str, float] = {}  # job -> since when, 0 while it is there

    async def states(*args: Any) -> tuple[dict[str, str], float]:
        found, took = await query(*args)
        if found is None:
            return {}, 0.0
        found = {job: state.split()[0] for job, state in found.items() if state}
        for job in gone.keys() | found.keys():
            if found.get(job, "PREEMPTED") != "PREEMPTED":
                gone[job] = 0.0
            elif not gone.get(job):
                gone[job] = time.monotonic()
            elif time.monotonic() - gone[job] > GONE_S:
                found[job] = "CANCELLED"
        return found, took

    return states


def check_version(version: str) -> None:
    """Raise `UserError` unless this is a version of Snakemake in which the patch was tested."""
    if version not in TESTED:
        raise UserError(
            f"Snakemake {version}: not tested with this workflow, which replaces methods of"
            f" Snakemake; tested: {', '.join(TESTED)}; use the one of `make environment`"
        )


def install() -> None:
    """Let receipts decide in this process, allow one run at a time in a directory, and remove from
    the environment what belongs to other programs.

    Raise `UserError` in a version of Snakemake that was never tested.
    """
    import snakemake

    check_version(snakemake.__version__)
    from snakemake.dag import DAG

    if getattr(DAG.update_needrun, "by_receipts", False):
        return
    surroundings.clean(os.environ, Path(__file__).parents[2])
    _judge_by_receipts()
    _plan_without_writing()
    _allow_one_run()
    _restart_only_killed_jobs()
    _end_at_signals()
    _ask_clusters_patiently()


def _judge_by_receipts() -> None:
    """Let a job run if its receipt, or the hash of a fetched file, says that it is stale."""
    from snakemake.dag import DAG
    from snakemake.io import _IOFile, flag, is_flagged

    from bezoar.workflow import progress_display

    original = DAG.update_needrun

    async def is_newer(self: Any, time: float) -> bool:
        return False  # dates are ignored: changed bytes are found by their hash

    async def update_needrun(self: Any, create_inventory: bool = False) -> None:
        # Kept while the job runs, so that a program can find that nothing has changed. A server's
        # address is no such file.
        kept = [path for job in self.jobs for path in job.output if not is_flagged(path, "service")]
        for path in kept:
            if not hasattr(path._file, "flags"):
                path._file = flag(path._file, "update")
            path._file.flags["update"] = True
        if self.workflow.is_main_process and not hasattr(self, "stale"):
            settings = self.workflow.dag_settings
            settings.rerun_triggers = frozenset()
            if settings.forcerun or settings.forceall or settings.forcetargets:
                os.environ[fingerprint.AGAIN] = "1"  # a forced rule is meant to run
            hashes = fingerprint.Hashes(staleness.CACHE)
            self.stale = {job: found for job in self.jobs if (found := job_reasons(job, hashes))}
            hashes.save()
            code_digest.save()
            print(*messages(self.stale), sep="\n", end="", file=sys.stderr)
            self.forcefiles.update(path for job in self.stale for path in job.output)
        await original(self, create_inventory)
        if self.workflow.is_main_process:
            progress_display.plan(self)

    update_needrun.by_receipts = True  # type: ignore[attr-defined]
    DAG.update_needrun = update_needrun
    _IOFile.is_newer = is_newer


def _plan_without_writing() -> None:
    """Let a dry run read what it cannot write."""
    from snakemake.jobs import Job
    from snakemake.persistence import PersistenceBase

    made, require_writable = PersistenceBase.__init__, Job.check_protected_output

    def __init__(self: Any, *args: Any, path: Path | None = None, **kwargs: Any) -> None:
        workflow = kwargs["dag"].workflow
        if path is None and workflow.dryrun and not can_be_written(Path(".snakemake")):
            self.aside = tempfile.TemporaryDirectory(prefix="bezoar-plan-")
            path = Path(self.aside.name)
        made(self, *args, path=path, **kwargs)

    async def check_protected_output(self: Any) -> None:
        if not self.dag.workflow.dryrun:  # a plan writes nothing
            await require_writable(self)

    PersistenceBase.__init__ = __init__
    Job.check_protected_output = check_protected_output


def _allow_one_run() -> None:
    """Let one run at a time hold a directory, with the server of imports beside it."""
    from snakemake.exceptions import LockException
    from snakemake.persistence import PersistenceBase

    locked = PersistenceBase.lock

    @contextmanager
    def lock(self: Any) -> Iterator[None]:
        holder = RUN_LOCK.read_text(encoding="utf-8") if RUN_LOCK.is_file() else ""
        with ExitStack() as held:
            abandoned = held.enter_context(one_run())
            if abandoned:
                self.cleanup_locks()
            (self.path / "locks").mkdir(
                exist_ok=True
            )  # a run that ends removes it, perhaps after this one has made it
            # A cluster's jobs run elsewhere, within limits of their own.
            here = self.dag.workflow.local_exec
            held.enter_context(fork_server.running() if here else nullcontext())
            try:
                held.enter_context(locked(self))
            except LockException:  # the directory is still the other's
                RUN_LOCK.write_text(holder, encoding="utf-8")
                raise
            yield

    PersistenceBase.lock = lock


def _restart_only_killed_jobs() -> None:
    """Give no further attempt to a job that ended with an error of its own."""
    from snakemake.jobs import GroupJob, Job

    from bezoar.workflow import progress_display

    retries, began = Job.restart_times.fget, time.time()

    def by_itself(job: Any) -> bool:
        # A rule's own retries are for faults of the network; a profile's, for jobs that are killed.
        if job.rule._restart_times is not None:
            return False
        logs = [path for path in map(Path, job.log) if path.is_file()]
        new = [path for path in logs if path.stat().st_mtime >= began]  # not of an earlier run
        return any(ended_by_itself(progress_display.last_lines(path, 200)) for path in new)

    def restart_times(self: Any) -> int:
        return 0 if by_itself(self) else int(retries(self))

    def restart_times_of_group(self: Any) -> int:
        return 0 if any(map(by_itself, self.jobs)) else max(map(retries, self.jobs))

    Job.restart_times = property(restart_times)
    GroupJob.restart_times = property(restart_times_of_group)


def _end_at_signals() -> None:
    """Let a signal end a run whatever lock the thread that it interrupts holds."""
    from snakemake.scheduling.job_scheduler import JobScheduler

    ended = JobScheduler.exit_gracefully

    def exit_gracefully(self: Any, *args: Any) -> None:
        # A handler of signals interrupts the main thread, which may hold the lock that this takes:
        # at the second of two SIGTERMs (the group's and make's) Snakemake would wait for itself.
        Thread(target=ended, args=(self,), daemon=True).start()

    JobScheduler.exit_gracefully = exit_gracefully


def _ask_clusters_patiently() -> None:
    """Ask a cluster as often as the profile says, end at once, and lose no job."""
    from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor

    async def sleep(self: Any) -> None:
        # The executor for Slurm asks ever later, up to every three minutes, whatever the profile
        # says; and the end of a run, or Ctrl-C, would wait for that to be over.
        most = self.workflow.remote_execution_settings.seconds_between_status_checks
        until = time.monotonic() + min(self.next_seconds_between_status_checks, most)
        while self.wait and (left := until - time.monotonic()) > 0:
            await asyncio.sleep(min(left, WAKES_S))

    def cancel(self: Any) -> None:
        # While the executor asks for the states of its jobs it knows none that it could cancel.
        with self.lock:
            self.wait = False
        self.wait_thread.join()
        self.cancel_jobs(list(self.active_jobs))
        self.shutdown()

    plugin: Any = sys.modules.get("snakemake_executor_plugin_slurm")
    if plugin:
        plugin.query_job_status = patient(plugin.query_job_status)
    RemoteExecutor.sleep = sleep
    RemoteExecutor.cancel = cancel
