"""Programs that need Snakemake without its start-up, which takes longer than most plans: each is
forked from a process that has imported Snakemake and nothing of the project.
"""

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(  # what is not installed is left out
    [
        *("snakemake.cli", "snakemake.profiles", "snakemake.storage"),
        *("snakemake.report.html_reporter", "snakemake_executor_plugin_slurm"),
        *("yaml", "jsonschema"),
    ]
)


def surroundings() -> dict[str, str]:
    """The variables that may act when Python or a library starts."""
    ours = ("BEZOAR_", "PYTEST_")
    return {name: text for name, text in os.environ.items() if not name.startswith(ours)}


AT_START = surroundings()


def run(
    command: list[str], folder: Path, environment: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run a Python program in a directory, forked unless a test has changed a variable that may act
    at the start; return how it ended.
    """
    if surroundings() != AT_START:
        return subprocess.run(
            [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True
        )
    with tempfile.TemporaryDirectory() as name:
        streams = [Path(name) / stream for stream in ("stdout", "stderr")]
        process = FORKS.Process(target=_become, args=(command, folder, environment, streams))
        process.start()
        process.join()
        texts = [stream.read_text(encoding="utf-8") for stream in streams]
    assert process.exitcode is not None
    return subprocess.CompletedProcess(command, process.exitcode, *texts)


def _become(
    command: list[str], folder: Path, environment: dict[str, str], streams: list[Path]
) -> None:
    """Make this process the program that a command line names."""
    for number, stream in enumerate(streams, 1):
        os.dup2(os.open(stream, os.O_WRONLY | os.O_CREAT), number)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    installed = [path for path in sys.path if path.startswith((sys.prefix, sys.base_prefix))]
    sys.path[:] = [*environment.get("PYTHONPATH", "").split(os.pathsep), *installed]
    sys.argv = command
    runpy.run_path(command[0], run_name="__main__")
