"""How long a run will take: recorded or scaled seconds of each stage, scheduled as Snakemake does.

Seconds come from this directory's earlier runs (`RECORD`). A first run at a scale that has them
uses those of a reference machine (`REFERENCE`), scaled by how fast this one does small matrix
products and plain Python; the real seconds of the first stages correct the rest.
"""

import heapq
import json
import math
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bezoar.errors import UserError
from bezoar.files import whole_file
from bezoar.readers import read_json_object

RECORD = Path(".snakemake/bezoar-seconds.json")
REFERENCE = Path(__file__).with_name("reference_seconds.json")


@dataclass(frozen=True)
class Step:
    """A job of a run: its name, its rule, the steps it waits for, and what it occupies."""

    name: str
    rule: str
    needs: frozenset[str] = frozenset()
    threads: int = 1
    priority: int = 0


@dataclass(frozen=True)
class Plan:
    """The steps of a run by name, the cores it has, the results that it fills, and its scale;
    `jobs` is how many a cluster gets at once, None for a run on this machine.
    """

    steps: Mapping[str, Step] = field(default_factory=dict)
    cores: int = 1
    results: str = ""
    scale: str = ""
    jobs: int | None = None


def probe() -> float:
    """Return the seconds that a fixed piece of work takes one core here, whatever else it does
    meanwhile: half of it small float32 matrix products, half of it plain Python. About 0.3 s.
    """
    import numpy as np

    # OpenBLAS shares a larger product among threads; on a busy machine these wait for each other,
    # many times as long as the product takes.
    matrix = np.full((64, 64), 0.01, np.float32)
    best = math.inf
    for _ in range(2):
        start = time.thread_time()
        for _ in range(5_000):
            matrix @ matrix
        words: dict[int, int] = {}
        for number in range(500_000):
            words[number % 1000] = words.get(number % 1000, 0) + number
        best = min(best, time.thread_time() - start)
    return best


def read(path: Path) -> dict[str, Any]:
    """Return a record of seconds; an unreadable one counts as empty."""
    try:
        return read_json_object(path)
    except UserError:
        return {}


def reference(scale: str) -> dict[str, Any]:
    """Return {probe_s, seconds, threads, chain} of the reference machine's run at a scale; {} if
    there is none. `threads` are those of steps with more than one, `chain` is the longest chain.
    """
    return dict(read(REFERENCE).get(scale, {}))


def recorded(results: str, path: Path = RECORD) -> dict[str, float]:
    """Return the seconds that steps of runs that fill `results` took, as far as they are known."""
    steps = read(path).get(results)
    found = steps.items() if isinstance(steps, dict) else ()
    return {name: taken for name, taken in found if isinstance(taken, int | float)}


def record(results: str, name: str, seconds: float, path: Path = RECORD) -> None:
    """Record the seconds of a step of the run that fills `results`, if the file can be written."""
    known = read(path)
    known[results] = {**recorded(results, path), name: round(seconds, 1)}
    with suppress(OSError), whole_file(path) as stream:
        json.dump(known, stream, indent=0, sort_keys=True)


def seconds_of(plan: Plan, path: Path = RECORD) -> tuple[dict[str, float], bool]:
    """Return the seconds of every step that can be expected, and whether they are records of this
    directory. A step that has never run is expected to take as long as others of its rule.
    """
    known = recorded(plan.results, path)
    own = sum(name in known for name in plan.steps) * 2 > len(plan.steps)
    if not own and (run := reference(plan.scale)):
        slower = probe() / run["probe_s"]
        known = {name: slower * taken for name, taken in run["seconds"].items()} | known
    found = {}
    for name, step in plan.steps.items():
        same = [taken for other, taken in known.items() if other.split(" ")[0] == step.rule]
        if name in known:
            found[name] = known[name]
        elif same:
            found[name] = sum(same) / len(same)
    return found, own


def makespan(
    steps: Mapping[str, Step],
    seconds: Mapping[str, float],
    cores: int,
    running: Mapping[str, float],
) -> float:
    """Return the seconds until all `steps` have ended, scheduled as Snakemake does: a step starts
    when its inputs exist and enough cores are free, the highest priority first.

    `running` holds the seconds left of the steps at work.
    """
    ends: list[tuple[float, str]] = [(left, name) for name, left in running.items()]
    heapq.heapify(ends)
    free = cores - sum(min(steps[name].threads, cores) for name in running)
    waiting = sorted(
        (name for name in steps if name not in running),
        key=lambda name: (-steps[name].priority, -seconds.get(name, 0), name),
    )
    missing, now = set(steps), 0.0
    while ends or waiting:
        for name in list(waiting):
            threads = min(steps[name].threads, cores)
            if threads <= free and not steps[name].needs & missing:
                waiting.remove(name)
                heapq.heappush(ends, (now + seconds.get(name, 0), name))
                free -= threads
        if not ends:
            break
        now, ended = heapq.heappop(ends)
        missing.discard(ended)
        free += min(steps[ended].threads, cores)
    return now


def first_run_s(scale: str, cores: int) -> float | None:
    """Return the seconds that a whole first run at a scale takes here: the longest chain of steps,
    or all work shared by the cores. None for a scale without a reference.
    """
    run = reference(scale)
    if not run:
        return None
    seconds, threads = run["seconds"], run["threads"]
    chain = sum(seconds[name] for name in run["chain"])
    work = sum(taken * threads.get(name, 1) for name, taken in seconds.items())
    return float(max(chain, work / cores) * probe() / run["probe_s"])
