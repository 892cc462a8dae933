"""Processes that start with their libraries imported: they are forked from one that has done it.

torch, transformers, peft and TRL take longer to import than most stages of a small run take to
compute, and each stage is a process of its own. So a program that needs them asks a server, which
imports them at the first request and then forks a process for each: with the asker's arguments,
directory, environment and streams, and it does not outlive the asker.

Only a program whose surroundings (see `surroundings`) are the server's gets such a process; any
other, and every program where no server answers, imports its libraries itself, to the same result.
There is no server on a machine with a GPU, whose driver does not survive a fork, nor outside Linux.
"""

import gc
import importlib
import json
import os
import resource
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from io import TextIOWrapper
from pathlib import Path
from typing import Any

ADDRESS = "BEZOAR_FORK_SERVER"  # the path of its socket; "off": there shall be none
LIBRARIES = (
    *("torch", "transformers.trainer", "transformers.models.auto.modeling_auto"),
    *("transformers.models.llama.modeling_llama", "bitsandbytes", "peft", "datasets"),
    *("trl.trainer.sft_trainer", "trl.trainer.dpo_trainer"),
    *("lm_eval.models.huggingface", "lm_eval.evaluator", "threadpoolctl"),
)
# Snakemake gives a stage its number of threads in these; torch is told in the forked process.
THREADS = (
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS"),
    *("VECLIB_MAXIMUM_THREADS", "NUMEXPR_NUM_THREADS"),
)
# Nothing that is forked asks a hub, and the libraries read these while they are imported.
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
# What no library reads while it is imported, so that a forked process can have values of its own.
LATE = {
    *(*THREADS, *OFFLINE, "PATH", "PYTHONPATH", "NO_PROXY", "no_proxy"),
    *("TMPDIR", "TMP", "TEMP", "TEMPDIR", "PWD", "OLDPWD", "SHLVL", "_"),
    *("COLUMNS", "LINES"),
    # What the libraries themselves set while they are imported.
    *("KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK", "HF_XET_HIGH_PERFORMANCE"),
    "TORCHINDUCTOR_CACHE_DIR",
}
STREAMS = ("stdin", "stdout", "stderr")
PEER = struct.Struct("3i")  # process, user and group at the other end of a socket
PATIENCE_S = 10.0  # for a request that has begun


def surroundings() -> list[Any]:
    """Return what of a process its forks inherit and a request does not carry over, as JSON has
    it.
    """
    late = {name for name in os.environ if name in LATE or name.startswith(("BEZOAR_", "PYTEST_"))}
    limits = [getattr(resource, name) for name in sorted(vars(resource)) if name[:4] == "RLIM"]
    found = [
        [sys.executable, sys.prefix, sys.version, [*sys.flags], sys.warnoptions],
        {name: text for name, text in os.environ.items() if name not in late},
        [os.getresuid(), os.getresgid(), sorted(os.getgroups())],
        [resource.getrlimit(limit) for limit in limits if limit >= 0],
        [os.nice(0), os.sched_getscheduler(0), sorted(os.sched_getaffinity(0))],
        sorted(n for n in signal.valid_signals() if signal.getsignal(n) is signal.SIG_IGN),
        sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
        Path("/proc/self/oom_score_adj").read_text(),
        [os.readlink(space) for space in sorted(Path("/proc/self/ns").iterdir())],
        [Path("/proc/self/cgroup").read_text(), os.stat("/").st_dev, os.stat("/").st_ino],
    ]
    return list(json.loads(json.dumps(found)))


@contextmanager
def running() -> Iterator[None]:
    """Have a server while the context lasts, with its address in the environment; none where there
    is one already or can be none.
    """
    gpus = any(Path(device).exists() for device in ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg"))
    with ExitStack() as held:
        if ADDRESS not in os.environ and not gpus and hasattr(os, "pidfd_open"):
            with suppress(OSError):  # no room for a socket, or a container that forbids something
                os.environ[ADDRESS] = _started(held)
        yield


def _started(held: ExitStack) -> str:
    """Start a server that ends with `held`, and return its address."""
    os.close(os.pidfd_open(os.getpid()))
    address = f"{held.enter_context(tempfile.TemporaryDirectory(prefix='bezoar-'))}/socket"
    lifeline, ours = os.pipe()
    held.callback(os.close, ours)
    with socket.socket(socket.AF_UNIX) as listener, os.fdopen(lifeline):
        listener.bind(address)
        listener.listen(64)
        passed = [listener.fileno(), lifeline]
        server = subprocess.Popen(
            [sys.executable, "-c", f"from {__name__} import main; main()", *map(str, passed)],
            env={**os.environ, **dict.fromkeys(THREADS, "1"), **OFFLINE},
            pass_fds=passed,
            start_new_session=True,  # an interrupt at the terminal comes through the askers
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    held.callback(server.wait)
    held.callback(server.terminate)  # it may be importing; the processes that it has forked go on
    held.callback(os.environ.pop, ADDRESS, None)
    return address


def served() -> int | None:
    """Have this program run in a forked process; return its status as `subprocess` does, or None
    if the program is to go on by itself.
    """
    address, threads = os.environ.get(ADDRESS, "off"), os.environ.get(THREADS[0], "1")
    closed = None in (sys.stdin, sys.stdout, sys.stderr)  # the socket would take a number of theirs
    if address == "off" or closed or not threads.isdecimal() or not int(threads):
        return None
    process = b""
    with socket.socket(socket.AF_UNIX) as connection:
        with suppress(OSError):
            connection.connect(address)
            found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, PEER.size)
            if PEER.unpack(found)[1] != os.geteuid():  # an old address, and somebody else's socket
                return None
            mask = os.umask(0)
            os.umask(mask)
            request = {
                "surroundings": surroundings(),
                "argv": sys.argv,
                "path": sys.path,
                "environment": {**os.environ, ADDRESS: "off"},
                "directory": os.getcwd(),
                "umask": mask,
            }
            text = json.dumps(request).encode()
            socket.send_fds(connection, [len(text).to_bytes(8, "big")], [0, 1, 2])
            connection.sendall(text)
            process = connection.recv(8)
        return _waited_for(int.from_bytes(process, "big"), connection) if process else None


def _waited_for(process: int, connection: socket.socket) -> int:
    """Pass signals on to a forked process until it ends; return its status."""

    def pass_on(number: int, frame: Any) -> None:
        with suppress(ProcessLookupError):
            os.kill(process, number)

    def pause(number: int, frame: Any) -> None:
        pass_on(signal.SIGSTOP, frame)
        os.kill(os.getpid(), signal.SIGSTOP)
        pass_on(signal.SIGCONT, frame)

    handlers = dict.fromkeys(
        (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT), pass_on
    )
    for number, handler in {**handlers, signal.SIGTSTP: pause}.items():
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)
    status = connection.recv(8)
    if not status:  # the server was killed
        pass_on(signal.SIGKILL, None)
        return -signal.SIGKILL
    return int.from_bytes(status, "big", signed=True)


