"""A program in a forked process does what it does in a process of its own, and ends with it."""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
    if what == "have a child":
        import subprocess
        print(subprocess.Popen(["sleep", "60"]).pid, flush=True)
        time.sleep(60)
    if what == "wait":
        print("no flush")
        sys.stdin.read()
    if what == "draw":
        import datasets.fingerprint, numpy, random, torch
        drawn = datasets.fingerprint.generate_random_fingerprint()
        print(random.random(), numpy.random.rand(), torch.rand(1).item(), drawn)
    if what == "threads":
        import numpy, threadpoolctl
        pools = threadpoolctl.threadpool_info()
        print({pool["num_threads"] for pool in pools if pool["user_api"] == "blas"})
    if what == "name":
        import dill
        print(sys.argv[0], __file__, dill._dill._main_module is sys.modules["__main__"])
        print(vars(dill._dill._main_module) is globals(), sorted(globals()))
    if what == "lines":
        print(repr(sys.stdin.read()), sys.__stdout__ is sys.stdout)
    if what == "torch":
        import torch
        print(torch.found)

if __name__ == "__main__":
    program.run(main, forked=True)
'''
ALONE = {fork_server.ADDRESS: "off"}


@pytest.fixture(autouse=True)
def there_is_a_server() -> None:
    if os.environ.get(fork_server.ADDRESS, "off") == "off":
        pytest.skip("no processes are forked here")


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


def begun(file: Path, what: str = "sleep", **variables: str) -> tuple["subprocess.Popen[str]", int]:
    """A forked program that sleeps, and the number of its process."""
    child = subprocess.Popen(
        [sys.executable, str(file), what],
        env={**os.environ, "PYTHONPATH": str(ROOT / "scripts"), **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout and child.stdout.readline() == "forked\n"
    return child, int(child.stdout.readline())


def stat(process: int) -> tuple[str, int]:
    """A process's state and its parent; a zombie's if there is none."""
    try:
        state, parent = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[:2]
    except OSError:
        return "Z", 0
    return state, int(parent)


def within(seconds: float, condition: Callable[[], bool]) -> bool:
    """Whether a condition becomes true in that time."""
    end = time.monotonic() + seconds
    while not (true := condition()) and time.monotonic() < end:
        time.sleep(0.01)
    return true


def gone(process: int) -> bool:
    """Whether a process ends within some seconds."""
    return within(5, lambda: stat(process)[0] == "Z")


@contextmanager
def light_server(
    folder: Path, imported: str = "", **variables: str
) -> Iterator[tuple[dict[str, str], "subprocess.Popen[str]"]]:
    """A server in `folder` of libraries that are empty, with `imported` in torch's place: the
    variables of whoever asks it, and the process that has had it started.
    """
    libraries = folder / "libraries"
    for name in (*fork_server.LIBRARIES, "datasets.fingerprint"):
        for end in range(1, name.count(".") + 2):
            package = libraries.joinpath(*name.split(".")[:end])
            package.mkdir(parents=True, exist_ok=True)
            (package / "__init__.py").touch()
    (libraries / "threadpoolctl/__init__.py").write_text("def threadpool_limits(*_): pass\n")
    (libraries / "numpy").mkdir()
    (libraries / "numpy/__init__.py").write_text("import random\n")
    (libraries / "datasets/__init__.py").write_text("from datasets import fingerprint\n")
    (libraries / "datasets/fingerprint/__init__.py").write_text(
        "import random\nfingerprint_rng = random.Random()\n"
    )
    (libraries / "torch/__init__.py").write_text(
        "import numpy\nfrom random import Random\ndefault_generator = Random()\n"
        f"def set_num_threads(number): pass\n{imported}\n"
    )
    program = (
        "import os, sys\nfrom bezoar import fork_server\nwith fork_server.running():\n"
        "    print(os.environ[fork_server.ADDRESS], flush=True)\n    sys.stdin.read()"
    )
    path = f"{libraries}{os.pathsep}{ROOT / 'scripts'}"
    variables = {"PYTHONPATH": path, "TMPDIR": str(folder), **variables}
    starter = subprocess.Popen(
        [sys.executable, "-c", program],
        env={**{k: v for k, v in os.environ.items() if k != fork_server.ADDRESS}, **variables},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=folder,
    )
    with starter:
        assert starter.stdout
        yield {**variables, fork_server.ADDRESS: starter.stdout.readline().strip()}, starter


def child_of(process: int) -> int:
    """The one child of a process."""
    numbers = [int(path.name) for path in Path("/proc").glob("[0-9]*")]
    (child,) = [number for number in numbers if stat(number)[1] == process]
    return child


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


@pytest.mark.parametrize(
    "differ",
    [
        lambda: signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1]),
        lambda: os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0)),
        lambda: Path("/proc/self/oom_score_adj").write_text("900"),
    ],
    ids=["blocked signal", "scheduler", "killed first"],
)
def test_what_else_is_inherited_means_a_process_of_its_own(
    program_file: Path, differ: Callable[[], None]
) -> None:
    done = subprocess.run(
        [sys.executable, str(program_file), "number"],
        env={**os.environ, "PYTHONPATH": str(ROOT / "scripts")},
        preexec_fn=differ,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (7, "alone\n")


def test_a_server_and_its_folder_go_with_whoever_had_it_started(tmp_path: Path) -> None:
    with light_server(tmp_path) as (variables, starter):
        server = child_of(starter.pid)
        starter.kill()
        assert gone(server)
    assert not Path(variables[fork_server.ADDRESS]).parent.exists()


def test_a_server_that_is_killed_lets_others_go_on_by_themselves(
    program_file: Path, tmp_path: Path
) -> None:
    with light_server(tmp_path) as (variables, starter):
        child, process = begun(program_file, **variables)
        os.kill(child_of(starter.pid), signal.SIGKILL)
        done = run(program_file, "number", **variables)
        assert (done.returncode, done.stdout) == (7, "alone\n")
        assert stat(process)[0] == "S"
        child.kill()
        child.communicate()
        assert gone(process)


def test_what_is_imported_learns_how_its_own_processes_end(
    program_file: Path, tmp_path: Path
) -> None:
    asks = "import subprocess\nfound = subprocess.run(['false']).returncode"
    with light_server(tmp_path, asks) as (variables, _):
        assert run(program_file, "torch", **variables).stdout == "forked\n1\n"


def test_what_lies_in_the_directory_is_not_taken_for_a_library(
    program_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "peft.py").write_text("raise ValueError")
    with light_server(tmp_path) as (variables, _):
        assert run(program_file, "number", **variables).stdout == "forked\n"


def test_output_is_not_held_back_where_python_is_to_buffer_none(
    program_file: Path, tmp_path: Path
) -> None:
    with (
        light_server(tmp_path, PYTHONUNBUFFERED="1") as (variables, _),
        subprocess.Popen(
            [sys.executable, str(program_file), "wait"],
            env={**os.environ, **variables},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        ) as child,
    ):
        assert child.stdin and child.stdout and child.stdout.readline() == b"forked\n"
        assert select.select([child.stdout], [], [], 5)[0]
        child.stdin.close()


def test_an_asker_that_is_killed_as_it_asks_leaves_no_stream_open(tmp_path: Path) -> None:
    with light_server(tmp_path) as (variables, _):
        reader, writer = os.pipe()
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(variables[fork_server.ADDRESS])
            socket.send_fds(connection, [(9).to_bytes(8, "big")], [writer] * 3)
        os.close(writer)
        assert select.select([reader], [], [], 5)[0] and os.read(reader, 1) == b""
        os.close(reader)


def test_what_it_has_started_goes_with_an_asker_that_is_killed(program_file: Path) -> None:
    child, process = begun(program_file, "have a child")
    child.kill()
    assert gone(process)
    child.communicate()


def test_it_pauses_with_the_asker(program_file: Path) -> None:
    child, process = begun(program_file)
    child.send_signal(signal.SIGTSTP)
    assert within(5, lambda: stat(process)[0] == stat(child.pid)[0] == "T")
    child.send_signal(signal.SIGCONT)
    assert within(5, lambda: stat(process)[0] == stat(child.pid)[0] == "S")
    child.terminate()
    child.communicate()
    assert gone(process)


def test_it_draws_other_numbers_than_the_next_one(program_file: Path) -> None:
    first, second = (run(program_file, "draw").stdout.split() for _ in range(2))
    assert first[0] == second[0] == "forked" and len(first) == 5
    assert not set(first[1:]) & set(second[1:])


def test_numpy_computes_with_as_many_threads_as_alone(program_file: Path) -> None:
    threads = dict.fromkeys(fork_server.THREADS, "2")
    assert run(program_file, "threads", **threads).stdout == "forked\n{2}\n"
    assert run(program_file, "threads", **threads, **ALONE).stdout == "alone\n{2}\n"


@pytest.mark.parametrize("number", ["2,1", "0", ""])
def test_a_number_of_threads_that_is_none_means_a_process_of_its_own(
    program_file: Path, number: str
) -> None:
    done = run(program_file, "number", OMP_NUM_THREADS=number)
    assert (done.returncode, done.stdout) == (7, "alone\n")


@pytest.mark.parametrize("what", ["name", "lines"])
def test_its_main_module_and_its_streams_are_what_they_are_alone(
    program_file: Path, what: str
) -> None:
    forked, alone = (
        subprocess.run(
            [sys.executable, program_file.name, what],
            env={**os.environ, "PYTHONPATH": str(ROOT / "scripts"), **more},
            capture_output=True,
            input=b"one\r\ntwo\n",
            cwd=program_file.parent,
        ).stdout
        for more in ({}, ALONE)
    )
    assert forked.startswith(b"forked\n")
    assert forked.replace(b"forked", b"alone", 1) == alone != b"alone\n"


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-"])
def test_a_closed_stream_means_a_process_of_its_own(program_file: Path, closed: str) -> None:
    done = subprocess.run(
        ["sh", "-c", f'"$0" "$@" {closed}', sys.executable, str(program_file), "number"],
        env={**os.environ, "PYTHONPATH": str(ROOT / "scripts")},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (7, "" if closed[0] == "1" else "alone\n")


def test_nothing_is_told_to_another_user_s_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.listen()
        monkeypatch.setenv(fork_server.ADDRESS, str(tmp_path / "socket"))
        monkeypatch.setattr("os.geteuid", lambda: os.getuid() + 1)
        with (tmp_path / "any").open("w") as stream:
            for name in ("stdin", "stdout", "stderr"):
                monkeypatch.setattr(sys, name, stream)
            assert fork_server.served() is None
        with listener.accept()[0] as connection:
            assert connection.recv(1) == b""


@pytest.mark.parametrize(
    ("where", "what"), [(os, "pidfd_open"), (tempfile, "TemporaryDirectory"), (subprocess, "Popen")]
)
def test_a_machine_that_forbids_a_server_goes_without(
    where: object, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*arguments: object, **settings: object) -> None:
        raise PermissionError(1, "not permitted")

    monkeypatch.delenv(fork_server.ADDRESS)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(where, what, forbidden)
    with fork_server.running():
        assert fork_server.ADDRESS not in os.environ
    assert not list(tmp_path.iterdir())


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
