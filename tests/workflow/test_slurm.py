"""Jobs of the workflow on a real slurmctld and slurmd: submitted as the cluster allows, killed,
submitted again with more, and resumed.
"""

import importlib.util
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import slurm_cluster
from smallest import CONFIG, RESULTS, fresh

PLUGIN = importlib.util.find_spec("snakemake_executor_plugin_slurm")
ASKED = os.environ.get("BEZOAR_TEST_SLURM") == "1"
MISSING = slurm_cluster.missing() + ([] if PLUGIN else ["snakemake-executor-plugin-slurm"])
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(not ASKED, reason="a cluster of one node, minutes: BEZOAR_TEST_SLURM=1"),
    pytest.mark.skipif(
        bool(MISSING), reason=f"slurmctld and slurmd: {', '.join(MISSING)} not installed"
    ),
]
# Steps enough to be killed among; each takes some milliseconds.
LONGER = "pretrain: {steps: 400, checkpoint_steps: 25}\n"
# Two jobs with a GPU, that ask as the project's rules do.
GPU_JOBS = """
import sys
sys.path.insert(0, {scripts!r})
from bezoar.workflow.resources import Need, asked, limits_of_environment
rule all:
    input: "a", "b"
rule one:
    output: "{{name}}"
    resources: **asked(Need(mem_mb=500, seconds=1, gpus=1), limits_of_environment())
    shell: "echo $CUDA_VISIBLE_DEVICES >{{output}}; sleep 8"
"""


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of a cluster's user."""
    bin = Path(sys.executable).parent
    with slurm_cluster.cluster(tmp_path_factory.mktemp("slurm")) as named:
        yield os.environ | named | {"PATH": f"{bin}:{named['PATH']}", "PYTHONPATH": "scripts"}


def jobs(variables: dict[str, str]) -> list[list[str]]:
    """Id, comment, state, memory and minutes of every job that the cluster knows."""
    command = ["squeue", "--states=all", "--noheader", "--format=%i|%k|%T|%m|%l"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=variables)
    return sorted(line.split("|") for line in done.stdout.splitlines())


def test_a_job_that_is_killed_is_asked_for_again_with_more_and_goes_on(
    tmp_path: Path, slurm: dict[str, str]
) -> None:
    folder = fresh(tmp_path / "project")
    (folder / "longer.yaml").write_text(LONGER)
    over = threading.Event()

    def kill() -> None:
        while not over.wait(0.1):
            if (folder / RESULTS / ".base.checkpoint.pt").exists():
                name = jobs(slurm)[0][0]
                subprocess.run(["scancel", name], check=True, env=slurm)
                return

    killer = threading.Thread(target=kill)
    killer.start()
    command = [sys.executable, "scripts/commands/run_workflow.py", "--profile", "profiles/slurm"]
    target = f"{RESULTS}/base/model.safetensors"
    done = subprocess.run(
        [*command, "--cores", "1", "--config", *CONFIG, "longer.yaml", "--target", target],
        cwd=folder,
        env=slurm,
        capture_output=True,
        text=True,
        check=False,
    )
    over.set()
    killer.join()
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert done.stdout.startswith("cluster: Slurm ") and "no accounting" in done.stdout
    first, again = jobs(slurm)
    assert {first[1], again[1]} == {"rule_base"}, "the world, a light step, was made here"
    assert (first[2], again[2]) == ("CANCELLED", "COMPLETED")
    memory = [int(re.sub(r"\D", "", job[3])) for job in (first, again)]
    assert memory[1] == 2 * memory[0] and first[4] != again[4]
    step = re.search(r"resuming at step (\d+)", (folder / "logs/smallest/base.txt").read_text())
    assert step and int(step[1]) >= 25
    assert (folder / target).is_file() and "Traceback" not in done.stderr


def test_jobs_at_once_get_a_gpu_each(tmp_path: Path, slurm: dict[str, str]) -> None:
    scripts = str(slurm_cluster.ROOT / "scripts")
    (tmp_path / "Snakefile").write_text(GPU_JOBS.format(scripts=scripts))
    command = [sys.executable, "-m", "snakemake", "--executor", "slurm", "--jobs", "2"]
    options = ["--slurm-status-command", "squeue", "--slurm-no-account"]
    waits = ["--slurm-init-seconds-before-status-checks", "5"]
    done = subprocess.run(
        [*command, *options, *waits, "--default-resources", "mem_mb=100", "runtime=5"],
        cwd=tmp_path,
        env=slurm,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    given = [(tmp_path / name).read_text().strip() for name in "ab"]
    assert sorted(given) == ["0", "1"]
    assert abs((tmp_path / "a").stat().st_mtime - (tmp_path / "b").stat().st_mtime) < 8
