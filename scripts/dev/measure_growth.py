"""Write how time and memory grow from scale to scale: measured on finished runs beside what was
estimated for them, and estimated for the paper's scale and for ten times its data.

Usage: measure_growth.py --run results/rehearsal config/rehearsal.yaml \\
           --run results/trial config/trial.yaml config/trial-without-dolly.yaml \\
           [--output docs/growth.md]

Measured is the largest job of a rule, from its receipts: seconds from its start to its end, and the
peak of its resident memory. Estimated is what `bezoar.workflow.resources` asks for: seconds at
most, for rows as long as allowed, without the imports of a process; memory with its margin.
"""

import argparse
import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bezoar import program
from bezoar.errors import UserError
from bezoar.files import whole_file
from bezoar.progress import clock
from bezoar.provenance.audit import finished
from bezoar.workflow import resources
from bezoar.workflow.configuration import resolved
from bezoar.workflow.layout import Layout

COMPUTING = ("sft", "hh_sft", "dpo_reference", "dpo", "merge", "lm_eval", "mtbench_answers")
IN_A_ROW = ("sft", "hh_sft", "dpo_reference", "dpo", "merge")  # each waits for the one before
HEAD = """# How it grows

Written by `scripts/dev/measure_growth.py` from finished runs; the command is in its docstring.

## Measured, beside the estimate
The largest job of each rule. Time: measured / at most, in seconds; what is measured includes the
imports of a process and the start of a server. Memory: measured / asked for, in MB.

"""


def tenfold(config: dict[str, Any], apart: int = 1) -> dict[str, Any]:
    """Return a configuration with ten times the generated rows and preference pairs, and `apart`
    times as many steps between two evaluations during training.
    """
    more = copy.deepcopy(config)
    made = more["generate"]
    made["lamini"]["rows"] *= 10
    made["evol"]["seeds_per_category"] *= 10
    made["orca"]["quotas"] = {name: 10 * rows for name, rows in made["orca"]["quotas"].items()}
    more["preferences"]["first"] *= 10
    for section in ("sft", "hh_sft", "dpo"):
        more[section]["eval_steps"] *= apart
    return more


def table_of(results: Path, config: list[str]) -> Iterator[str]:
    """Yield the lines of a run's table."""
    if not config:
        raise UserError(f"--run {results}: expected its configuration files behind the directory")
    layout = Layout(resolved(config))
    needs = resources.Needs(layout)
    receipts = finished(results).values()
    took = resources.used(receipts)
    commits = {receipt["git_commit"] or "?" for receipt in receipts}
    yield (
        f"### {layout.config['scale']}: {needs.size / 1e6:.0f} million parameters (commit"
        f" {', '.join(sorted(commit[:7] for commit in commits))})\n"
    )
    yield "| rule | jobs | seconds / at most | MB / asked for |\n|---|---|---|---|"
    counts = resources.jobs(layout)
    for rule, need in needs.by_rule.items():
        if found := took.get(rule):
            yield (
                f"| {rule} | {counts[rule]} | {found.seconds:.0f} / {need.seconds:.0f} |"
                f" {found.mem_mb:,.0f} / {need.mem_mb:,} |"
            )
    yield ""


def estimates() -> Iterator[str]:
    """Yield the table of the paper's scale and of ten times its data."""
    paper = resolved(["config/paper.yaml"])
    configs = [paper, tenfold(paper), tenfold(paper, apart=10)]
    layouts = [Layout(config) for config in configs]
    needs = [resources.Needs(layout).by_rule for layout in layouts]
    counts = resources.jobs(layouts[0])
    yield "## Estimated: the paper's scale, and ten times its data"
    yield (
        "On one GPU with 40 TFLOP/s sustained, at most; nothing at this scale has been measured."
        " Generation\nand filter are not in it: they take a server's or a provider's time.\n"
    )
    yield (
        "| rule | jobs | paper | ten times the rows | the same, eval_steps × 10 | memory |"
        " ten times the rows |\n" + "|---" * 7 + "|"
    )
    for rule in COMPUTING:
        times = " | ".join(clock(need[rule].seconds) for need in needs)
        memory = " | ".join(f"{need[rule].mem_mb:,} MB" for need in needs[:2])
        yield f"| {rule} | {counts[rule]} | {times} | {memory} |"
    for what, rules in {"one GPU, in all": COMPUTING, "a cluster": IN_A_ROW}.items():
        beside = [rule for rule in COMPUTING if rule not in rules]
        times = " | ".join(
            clock(
                sum(counts[rule] * need[rule].seconds for rule in rules)
                + max((need[rule].seconds for rule in beside), default=0)
            )
            for need in needs
        )
        yield f"| **{what}** | | {times} | | |"
    yield (
        "\nTen times the rows take more than ten times as long, because they are evaluated as often"
        " as before, on\nten times as many held-out rows: raise `eval_steps` with the rows. On a"
        " cluster only the evaluations\nrun side by side, for each training waits for the one"
        " before; several GPUs for one training\n(`launch:`) shorten it."
    )


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--run", nargs="+", action="append", required=True, metavar="RESULTS CONFIG"
    )
    parser.add_argument("--output", type=Path, default=Path("docs/growth.md"))
    args = parser.parse_args(argv)
    lines = [line for results, *config in args.run for line in table_of(Path(results), config)]
    with whole_file(args.output) as stream:
        stream.write(HEAD + "\n".join([*lines, *estimates()]) + "\n")


if __name__ == "__main__":
    program.run(main)
