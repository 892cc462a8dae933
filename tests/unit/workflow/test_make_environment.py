"""Promises of scripts/commands/make_environment.sh, with a stand-in for Python that records what
it is asked.
"""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
TOOLS = "bash cat cksum cp cut date dirname du env expand getconf grep head kill make mkdir mv rm"
TOOLS += " sed sh sleep touch tr uname"

# Answers the script's questions; `-m pip` appends its arguments to $ASKED and fails where told.
PYTHON = """#!/bin/sh
case "$*" in
    *'"%d.%d"'*) echo {version} ;;
    *ensurepip*) exit {without_venv} ;;
    *python_version*) echo {version}.1 ;;
    "-m venv "*) mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; touch "$3/pyvenv.cfg" ;;
    "-m pip "*)
        echo "$*" >>"$ASKED"
        case "$*" in
            *--index-url*torch-cpu.lock) echo "$OFFICIAL" >&2; [ -z "$OFFICIAL" ] ;;
            *torch-cpu.lock) echo "$SAYS" >&2; [ "$OFFERED" = yes ] ;;
            *main.lock) [ -z "$SLOW" ] || exec sleep 30 ;;
        esac ;;
    "-m compileall "*) echo once >>"$ASKED.compiled" ;;
    *) echo "$0 $*" >>"$ASKED" ;;
esac
"""


class Machine:
    """A PATH of a few tools and stand-ins for Python, and a copy of what an environment needs."""

    def __init__(self, folder: Path, project: str = "project") -> None:
        self.bin = folder / "bin"
        self.asked = folder / "asked"
        self.project = folder / project
        self.bin.mkdir(exist_ok=True)
        for tool in TOOLS.split():
            if found := shutil.which(tool):
                (self.bin / tool).unlink(missing_ok=True)
                (self.bin / tool).symlink_to(found)
        (self.project / "scripts/commands").mkdir(parents=True)
        shutil.copytree(ROOT / "envs", self.project / "envs")
        shutil.copy(ROOT / "Makefile", self.project)
        for script in (ROOT / "scripts/commands").glob("*.sh"):
            shutil.copy(script, self.project / "scripts/commands")

    def python(self, name: str, version: str, without_venv: int = 0) -> None:
        """Put a Python on PATH."""
        path = self.bin / name
        path.write_text(PYTHON.format(version=version, without_venv=without_venv))
        path.chmod(0o755)

    def variables(self, **others: str) -> dict[str, str]:
        return {
            "PATH": str(self.bin),
            "ASKED": str(self.asked),
            "OFFERED": "yes",
            "OFFICIAL": "",
            "SLOW": "",
        } | others

    def do(self, *command: str, **others: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=self.project,
            env=self.variables(**others),
            capture_output=True,
            text=True,
            check=False,
        )

    def make(self, *arguments: str, **others: str) -> subprocess.CompletedProcess[str]:
        """Run the script for .venv."""
        script = "scripts/commands/make_environment.sh"
        return self.do("sh", script, ".venv", *(arguments or ("cpu",)), **others)

    def requests(self) -> list[str]:
        """What Python was asked since the last call."""
        lines = self.asked.read_text().splitlines() if self.asked.exists() else []
        self.asked.unlink(missing_ok=True)
        return lines


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    machine = Machine(tmp_path)
    machine.python("python3", "3.12")
    return machine


def refusal(machine: Machine, done: subprocess.CompletedProcess[str]) -> str:
    """The one line of an error; nothing must be left."""
    assert done.returncode == 2
    assert not (machine.project / ".venv").exists()
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


@pytest.mark.parametrize("version", ["2.7", "3.10", "3.14"])
def test_a_python_out_of_range_is_refused_with_the_range_and_what_path_has(
    machine: Machine, version: str
) -> None:
    machine.python("other", version)
    machine.python("python3.11", "3.11")
    line = refusal(machine, machine.make(PYTHON="other"))
    assert "Python 3.11, 3.12 or 3.13" in line
    assert f"PYTHON=other is {version}" in line
    assert "PATH has: python3 python3.11" in line


def test_a_python_that_is_not_there_is_refused(machine: Machine) -> None:
    assert "PYTHON=nowhere is none that runs" in refusal(machine, machine.make(PYTHON="nowhere"))


@pytest.mark.parametrize("version", ["3.9", "3.14"])
def test_another_python_on_path_is_taken_if_the_first_is_out_of_range(
    machine: Machine, version: str
) -> None:
    machine.python("python3", version)
    machine.python("python3.13", "3.13", without_venv=1)
    machine.python("python3.11", "3.11")
    done = machine.make()
    assert done.returncode == 0, done.stderr
    assert "with python3.11 (3.11.1)" in done.stdout


def test_no_python_in_range_is_one_line(machine: Machine) -> None:
    machine.python("python3", "3.9")
    assert "PATH has none (python3 is 3.9)" in refusal(machine, machine.make())


