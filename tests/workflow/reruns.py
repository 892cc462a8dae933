"""Running the smallest rehearsal again under other circumstances, and comparing what came out, file
by file.
"""

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from smallest import CONFIG, RESULTS, SNAKEMAKE

# What may differ between two runs, and why. Everything else below the results must be the same
# bytes.
VOLATILE = (
    "started_unix_s",
    "wall_s",
    "peak_memory_bytes",
    "git_commit",
    "git_dirty",
    "hardware",
)  # of a receipt: when, how long, where
# of a store: all but when an answer was asked for and how long it took
STORE = "key, request, answer, response, sha256, usd, via"
UNCOMPARED = ("report/index.html",)  # prints the volatile fields of all receipts

SIMULATOR = "simulator"  # stands for a service elsewhere: it is no part of the stage that asks it

UP = """import fcntl, os, socket, struct, sys
with socket.socket() as one:
    fcntl.ioctl(one, 0x8914, struct.pack("16sh", b"lo", 1))  # SIOCSIFFLAGS, IFF_UP
os.execvp(sys.argv[1], sys.argv[1:])"""
ALONE = ["unshare", "-rn", sys.executable, "-c", UP]
TRACE = [
    "strace",
    "-f",
    "--seccomp-bpf",
    "-qq",
    "-y",
    "-s",
    "20000",
    "-e",
    "signal=none",
    "-e",
    "abbrev=none",
    "-e",
    "trace=openat,execve,clone,clone3,fork,vfork",
]


def can(command: list[str]) -> bool:
    """Whether a command exists here and may be run."""
    return (
        bool(shutil.which(command[0]))
        and not subprocess.run([*command, "true"], capture_output=True, check=False).returncode
    )