def _received(connection: socket.socket, streams: list[int]) -> dict[str, Any]:
    """Read a request, and the asker's stdin, stdout and stderr into `streams`."""
    connection.settimeout(PATIENCE_S)
    size, found, _, _ = socket.recv_fds(connection, 8, 3)
    streams += found
    with connection.makefile("rb") as stream:
        request: dict[str, Any] = json.loads(stream.read(int.from_bytes(size, "big")))
    connection.settimeout(None)
    return request


def _serve(listener: socket.socket, lifeline: int) -> dict[str, Any]:
    """Fork a process for each request, and return the request in it; exit when the other end of
    `lifeline` is closed.
    """
    here, address = surroundings(), Path(listener.getsockname())
    while lifeline not in select.select([listener.fileno(), lifeline], [], [])[0]:
        with listener.accept()[0] as connection:
            streams: list[int] = []
            with suppress(OSError, ValueError):  # an asker that was killed
                request = _received(connection, streams)
                if request["surroundings"] == here:
                    sys.path[:] = request["path"]
                    for name in LIBRARIES:
                        importlib.import_module(name)
                    gc.freeze()
                    # Nobody waits for the guardians; what is imported waits for its processes.
                    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
                    gone = select.select([connection.fileno()], [], [], 0)[0]
                    if not gone and not os.fork():
                        listener.close()  # or whoever asks after the server's end would wait
                        os.close(lifeline)
                        _guard(connection)
                        return {**request, "streams": streams}
            for stream in streams:
                os.close(stream)
    with suppress(OSError):  # it may be gone
        address.unlink()
        address.parent.rmdir()
    raise SystemExit


def _guard(connection: socket.socket) -> None:
    """Fork once more and return in the new process; here, send its number and its status, kill it
    and what it has started if the asker ends before it, and exit.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    process = os.fork()
    if not process:
        return
    with suppress(OSError):  # the asker was killed
        connection.sendall(process.to_bytes(8, "big"))
    ended = os.pidfd_open(process)
    if ended not in select.select([connection.fileno(), ended], [], [])[0]:
        os.killpg(0, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    with suppress(OSError):
        connection.sendall(status.to_bytes(8, "big", signed=True))
    os._exit(0)


def _opened(number: int, like: Any) -> TextIOWrapper:
    """Open a standard stream as Python does at its start, with the settings of the server's."""
    mode, buffering = ("wb", 0 if like.write_through else -1) if number else ("rb", -1)
    file = os.fdopen(number, mode, buffering, closefd=False)
    by_line = not like.write_through and (number == 2 or os.isatty(number))
    return TextIOWrapper(file, like.encoding, like.errors, "\n", by_line, like.write_through)


def _become(request: dict[str, Any]) -> None:
    """Make this process the one that a request describes, and run its program."""
    for stream, number, name in zip(request["streams"], range(3), STREAMS, strict=True):
        os.dup2(stream, number)
        os.close(stream)
        opened = _opened(number, getattr(sys, name))
        setattr(sys, name, opened)
        setattr(sys, f"__{name}__", opened)
    os.chdir(request["directory"])
    os.umask(request["umask"])
    os.environ.clear()
    os.environ.update(request["environment"])
    tempfile.tempdir = None
    sys.argv, sys.path[:] = request["argv"], request["path"]
    for name in [name for name in sys.modules if name.split(".")[0] == "bezoar"]:
        del sys.modules[name]  # the program's own may be another copy
    threads = int(os.environ.get(THREADS[0]) or len(os.sched_getaffinity(0)))
    torch = sys.modules["torch"]
    torch.set_num_threads(threads)
    sys.modules["threadpoolctl"].threadpool_limits(threads, "blas")
    # A process of its own draws other numbers than the next one; `random` sees to that itself.
    torch.default_generator.seed()
    sys.modules["numpy"].random.seed()
    sys.modules["datasets.fingerprint"].fingerprint_rng.seed()
    file, here = os.path.abspath(sys.argv[0]), vars(sys.modules["__main__"])
    here.pop("main")
    here.update(__file__=file, __cached__=None)
    exec(compile(Path(file).read_bytes(), file, "exec"), here)


def main() -> None:
    """Serve with the socket and the lifeline that the command line names; run what is asked for in
    the processes that are forked.
    """
    listener, lifeline = map(int, sys.argv[1:])
    _become(_serve(socket.socket(fileno=listener), lifeline))
