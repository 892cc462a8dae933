"""What a run shows: the step, the time it has taken and the time it will take.

`make` starts Snakemake with `--logger bezoar`, which is `LogHandler` here: Snakemake's own plugin
interface. It prints a line for each step that ends, and every ten seconds one for each running
step, with the last progress line of its log (`bezoar.progress`). What the steps print goes to their
logs alone. `VERBOSE=1 make …`, and plain `snakemake`, show Snakemake's own output instead.
"""

import contextlib
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable
from logging import WARNING, LogRecord
from pathlib import Path
from typing import Any

from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent

from bezoar.progress import EVERY_S, MARK, RESUMED, clock
from bezoar.workflow import duration
from bezoar.workflow.duration import Plan, Step
from bezoar.workflow.wording import counted

SHORT_S = 3.0  # a step that has ended by then is shown only once
LINES = 8  # of running steps, every ten seconds
TAIL = 15  # lines of a failed step's log
TRUSTED_S = 20.0  # of finished work, before what it took corrects the rest
SAID_ELSEWHERE = (  # by the block about the step that failed
    "At least one job did not complete successfully",
    "Exiting because a job execution failed",
    "CalledProcessError",
    "Restored previous version of",
    "Cannot restore ",
    "Removing output files of failed job",
    # by the line about the cluster
    "No SLURM account given, trying to guess",
    "No account was given, not able to get a SLURM account",
    "Unable to guess SLURM account",
)
TARGET = "all"  # the rule that asks for everything and does nothing
# What Snakemake says of a signal -> what we do.
STOPPED = {
    "Terminating processes on user request": "interrupted: what runs is ended, here and on a"
    " cluster; the same command continues from there",
    "Will exit after finishing currently running jobs": "told to end: no further step starts, and"
    " those at work are finished; Ctrl-C ends them",
}
RESTART_S = 2.0  # in which Snakemake says whether a job that failed is started again
AGAIN = re.compile(r"Trying to restart job (.+)\.")
# What the executor for Slurm says of a job that failed: what sbatch said, or the job's last state.
SAID = re.compile(r"error message was '(.*?)'\.?\n|status is: '(\w+)'", re.DOTALL)

_plan = Plan()


def name_of(rule: str, wildcards: dict[str, str]) -> str:
    """Return the name of a step in lines and records: its rule and its wildcards."""
    return " ".join([rule, *(str(value) for _, value in sorted(wildcards.items()))])


def plan(dag: Any) -> None:
    """Take the steps of a DAG that is about to be run."""
    global _plan
    jobs = {job: name_of(job.rule.name, job.wildcards_dict) for job in dag.needrun_jobs()}
    config, settings = dag.workflow.config, dag.workflow.resource_settings
    _plan = Plan(
        {
            name: Step(
                name,
                job.rule.name,
                frozenset(jobs[other] for other in dag.dependencies[job] if other in jobs),
                job.threads if isinstance(job.threads, int) else 1,
                job.rule.priority,
            )
            for job, name in jobs.items()
        },
        settings.cores or 1,
        config["pathvars"]["results"],
        config["scale"],
        None if settings.cores else settings.nodes,
    )


def last_lines(path: Path, count: int) -> list[str]:
    """Return the last non-empty lines of a log; of a line that was overwritten, its last state."""
    try:
        with open(path, "rb") as stream:
            stream.seek(max(0, os.path.getsize(path) - 20_000))
            text = stream.read().decode("utf-8", "replace")
    except OSError:
        return []
    lines = [line.rstrip().rpartition("\r")[2] for line in text.split("\n")]
    return [line for line in lines if line.strip()][-count:]


def first_lines(path: Path) -> list[str]:
    """Return the first lines of a log."""
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read(20_000).splitlines()
    except OSError:
        return []


def written(log: Path | None) -> tuple[int, int] | None:
    """Return when a log was last written and its size; None if there is none."""
    try:
        state = os.stat(log) if log else None
    except OSError:
        return None
    return (state.st_mtime_ns, state.st_size) if state else None


