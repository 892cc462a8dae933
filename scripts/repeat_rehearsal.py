"""Run the rehearsal for several seeds, each below its own results root, and write what was learnt as a Markdown table.

Usage: repeat_rehearsal.py --seeds 1 2 3 [--cores 2] [--output docs/learning.md]

A seed changes everything: the world, its split, the base, the data and the training. Seeds that no design choice has seen are the ones that count.
"""

import argparse
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from bezoar.errors import UserError, cli
from bezoar.files import read_json, whole_file

CONFIG = "config/rehearsal.yaml"


def root(seed: int) -> Path:
    """Where one seed's results lie."""
    return Path(f"results/rehearsal-seed-{seed}")


def run(seed: int, cores: int) -> None:
    """Bring one seed's tables up to date; Snakemake decides what is stale."""
    places = ", ".join(f"{kind}: {kind}/rehearsal-seed-{seed}" for kind in ("results", "logs", "benchmarks"))
    command = ["snakemake", "--profile", "profiles/default", "--cores", str(cores), "--configfile", CONFIG,
               "--config", f"seed={seed}", f"pathvars={{{places}}}"]  # fmt: skip
    if subprocess.run(command, check=False).returncode:
        raise UserError(f"seed {seed}: the rehearsal failed; its log is below logs/rehearsal-seed-{seed}")


def interval(found: dict[str, float], digits: int) -> str:
    """Write a mean with its interval."""
    return f"{found['mean']:.{digits}f} ({found['low']:.{digits}f} – {found['high']:.{digits}f})"


def lines_of(seed: int) -> dict[tuple[str, str], str]:
    """Return (what, state) -> value with interval, from one seed's tables."""
    learning, harness, chat = (read_json(root(seed) / f"{name}.json") for name in ("learning", "lm_eval", "mtbench"))
    judge = next(iter(chat["judges"].values()))
    found: dict[tuple[str, str], str] = {}
    for state, sets in learning["states"].items():
        for name, metrics in sets.items():
            for metric in ("loss", "exact_match", "right", "accuracy"):
                if metric in metrics:
                    found[(f"{name}: {metric.replace('_', ' ')}", state)] = f"{interval(metrics[metric], 3)}, n = {metrics[metric]['n']}"
    for model, tasks in harness["models"].items():
        for task, value in tasks.items():
            found[(f"lm-eval {task}", model)] = f"{interval(value, 3)}, n = {value['n']}"
        found[("chat, judged by the simulator, 1–10", model)] = interval(judge["models"][model]["overall"], 2)
    return found


def differences_of(seed: int) -> dict[str, tuple[str, bool]]:
    """Return claim -> (paired difference with its interval, whether the interval excludes no change for the better)."""
    learning, harness, chat = (read_json(root(seed) / f"{name}.json") for name in ("learning", "lm_eval", "mtbench"))
    rows: list[tuple[str, dict[str, Any], int]] = [
        (f"{d['child']} on its own set against {d['parent']}: {d['metric'].replace('_', ' ')}", d, -1 if d["metric"] == "loss" else 1)
        for d in learning["differences"] if d["own"] and d["metric"] in ("loss", "exact_match", "accuracy")
    ]  # fmt: skip
    rows += [(f"lm-eval, all items: {d['child']} against {d['parent']}", d["all_items"], 1) for d in harness["differences"]]
    rows += [(f"chat: {d['child']} against {d['parent']}", d, 1) for d in next(iter(chat["judges"].values()))["differences"]]
    return {name: (interval(d, 3), (d["low"] > 0) if sign > 0 else (d["high"] < 0)) for name, d, sign in rows}


def page(seeds: list[int]) -> str:
    """Return the Markdown page of all seeds."""
    columns = " | ".join(f"seed {seed}" for seed in seeds)
    rule = "|---" * (len(seeds) + 2) + "|"
    values = {seed: lines_of(seed) for seed in seeds}
    gaps = {seed: differences_of(seed) for seed in seeds}
    seeded, machine = " ".join(map(str, seeds)), f"{platform.machine()}, {os.cpu_count()} cores"
    text = [
        "# What the rehearsal learns", "",
        f"Written by `make learning` (`scripts/repeat_rehearsal.py --seeds {seeded}`) on {machine}.",
        "Means of held-out items, 95 % bootstrap intervals. Seeds 0 to 3 were looked at while the world was designed; these were not.", "",
        "## Differences, in pairs", "", "A **bold** difference is an improvement whose interval excludes none.", "",
        f"| difference | | {columns} |", rule,
    ]  # fmt: skip
    for name in gaps[seeds[0]]:
        cells = [f"**{shown}**" if better else shown for shown, better in (gaps[seed][name] for seed in seeds)]
        what, _, rest = name.partition(": ")
        text.append(f"| {what} | {rest} | {' | '.join(cells)} |")
    text += ["", "## Every state", "", f"| measure | after | {columns} |", rule]
    text += [f"| {what} | {state} | {' | '.join(values[seed].get((what, state), '–') for seed in seeds)} |" for what, state in values[seeds[0]]]
    return "\n".join(text) + "\n"


def main(argv: list[str] | None = None) -> None:
    """Parse the command line, run the seeds, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", required=True, help="seeds to run")
    parser.add_argument("--cores", type=int, default=os.cpu_count() or 1, help="cores for Snakemake")
    parser.add_argument("--output", type=Path, default=Path("docs/learning.md"), help="page to write, Markdown")
    args = parser.parse_args(argv)
    for seed in args.seeds:
        print(f"seed {seed}", file=sys.stderr)
        run(seed, args.cores)
    with whole_file(args.output) as stream:
        stream.write(page(args.seeds))


if __name__ == "__main__":
    cli(main)
