"""Promises of `snakemake --logger bezoar`, on a workflow of four jobs: lines in place of
Snakemake's own, one block for an error, the output of jobs in their logs alone.
"""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bezoar.workflow import progress_display

ROOT = Path(__file__).parents[3]
SNAKEFILE = """
import sys
from bezoar.provenance import snakemake_patch
snakemake_patch.install()
config |= {"pathvars": {"results": "r"}, "scale": "rehearsal"}

rule all:
    input: expand("{name}.out", name=["a", "b"]), "bad.out"

rule make:
    output: "{name}.out"
    wildcard_constraints: name="a|b"
    log: "logs/{name}.txt"
    shell:
        'exec &> >(tee {log}); echo loud; echo "-- count {wildcards.name}: 1 of 9 rows, 0:07 left"'
        ' >&2; sleep {config[sleep]}; touch {output}'

rule bad:
    input: "a.out"
    output: "bad.out"
    log: "logs/bad.txt"
    resources: attempt=lambda wildcards, attempt: attempt
    shell:
        'exec &> >(tee {log}); echo "error: rows.jsonl:3: no text"; touch {output};'
        ' exit $(({config[status]} / {resources.attempt}))'
"""


def run(folder: Path, status: int, sleep: int, *more: str) -> subprocess.CompletedProcess[str]:
    child = start(folder, status, sleep, *more)
    stdout, stderr = child.communicate(timeout=60)
    return subprocess.CompletedProcess(child.args, child.returncode, stdout, stderr)


def start(
    folder: Path, status: int, sleep: int, *more: str, snakefile: str = SNAKEFILE
) -> subprocess.Popen[str]:
    (folder / "Snakefile").write_text(snakefile)
    command = [sys.executable, "-m", "snakemake", "--cores", "2", *more]
    return subprocess.Popen(
        [*command, "--config", f"status={status}", f"sleep={sleep}"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT / "scripts")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    seconds = 2 * int(progress_display.SHORT_S)  # long enough to be shown while it runs
    return run(tmp_path_factory.mktemp("failed"), 2, seconds, "--logger", "bezoar")


def test_a_run_is_lines_with_step_time_and_stage(failed: subprocess.CompletedProcess[str]) -> None:
    lines = failed.stdout.splitlines()
    assert lines[0].startswith("3 steps on 2 cores: ")
    assert all(re.match(r"\[\d/3\] +\d:\d\d ", line) for line in lines[2:])
    for name in "ab":
        assert any(
            line.endswith(f"make {name}: count {name}: 1 of 9 rows, 0:07 left") for line in lines
        )
        assert any(f"make {name}: done in 0:0" in line for line in lines)
    assert "loud" not in failed.stdout + failed.stderr


def test_a_failed_step_is_one_block(failed: subprocess.CompletedProcess[str]) -> None:
    assert failed.returncode != 0
    block = failed.stderr[failed.stderr.index("error: bad failed") :].splitlines()
    assert block[:3] == [block[0], "  the end of logs/bad.txt:", "    error: rows.jsonl:3: no text"]
    assert len(block) == 4 and "continues from there" in block[3]
    assert not any(word in failed.stderr for word in ("Traceback", "set -euo", "RuleException"))


def test_a_step_that_is_started_again_has_not_failed(tmp_path: Path) -> None:
    killed = SNAKEFILE.replace("error: rows.jsonl:3: no text", "Killed")
    options = ("--retries", "1", "--logger", "bezoar")
    with start(tmp_path, 1, 0, *options, snakefile=killed) as child:
        stdout, stderr = child.communicate(timeout=60)
    assert child.returncode == 0 and "[3/3]" in stdout
    assert stderr == "bad: ended early; once more, from where it stopped\n"


def test_an_interrupt_ends_everything_and_the_same_command_goes_on(tmp_path: Path) -> None:
    child = start(tmp_path, 0, 54321, "--logger", "bezoar")
    assert child.stdout is not None
    assert any("at work" in line or "0:07 left" in line for line in child.stdout)
    os.killpg(child.pid, signal.SIGINT)
    _, stderr = child.communicate(timeout=30)
    assert child.returncode != 0 and "Traceback" not in stderr
    assert [line for line in stderr.splitlines() if "interrupted" in line] == [
        "interrupted: what runs is ended, here and on a cluster; the same command continues from"
        " there"
    ]
    until = time.monotonic() + 20
    while left := subprocess.run(["pgrep", "-g", str(child.pid)], capture_output=True).stdout:
        assert time.monotonic() < until, left
        time.sleep(0.2)
    again = run(tmp_path, 0, 0, "--logger", "bezoar")
    assert again.returncode == 0, again.stderr
    assert "[3/3]" in again.stdout
    assert run(tmp_path, 0, 0, "--logger", "bezoar").stdout.startswith("nothing to do: ")
