"""Promise: `make stale` says the same whatever Snakemake profile and locale a user has."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture
def unmade(tmp_path: Path) -> Path:
    """A configuration of a run that was never started."""
    places = ", ".join(f"{kind}: {tmp_path / kind}" for kind in ("results", "logs", "benchmarks"))
    path = tmp_path / "unmade.yaml"
    path.write_text(f"pathvars: {{{places}}}\n")
    return path


def stale(*configs: str, **more: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "scripts/commands/list_stale.py", *configs],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT / "scripts")} | more,
        capture_output=True,
    )


def test_a_users_quiet_profile_and_locale_change_nothing(tmp_path: Path, unmade: Path) -> None:
    (tmp_path / "profile").mkdir()
    (tmp_path / "profile/config.yaml").write_text("quiet: [rules, progress]\n")
    foreign = {
        "SNAKEMAKE_PROFILE": str(tmp_path / "profile"),
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONIOENCODING": "iso-8859-1",
    }
    done = stale("config/rehearsal.yaml", str(unmade), **foreign)
    lines = done.stdout.decode().splitlines()
    assert done.returncode == 1, done.stderr
    assert lines[0].startswith("not made yet: ") and "world, base" in lines[1]
    assert lines[1].startswith("would be checked, with everything downstream: ")


def test_a_configuration_that_is_not_valid_is_said_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "wrong.yaml").write_text("sft: {epoch: 1}\n")
    done = stale("config/rehearsal.yaml", str(tmp_path / "wrong.yaml"))
    assert done.returncode == 2
    *said, last = done.stderr.decode().splitlines()
    assert any("`sft.epoch`: unknown key" in line for line in said) and "Traceback" not in str(said)
    assert last == "error: the workflow cannot be planned; see above"
