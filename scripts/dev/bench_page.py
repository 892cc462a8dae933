"""What the benchmarks share: a section of docs/benchmarks.md, the processor, a process of its own
and its memory, the rehearsal's world and a base in it.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

SCRIPTS = Path(__file__).parents[1]
TEMPLATE = "prompts/chat_template.json"
HH_RLHF = "hh_rlhf/harmless-base.test.jsonl.gz"  # of config/sources.yaml
PYTHON = "PYTHONPATH=scripts .venv/bin/python"  # what starts a program of scripts/dev
FINDINGS = "\n### Findings\n"  # of a section: what somebody has written about its numbers
FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "bf16")


def read_section(page: Path, title: str) -> str:
    """Return what a program wrote under `## title` of a page, without the findings; "" without
    one.
    """
    text = page.read_text(encoding="utf-8") if page.is_file() else ""
    section = text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    return section.partition(FINDINGS)[0]


def replace_section(page: Path, title: str, text: str) -> None:
    """Replace the text under `## title` by `text`; the section's findings and all other sections
    stay.
    """
    from bezoar.files import whole_file  # not at the top: bench_client's peer has no such package

    old = page.read_text(encoding="utf-8") if page.is_file() else "# Benchmarks\n"
    before, _, after = old.partition(f"\n## {title}\n")
    section, *others = after.partition("\n## ")
    findings = section.partition(FINDINGS)[1:]
    with whole_file(page) as stream:
        stream.write("".join((f"{before.rstrip()}\n\n## {title}\n{text}", *findings, *others)))


def source(path: str) -> Path | None:
    """Return a file of config/sources.yaml where it has been fetched or MIRROR holds it."""
    places = [Path("data", path), Path(os.environ.get("BEZOAR_MIRROR", "data"), path)]
    return next((place for place in places if place.is_file()), None)


def processor() -> str:
    """Return the processor's name."""
    lines = _cpuinfo().splitlines()
    return next(
        (line.split(":")[1].strip() for line in lines if line.startswith("model name")),
        platform.machine(),
    )


def flags() -> str:
    """Return which of the units that matter here the processor has."""
    found = set(_cpuinfo().split())
    return ", ".join(flag for flag in FLAGS if flag in found) or "unknown"


def spread(values: list[float], digits: int = 3) -> str:
    """Write a median with its range; of a single value, that it is one."""
    median, least, most = (
        f"{found:.{digits}f}" for found in (statistics.median(values), min(values), max(values))
    )
    return f"{median} ({least} – {most})" if len(values) > 1 else f"{median} (one)"


def peak_mib() -> float:
    """Return this process's own largest resident set; getrusage's counts that of the process which
    started it, too.
    """
    return _status_mib("VmHWM")


def resident_mib() -> float:
    """Return this process's resident memory."""
    return _status_mib("VmRSS")


def _status_mib(field: str) -> float:
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition(f"{field}:")[2].split()[0]) / 1024


def in_own_process(
    name: str, program: str, words: list[str], environment: dict[str, str]
) -> dict[str, float]:
    """Return what `program --once WORDS` prints last, JSON; raise `UserError` that says `name` if
    it fails.
    """
    from bezoar.errors import UserError  # not at the top, likewise

    done = subprocess.run(
        [sys.executable, program, "--once", *words],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise UserError(f"{name}: failed: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def run(*command: str | Path) -> None:
    """Run a process; raise `UserError` with the end of what it printed if it fails."""
    from bezoar.errors import UserError  # not at the top, likewise

    done = subprocess.run(
        [sys.executable, *map(str, command)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise UserError(f"{Path(str(command[0])).name} failed: {done.stderr[-500:]}")


def make_world(folder: Path) -> None:
    """Make the rehearsal's world below `folder`."""
    from bezoar.files import canonical  # not at the top, likewise
    from bezoar.workflow.configuration import resolved

    recipe = resolved(["config/rehearsal.yaml"])["world"] | {"seed": 0}
    run(
        *(SCRIPTS / "make_world.py", "--system-messages", "prompts/orca_system_messages.yaml"),
        *("--template", TEMPLATE, "--world", folder / "world", "--recipe", canonical(recipe)),
        *("--code", "bench", "--receipt", folder / "world.json"),
    )


def make_base(folder: Path, recipe: dict[str, Any]) -> None:
    """Make the rehearsal's world and pretrain a base in it, both below `folder`."""
    from bezoar.files import canonical  # not at the top, likewise

    make_world(folder)
    run(
        *(SCRIPTS / "pretrain_base.py", "--corpus", folder / "world/corpus.jsonl"),
        *("--base", folder / "base", "--checkpoint", folder / "checkpoint.pt"),
        *("--metrics", folder / "metrics.jsonl", "--recipe", canonical(recipe)),
        *("--code", "bench", "--receipt", folder / "receipt.json"),
    )


def _cpuinfo() -> str:
    info = Path("/proc/cpuinfo")
    return info.read_text(encoding="utf-8") if info.is_file() else ""
