"""The smallest rehearsal, run in a copy of the project, and what a further run of it would
start.
"""

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
SNAKEMAKE = Path(sys.executable).with_name("snakemake")
CONFIG = ["config/rehearsal.yaml", "tests/workflow/smallest.yaml"]
RESULTS = "results/smallest"
SCHEMES = ("lamini", "orca", "evol")
MODELS = ("openbezoar-sft", "openbezoar-hh-rlhf-sft", "openbezoar-hh-rlhf-dpo")


def snakemake(
    folder: Path, *arguments: str, more: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "PYTHONPATH": str(folder / "scripts"),
        "PATH": f"{SNAKEMAKE.parent}:{os.environ['PATH']}",
        "TOKENIZERS_PARALLELISM": "false",
    }
    command = [
        str(SNAKEMAKE),
        "--profile",
        "profiles/default",
        "--cores",
        "2",
        *arguments,
        "--configfile",
        *CONFIG,
        *more,
    ]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


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