def test_a_python_without_its_venv_module_is_named_with_the_package_that_has_it(
    machine: Machine,
) -> None:
    machine.python("python3", "3.12", without_venv=1)
    said = refusal(machine, machine.make())
    assert "python3 is 3.12 and lacks its venv module" in said and "python3-venv" in said


def test_a_machine_without_a_gpu_asks_pytorchs_index_and_never_for_cuda(machine: Machine) -> None:
    if any(Path("/dev").glob("nvidia[0-9]*")):
        pytest.skip("this machine has an NVIDIA device")
    done = machine.make("auto", OFFERED="no")
    assert done.returncode == 0, done.stderr
    first, second, *others = machine.requests()
    assert "--index-url" not in first
    assert "--index-url https://download.pytorch.org/whl/cpu" in second
    assert not [line for line in others if "--index-url" in line or "torch" in line]
    assert all("--require-hashes" in line for line in (first, second, *others))


@pytest.mark.parametrize(
    ("official", "reason"),
    [
        (
            "WARNING: Retrying (…) after connection broken by …\nERROR: No match",
            "cannot be reached",
        ),
        ("ERROR: No matching distribution found for torch", "ERROR: No matching distribution"),
    ],
)
def test_no_cpu_build_is_one_line_with_the_choices(
    machine: Machine, official: str, reason: str
) -> None:
    line = refusal(machine, machine.make(OFFERED="no", OFFICIAL=official))
    assert reason in line
    for choice in ("TORCH=cuda", "PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PYTHON"):
        assert choice in line
    assert not [request for request in machine.requests() if "torch-cuda" in request]


def test_a_full_disk_is_no_missing_build(machine: Machine) -> None:
    full = "ERROR: Could not install packages: [Errno 28] No space left on device"
    done = machine.make(OFFERED="no", SAYS=full)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(
        "error: the disk is full: .venv needs about 2,200"
    )
    assert len(machine.requests()) == 1, "no other index is asked"
    unreached = "WARNING: Retrying after connection broken by 'NewConnectionError'"
    done = machine.make(OFFERED="no", SAYS=unreached, OFFICIAL=unreached)
    assert "pip's index cannot be reached" in done.stderr and "cannot be reached." in done.stderr


def test_an_environment_beside_it_that_was_half_made_is_made_again(machine: Machine) -> None:
    machine.make()
    (machine.project / ".venv-serve").mkdir()
    machine.requests()
    for times in (1, 0):
        machine.do("make", ".venv-serve")
        asked = [line for line in machine.requests() if "serve.lock" in line]
        assert len(asked) == times


@pytest.mark.skipif(os.uname().sysname == "Darwin", reason="macOS has no CUDA build")
def test_cuda_is_installed_where_it_is_asked_for(machine: Machine) -> None:
    assert machine.make("cuda").returncode == 0
    requests = machine.requests()
    assert "torch-cuda.lock" in requests[0]
    assert not [request for request in requests if "torch-cpu" in request]


def test_an_environment_is_made_once_and_again_for_other_locks_pythons_and_places(
    machine: Machine,
) -> None:
    machine.python("python3.11", "3.11")

    def made(**others: str) -> bool:
        done = machine.make(**others)
        assert done.returncode == 0, done.stderr
        return bool(machine.requests())

    assert made()
    assert not made()
    assert not made(PYTHON="python3")
    assert made(PYTHON="python3.11")
    assert not made()
    with open(machine.project / "envs/main.lock", "a") as lock:
        lock.write("# changed\n")
    assert made()
    machine.project = machine.project.rename(machine.project.with_name("moved"))
    assert made()
    assert not made()


