"""The smallest rehearsal, run in a copy of the project, and what a further run of it would
start.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import forked

ROOT = Path(__file__).parents[2]
SNAKEMAKE = Path(sys.executable).with_name("snakemake")
CONFIG = ["config/rehearsal.yaml", "tests/workflow/smallest.yaml"]
RESULTS = "results/smallest"
SCHEMES = ("lamini", "orca", "evol")
MODELS = ("openbezoar-sft", "openbezoar-hh-rlhf-sft", "openbezoar-hh-rlhf-dpo")


MADE = {"results", "logs", "benchmarks", "data"}  # by runs, in the project's root
ANYWHERE = shutil.ignore_patterns(
    ".git", ".venv*", ".snakemake", ".*_cache", "__pycache__", "ro-crate*"
)


def fresh(folder: Path) -> Path:
    """A copy of the project without anything that a run has made."""

    def ignored(directory: str, names: list[str]) -> set[str]:
        at_root = MADE & set(names) if Path(directory) == ROOT else set()
        return at_root | ANYWHERE(directory, names)

    return Path(shutil.copytree(ROOT, folder, ignore=ignored))


def call(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Snakemake in a copy of the project, with the copy's own code."""
    environment = os.environ | {
        "PYTHONPATH": str(folder / "scripts"),
        "PATH": f"{SNAKEMAKE.parent}:{os.environ['PATH']}",
        "TOKENIZERS_PARALLELISM": "false",
    }
    command = [str(SNAKEMAKE), *arguments]
    if "-n" in arguments:
        return forked.run(command, folder, environment)
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def snakemake(
    folder: Path, *arguments: str, more: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """Run the smallest rehearsal in a copy of the project."""
    usual = ("--profile", "profiles/default", "--cores", "2")
    return call(folder, *usual, *arguments, "--configfile", *CONFIG, *more)


def messages(stderr: str) -> list[str]:
    """The lines of a program's stderr but for the signs of life that a slow machine adds."""
    return [line for line in stderr.splitlines() if not line.startswith("-- ")]


def other_user() -> list[str]:
    """The command that starts another one as a user who owns nothing here; empty if that cannot be
    done, or if our Python lies where nobody else may read.
    """
    command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    if os.geteuid() or not shutil.which("setpriv"):
        return []
    # A Python below a closed directory may start once, with root's rights, and never again.
    again = (
        "import subprocess, sys\n"
        "subprocess.run([sys.executable, '-c', 'import jsonschema'], check=True)"
    )
    able = subprocess.run([*command, sys.executable, "-c", again], check=False, capture_output=True)
    return [] if able.returncode else command


def planned(folder: Path, *arguments: str) -> dict[str, int]:
    """Rule -> number of jobs that a run would start now."""
    done = snakemake(folder, "-n", *arguments)
    assert done.returncode == 0, done.stderr[-3000:]
    table = done.stdout.split("Job stats:")[-1] if "Job stats:" in done.stdout else ""
    return {
        name: int(count)
        for name, count in re.findall(r"^(\w+)\s+(\d+)$", table, re.MULTILINE)
        if name not in ("total", "all")
    }
