"""Measure deduplication and contamination search on made rows, beside datasketch used naively and
text-dedup, in one run.

Usage: bench_data.py [--rows 10000 100000 1000000] [--peer-rows 10000 100000] [--repeats 3]
           [--texts invented|real-looking] [--peers .venv-bench] [--output docs/benchmarks.md]

Invented texts have 8 to 60 invented words by Zipf's law. Real-looking ones are as long as what
people say in HH-RLHF's dialogues, and each word follows the one before as often as it does there,
so that beginnings and phrases recur as in real text; for them the file must have been fetched, or
be in BEZOAR_MIRROR. A tenth of the rows repeats an earlier one, half of those with one word
changed. The evaluation has 20,000 such texts; a thousandth of the rows holds one of them. Every
measurement is a process of its own that reads the rows from a file; its time is from start to end
without reading, its memory the largest resident set of it and its children. Sizes above --peer-rows
are not given to the peers, whose growth the smaller sizes show. Only the smallest size is repeated;
the spread is printed.

The table replaces the section `## Data`, or `## Data, real-looking`, of --output.
"""

import argparse
import datetime
import itertools
import json
import os
import platform
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bench_page import HH_RLHF, PYTHON, flags, peak_mib, processor, replace_section, source
from bezoar import program
from bezoar.data import contamination, duplicates
from bezoar.data.hh_rlhf import turns
from bezoar.data.rouge import Kept
from bezoar.data.texts import words_of
from bezoar.errors import UserError
from bezoar.files import write_jsonl
from bezoar.readers import iter_json_lines, read_jsonl
from bezoar.workflow.configuration import resolved
from measure_search import sampler

EVALUATION = 20_000
SECTIONS = {"invented": "Data", "real-looking": "Data, real-looking"}
ROUGE, MOST_ROUGE = (
    "near-duplicates by ROUGE-L",
    100_000,
)  # LaMini's own rule; every kept row is a candidate for every new one
NAIVE = """
import json, sys, time
from datasketch import MinHash, MinHashLSH
texts = [json.loads(line)["text"].lower().split() for line in open(sys.argv[1])]
started, pairs = time.perf_counter(), 0
index = MinHashLSH(threshold=0.7, num_perm=128)
for number, words in enumerate(texts):
    sketch = MinHash(num_perm=128)
    for part in [*words, *(f"{a} {b}" for a, b in zip(words, words[1:]))]:
        sketch.update(part.encode())
    pairs += bool(index.query(sketch))
    index.insert(number, sketch)
seconds, status = time.perf_counter() - started, open("/proc/self/status").read()
print(json.dumps({"seconds": seconds, "found": pairs,
                  "bytes": int(status.partition("VmHWM:")[2].split()[0]) * 1024}))
"""


Draw = Callable[[], list[str]]  # the words of a text


def invented(rng: random.Random) -> Draw:
    """Return what draws texts of invented words."""
    stream = sampler(rng)
    return lambda: list(itertools.islice(stream, rng.randint(8, 60)))


def real_looking(rng: random.Random, texts: Sequence[list[str]]) -> Draw:
    """Return what draws texts whose words follow each other as in `texts`, as long as one of
    these.
    """
    following: dict[str, list[str]] = {}
    for words in texts:
        for before, word in itertools.pairwise(["", *words]):
            following.setdefault(before, []).append(word)

    def draw() -> list[str]:
        found: list[str] = []
        wanted = len(rng.choice(texts))
        while len(found) < wanted:
            before = found[-1] if found else ""
            found.append(rng.choice(following.get(before) or following[""]))
        return found

    return draw


def said(file: Path) -> list[list[str]]:
    """Return the words of each text that somebody says in HH-RLHF's pairs, once."""
    dialogues = [row["chosen"] for _, row in iter_json_lines(file)]
    texts = dict.fromkeys(text for one in dialogues for who, text in turns(one) if who == "Human")
    return [text.split() for text in texts if text]


def make_rows(count: int, folder: Path, make: Callable[[random.Random], Draw]) -> Path:
    """Write rows (instruction, response, text) and evaluation texts, each once; return the rows'
    path.
    """
    path = folder / f"rows-{count}.jsonl"
    rng = random.Random(0)
    draw = make(rng)
    evaluation = [" ".join(draw()) for _ in range(EVALUATION)]
    write_jsonl(
        folder / "items.jsonl",
        [
            {"task": "t", "item": i, "part": "question", "text": text}
            for i, text in enumerate(evaluation)
        ],
    )

    def rows() -> Any:
        recent: list[list[str]] = []
        for number in range(count):
            words = draw()
            if number % 10 == 9:
                words = list(rng.choice(recent))
                if number % 20 == 9:
                    words[rng.randrange(len(words))] = draw()[0]
            recent = [*recent[-999:], words]
            response = " ".join(draw()) if number % 1000 else rng.choice(evaluation)
            yield {"instruction": " ".join(words), "response": response, "text": " ".join(words)}

    write_jsonl(path, rows())
    return path


def own(kind: str, path: Path) -> dict[str, Any]:
    """Measure one of this project's searches in this process."""
    recipe = {**resolved([])["data"].get(kind, {}), "seed": 0}
    rows = read_jsonl(path)
    items = read_jsonl(path.parent / "items.jsonl") if kind == "contamination" else []
    started = time.perf_counter()
    if kind == ROUGE:
        kept, found = Kept(resolved([])["generate"]["lamini"]["rouge_l"]), 0
        for row in rows:
            words = words_of(row["instruction"])
            found += kept.near(words) is not None
            kept.add(words)
    elif kind == "duplicates":
        classes = duplicates.Classes()
        for number, row in enumerate(rows, start=1):
            classes.add("rows", number, row["instruction"])
        found = len({line["row"] for line in duplicates.duplicates(classes, recipe)})
    else:
        lines = contamination.matches(contamination.Items(items, recipe), rows, "rows", recipe)
        found = len({line["row"] for line in lines if line["contaminated"]})
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "found": found, "bytes": peak_mib() * 2**20}


