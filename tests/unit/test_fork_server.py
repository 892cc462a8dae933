"""A program in a forked process does what it does in a process of its own, and ends with it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bezoar import fork_server

ROOT = Path(__file__).parents[2]
PROGRAM = '''"""Show what it is."""
import json
import os
import sys
import time

if sys.argv[1:] == ["quit early"]:
    raise SystemExit("before anything else")

from bezoar import program
from bezoar.errors import UserError

def main():
    what = sys.argv[1] if sys.argv[1:] else "show"
    forked = "trl" in sys.modules
    mask = os.umask(0)
    print("forked" if forked else "alone", flush=True)
    if what == "show":
        said = [sys.argv, os.getcwd(), mask, dict(os.environ), sys.stdin.read(), sys.path]
        print(json.dumps(said))
    if what == "refuse":
        raise UserError("rows.jsonl: row 3: expected text")
    if what == "fault":
        raise ValueError("odd")
    if what == "killed":
        os.kill(os.getpid(), 9)
    if what == "number":
        sys.exit(7)
    if what == "sleep":
        print(os.getpid(), flush=True)
        time.sleep(60)

if __name__ == "__main__":
    program.run(main, forked=True)
'''
ALONE = {fork_server.ADDRESS: "off"}

pytestmark = pytest.mark.skipif(
    fork_server.ADDRESS not in os.environ and not hasattr(os, "pidfd_open"),
    reason="no processes are forked here",
)


@pytest.fixture(scope="module")
def program_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("forked") / "shown.py"
    file.write_text(PROGRAM)
    return file


def run(
    file: Path, *arguments: str, umask: int = 0o22, **variables: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(file), *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT / "scripts"), **variables},
        capture_output=True,
        text=True,
        input="of the asker",
        cwd=file.parent,
        umask=umask,
    )


def begun(file: Path) -> tuple["subprocess.Popen[str]", int]:
    """A forked program that sleeps, and the number of its process."""
    child = subprocess.Popen(
        [sys.executable, str(file), "sleep"],
        env={**os.environ, "PYTHONPATH": str(ROOT / "scripts")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout and child.stdout.readline() == "forked\n"
    return child, int(child.stdout.readline())


def gone(process: int) -> bool:
    """Whether a process ends within a second."""
    for _ in range(100):
        try:
            state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.01)
    return False


def test_it_has_arguments_directory_mask_variables_and_input_of_the_asker(
    program_file: Path,
) -> None:
    said = {}
    for name, more in (("forked", {}), ("alone", ALONE)):
        done = run(program_file, umask=0o27, BEZOAR_MODE="replay", TMPDIR="/", **more)
        assert done.returncode == 0, done.stderr
        first, shown = done.stdout.splitlines()
        assert first == name
        said[name] = json.loads(shown)
        assert said[name][3].pop(fork_server.ADDRESS) == "off"
    assert said["forked"] == said["alone"]
    assert said["forked"][2] == 0o27 and said["forked"][3]["BEZOAR_MODE"] == "replay"


@pytest.mark.parametrize("how", ["refuse", "fault", "killed", "number", "quit early"])
def test_it_ends_as_it_would_alone(program_file: Path, how: str) -> None:
    forked, alone = run(program_file, how), run(program_file, how, **ALONE)
    assert forked.returncode == alone.returncode != 0
    assert forked.stderr.splitlines()[-1:] == alone.stderr.splitlines()[-1:]
    assert forked.stdout == alone.stdout.replace("alone", "forked")


@pytest.mark.parametrize(
    ("number", "status", "line"),
    [
        (signal.SIGINT, 130, "error: interrupted; run it again to continue"),
        (signal.SIGTERM, -signal.SIGTERM, ""),
        (signal.SIGKILL, -signal.SIGKILL, ""),
    ],
)
def test_a_signal_to_the_asker_ends_it(
    program_file: Path, number: signal.Signals, status: int, line: str
) -> None:
    child, process = begun(program_file)
    child.send_signal(number)
    assert child.communicate()[1].strip().splitlines()[-1:] == ([line] if line else [])
    assert child.returncode == status
    assert gone(process)


def test_a_killed_server_leaves_no_process_and_no_success(program_file: Path) -> None:
    child, process = begun(program_file)
    guardian = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(guardian, signal.SIGKILL)
    child.communicate()
    assert child.returncode == -signal.SIGKILL
    assert gone(process)


@pytest.mark.parametrize("variable", ["HF_HOME", "LD_LIBRARY_PATH", "SLURM_JOB_ID", "LANG"])
def test_other_variables_that_libraries_may_read_mean_a_process_of_its_own(
    program_file: Path, variable: str
) -> None:
    done = run(program_file, "number", **{variable: "/other"})
    assert (done.returncode, done.stdout) == (7, "alone\n")


def test_a_stage_is_forked_with_what_snakemake_gives_it(
    program_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from snakemake.shell import shell

    monkeypatch.setenv("PYTHONPATH", str(ROOT / "scripts"))
    resources = {"tmpdir": str(tmp_path)}
    said = shell(
        f"{sys.executable} {program_file} number || true", threads=2, resources=resources, read=True
    )
    assert said == "forked\n"


def test_a_server_that_is_not_there_is_no_error(program_file: Path, tmp_path: Path) -> None:
    done = run(program_file, "number", **{fork_server.ADDRESS: str(tmp_path / "none")})
    assert (done.returncode, done.stdout, done.stderr) == (7, "alone\n", "")


def test_a_limit_means_a_process_of_its_own(program_file: Path) -> None:
    done = subprocess.run(
        f"ulimit -f 100000; exec {sys.executable} {program_file} number",
        shell=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "scripts")},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (7, "alone\n")


def test_a_server_goes_with_whoever_had_it_started(tmp_path: Path) -> None:
    program = (
        "import os\nfrom bezoar import fork_server\n"
        "with fork_server.running():\n"
        "    print(os.environ[fork_server.ADDRESS], flush=True)\n"
        "    os.kill(os.getpid(), 9)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "scripts"), "TMPDIR": str(tmp_path)}
    del environment[fork_server.ADDRESS]
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True
    )
    address = done.stdout.strip()
    assert done.returncode == -signal.SIGKILL and address.startswith(str(tmp_path))
    named = address.encode()
    for _ in range(200):
        alive = [
            path
            for path in Path("/proc").glob("[0-9]*/cmdline")
            if path.exists() and named in path.read_bytes()
        ]
        if not alive:
            break
        time.sleep(0.05)
    assert not alive


def test_there_is_none_where_its_socket_s_path_would_be_too_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / ("long" * 25)
    folder.mkdir()
    monkeypatch.delenv(fork_server.ADDRESS)
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    with fork_server.running():
        assert fork_server.ADDRESS not in os.environ
    assert not list(folder.iterdir())
