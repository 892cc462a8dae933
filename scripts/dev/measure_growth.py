"""Write how time and memory grow from scale to scale: measured on finished runs beside what was
estimated for them, and estimated for the paper's scale and for ten times its data.

Usage: measure_growth.py --run results/rehearsal config/rehearsal.yaml \\
           --run results/trial config/trial.yaml config/trial-without-dolly.yaml \\
           [--page docs/growth.md] [--runs docs/growth.jsonl] [--figure docs/growth.svg]

Each `--run` is a run of this machine, or of another one with a GPU, whose receipts name it; it is
kept in `--runs`, in place of an earlier one of its scale on such a machine, and the page and its
figure are written from all that are kept. Measured is the largest job of a rule, from its receipts:
seconds from its start to its end, and the peak of its resident memory. Estimated is what
`bezoar.workflow.resources` asks for today: seconds at most, for rows as long as allowed; memory
with its margin.
"""

import argparse
import copy
import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench_page import flags, processor
from bezoar import program
from bezoar.errors import UserError
from bezoar.files import whole_file, write_jsonl
from bezoar.progress import clock
from bezoar.provenance.audit import finished
from bezoar.readers import read_jsonl
from bezoar.report import plots
from bezoar.workflow import resources
from bezoar.workflow.configuration import resolved
from bezoar.workflow.layout import Layout

COMPUTING = ("sft", "hh_sft", "dpo_reference", "dpo", "merge", "lm_eval", "mtbench_answers")
IN_A_ROW = ("sft", "hh_sft", "dpo_reference", "dpo", "merge")  # each waits for the one before
GPUS = 8  # of a training on a cluster
HEAD = """# How it grows

Written by `scripts/dev/measure_growth.py` from finished runs; the command is in its docstring.
How the searches among rows grow with their number is in [benchmarks.md](benchmarks.md), "Data".

![Measured time against the estimate, and peak memory against parameters](growth.svg)

## Measured, beside the estimate
The largest job of each rule: measured / estimated today. What is measured includes the imports of
a process and the start of a server; what is estimated is an upper bound, for rows as long as
`max_length` allows and a machine that does nothing else.

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


def measured(results: Path, config: list[str]) -> dict[str, Any]:
    """Return what is kept of a run: of the rules that it came to."""
    if not config:
        raise UserError(f"--run {results}: expected its configuration files behind the directory")
    layout = Layout(resolved(config))
    receipts = finished(results).values()
    on_gpu = [held for receipt in receipts if "gpu" in (held := receipt.get("hardware", {}))]
    scale = layout.config["scale"]
    needs = resources.Needs(layout, int(bool(on_gpu)) if scale == "dress-rehearsal" else None)
    here = f"{os.cpu_count()} x {processor()} ({flags()})"
    took = resources.used(receipts)
    commits = {receipt["git_commit"] or "?" for receipt in receipts}
    return {
        "scale": scale,
        "parameters": needs.size,
        "machine": "{gpu}, {cores} cores".format_map(on_gpu[0]) if on_gpu else here,
        "commit": ", ".join(sorted(commit[:7] for commit in commits)),
        "rules": {
            rule: {
                "seconds": round(took[rule].seconds, 1),
                "mem_mb": round(took[rule].mem_mb),
                "at_most_s": round(need.seconds, 1),
                "asked_mb": need.mem_mb,
            }
            for rule, need in needs.by_rule.items()
            if rule in took and rule not in resources.ASKING  # a server's time
        },
    }


def label(run: dict[str, Any]) -> str:
    """Return what the page calls a run."""
    millions = run["parameters"] / 1e6
    return f"{run['scale']}, {millions:,.{0 if millions >= 100 else 1}f} M"


def tables(runs: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yield the lines of the tables of all runs, time and memory, and what took longer than
    estimated.
    """
    for number, run in enumerate(runs, 1):
        yield f"{number}. {label(run)} parameters, on {run['machine']}, commit {run['commit']}"
    rules = list(dict.fromkeys(rule for run in runs for rule in run["rules"]))
    for what, took, estimate in (
        ("seconds / at most", "seconds", "at_most_s"),
        ("MB / asked for", "mem_mb", "asked_mb"),
    ):
        heads = [what, *(f"{number}. {label(run)}" for number, run in enumerate(runs, 1))]
        yield "\n| " + " | ".join(heads) + " |"
        yield "|---" * (len(runs) + 1) + "|"
        for rule in rules:
            cells = [
                f"{found[took]:,.0f} / {found[estimate]:,.0f}" if found else "–"
                for found in (run["rules"].get(rule) for run in runs)
            ]
            yield f"| {rule} | " + " | ".join(cells) + " |"
    longer = [
        f"{rule} in run {number}"
        for number, run in enumerate(runs, 1)
        for rule, found in run["rules"].items()
        if found["seconds"] > found["at_most_s"]
    ]
    if longer:
        yield f"\nLonger than the bound: {', '.join(longer)}."
    yield ""