def run(
    folder: Path, *targets: str, before: list[str], cores: int, umask: int = -1, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run the smallest rehearsal, or some targets of it, behind the command `before`."""
    environment = os.environ | {
        "PYTHONPATH": str(folder / "scripts"),
        "PATH": f"{SNAKEMAKE.parent}:{os.environ['PATH']}",
        **variables,
    }
    command = [
        *before,
        str(SNAKEMAKE),
        *targets,
        "--profile",
        "profiles/default",
        "--cores",
        str(cores),
        "--configfile",
        *CONFIG,
    ]
    return subprocess.run(
        command,
        cwd=folder,
        env=environment,
        umask=umask,
        capture_output=True,
        text=True,
        check=False,
    )


def content(path: Path, results: Path) -> list[str]:
    """The lines of a file that must be the same in every run."""
    name = path.relative_to(results).as_posix()
    if name in UNCOMPARED:
        return []
    if name.startswith("receipts/"):
        held = json.loads(path.read_text())
        held = {key: value for key, value in held.items() if key not in VOLATILE}
        for kind in ("inputs", "outputs"):  # hashes of what is itself volatile
            for files in held[kind].values():
                files.update(
                    dict.fromkeys(
                        [
                            file
                            for file in files
                            if "/receipts/" in file or file.endswith((".sqlite", *UNCOMPARED))
                        ],
                        "volatile",
                    )
                )
        return json.dumps(held, indent=1).splitlines()
    if path.suffix == ".sqlite":
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as connection:
            return [
                repr(row) for row in connection.execute(f"SELECT {STORE} FROM answers ORDER BY key")
            ]
    return path.read_bytes().decode("latin-1").splitlines(keepends=True)


def names(results: Path) -> set[str]:
    """Every file below the results that a stage publishes: no hidden ones, such as checkpoints, and
    none of SQLite's own.
    """
    found = {path.relative_to(results).as_posix() for path in results.rglob("*") if path.is_file()}
    return {
        name for name in found if "/." not in f"/{name}" and not name.endswith(("-wal", "-shm"))
    }


def differences(one: Path, other: Path, only: set[str] | None = None) -> Iterator[str]:
    """A line for each file that is not the same in two folders, with its first line that differs;
    `only` some of the files below the results.
    """
    left, right = one / RESULTS, other / RESULTS
    known = (names(left), names(right)) if only is None else (only, only & names(right))
    yield from (f"{name}: only in one of them" for name in sorted(known[0] ^ known[1]))
    for name in sorted(known[0] & known[1]):
        old, new = content(left / name, left), content(right / name, right)
        if old != new:
            place = next(
                (
                    number
                    for number, pair in enumerate(zip(old, new, strict=False))
                    if pair[0] != pair[1]
                ),
                min(len(old), len(new)),
            )
            shown = [
                lines[place][:200] if place < len(lines) else "nothing" for lines in (old, new)
            ]
            yield f"{name}:{place + 1}: {shown[0]!r} there, {shown[1]!r} here"


def opened(trace: Path) -> dict[str, set[str]]:
    """Receipt's name -> every path that the stage's program, or a process that it started, has
    opened. `trace` is what TRACE wrote.
    """
    parent: dict[str, str] = {}
    stage: dict[str, str] = {}
    files: dict[str, set[str]] = {}
    with open(trace, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            pid = line.split(" ", 1)[0]
            if "execve(" in line and '/serve_simulator.py"' in line:
                stage[pid] = SIMULATOR
            elif "execve(" in line and (
                found := re.search(r'"--receipt", "[^"]*/([^/"]+)\.json"', line)
            ):
                stage[pid] = found[1]
            elif (found := re.search(r"= \d+<(/[^>]*)>$", line.rstrip())) and "openat" in line:
                files.setdefault(pid, set()).add(found[1])
            elif re.search(r"\b(clone3?|v?fork)\b", line) and (
                found := re.search(r"= (\d+)(<[^>]*>)?$", line.rstrip())
            ):
                parent[found[1]] = pid
    result: dict[str, set[str]] = {}
    for pid, paths in files.items():
        above = pid
        while above not in stage and above in parent:
            above = parent[above]
        if above in stage:
            result.setdefault(stage[above], set()).update(paths)
    return result


SYSTEM = (
    "/usr/",
    "/lib",
    "/etc/",
    "/var/cache/fontconfig/",
    "/proc/",
    "/sys/",
    "/dev/",
    "/run/",
    "pipe:",
    "socket:",
    "anon_inode:",
)
# matplotlib's own list of the system's fonts, in the home directory
FONTS = "/.cache/matplotlib/fontlist-"
# What an answer cost is a fact of the run: it stands in stores and receipts, and decides no row. A
# new price list makes nothing stale.
PRICES = "config/prices.yaml"


def undeclared(folder: Path, receipt: dict[str, Any], paths: set[str], temporary: Path) -> set[str]:
    """Those of the opened paths that are no input or output, no code, no lock, no log, nothing of
    the interpreter's, the system's or temporary.
    """
    from bezoar.provenance.code_digest import executed
    from bezoar.provenance.fingerprint import files_in

    declared = {
        str(folder / path) for kind in ("inputs", "outputs") for path in files_in(receipt[kind])
    }
    declared |= {
        str(folder / word) for word in receipt["command"][1:] if "/" in word and len(word) < 1000
    }  # stores and checkpoints, too
    declared |= {str(path) for path in executed(folder / "scripts" / receipt["command"][0])} | {
        str(folder / PRICES)
    }
    declared |= {str(path) for path in (folder / "envs").glob("*.lock")}
    return {
        path
        for path in outside(folder, paths, temporary)
        if re.sub(r"(\.sqlite)-(wal|shm|journal)$", r"\1", path) not in declared
    }


def outside(folder: Path, paths: set[str], temporary: Path) -> set[str]:
    """The opened paths without those of the system, the interpreter and temporary ones, and without
    logs and what is not published yet.
    """
    mine = (
        f"{sys.prefix}/",
        f"{sys.base_prefix}/",
        f"{temporary}/",
        f"{folder}/logs/",
        f"{folder}/benchmarks/",
    )
    left = set()
    for path in paths:
        inside = path.startswith(f"{folder}/")
        hidden = inside and re.search(
            r"/\.", path.removeprefix(str(folder))
        )  # a half-made file or directory, or a checkpoint
        if not (
            path.startswith(mine)
            or (not inside and path.startswith(SYSTEM))
            or hidden
            or "/__pycache__/" in path
            or FONTS in path
            or os.path.isdir(path)
        ):
            left.add(path)
    return left
