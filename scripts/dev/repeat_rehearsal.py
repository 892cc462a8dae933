"""Run the rehearsal for several seeds, each below its own results root, and write what was learned:
numbers as JSON, and tables made from them.

Usage: repeat_rehearsal.py --seeds 1 2 3 [--cores 2] [--finished] [--output docs/learning.md]

The numbers go to docs/learning.json. With --finished nothing is run: the page is made of results
that are there already, each perhaps from another machine.

A seed changes everything: the world, its split, the base, the data and the training. Only seeds on
which no choice was tuned count.
"""

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

from bezoar import program, surroundings
from bezoar.arguments import cores
from bezoar.errors import UserError
from bezoar.files import whole_file, write_json
from bezoar.readers import read_json
from bezoar.workflow import machine

CONFIG = "config/rehearsal.yaml"
CHAT = "chat, judged by the simulator, 1–10"


def root(seed: int) -> Path:
    """Where the results of one seed are."""
    return Path(f"results/rehearsal-seed-{seed}")


def run(seed: int, cores: int) -> None:
    """Bring one seed's tables up to date; Snakemake decides what is stale."""
    places = ", ".join(
        f"{kind}: {kind}/rehearsal-seed-{seed}" for kind in ("results", "logs", "benchmarks")
    )
    arguments = [
        *("--cores", str(cores), "--configfile", CONFIG),
        *("--config", f"seed={seed}", f"pathvars={{{places}}}"),
    ]
    command = surroundings.snakemake(*arguments, profile="profiles/default")
    if subprocess.run(command, check=False).returncode:
        raise UserError(
            f"seed {seed}: the rehearsal failed; its log is below logs/rehearsal-seed-{seed}"
        )


def number(found: dict[str, Any]) -> dict[str, Any]:
    """Return mean, interval and, where it is known, the number of items, to six digits."""
    return {key: round(found[key], 6) for key in ("mean", "low", "high")} | (
        {"n": found["n"]} if "n" in found else {}
    )


def states_of(seed: int) -> list[dict[str, Any]]:
    """Return {what, after, mean, low, high, n} of every measure of every state, from one seed's
    tables.
    """
    learning, harness, chat = (
        read_json(root(seed) / f"{name}.json") for name in ("learning", "lm_eval", "mtbench")
    )
    judge = next(iter(chat["judges"].values()))
    found = []
    for state, sets in learning["states"].items():
        for name, metrics in sets.items():
            for metric in ("loss", "exact_match", "right", "accuracy"):
                if metric in metrics:
                    found.append(
                        {
                            "what": f"{name}: {metric.replace('_', ' ')}",
                            "after": state,
                            **number(metrics[metric]),
                        }
                    )
    for model, tasks in harness["models"].items():
        found += [
            {"what": f"lm-eval {task}", "after": model, **number(value)}
            for task, value in tasks.items()
        ]
        overall = {key: judge["models"][model]["overall"][key] for key in ("mean", "low", "high")}
        found.append({"what": CHAT, "after": model, **number(overall)})
    return found


def differences_of(seed: int) -> list[dict[str, Any]]:
    """Return {what, mean, low, high, better} of every paired difference; better: the whole
    interval is an improvement.
    """
    learning, harness, chat = (
        read_json(root(seed) / f"{name}.json") for name in ("learning", "lm_eval", "mtbench")
    )
    rows: list[tuple[str, dict[str, Any], int]] = [
        (
            f"{d['candidate']} on its own set against {d['baseline']}:"
            f" {d['metric'].replace('_', ' ')}",
            d,
            -1 if d["metric"] == "loss" else 1,
        )
        for d in learning["differences"]
        if d["own"] and d["metric"] in ("loss", "exact_match", "accuracy")
    ]
    rows += [
        (f"{d['candidate']} against {d['baseline']}: lm-eval, all items", d["all_items"], 1)
        for d in harness["differences"]
    ]
    rows += [
        (f"{d['candidate']} against {d['baseline']}: chat", d, 1)
        for d in next(iter(chat["judges"].values()))["differences"]
    ]
    return [
        {
            "what": name,
            **number({key: d[key] for key in ("mean", "low", "high")}),
            "better": (d["low"] > 0) if sign > 0 else (d["high"] < 0),
        }
        for name, d, sign in rows
    ]