class Display:
    """The lines of one run; `write` prints one, `now` is a clock in seconds."""

    def __init__(
        self, write: Callable[[str], None], now: Callable[[], float] = time.monotonic
    ) -> None:
        self.write, self.now = write, now
        self.began = now()
        self.plan, self.seconds, self.record = Plan(), dict[str, float](), duration.RECORD
        self.total = self.done = 0
        self.running: dict[str, tuple[float, Path | None]] = {}
        self.untouched: dict[str, tuple[int, int] | None] = {}  # a running step's log as it was
        self.shown: dict[str, tuple[float, str]] = {}  # when and what was last shown of a step
        self.ended: set[str] = set()
        self.took = self.expected = 0.0

    def begin(self, plan: Plan, seconds: dict[str, float], own: bool) -> None:
        """Start with the steps of a plan and the seconds expected of them."""
        self.plan, self.seconds = plan, seconds
        self.total = sum(name != TARGET for name in plan.steps)
        left = self.left()
        why = "from earlier runs" if own else "estimated; corrected as it goes"
        about = (
            "how long is known after a first run" if left is None else f"about {clock(left)}, {why}"
        )
        if plan.jobs:
            about = f"on a cluster, {plan.jobs} at once: how long depends on its queue"
        else:
            about = f"on {counted(plan.cores, 'core')}: {about}"
        self.write(f"{counted(self.total, 'step')} {about}")
        self.write("Ctrl-C stops it; the same command continues from there.")

    def left(self) -> float | None:
        """Return the seconds that the rest will take; None if some step cannot be estimated, as on
        a cluster, where each waits in a queue.
        """
        if self.plan.jobs:
            return None
        rest = {name: step for name, step in self.plan.steps.items() if name not in self.ended}
        if any(name not in self.seconds for name in rest if name not in (TARGET, "report")):
            return None
        slower = self.took / self.expected if self.expected > TRUSTED_S else 1.0
        seconds = {name: slower * self.seconds.get(name, 0) for name in rest}
        running = {
            name: self._left_of(name, began, log, seconds[name])
            for name, (began, log) in self.running.items()
            if name in rest
        }
        return duration.makespan(rest, seconds, self.plan.cores, running)

    def _left_of(self, name: str, began: float, log: Path | None, seconds: float) -> float:
        """The seconds left of a running step: as it reports them, otherwise as expected."""
        spent = self.now() - began
        match = re.search(r"([\d:]+) left$", self._sign(log))
        if not match:
            return max(seconds - spent, 0.1 * spent)
        parts = [int(part) for part in match[1].split(":")]
        return float(sum(part * 60**power for power, part in enumerate(reversed(parts))))

    def _sign(self, log: Path | None) -> str:
        """The last progress line in a log, without its mark."""
        lines = last_lines(log, 200) if log else []
        found = [line[len(MARK) :] for line in lines if line.startswith(MARK)]
        return found[-1] if found else ""

    def line(self, text: str) -> None:
        """Print a line with the state of the run before it."""
        elapsed, left = self.now() - self.began, self.left()
        of = "" if left is None or not self.total else f" of about {clock(elapsed + left)}"
        width = len(str(self.total))
        self.write(f"[{self.done:>{width}}/{self.total}] {clock(elapsed):>5}{of}  {text}")

    def started(self, name: str, log: Path | None) -> None:
        """A step has started."""
        self.running[name] = self.now(), log
        self.untouched[name] = written(log)

    def finished(self, name: str) -> None:
        """A step has ended well."""
        self.ended.add(name)
        began, log = self.running.pop(name, (self.now(), None))
        took = self.now() - began
        if name == TARGET:
            return
        self.done += 1
        unchanged = log is not None and "unchanged:" in " ".join(last_lines(log, 3))
        resumed = log is not None and any(line.startswith(RESUMED) for line in first_lines(log))
        # A cluster's steps wait in its queue, too.
        if not unchanged and not resumed and self.plan.jobs is None:
            duration.record(self.plan.results, name, took, self.record)
            if name in self.seconds:
                self.took += took
                self.expected += self.seconds[name]
        self.line(f"{name}: {'unchanged' if unchanged else f'done in {clock(took)}'}")

    def failed(self, name: str, why: str = "", other: Path | None = None) -> Iterable[str]:
        """A step has failed; return the lines that say so, with the end of its log, or of another
        log if it has not begun to write its own.
        """
        began, log = self.running.pop(name, (self.now(), None))
        if other and log and written(log) == self.untouched[name]:
            log = other
        yield f"error: {name} failed after {clock(self.now() - began)}{why and f': {why}'}"
        if log:
            yield f"  the end of {log}:"
            lines = last_lines(log, 200)
            found = [line for line in lines if not line.startswith(MARK)] or lines[-1:]
            yield from (f"    {line}" for line in found[-TAIL:] or ["(empty)"])
        yield "Finished steps are kept; the same command continues from there."

    def tick(self) -> None:
        """Show every running step that is due, those not shown for the longest time first."""
        now, due = self.now(), []
        for name, (began, log) in self.running.items():
            at, before = self.shown.get(name, (began, ""))
            if now - at >= (EVERY_S if name in self.shown else SHORT_S):
                due.append((at, name, began, log, before))
        for _, name, began, log, before in sorted(due)[:LINES]:
            waits = self.plan.jobs and log and written(log) == self.untouched[name]
            sign = "" if waits else self._sign(log)
            self.shown[name] = now, sign
            doing = f"{'in the queue' if waits else 'at work'} for {clock(now - began)}"
            self.line(f"{name}: {sign if sign != before and sign else doing}")


