"""What of this machine matters to a run: cores, memory, bfloat16 units, GPUs, disk."""

import contextlib
import itertools
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

from bezoar.workflow.wording import counted

PROBE_S = 20.0  # nvidia-smi loads a driver that may be asleep
# Microseconds of processor time, and in how many: of a control group, version 2 and version 1.
QUOTAS = (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"))
# Bytes of memory, the same; without a limit, version 1 has a huge number.
LIMITS = ("memory.max", "memory/memory.limit_in_bytes")
GROUPS = Path("/sys/fs/cgroup")
BF16 = ("avx512_bf16", "amx_bf16", "bf16")  # flags of x86-64, and of aarch64


def cores() -> int:
    """Return the cores that this process may use: its affinity, and its container's share."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    for files in QUOTAS:
        with contextlib.suppress(OSError, ValueError):  # no control group, or no limit in it
            text = " ".join((GROUPS / file).read_text() for file in files)
            quota, period = map(int, text.split())
            if quota > 0:
                return max(1, min(count or 1, -(-quota // period)))
    return count or 1


def memory_gib() -> float:
    """Return the memory that this process may use, in GiB: the machine's, or its container's."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for file in LIMITS:
        with contextlib.suppress(OSError, ValueError):  # no control group, or no limit in it
            total = min(total, int((GROUPS / file).read_text()))
    return total / 2**30


def bfloat16(cpuinfo: str | None = None) -> list[str]:
    """Return the processor's flags for products in bfloat16; an empty list means that they are
    emulated.

    `cpuinfo` is the text of /proc/cpuinfo, read here if it is left out.
    """
    if cpuinfo is None:
        try:
            cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ["FEAT_BF16"] if sysctl("hw.optional.arm.FEAT_BF16") == "1" else []
    words = {
        word
        for line in cpuinfo.splitlines()
        if line.startswith(("flags", "Features"))
        for word in line.split()
    }
    return [flag for flag in BF16 if flag in words]


def sysctl(name: str) -> str:
    """Return a value of macOS's `sysctl`, or an empty text."""
    tool = shutil.which("sysctl")
    if sys.platform != "darwin" or tool is None:
        return ""
    done = subprocess.run([tool, "-n", name], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def nvidia_smi(fields: str, timeout_s: float) -> tuple[list[list[str]], str]:
    """Return a row of these fields (with commas between them) for each GPU that nvidia-smi shows,
    and all that it says, or why it says nothing.
    """
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return [], "no nvidia-smi"
    query = [f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(
            [tool, *query], capture_output=True, text=True, check=False, timeout=timeout_s
        )
    except subprocess.TimeoutExpired:  # a driver that hangs
        return [], f"nvidia-smi does not answer in {timeout_s:g} s"
    rows = [line.split(", ") for line in done.stdout.splitlines()]
    said = " ".join(f"{done.stdout} {done.stderr}".split())
    return [row for row in rows if len(row) == fields.count(",") + 1], said


def gpus() -> list[float]:
    """Return the memory of each visible NVIDIA GPU in GiB; CUDA_VISIBLE_DEVICES chooses among
    them, up to the first name that is none, as CUDA itself reads it.
    """
    rows, _ = nvidia_smi("index,uuid,memory.total", PROBE_S)
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        named = [
            next((row for row in rows if row[0] == name or row[1].startswith(name or " ")), None)
            for name in map(str.strip, chosen.split(","))
        ]
        rows = [row for row in itertools.takewhile(bool, named) if row]
    return [int(size) / 1024 for _, _, size in rows if size.strip().isdigit()]


def described() -> str:
    """Return the machine on one line."""
    flags, cards = bfloat16(), gpus()
    return "; ".join(
        [
            f"{counted(cores(), 'core')} ({platform.machine()})",
            f"{memory_gib():.1f} GiB of memory",
            f"bfloat16 units ({', '.join(flags)})" if flags else "no bfloat16 units",
            f"Python {platform.python_version()}",
            f"{shutil.disk_usage('.').free / 2**30:.0f} GiB of disk free",
            counted(len(cards), "GPU") if cards else "no GPU",
        ]
    )
