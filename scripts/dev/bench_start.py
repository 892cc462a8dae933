"""Measure how long a stage takes to begin: its libraries imported by itself, or by the server that
forks it; and a whole small run both ways.

Usage: bench_start.py [--repeats 5] [--runs 1] [--output docs/benchmarks.md]

A stage is stood for by a program that imports what train_sft.py imports and ends. Both ways take
turns, so that they see the same machine; the server's first request, at which it imports, is a row
of its own. The runs are of the smallest rehearsal (tests/workflow/smallest.yaml), each in a fresh
copy of the project. The table replaces the section `## Start` of --output.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from bench_page import flags, processor, replace_section, spread
from bezoar import fork_server, program, surroundings
from bezoar.errors import UserError

ROOT = Path(__file__).parents[2]
PROGRAM = '''"""Import what a training imports."""
from bezoar import program

def main():
    from trl import SFTConfig, SFTTrainer

if __name__ == "__main__":
    program.run(main, forked=True)
'''
ALONE = {fork_server.ADDRESS: "off"}
COPIED = ("Snakefile", "config", "envs", "profiles", "prompts", "rules", "scripts", "tests")


def seconds(command: list[str], folder: Path, environment: Mapping[str, str]) -> float:
    """Return how long a command takes; `UserError` if it fails."""
    started = time.perf_counter()
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True
    )
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["?"])[-1]
        raise UserError(f"{' '.join(command[:3])}: failed: {said}")
    return time.perf_counter() - started


def starts(repeats: int) -> dict[str, list[float]]:
    """Return the seconds of the program by itself, of the first that is forked, and of others."""
    found: dict[str, list[float]] = {"alone": [], "first": [], "forked": []}
    with tempfile.TemporaryDirectory() as place, fork_server.running():
        if fork_server.ADDRESS not in os.environ:
            raise UserError("no processes are forked here: there is a GPU, or this is not Linux")
        file = Path(place) / "begin.py"
        file.write_text(PROGRAM, encoding="utf-8")
        command = [sys.executable, str(file)]
        found["first"].append(seconds(command, ROOT, {}))
        for _ in range(repeats):
            found["forked"].append(seconds(command, ROOT, {}))
            found["alone"].append(seconds(command, ROOT, ALONE))
    return found


def whole_run(environment: Mapping[str, str]) -> float:
    """Return the seconds of the smallest rehearsal, from nothing, in a copy of the project."""
    with tempfile.TemporaryDirectory() as place:
        for name in COPIED:
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, Path(place) / name)
        configs = ["config/rehearsal.yaml", "tests/workflow/smallest.yaml"]
        arguments = ["--cores", str(os.cpu_count()), "--configfile", *configs]
        command = surroundings.snakemake(*arguments, profile="profiles/default")
        return seconds(command, Path(place), {"PYTHONPATH": f"{place}/scripts", **environment})


def section(found: Mapping[str, list[float]], repeats: int, runs: int) -> str:
    """Return the Markdown of the section."""
    lines = [
        f"`bench_start.py --repeats {repeats} --runs {runs}`, {datetime.now(UTC):%Y-%m-%d %H:%M}"
        f" UTC, {os.cpu_count()} cores of {processor()} ({flags()}), load average"
        f" {os.getloadavg()[0]:.1f} at the end. Seconds: median of the repeats and their range.",
        "",
        "| what | by itself | forked | by itself / forked |",
        "|---|---|---|---|",
    ]
    rows = {
        "a program that imports TRL": ("alone", "forked"),
        "the first of a run": ("alone", "first"),
        "the smallest rehearsal": ("run alone", "run forked"),
    }
    for name, (alone, forked) in rows.items():
        if found.get(alone) and found.get(forked):
            ratio = statistics.median(found[alone]) / statistics.median(found[forked])
            cells = [name, spread(found[alone], 1), spread(found[forked], 1), f"{ratio:.2f}"]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--runs", type=int, default=1, help="whole runs each way; 0 for none")
    parser.add_argument("--output", type=Path, help="Markdown page whose section is replaced")
    args = parser.parse_args(argv)
    os.environ.pop(fork_server.ADDRESS, None)
    found = starts(args.repeats)
    for name in ("run alone", "run forked") * args.runs:
        found.setdefault(name, []).append(whole_run(ALONE if name == "run alone" else {}))
        print(f"{name}: {found[name][-1]:.1f} s", flush=True)
    text = section(found, args.repeats, args.runs)
    print(text)
    if args.output:
        replace_section(args.output, "Start", text)


if __name__ == "__main__":
    program.run(main)