def text_dedup(path: Path, python: Path) -> dict[str, Any]:
    """Measure text-dedup's MinHash on two processes, by its own clock; its memory is the largest of
    its processes'.
    """
    with tempfile.TemporaryDirectory() as scratch:
        command = [
            str(python),
            "-m",
            "text_dedup.minhash",
            "--path",
            "json",
            "--data_files",
            str(path),
            "--split",
            "train",
            "--column",
            "text",
            "--ngram",
            "2",
            "--num_perm",
            "128",
            "--b",
            "32",
            "--r",
            "4",
            "--threshold",
            "0.7",
            "--num_proc",
            "2",
            "--output",
            f"{scratch}/out",
            "--cache_dir",
            f"{scratch}/cache",
        ]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "COLUMNS": "200"},
        )
    output = done.stdout + done.stderr
    times = {name: float(value) for name, value in re.findall(r"(\w+)\s+: ([\d.]+)s", output)}
    kept = re.findall(r"(?:Before|After)\s+: (\d+)", output)
    if done.returncode or "Total" not in times or len(kept) != 2:
        raise UserError(f"text-dedup failed: {output[-300:]}")
    size = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    return {
        "seconds": times["Total"] - times["Loading"],
        "found": int(kept[0]) - int(kept[1]),
        "bytes": size,
    }


def measure(tool: str, path: Path, peers: Path) -> dict[str, Any]:
    """Run one measurement in a process of its own."""
    command = [sys.executable, __file__, "--one", tool, "--peers", str(peers), str(path)]
    if tool == "datasketch, naively":
        command = [str(peers / "bin" / "python"), "-c", NAIVE, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"{tool}: {done.stderr.strip()[-300:]}")
    return json.loads(done.stdout.splitlines()[-1])


def section(results: list[dict[str, Any]], command: str) -> str:
    """Return the text of the section."""
    lines = [
        (
            f"`{command}`, {datetime.date.today()}, {processor()} ({flags()}) with"
            f" {os.cpu_count()} cores, Python {platform.python_version()}; load average at the end"
            f" {os.getloadavg()[0]:.1f}."
        ),
        "",
        "| search | rows | seconds | spread of repeats | µs a row | peak MiB | rows found"
        " | growth |",
        "|---|---|---|---|---|---|---|---|",
    ]
    seconds = {(r["tool"], r["rows"]): r["seconds"] for r in results}
    for r in results:
        least = min(rows for tool, rows in seconds if tool == r["tool"])
        growth = r["seconds"] / seconds[r["tool"], least]
        spread = (
            f"{min(r['all']):.1f} – {max(r['all']):.1f}, n = {len(r['all'])}"
            if len(r["all"]) > 1
            else "one run"
        )
        lines.append(
            f"| {r['tool']} | {r['rows']:,} | {r['seconds']:.1f} | {spread} |"
            f" {r['seconds'] / r['rows'] * 1e6:.0f} | {r['bytes'] / 2**20:,.0f} | {r['found']:,} |"
            f" {'–' if r['rows'] == least else f'{growth:.0f} times from {least:,}'} |"
        )
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rows",
        type=int,
        nargs="+",
        default=[10_000, 100_000, 1_000_000],
        help="sizes for this project",
    )
    parser.add_argument(
        "--peer-rows", type=int, nargs="+", default=[10_000, 100_000], help="sizes for the peers"
    )
    parser.add_argument("--repeats", type=int, default=3, help="runs at the smallest size")
    parser.add_argument(
        "--peers", type=Path, default=Path(".venv-bench"), help="environment of the peers"
    )
    parser.add_argument(
        "--texts", choices=SECTIONS, default="invented", help="what rows are made of"
    )
    parser.add_argument("--output", type=Path, help="page whose section is replaced")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("path", type=Path, nargs="?", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.one:
        python = args.peers / "bin" / "python"
        print(
            json.dumps(
                text_dedup(args.path, python)
                if args.one == "text-dedup"
                else own(args.one, args.path)
            )
        )
        return
    make: Callable[[random.Random], Draw] = invented
    if args.texts == "real-looking":
        if not (file := source(HH_RLHF)):
            raise UserError(f"{HH_RLHF}: neither in data/ nor in MIRROR; set MIRROR, or fetch it")
        make = partial(real_looking, texts=said(file))
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for count in sorted({*args.rows, *args.peer_rows}):
            path = make_rows(count, Path(folder), make)
            tools = [
                *(["duplicates", "contamination"] if count in args.rows else []),
                *([ROUGE] if count in args.rows and count <= MOST_ROUGE else []),
                *(["datasketch, naively", "text-dedup"] if count in args.peer_rows else []),
            ]
            for tool in tools:
                runs = [
                    measure(tool, path, args.peers)
                    for _ in range(args.repeats if count == min(args.rows) else 1)
                ]
                middle = sorted(runs, key=lambda run: run["seconds"])[len(runs) // 2]
                results.append(
                    {"tool": tool, "rows": count, **middle, "all": [run["seconds"] for run in runs]}
                )
                print(results[-1], flush=True)
    text = section(results, f"{PYTHON} scripts/dev/bench_data.py {' '.join(sys.argv[1:])}".strip())
    print(text)
    if args.output:
        replace_section(args.output, SECTIONS[args.texts], text)


if __name__ == "__main__":
    program.run(main)