def machine_of(seed: int) -> str:
    """Name what one seed was run on, as the receipt of its base has it."""
    receipt = read_json(root(seed) / "receipts/base.json")
    variables = receipt["environment"]["variables"]
    parts = [
        f"{receipt['hardware']['machine']}, {receipt['hardware']['cores']} cores",
        f"Python {receipt['python']}",
        f"torch {receipt['versions']['torch']}",
        *(f"{name}={value}" for name, value in sorted(variables.items()) if value),
        f"commit {receipt['git_commit'][:7]}",
    ]
    return ", ".join(parts)


def shown(found: dict[str, Any], digits: int = 3, bold: bool = False) -> str:
    """Write a mean with its interval, and the number of items where it is known."""
    items = f", n = {found['n']}" if "n" in found else ""
    mean, low, high = (f"{found[key]:.{digits}f}" for key in ("mean", "low", "high"))
    text = f"{mean} ({low} – {high}){items}"
    return f"**{text}**" if bold else text


def page(raw: dict[str, Any]) -> str:
    """Return the Markdown page of all seeds."""
    seeds = list(raw["seeds"].values())
    columns = " | ".join(f"seed {seed}" for seed in raw["seeds"])
    rule = "|---" * (len(seeds) + 2) + "|"
    command = f"scripts/dev/repeat_rehearsal.py --seeds {' '.join(raw['seeds'])}"
    text = [
        "# What the rehearsal learns",
        "",
        (
            f"Written by `{command} --finished` from runs that were there already; `make learning`"
            " makes them, all in one place."
            if raw["finished"]
            else f"Written by `make learning` (`{command}`)."
        ),
        *(f"Seed {seed}: {found['machine']}." for seed, found in raw["seeds"].items()),
        "The numbers in full: [learning.json](learning.json), from which this page is made.",
        (
            "Means of held-out items, 95 % bootstrap intervals. Seeds 0 to 3 were looked at while"
            " the world was designed, and the preference stages"
        ),
        "of 0 and 21 to 23 while its preference pairs were; no choice was tuned on the others.",
        "",
        "## Differences, in pairs",
        "",
        "A **bold** difference is an improvement whose interval excludes zero.",
        "",
        f"| difference | measure | {columns} |",
        rule,
    ]
    for found in zip(*(seed["differences"] for seed in seeds), strict=True):
        what, _, rest = found[0]["what"].partition(": ")
        text.append(
            f"| {what} | {rest} | {' | '.join(shown(one, bold=one['better']) for one in found)} |"
        )
    text += ["", "## Every state", "", f"| measure | after | {columns} |", rule]
    for found in zip(*(seed["states"] for seed in seeds), strict=True):
        cells = [shown(one, 2 if one["what"] == CHAT else 3) for one in found]
        text.append(f"| {found[0]['what']} | {found[0]['after']} | {' | '.join(cells)} |")
    return "\n".join(text) + "\n"


def main(argv: list[str] | None = None) -> None:
    """Parse the command line, run the seeds, write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", required=True, help="seeds to run")
    parser.add_argument("--cores", type=cores, default=machine.cores(), help="cores for Snakemake")
    parser.add_argument(
        "--finished", action="store_true", help="run nothing; make the page of finished runs"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("docs/learning.md"), help="page to write, Markdown"
    )
    args = parser.parse_args(argv)
    for seed in [] if args.finished else args.seeds:
        print(f"seed {seed}", file=sys.stderr)
        run(seed, args.cores)
    raw = {
        "finished": args.finished,
        "seeds": {
            str(seed): {
                "machine": machine_of(seed),
                "differences": differences_of(seed),
                "states": states_of(seed),
            }
            for seed in args.seeds
        },
    }
    write_json(args.output.with_suffix(".json"), raw)
    with whole_file(args.output) as stream:
        stream.write(page(raw))


if __name__ == "__main__":
    program.run(main)
