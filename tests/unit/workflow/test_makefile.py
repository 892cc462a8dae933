"""Promises: make's settings come from its command line or from BEZOAR_ variables, whatever else the
environment holds and whatever the directory is called.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from bezoar.workflow import cluster

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.skipif(not shutil.which("make"), reason="no make")
FOREIGN = {
    "NAME": "DESKTOP-1",
    "MODE": "dark",
    "JOBS": "77",
    "CONFIG": "/etc/x",
    "MODEL": "T14",
    "FILE": "x",
    "TORCH": "rocm",
    "PROFILE": "work",
    "TEMPLATE": "t",
    "REVISION": "r",
    "VERBOSE": "yes",
    "MIRROR": "http://mirror",
    "ENV": "/x",
    "RUN": "x",
    "BIN": "/b",
    "CORES": "99",
    "OPTIONS": "o",
    "OMP_NUM_THREADS": "1",  # nproc obeys it
    "OMP_THREAD_LIMIT": "1",
}

OURS = ("BEZOAR_", "MAKE", "MFLAGS", "BUDGET_USD")  # of the make that may have started the tests
CLEAN = {
    name: value
    for name, value in os.environ.items()
    if not name.startswith(OURS) and name not in FOREIGN
}


def make(*arguments: str, folder: Path = ROOT, **more: str) -> subprocess.CompletedProcess[str]:
    command = ["make", "--no-print-directory", "-o", "environment", *arguments]
    return subprocess.run(command, cwd=folder, env=CLEAN | more, capture_output=True, text=True)


@pytest.mark.parametrize(
    "target", "rehearsal reproduce evaluate stale audit doctor plan report export-answers".split()
)
def test_foreign_variables_change_no_recipe(target: str) -> None:
    assert make("-n", target, **FOREIGN).stdout == make("-n", target).stdout != ""


@pytest.mark.parametrize(
    ("arguments", "more"), [(["JOBS=3"], {}), ([], {"BEZOAR_JOBS": "3", "JOBS": "9"})]
)
def test_a_setting_is_read_from_the_command_line_or_under_our_name(
    arguments: list[str], more: dict[str, str]
) -> None:
    assert "--cores 3 " in make("-n", "rehearsal", *arguments, **more).stdout


@pytest.mark.parametrize("target", ["rehearsal", "trial", "reproduce", "report"])
def test_a_run_ends_with_the_path_of_its_report(target: str) -> None:
    assert 'echo "report: ' in make("-n", target).stdout


def test_an_archive_gets_the_files_of_the_configuration() -> None:
    shown = make("-n", "archive", "CONFIG=config/paper.yaml mine.yaml").stdout
    assert " --config config/paper.yaml mine.yaml --output openbezoar.tar" in shown


def test_the_help_is_one_column() -> None:
    shown = [line for line in make("help").stdout.splitlines() if line.startswith("  make ")]
    assert {len(line) - len(line.split(maxsplit=2)[2]) for line in shown} == {24}
    assert any(line.startswith("  make .venv-serve ") for line in shown)


@pytest.fixture
def echo(tmp_path: Path) -> list[str]:
    (tmp_path / "echo.mk").write_text('show-mode:\n\t@echo "$$BEZOAR_MODE|$$BEZOAR_MODEL"\n')
    return ["-f", "Makefile", "-f", str(tmp_path / "echo.mk"), "show-mode"]


def test_the_programs_see_what_make_was_told(echo: list[str]) -> None:
    assert make(*echo, "MODE=batch", MODEL="T14").stdout == "batch|\n"
    assert make(*echo, BEZOAR_MODE="replay", MODE="dark").stdout == "replay|\n"
    assert make(*echo, BEZOAR_MODEL='my "$model').stdout == '|my "$model\n'


@pytest.mark.parametrize("target", ["plan", "evaluate"])
def test_a_models_name_is_no_part_of_a_shell_line(target: str) -> None:
    assert make("-n", target, 'MODEL=my "$model', "NAME=a`b").stdout == make("-n", target).stdout


@pytest.mark.parametrize("target", ["audit", "archive"])
def test_a_configuration_that_is_not_there_is_one_line(target: str) -> None:
    done = make(target, "CONFIG=nope.yaml")
    first, last = done.stderr.splitlines()
    assert done.returncode == 2 and first.startswith("error: nope.yaml: ")
    assert last.startswith("make: ***") and done.stdout == ""


def test_what_make_forgets_is_a_kind_or_a_store() -> None:
    assert "--kind none" in make("-n", "forget").stdout
    shown = make("-n", "forget", "STORE=a b.sqlite", "DRY=1").stdout
    assert '--store "$BEZOAR_STORE"' in shown and "--dry-run" in shown and "--kind" not in shown
    assert "--kind refused" in make("-n", "forget", "STORE=a", "KIND=refused").stdout


@pytest.mark.parametrize(
    ("name", "value"), [("BUDGET_USD", "25"), ("MODE", "batch"), ("ACKNOWLEDGE_LICENCES", "x")]
)
def test_what_was_documented_before_is_refused_in_one_line(name: str, value: str) -> None:
    done = make("-n", "reproduce", **{name: value})
    assert done.returncode == 2
    assert f"write BEZOAR_{name}={value} make" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ['a "quoted" one', "cost$HOME", "spa ce", "it's", "ü…"])
def test_a_directory_may_have_any_name_that_path_takes(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    shutil.copy(ROOT / "Makefile", folder)
    (folder / ".venv/bin").mkdir(parents=True)
    python = folder / ".venv/bin/python"
    python.write_text('#!/bin/sh\necho "$0|$PYTHONPATH"\n')
    python.chmod(0o755)
    done = make("stale", folder=folder)
    assert done.stdout == f"{folder}/.venv/bin/python|{folder}/scripts\n", done.stderr


def test_a_colon_in_the_directory_is_refused_in_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "a:b"
    folder.mkdir()
    shutil.copy(ROOT / "Makefile", folder)
    done = make("stale", folder=folder)
    assert done.returncode == 2 and "with a colon in its name" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_linked_directory_is_as_good(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(ROOT)
    assert make("-n", "stale", folder=tmp_path / "link").returncode == 0


def test_every_target_that_a_text_names_exists() -> None:
    places = ["README.md", "docs", "config", "scripts", "rules", "Dockerfile"]
    texts = subprocess.run(
        ["git", "grep", "--no-index", "-hoE", "`make [a-z]+(-[a-z]+)*", "--", *places],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    named = set(re.findall(r"make (\S+)", texts))
    written = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert len(named) > 10 and named <= written


def test_the_number_of_jobs_on_a_cluster_is_explained() -> None:
    page = (ROOT / "docs/environment.md").read_text(encoding="utf-8")
    (row,) = re.findall(r"^\| `JOBS=.*", page, re.MULTILINE)
    jobs = cluster.read_profile(str(ROOT / "profiles/slurm"))["jobs"]
    assert f"jobs on the cluster at once (default: the profile's `jobs`, {jobs})" in row


def test_every_setting_of_the_tests_has_our_prefix_and_is_listed() -> None:
    page = (ROOT / "docs/environment.md").read_text(encoding="utf-8")
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py")]
    read = {name for text in texts for name in re.findall(r'environ\.get\("(\w+)"', text)}
    assert "BEZOAR_EXAMPLES" in read
    assert {name for name in read - {"CUDA_VISIBLE_DEVICES"} if f"`{name}`" not in page} == set()
    assert all(name.startswith("BEZOAR_") for name in read - {"CUDA_VISIBLE_DEVICES"})


def test_every_setting_is_listed_with_its_variable() -> None:
    written = (ROOT / "Makefile").read_text(encoding="utf-8")
    page = (ROOT / "docs/environment.md").read_text(encoding="utf-8")
    (options,) = re.findall(r"^OPTIONS := (.+)$", written, re.MULTILINE)
    unlisted = [
        name
        for name in options.split()
        if not re.search(rf"^\|.*`{name}[=`].*\|.*`BEZOAR_{name}[=`]", page, re.MULTILINE)
    ]
    assert unlisted == [] and len(options.split()) > 20
    assert "| `PYTHON=" in page and "| `ENV=" in page
    refused = re.findall(r"call unread,(\w+)", written)
    (said,) = re.findall(r"^`.*? are refused", page, re.MULTILINE | re.DOTALL)
    assert len(refused) == 3 and all(f"`{name}" in said for name in refused)