def draw(runs: Sequence[dict[str, Any]], path: Path) -> None:
    """Write the figure of all runs as SVG: seconds of the largest jobs against those at most, and
    peak memory against the model's parameters.
    """
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    matplotlib.rcParams |= {"svg.hashsalt": "openbezoar", "svg.fonttype": "none"}
    matplotlib.rcParams |= {"font.family": "sans-serif", "font.size": 9, "legend.frameon": False}
    ink = ("xtick.color", "ytick.color", "axes.edgecolor", "axes.labelcolor", "text.color")
    matplotlib.rcParams |= dict.fromkeys(ink, plots.INK)  # on a light page as on a dark one
    sketch, (time, memory) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    style = list(zip(plots.COLOURS, plots.MARKERS, strict=True))
    ends = [10.0, 1e5]
    time.plot(ends, ends, color=plots.LINE, linewidth=1, zorder=0)
    time.text(ends[1], ends[1], "as estimated ", ha="right", va="bottom", size=8)
    for number, run in enumerate(runs, 1):
        colour, marker = style[number % len(style)]
        found = [run["rules"][rule] for rule in COMPUTING if rule in run["rules"]]
        places = [[cost[of] for cost in found] for of in ("at_most_s", "seconds")]
        named = f"{number}. {label(run)}"
        time.scatter(*places, label=named, color=colour, marker=marker, s=22)
        memory.scatter(
            [run["parameters"]] * len(found),
            [cost["mem_mb"] for cost in found],
            color=colour,
            marker=marker,
            s=22,
        )
    time.set(xscale="log", yscale="log", xlabel="seconds at most, estimated")
    time.set(ylabel="seconds measured, imports included")
    memory.set(xscale="log", yscale="log", xlabel="parameters of the model")
    memory.set(ylabel="peak memory of the host, MB")
    sketch.legend(loc="outside upper center", ncols=2)
    for axes in (time, memory):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color=plots.LINE, linewidth=0.4, zorder=-1)
    out = io.StringIO()
    sketch.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    with whole_file(path) as stream:
        stream.writelines(f"{line.rstrip()}\n" for line in out.getvalue().splitlines())


def in_all(config: dict[str, Any], side_by_side: bool) -> str:
    """Return the time of all computing stages; `side_by_side`, of what waits for each other."""
    layout = Layout(config)
    needs, counts = resources.Needs(layout).by_rule, resources.jobs(layout)
    one_by_one = IN_A_ROW if side_by_side else COMPUTING
    beside = [needs[rule].seconds for rule in COMPUTING if rule not in one_by_one]
    seconds = sum(counts[rule] * needs[rule].seconds for rule in one_by_one)
    return clock(seconds + max(beside, default=0))


def estimates() -> Iterator[str]:
    """Yield the table of the paper's scale and of ten times its data."""
    paper = resolved(["config/paper.yaml"])
    configs = [paper, tenfold(paper), tenfold(paper, apart=10)]
    needs = [resources.Needs(Layout(config)).by_rule for config in configs]
    counts = resources.jobs(Layout(paper))
    yield "## Estimated: the paper's scale, and ten times its data"
    yield (
        "On GPUs with 40 TFLOP/s sustained, at most; nothing at this scale has been measured."
        " Generation\nand filter are not in it: they take a server's or a provider's time.\n"
    )
    yield (
        "| rule | jobs | paper | ten times the rows | the same, eval_steps × 10 | memory, paper |"
        " memory, ten times the rows | GPU memory |\n" + "|---" * 8 + "|"
    )
    for rule in COMPUTING:
        times = " | ".join(clock(need[rule].seconds) for need in needs)
        memory = " | ".join(f"{need[rule].mem_mb:,} MB" for need in needs[:2])
        gpu = f"{needs[1][rule].gpu_mb / 1024:.1f} GiB"
        yield f"| {rule} | {counts[rule]} | {times} | {memory} | {gpu} |"
    many = {"launch": {"processes": GPUS, "accelerate": "profiles/accelerate/gpus.yaml"}}
    for what, more, side_by_side in (
        ("one machine, one GPU", {}, False),
        ("a cluster, one GPU a job", {}, True),
        (f"a cluster, {GPUS} GPUs a training", many, True),
    ):
        times = " | ".join(in_all(config | more, side_by_side) for config in configs)
        yield f"| **{what}** | | {times} | | | |"
    yield (
        "\nTen times the rows take more than ten times as long, because they are evaluated as often"
        " as before, on\nten times as many held-out rows: raise `eval_steps` with the rows, or set"
        " `max_eval_samples`, which saves\nas much. On a cluster only the evaluations run side by"
        f" side, for each training waits for the one before.\n{GPUS} GPUs (`launch:`) are counted"
        f" as {GPUS} times as fast in SFT and DPO, as if exchanging gradients took no\ntime; each"
        " has a process that takes the memory of the table. DPO's reference and merges stay on one."
    )


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", nargs="+", action="append", default=[], metavar="RESULTS CONFIG")
    parser.add_argument("--page", type=Path, default=Path("docs/growth.md"))
    parser.add_argument("--runs", type=Path, default=Path("docs/growth.jsonl"))
    parser.add_argument("--figure", type=Path, default=Path("docs/growth.svg"))
    args = parser.parse_args(argv)
    kept = read_jsonl(args.runs) if args.runs.is_file() else []
    by_place = {(run["scale"], run["machine"]): run for run in kept}
    for results, *config in args.run:
        run = measured(Path(results), config)
        by_place[run["scale"], run["machine"]] = run
    runs = sorted(by_place.values(), key=lambda run: (run["parameters"], run["machine"]))
    write_jsonl(args.runs, runs)
    draw(runs, args.figure)
    with whole_file(args.page) as stream:
        stream.write(HEAD + "\n".join([*tables(runs), *estimates()]) + "\n")


if __name__ == "__main__":
    program.run(main)
