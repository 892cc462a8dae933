"""Run benchmarks on an idle machine and keep every result, so that a regression is seen.

Usage: bench.py [PART ...] [--busy] [--arguments "--repeats 5"] [--page docs/benchmarks.md] \\
           [--history docs/benchmarks.jsonl]

Each part replaces its section of the page, up to a heading `### Findings`: what stands below it is
written by hand, and has to be checked against the new numbers. Before a part starts, this says how
long its last runs took, or about how long it may take. On a busy machine it is refused, unless
`--busy` is given, and then the result says so. A line of the history holds date, commit, processor
with its flags, and the section as it was written; the section "Over time" has the numbers to watch,
a row for each run, each with its change from the run before on such a processor.
"""

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from bench_page import HH_RLHF, flags, processor, read_section, replace_section, source
from bezoar import program
from bezoar.errors import UserError
from bezoar.provenance.receipt import git
from bezoar.readers import read_jsonl


class Part(NamedTuple):
    """What a part runs."""

    section: str  # of the page
    minutes: int  # on two cores, by a rough guess; what is on record takes its place
    program: str
    arguments: tuple[str, ...] = ()


TRAINING = "bench_training.py"
PARTS = {
    "data": Part("Data", 10, "bench_data.py"),
    "real-data": Part("Data, real-looking", 10, "bench_data.py", ("--texts", "real-looking")),
    "client": Part("LLMClient", 4, "bench_client.py"),
    "evaluation": Part("Evaluation", 15, "bench_evaluation.py"),
    "sft": Part("SFT", 55, TRAINING, ("--only", "sft LaMini-like", "sft HH-like")),
    "dpo": Part("DPO", 60, TRAINING, ("--only", "dpo HH-like", "dpo HH-RLHF")),
    "ablation": Part("Ablation", 25, TRAINING, ("--only", "ablation LaMini-like")),
    "memory": Part("Memory of the loss", 5, "bench_memory.py"),
    "precision": Part("Precision", 5, "bench_precision.py"),
    "start": Part("Start", 6, "bench_start.py"),
    "report": Part("Page of rows", 5, "bench_report.py"),
}
# The numbers to watch: part, what a row of its tables begins with, the column (from 0), and what
# the number is.
WATCHED = (
    ("data", "| duplicates | 100,000 |", 2, "duplicates, 100,000 rows, s"),
    ("data", "| duplicates | 1,000,000 |", 2, "duplicates, 1,000,000 rows, s"),
    ("data", "| near-duplicates by ROUGE-L | 100,000 |", 2, "ROUGE-L, 100,000 rows, s"),
    ("real-data", "| duplicates | 1,000,000 |", 2, "duplicates, 1,000,000 rows, s"),
    ("real-data", "| near-duplicates by ROUGE-L | 100,000 |", 2, "ROUGE-L, 100,000 rows, s"),
    ("client", "| client |", 5, "client, ratio to the bare loop while sending"),
    ("client", "| replay |", 2, "stored answers replayed a second"),
    ("evaluation", "| run_lm_eval.py |", 3, "harness, time against lm_eval's"),
    ("sft", "| ours |", 4, "SFT on short rows, rate against TRL's defaults"),
    ("sft", "| ours / TRL, grouped by length |", 1, "against TRL grouped by length"),
    ("sft", "| ours / TRL, grouped by length, whole batches |", 1, "with whole batches"),
    ("sft", "| ours / LLaMA-Factory, tuned |", 1, "against LLaMA-Factory tuned"),
    ("sft", "| ours / LLaMA-Factory, tuned, whole batches |", 1, "with whole batches"),
    ("dpo", "| ours, first run |", 4, "DPO with its reference, rate against TRL's defaults"),
    ("dpo", "| ours, second run |", 4, "DPO, reference stored, likewise"),
    ("dpo", "| ours, first run / TRL, tuned |", 1, "DPO with its reference, against TRL tuned"),
    ("dpo", "| ours, first run / TRL, tuned, whole batches |", 1, "with whole batches"),
    ("ablation", "| rows padded |", 4, "SFT with padded rows, rate against ours"),
    ("memory", "| DPO | 32,000 |", 4, "DPO step, vocabulary 32,000, MiB"),
    ("memory", "| DPO | 49,152 |", 4, "DPO step, vocabulary 49,152, MiB"),
    ("precision", "| as it is | training step", 4, "training step, bfloat16 / float32"),
    ("start", "| a program that imports TRL |", 3, "start of a stage, by itself / forked"),
    ("start", "| the smallest rehearsal |", 2, "the smallest rehearsal, s"),
    ("report", "| 10,000 rows |", 2, "page of 10,000 rows, first paint, ms"),
)
BUSY = 0.3  # load average of the last minute, a core, that other work may make
CALM = 300  # seconds in which the load of the part before must have gone


def busy(wait: float = CALM) -> str | None:
    """Return what the load of the machine is, or None as soon as it is idle, within `wait` s."""
    end, told = time.monotonic() + wait, False
    while (load := os.getloadavg()[0]) > BUSY * (os.cpu_count() or 1):
        if time.monotonic() >= end:
            return f"a load average of {load:.1f} on {os.cpu_count()} cores"
        if not told:
            print(f"waiting up to {wait / 60:.0f} minutes for an idle machine", flush=True)
            told = True
        time.sleep(min(5.0, wait))
    return None


