"""Promise: `docker run -u` with a user the image does not know works, and so does a plan in a
checkout that cannot be written.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
NOBODY = 23456  # a number without a name
SNAKEFILE = """
from bezoar.provenance import snakemake_patch
snakemake_patch.install()
config |= {"pathvars": {"results": "r"}, "scale": "rehearsal"}

rule all:
    output: "out"
    log: "log"
    shell: 'exec &> >(tee {log}); python -c "import getpass; print(getpass.getuser())" > {output}'
"""


def as_nobody() -> list[str]:
    """The command that starts another one as a user without name or home, who may read everything
    and write only what is his; empty where that cannot be done.
    """
    command = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    command += [f"--{kind}-caps=+dac_read_search" for kind in ("inh", "ambient")]
    command += ["--bounding-set=-all,+dac_read_search", "--"]
    if os.geteuid() or not shutil.which("setpriv"):
        return []
    able = subprocess.run([*command, sys.executable, "-c", "1"], check=False, capture_output=True)
    return [] if able.returncode else command


@pytest.fixture
def nobody() -> list[str]:
    command = as_nobody()
    if not command:
        pytest.skip("no other user can be had here (setpriv)")
    return command


def run(folder: Path, nobody: list[str], *more: str) -> subprocess.CompletedProcess[str]:
    (folder / "Snakefile").write_text(SNAKEFILE)
    kept = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": "/"}
    return subprocess.run(
        [*nobody, sys.executable, "-m", "snakemake", "--cores", "1", *more],
        cwd=folder,
        env=kept | {"PYTHONPATH": str(ROOT / "scripts"), "TMPDIR": "/tmp"},
        capture_output=True,
        text=True,
    )


def test_a_user_without_name_and_home_can_run(tmp_path: Path, nobody: list[str]) -> None:
    os.chown(tmp_path, NOBODY, NOBODY)
    done = run(tmp_path, nobody, "--logger", "bezoar")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "out").read_text() == f"uid{NOBODY}\n"


def test_a_plan_needs_nothing_to_write_to(tmp_path: Path, nobody: list[str]) -> None:
    done = run(tmp_path, nobody, "-n")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "total" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["Snakefile"]
    shutil.rmtree(f"/tmp/bezoar-{NOBODY}", ignore_errors=True)


def test_a_plan_of_stale_outputs_needs_nothing_to_write_to(
    tmp_path: Path, nobody: list[str]
) -> None:
    (tmp_path / "out").write_text("stale")
    done = run(tmp_path, nobody, "-n", "--forcerun", "all")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "total" in done.stdout and (tmp_path / "out").read_text() == "stale"
    shutil.rmtree(f"/tmp/bezoar-{NOBODY}", ignore_errors=True)


def test_a_run_where_the_user_may_not_write_is_one_line(tmp_path: Path, nobody: list[str]) -> None:
    for name in ("config", "profiles"):
        (tmp_path / name).symlink_to(ROOT / name)
    program = str(ROOT / "scripts/commands/run_workflow.py")
    done = subprocess.run(
        [*nobody, sys.executable, program, "--cores", "1", "--config", "config/rehearsal.yaml"],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT / "scripts"), "TMPDIR": "/tmp"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.startswith(f"error: {tmp_path}: this user (uid {NOBODY}) may not write")
    assert len(done.stderr.splitlines()) == 1
