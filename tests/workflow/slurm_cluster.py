"""A Slurm cluster of one node on this machine: munged, slurmctld and slurmd with files of their own
in one directory, without accounting. Nothing of an installed cluster is touched.

By hand: python tests/workflow/slurm_cluster.py DIRECTORY prints the variables to
export; Ctrl-C ends it.
"""

import getpass
import os
import random
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

ROOT = Path(__file__).parents[2]
DAEMONS = ("munged", "slurmctld", "slurmd")
PLACES = "/usr/sbin:/usr/local/sbin:/sbin"  # of daemons, which PATH of a user may leave out
START_S = 180
MEMORY_MB = 6000
# Two "GPUs" that every machine has: Slurm hands out device files, whatever is behind them.
DEVICES = ("/dev/null", "/dev/zero")

CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={node}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdParameters=config_overrides
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=2
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
SchedulerParameters=sched_interval=2
KillWait=5
MinJobAge=3600
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} Gres=gpu:{gpus} State=UNKNOWN
PartitionName=short Nodes={host} MaxTime=20 State=UP
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> list[str]:
    """The daemons that are not installed."""
    return [name for name in DAEMONS if not found(name)]


def found(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:{PLACES}")


def free_ports(count: int) -> list[int]:
    """Ports that nobody uses, below 32768, where Linux begins to hand them out: the daemons bind
    them later.
    """
    found: list[int] = []
    while len(found) < count:
        port = random.SystemRandom().randrange(20_000, 32_768)
        with socket.socket() as one, suppress(OSError):
            one.bind(("127.0.0.1", port))
            found += {port} - set(found)
    return found


def write_files(folder: Path, cores: int, memory_mb: int) -> None:
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)  # munged wants a socket that others reach, and a key that they do not
    (folder / "munge.key").unlink(missing_ok=True)
    (folder / "munge.key").write_bytes(os.urandom(1024))
    (folder / "munge.key").chmod(0o400)
    controller, node = free_ports(2)
    host = socket.gethostname().split(".")[0]
    text = CONF.format(
        folder=folder,
        host=host,
        user=getpass.getuser(),
        controller=controller,
        node=node,
        cpus=cores,
        memory=memory_mb,
        gpus=len(DEVICES),
    )
    (folder / "slurm.conf").write_text(text)
    rows = [f"NodeName={host} Name=gpu File={device}\n" for device in DEVICES]
    (folder / "gres.conf").write_text("".join(rows))
    # Control groups are not used; older versions want one of their plugins all the same.
    version = subprocess.run([str(found("slurmd")), "-V"], capture_output=True, text=True).stdout
    number = [int(part) for part in re.findall(r"\d+", version)[:2]]
    plugin = "disabled" if number >= [23, 11] else "cgroup/v1"
    # Snakemake's executor takes SLURM_CONF away from the srun that it starts inside a job.
    inner = folder / "bin" / "srun"
    inner.parent.mkdir(exist_ok=True)
    line = f"SLURM_CONF={shlex.quote(str(folder / 'slurm.conf'))} exec {found('srun')}"
    inner.write_text(f'#!/bin/sh\n{line} "$@"\n')
    inner.chmod(0o755)
    (folder / "cgroup.conf").write_text(f"CgroupPlugin={plugin}\n")


@contextmanager
def cluster(
    folder: Path, cores: int = os.cpu_count() or 1, memory_mb: int = MEMORY_MB
) -> Iterator[dict[str, str]]:
    """Run a cluster in an empty directory; yield the variables that name it to Slurm's programs.
    Its node has the cores and the memory that are named, whatever this machine has.
    """
    path = f"{folder}/bin:{os.environ.get('PATH', '')}:{PLACES}"
    variables = {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": path}
    environment = os.environ | variables
    started: list[subprocess.Popen[bytes]] = []
    try:
        try:
            write_files(folder, cores, memory_mb)
            start(folder, environment, started)
        except RuntimeError:  # somebody else may have taken a port meanwhile
            stop(started)
            write_files(folder, cores, memory_mb)
            start(folder, environment, started)
        yield variables
    finally:
        user = ["--user", getpass.getuser()]
        subprocess.run(["scancel", *user], env=environment, capture_output=True, check=False)
        stop(started)


def start(
    folder: Path, environment: dict[str, str], started: list[subprocess.Popen[bytes]]
) -> None:
    """Start the daemons, add them to `started`, and wait until the node is idle; raise
    `RuntimeError` if one ends before.
    """
    munge = [
        *("--foreground", "--force", f"--socket={folder}/munge.socket"),
        *(f"--key-file={folder}/munge.key", f"--pid-file={folder}/munge.pid"),
        *(f"--log-file={folder}/munge.log", f"--seed-file={folder}/munge.seed"),
    ]
    commands = {"munged": munge, "slurmctld": ["-D", "-c"], "slurmd": ["-D", "-c"]}
    for name, options in commands.items():
        with open(folder / f"{name}.out", "wb") as stream:
            command = [str(found(name)), *options]
            started.append(subprocess.Popen(command, stdout=stream, stderr=stream, env=environment))
        if name == "munged":
            wait(lambda: (folder / "munge.socket").exists(), folder, started)
    wait(lambda: "idle" in states(environment), folder, started)


def stop(started: list[subprocess.Popen[bytes]]) -> None:
    """End the daemons, the last one first, and empty the list."""
    for process in reversed(started):
        process.send_signal(signal.SIGTERM)
    for process in started:
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
    started.clear()


def states(environment: dict[str, str]) -> str:
    """The states of the cluster's nodes; nothing while it does not answer."""
    command = ["sinfo", "--noheader", "--format", "%T"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    return done.stdout


def wait(ready: Callable[[], bool], folder: Path, started: list[subprocess.Popen[bytes]]) -> None:
    deadline = time.monotonic() + START_S
    while not ready():
        ended = any(process.poll() is not None for process in started)
        if ended or time.monotonic() > deadline:
            logs = {
                path.name: path.read_text(errors="replace")[-600:] for path in folder.glob("*.log")
            }
            raise RuntimeError(f"no cluster{'' if ended else f' after {START_S} s'}: {logs}")
        time.sleep(0.1)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with cluster(Path(sys.argv[1]).absolute()) as named:
        print(*(f"export {name}={value}" for name, value in named.items()), flush=True)
        with suppress(KeyboardInterrupt):
            signal.pause()