class LogHandler(LogHandlerBase):
    """Snakemake's events, shown by a `Display` on stdout; warnings and errors on stderr."""

    writes_to_stream = True
    writes_to_file = False
    has_filter = True
    has_formatter = True
    needs_rulegraph = False

    def __post_init__(self) -> None:
        # The steps copy their output to our stdout, for whoever runs `snakemake` by hand; here it
        # is in their logs, and the lines of two at work would be mixed.
        self.output = os.fdopen(os.dup(1), "w", encoding="utf-8", errors="replace")
        if not self.common_settings.dryrun:
            with open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), 1)
        self.display = Display(self.show)
        self.names: dict[int, str] = {}
        self.failures: dict[int, tuple[float, str, list[str]]] = {}  # job -> when, why, lines
        self.group: list[int] = []  # the jobs of the one that failed last, and Slurm's logs of it
        self.group_logs: list[str] = []
        self.guard, self.over, self.broken = threading.Lock(), threading.Event(), False
        threading.Thread(target=self._tick, daemon=True).start()

    def show(self, text: str, stream: Any = None) -> None:
        """Print a line at once; a reader that has gone does not stop the run."""
        with contextlib.suppress(OSError, ValueError):
            print(text, file=stream or self.output, flush=True)

    def _tick(self) -> None:
        while not self.over.wait(1):
            with self.guard:
                self.display.tick()
                self._show_failures()

    def _show_failures(self, held_s: float = RESTART_S) -> None:
        """Say which steps have failed, but for those that Snakemake may yet start again."""
        for job, (at, _, lines) in list(self.failures.items()):
            if self.display.now() - at >= held_s:
                del self.failures[job]
                self.show("\n".join(lines), sys.stderr)

    def emit(self, record: LogRecord) -> None:
        """Show an event, if it concerns a reader."""
        try:
            with self.guard:
                self._emit(record, getattr(record, "event", None))
        except Exception:
            self.handleError(record)

    def _emit(self, record: Any, event: Any) -> None:
        if event == LogEvent.RUN_INFO:
            self.display.begin(_plan, *duration.seconds_of(_plan))
        elif event == LogEvent.JOB_INFO:
            name = name_of(record.rule_name, record.wildcards or {})
            self.names[record.jobid] = name
            log = re.sub(r" \(.*\)$", "", record.log[0]) if record.log else None
            self.display.started(name, Path(log) if log else None)
        elif event == LogEvent.JOB_FINISHED:
            self.display.finished(self.names[record.job_id])
        elif event == LogEvent.GROUP_ERROR:
            self.group = [job["jobid"] for job in record.job_error_info]
            self.group_logs = record.aux_logs
        elif event == LogEvent.JOB_ERROR:
            name = self.names.get(record.jobid, record.rule_name)
            said = SAID.search(record.rule_msg or "")
            why = " ".join((said[1] or said[2]).split()) if said else ""
            in_group = record.jobid in self.group  # its own record has no log of Slurm's
            logs = [*record.log[1:], *(self.group_logs if in_group else [])]
            others = [Path(log) for log in logs if log]
            lines = list(self.display.failed(name, why, others[-1] if others else None))
            self.failures[record.jobid] = self.display.now(), why, lines
        elif str(record.msg).startswith("Nothing to be done"):
            self.show("nothing to do: every result is there and rests on what lies here now")
        elif match := AGAIN.match(str(record.msg)):
            for job in [int(match[1])] if match[1].isdigit() else self.group:
                _, why, _ = self.failures.pop(job, (0.0, "", []))
                name = self.names.get(job, f"job {job}")
                early = f"ended early{why and f' ({why})'}"
                self.show(f"{name}: {early}; once more, from where it stopped", sys.stderr)
        elif found := [said for words, said in STOPPED.items() if words in str(record.msg)]:
            self.show(found[0], sys.stderr)
        elif record.levelno >= WARNING:
            text = record.getMessage().strip()
            if text and not any(known in text for known in SAID_ELSEWHERE):
                self.show(text, sys.stderr)

    def close(self) -> None:
        """Stop, and restore stdout."""
        if not self.over.is_set():
            self.over.set()
            with self.guard:
                self._show_failures(held_s=0.0)
            with contextlib.suppress(OSError, ValueError):
                self.output.flush()
                os.dup2(self.output.fileno(), 1)
        super().close()