def expected(part: str, runs: list[dict[str, Any]]) -> tuple[float, str]:
    """Return about how many minutes the part takes, and from what that is known: the runs on
    record, of such a processor if there are any, or a guess.
    """
    whole = [run for run in runs if run["part"] == part and not run["arguments"]]
    here = {"processor": processor(), "flags": flags(), "cores": os.cpu_count()}
    alike = [run for run in whole if all(run[key] == value for key, value in here.items())]
    took = [run["seconds"] for run in alike or whole]
    if not took:
        return PARTS[part].minutes, "a guess: no whole run on record"
    record = f"{len(took)} runs on record" if len(took) > 1 else "one run on record"
    record += "" if alike else ", of another processor"
    return statistics.median(took) / 60, record


def value(section: str, row: str, column: int) -> str | None:
    """Return a cell's first number, of the first row of a section that begins so; nothing where
    the cell has none, as where a peer is void.
    """
    line = next((line for line in section.splitlines() if line.startswith(row)), None)
    if line is None:
        return None
    cells = line.strip("| ").split(" | ")
    words = cells[column].replace("(", " ").split() if column < len(cells) else []
    return words[0] if words and words[0].replace(",", "").replace(".", "").isdecimal() else None


def numbers(run: dict[str, Any], runs: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yield the numbers to watch of a run, each with its change from the last of `runs` that
    measured the same on such a processor.
    """
    same = ("part", "arguments", "processor", "flags", "cores")
    before = [other for other in runs if all(other[key] == run[key] for key in same)]
    for part, row, column, what in WATCHED:
        if part != run["part"] or not (found := value(run["section"], row, column)):
            continue
        old = value(before[-1]["section"], row, column) if before else None
        change = _number(found) / _number(old) - 1 if old and _number(old) else None
        yield f"{what}: {found}" + ("" if change is None else f" ({100 * change:+.0f} %)")


def _number(text: str) -> float:
    return float(text.replace(",", ""))


def over_time(runs: Sequence[dict[str, Any]]) -> str:
    """Return the table of the numbers to watch, a row for each run."""
    lines = [
        "Every run of `make bench`, oldest first; whole sections are in"
        " [benchmarks.jsonl](benchmarks.jsonl).\nIn brackets: the change from the run before it on"
        " such a processor.\n",
        "| date | commit | processor | part, minutes | numbers |",
        "|---|---|---|---|---|",
    ]
    for index, run in enumerate(runs):
        notes = [f"`{run['arguments']}`"] if run["arguments"] else []
        notes += ["busy machine"] if run["busy"] else []
        lines.append(
            f"| {run['date']} | {run['commit']} | {run['cores']} x {run['processor']}"
            f" ({run['flags']}) | {', '.join([run['part'], *notes])}, {run['seconds'] / 60:.0f} |"
            f" {'; '.join(numbers(run, runs[:index]))} |"
        )
    return "\n".join(lines) + "\n"


def commit() -> str:
    """Return the commit of the tree, with `+` where something differs from it."""
    changed = git("status", "--porcelain", "--", "scripts", "config", "envs")
    return (git("rev-parse", "--short", "HEAD") or "unknown") + ("+" if changed else "")


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and run the parts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--busy", action="store_true", help="measure beside other work")
    parser.add_argument("--arguments", default="", help="further arguments of the part's program")
    parser.add_argument("--page", type=Path, default=Path("docs/benchmarks.md"))
    parser.add_argument("--history", type=Path, default=Path("docs/benchmarks.jsonl"))
    args = parser.parse_args(argv)
    parts = args.parts or [part for part in PARTS if part != "real-data" or source(HH_RLHF)]
    if unknown := sorted(set(parts) - set(PARTS)):
        raise UserError(f"PART={unknown[0]}: expected one of {', '.join(PARTS)}")
    runs = list(read_jsonl(args.history)) if args.history.is_file() else []
    times = {part: expected(part, runs) for part in parts}
    for part, (minutes, source_of) in times.items():
        print(f"{part}: about {minutes:.0f} minutes ({source_of})")
    print(f"in all: about {sum(minutes for minutes, _ in times.values()):.0f} minutes", flush=True)
    if not source(HH_RLHF):
        print(f"there is no {HH_RLHF} in data/ or MIRROR: nothing is measured on it", flush=True)
    for part in parts:
        others = busy(0 if args.busy else CALM)
        if others and not args.busy:
            raise UserError(f"{others}: other work would be measured too; stop it, or set BUSY=1")
        started, now = time.monotonic(), datetime.now(UTC)
        of = commit()
        section, _, name, arguments = PARTS[part]
        words = [sys.executable, str(Path(__file__).with_name(name)), "--output", str(args.page)]
        words += [*(["--section", section] if name == TRAINING else []), *arguments]
        done = subprocess.run([*words, *shlex.split(args.arguments)], check=False)
        if done.returncode:
            raise UserError(f"{name} ended with {done.returncode}; there is no record of it")
        if not (written := read_section(args.page, section)):
            raise UserError(f"{name} wrote no section `{section}`; there is no record of it")
        runs.append(
            {
                "part": part,
                "arguments": args.arguments,
                "date": f"{now:%Y-%m-%d %H:%M}",
                "commit": of,
                "processor": processor(),
                "flags": flags(),
                "cores": os.cpu_count(),
                "busy": others,
                "seconds": round(time.monotonic() - started, 1),
                "section": written,
            }
        )
        with args.history.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(runs[-1], ensure_ascii=False) + "\n")
        replace_section(args.page, "Over time", over_time(runs))


if __name__ == "__main__":
    program.run(main)
