"""Run benchmarks on an idle machine and keep every result, so that a regression is seen.

Usage: bench.py [PART ...] [--busy] [--arguments "--repeats 5"] [--page docs/benchmarks.md] \\
           [--history docs/benchmarks.jsonl]

Each part (data, client, evaluation, training, precision, start, report) is a program of its own and
replaces its section of the page. Before it starts, this says how long its last runs took; while the
machine is busy it is refused, unless `--busy` is given, and then the result says so. A line of the
history holds the date, the commit, the processor with its flags, and the section as it was written;
the section "Over time" has the numbers to watch, a row for each run.
"""

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench_page import flags, processor, read_section, replace_section
from bezoar import program
from bezoar.errors import UserError
from bezoar.provenance.receipt import git
from bezoar.readers import read_jsonl

# part -> its section of the page
PARTS = {
    "data": "Data",
    "client": "LLMClient",
    "evaluation": "Evaluation",
    "training": "Training",
    "precision": "Precision",
    "start": "Start",
    "report": "Page of rows",
}
# The numbers to watch: part, what a row of its tables begins with, the column (from 0), and what
# the number is.
WATCHED = (
    ("data", "| duplicates | 100,000 |", 2, "duplicates, 100,000 rows, s"),
    ("data", "| duplicates | 1,000,000 |", 2, "duplicates, 1,000,000 rows, s"),
    ("data", "| near-duplicates by ROUGE-L | 100,000 |", 2, "ROUGE-L, 100,000 rows, s"),
    ("client", "| client |", 5, "client, ratio to the bare loop while sending"),
    ("client", "| replay |", 2, "stored answers replayed a second"),
    ("evaluation", "| run_lm_eval.py |", 3, "harness, time against lm_eval's"),
    ("training", "| ours |", 4, "SFT on short rows, rate against TRL's defaults"),
    ("training", "| ours, first run |", 4, "DPO with its reference, likewise"),
    ("training", "| ours, second run |", 4, "DPO, reference stored, likewise"),
    ("precision", "| as it is | training step", 4, "training step, bfloat16 / float32"),
    ("start", "| a program that imports TRL |", 3, "start of a stage, by itself / forked"),
    ("start", "| the smallest rehearsal |", 2, "the smallest rehearsal, s"),
    ("report", "| 10,000 rows |", 2, "page of 10,000 rows, first paint, ms"),
)
BUSY = 0.3  # load average of the last minute, a core, that other work may make
CALM = 300  # seconds in which the load of the part before must have gone


def busy(wait: float = CALM) -> str | None:
    """Return what the load of the machine is, or None as soon as it is idle."""
    end = time.monotonic() + wait
    while (load := os.getloadavg()[0]) > BUSY * (os.cpu_count() or 1):
        if time.monotonic() > end:
            return f"a load average of {load:.1f} on {os.cpu_count()} cores"
        time.sleep(min(5.0, wait))
    return None


def expected(part: str, runs: list[dict[str, Any]]) -> str:
    """Return how long the part took before, of the runs on record."""
    took = [run["seconds"] for run in runs if run["part"] == part and not run["arguments"]]
    if not took:
        return "no whole run on record"
    times = f"{len(took)} runs on record" if len(took) > 1 else "one run on record"
    return f"about {statistics.median(took) / 60:.0f} minutes ({times})"


def value(section: str, row: str, column: int) -> str | None:
    """Return a cell's first number, of the first row of a section that begins so."""
    line = next((line for line in section.splitlines() if line.startswith(row)), None)
    if line is None:
        return None
    cells = line.strip("| ").split(" | ")
    words = cells[column].replace("(", " ").split() if column < len(cells) else []
    return words[0] if words else None


def over_time(runs: list[dict[str, Any]]) -> str:
    """Return the table of the numbers to watch, a row for each run."""
    lines = [
        "Every run of `make bench`, oldest first; whole sections are in"
        " [benchmarks.jsonl](benchmarks.jsonl).\n",
        "| date | commit | processor | part, minutes | numbers |",
        "|---|---|---|---|---|",
    ]
    for run in runs:
        found = [
            f"{what}: {number}"
            for part, row, column, what in WATCHED
            if part == run["part"] and (number := value(run["section"], row, column))
        ]
        notes = [f"`{run['arguments']}`"] if run["arguments"] else []
        notes += ["busy machine"] if run["busy"] else []
        lines.append(
            f"| {run['date']} | {run['commit']} | {run['cores']} x {run['processor']}"
            f" ({run['flags']}) | {', '.join([run['part'], *notes])}, {run['seconds'] / 60:.0f} |"
            f" {'; '.join(found)} |"
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
    parts = args.parts or list(PARTS)
    if unknown := sorted(set(parts) - set(PARTS)):
        raise UserError(f"PART={unknown[0]}: expected one of {', '.join(PARTS)}")
    runs = list(read_jsonl(args.history)) if args.history.is_file() else []
    for part in parts:
        print(f"{part}: {expected(part, runs)}", flush=True)
    for part in parts:
        others = busy(0 if args.busy else CALM)
        if others and not args.busy:
            raise UserError(f"{others}: other work would be measured too; stop it, or set BUSY=1")
        started, now = time.monotonic(), datetime.now(UTC)
        of = commit()
        program_of = Path(__file__).with_name(f"bench_{part}.py")
        words = [sys.executable, str(program_of), "--output", str(args.page)]
        done = subprocess.run([*words, *shlex.split(args.arguments)], check=False)
        if done.returncode:
            raise UserError(
                f"bench_{part}.py ended with {done.returncode}; there is no record of it"
            )
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
                "section": read_section(args.page, PARTS[part]),
            }
        )
        with args.history.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(runs[-1], ensure_ascii=False) + "\n")
        replace_section(args.page, "Over time", over_time(runs))


if __name__ == "__main__":
    program.run(main)