def half_way(machine: Machine) -> subprocess.Popen[bytes]:
    """A slow install that has come to the main lock."""
    process = subprocess.Popen(
        ["sh", "scripts/commands/make_environment.sh", ".venv", "cpu"],
        cwd=machine.project,
        env=machine.variables(SLOW="yes"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while not (machine.asked.exists() and "main.lock" in machine.asked.read_text()):
        assert process.poll() is None
        time.sleep(0.02)
    return process


def test_what_was_left_by_a_killed_install_is_made_from_scratch(machine: Machine) -> None:
    process = half_way(machine)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(5)
    half = machine.project / ".venv"
    (half / "half").touch()
    assert machine.make().returncode == 0
    assert not (half / "half").exists() and not (half / ".making").exists()


def test_an_environment_of_somebody_elses_is_kept(machine: Machine) -> None:
    theirs = machine.project / ".venv"
    theirs.mkdir()
    (theirs / "pyvenv.cfg").touch()
    done = machine.make()
    assert done.returncode == 2 and "was not made here" in done.stderr
    assert (theirs / "pyvenv.cfg").exists()


def test_an_interrupted_install_leaves_nothing(machine: Machine) -> None:
    process = half_way(machine)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(5) == 130
    assert not (machine.project / ".venv").exists()


def test_a_directory_that_is_no_environment_is_kept(machine: Machine) -> None:
    theirs = machine.project / ".venv"
    theirs.mkdir()
    (theirs / "thesis.tex").touch()
    done = machine.make()
    assert done.returncode == 2
    assert "is not a Python environment" in done.stderr
    assert (theirs / "thesis.tex").exists()


def test_tools_for_tests_are_added_on_demand_and_remake_nothing(machine: Machine) -> None:
    machine.make()
    assert not [line for line in machine.requests() if "dev.lock" in line]
    machine.make("cpu", "development")
    slurm, request = machine.requests()
    assert request.endswith("envs/dev.lock") and slurm.endswith("envs/slurm.lock")
    machine.make("cpu", "development")
    assert not machine.requests()
    with open(machine.project / "envs/dev.lock", "a") as lock:
        lock.write("# changed\n")
    machine.make()
    assert not machine.requests()
    machine.make("cpu", "development")
    assert len(machine.requests()) == 1


@pytest.mark.parametrize("extra", ["", "slurm", "development"])
def test_all_that_is_installed_is_compiled_at_once(machine: Machine, extra: str) -> None:
    compiled = machine.asked.with_name("asked.compiled")
    for _ in range(2):  # the second time nothing is installed
        assert machine.make("cpu", extra).returncode == 0
        assert compiled.read_text() == "once\n"


def test_what_a_cluster_needs_is_added_where_the_profile_is_slurms(machine: Machine) -> None:
    machine.do("make", "environment", "TORCH=cpu", "PROFILE=profiles/default")
    assert not [line for line in machine.requests() if "slurm.lock" in line]
    for _ in range(2):
        machine.do("make", "environment", "TORCH=cpu", "PROFILE=profiles/slurm")
    (request,) = machine.requests()
    assert request.endswith("envs/slurm.lock")


# Of the user's settings of pip, those that would divert an installation or break it.
DIVERTING = {
    "PIP_USER": "1",
    "PIP_PYTHON": "/elsewhere/python",
    "PIP_TARGET": "/elsewhere",
    "PIP_PREFIX": "/elsewhere",
    "PIP_REQUIREMENT": "more.txt",
    "PIP_PLATFORM": "any",
    "PIP_CONSTRAINT": "c",
    "PYTHONPATH": "/elsewhere",
}
KEPT = {"PIP_INDEX_URL": "https://mirror.example/simple", "PIP_CERT": "/ca.pem"}
TOLD = "PIP_USER=0 PIP_CONSTRAINT=/dev/null PIP_INDEX_URL=https://mirror.example/simple"


def tell_settings(machine: Machine) -> None:
    """Have Python record the settings that pip would see after its arguments."""
    python = machine.bin / "python3"
    names = [*DIVERTING, *KEPT]
    told = "".join(f" ${{{name}+{name}=${name}}}" for name in names)
    python.write_text(python.read_text().replace('echo "$*" >>', f'echo "$*" "|" {told} >>'))


def settings_of(requests: list[str]) -> set[str]:
    return {request.split(" | ")[1] for request in requests}


def test_what_is_set_for_other_programs_does_not_reach_pip(machine: Machine) -> None:
    tell_settings(machine)
    done = machine.make("cpu", "development", **DIVERTING, **KEPT)
    assert done.returncode == 0, done.stderr
    assert settings_of(machine.requests()) == {f"{TOLD} PIP_CERT=/ca.pem"}


def test_nor_to_pip_in_an_environment_beside_it(machine: Machine) -> None:
    tell_settings(machine)
    machine.make()
    machine.requests()
    machine.do("make", ".venv-llama-cpp", **DIVERTING, **KEPT)
    requests = [line for line in machine.requests() if "llama-cpp.lock" in line]
    assert settings_of(requests) == {f"{TOLD} PIP_CERT=/ca.pem"}


@pytest.mark.parametrize("name", ["with space", "a$HOME", 'a"b', "a'b", "a$(touch x)"])
def test_the_checkout_may_lie_in_a_directory_of_any_name(tmp_path: Path, name: str) -> None:
    machine = Machine(tmp_path, name)
    machine.python("python3", "3.12")
    done = machine.do("make", "plan", "TORCH=cpu")
    assert done.returncode == 0, done.stderr
    *_, asked = machine.requests()
    assert asked.startswith(f"{machine.project}/.venv/bin/python scripts/commands/")
    assert not (machine.project / "x").exists()


def test_a_colon_in_the_directorys_name_is_one_line(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "a:b")
    machine.python("python3", "3.12")
    assert "a path with ':' cannot be an entry of PATH" in refusal(machine, machine.make())
