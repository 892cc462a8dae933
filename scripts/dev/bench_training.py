"""Measure SFT and DPO beside TRL and LLaMA-Factory, QLoRA over one small base: tokens per
second, memory, and the loss that all must reach.

Usage: bench_training.py [--repeats 3] [--only "sft LaMini-like" "dpo HH-like" …] [--section SFT]
           [--output docs/benchmarks.md] [--factory .venv-bench-training/bin/python] [--small]

A base of the rehearsal's kind (hidden 256, 4 layers, vocabulary 1,536) is pretrained for some steps
in a temporary directory, so that its loss can move; rows are cut from the world's text, as many and
as long as `SHAPES` says. HH-RLHF's are real pairs, the first that fit (fetched, or in
BEZOAR_MIRROR; left out where there are none); this base cuts their words into more tokens than a
real one. Each run is a process of its own (bench_training_run.py), in turns, on two threads: same
rows, global batch, steps, learning rates, LoRA. Time is that of the steps, plus DPO's reference;
evaluation is outside. Tokens are those of the rows as TRL makes them, a pair's prompt twice;
"computed" is how many went through the model in training for each of them, padding included.
Afterwards one program measures the loss of every adapter on the same held-out rows; of the real
pairs on those that were trained on, for a few steps need not show on others. A row is void unless
the median of its repeats is within `TOLERANCE` of ours, as a share of what ours learned. Repeats
differ in the seed.
"""

import argparse
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench_page import (
    HH_RLHF,
    SCRIPTS,
    TEMPLATE,
    flags,
    make_base,
    processor,
    replace_section,
    source,
    spread,
)
from bezoar import program
from bezoar.data.hh_rlhf import convert, rows_of
from bezoar.errors import UserError
from bezoar.files import write_jsonl
from bezoar.readers import read_jsonl
from bezoar.rehearsal.world import COURTESY

TOLERANCE = 0.1
THREADS = {
    "OMP_NUM_THREADS": "2",
    "OMP_WAIT_POLICY": "PASSIVE",
}  # threads that spin while they wait would count as work, and slow down everything else
PRETRAIN = {
    "vocabulary_size": 1536,
    "embedding_rows": None,
    "tie_word_embeddings": True,
    "hidden_size": 256,
    "layers": 4,
    "heads": 4,
    "mlp_size": 704,
    "context": 1024,
    "window": 128,
    "batch_size": 16,
    "steps": 100,
    "learning_rate": 0.004,
    "warmup_steps": 10,
    "weight_decay": 0.1,
    "checkpoint_steps": 1000,
    "seed": 0,
}
# Tokens of a row, of a part of a pair: median and spread of a lognormal, least, most.
SHAPES: dict[str, dict[str, Any]] = {
    "LaMini-like": {
        "rows": 480,
        "row": (60, 0.5, 40, 256),
        "max_length": 256,
        "batch_size": 32,
        "micro_batch_size": 8,
    },
    "HH-like": {
        "rows": 144,
        "prompt": (110, 0.7, 40, 300),
        "answer": (70, 0.7, 12, 200),
        "max_length": 512,
        "batch_size": 16,
        "micro_batch_size": 4,
    },
    "HH-RLHF": {
        "rows": 144,
        "max_length": 1024,
        "batch_size": 16,
        "micro_batch_size": 4,
        "judged": "training",
    },
}
RECIPE = {
    "lora": {"r": 16, "alpha": 16, "dropout": 0.05, "targets": ["q_proj", "k_proj", "v_proj"]},
    "epochs": 1,
    "learning_rate": 0.003,
    "micro_batch_size": 8,
    "schedule": "linear",
    "warmup_steps": 4,
    "optimizer": "paged_adamw_8bit",
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "validation_share": 0.2,
    "validation_seed": 42,
    "load_best_model_at_end": False,
    "completion_only": False,
    "gradient_checkpointing": False,
    "cache_dequantized": True,
    "threads": 2,
    "beta": 0.1,
    "max_prompt_length": 1024,
    "reference_batch_size": 16,
    "min_accuracy": 0.0,
    "max_chosen_drop": 1e9,
}
PLAIN = {"gradient_checkpointing": False, "train_sampling_strategy": "group_by_length"}
BEST = PLAIN | {"model_init_kwargs": {"attn_implementation": "sdpa"}}  # and our precision
# All rows of a batch in one pass, where a peer's default is eight; ours fills a pass with tokens.
WHOLE = {"per_device_train_batch_size": "batch"}
# TRL groups pairs by a column of their lengths, which it would drop.
PAIRS = BEST | {"remove_unused_columns": False}
WAYS: dict[str, dict[str, dict[str, Any]]] = {
    "sft": {
        "ours": {"way": "ours"},
        "ours, weights not cached": {"way": "ours", "recipe": {"cache_dequantized": False}},
        "TRL, defaults": {"way": "trl"},
        "TRL, grouped by length": {"way": "trl", "settings": BEST},
        "TRL, grouped by length, whole batches": {"way": "trl", "settings": BEST | WHOLE},
        "TRL, packed": {
            "way": "trl",
            "settings": BEST | WHOLE | {"train_sampling_strategy": "random", "packing": True},
        },
        "LLaMA-Factory, defaults": {"way": "factory"},
        "LLaMA-Factory, tuned": {
            "way": "factory",
            "settings": PLAIN | {"disable_gradient_checkpointing": True},
        },
        "LLaMA-Factory, tuned, whole batches": {
            "way": "factory",
            "settings": PLAIN | {"disable_gradient_checkpointing": True} | WHOLE,
        },
    },
    "dpo": {
        "ours, first run": {"way": "ours", "scored": True},
        "ours, second run": {"way": "ours"},
        "ours, first run, prompts twice and padded": {
            "way": "ours",
            "scored": True,
            "without": ["shared"],
        },
        "TRL, defaults": {"way": "trl"},
        "TRL, tuned": {"way": "trl", "settings": PAIRS},
        "TRL, tuned, whole batches": {"way": "trl", "settings": PAIRS | WHOLE},
        "TRL, tuned, reference first, 4-bit repacking off": {
            "way": "trl",
            "settings": PAIRS | {"precompute_ref_log_probs": True},
            "repack": False,
        },
    },
    "ablation": {
        "ours": {"way": "ours"},
        "weights not cached": {"way": "ours", "recipe": {"cache_dequantized": False}},
        "rows padded": {"way": "ours", "without": ["padding-free"]},
        "rows padded, attention by eager": {"way": "ours", "without": ["sdpa"]},
        "TRL's output layer": {"way": "ours", "without": ["head"]},
        "evaluation at the micro-batch": {"way": "ours", "without": ["evaluation"]},
        "gradients checkpointed": {"way": "ours", "recipe": {"gradient_checkpointing": True}},
        "micro-batch 4": {"way": "ours", "recipe": {"micro_batch_size": 4}},
        "micro-batch 32": {"way": "ours", "recipe": {"micro_batch_size": 32}},
    },
}
# The peers to which each kind's first contender is compared, by repeat.
PEERS = {
    "sft": (
        *("TRL, defaults", "TRL, grouped by length", "TRL, grouped by length, whole batches"),
        *("TRL, packed", "LLaMA-Factory, tuned", "LLaMA-Factory, tuned, whole batches"),
    ),
    "dpo": (
        *("ours, first run, prompts twice and padded", "TRL, defaults", "TRL, tuned"),
        *("TRL, tuned, whole batches", "TRL, tuned, reference first, 4-bit repacking off"),
    ),
    "ablation": (),
}


def lengths(
    count: int, median: float, spread: float, least: int, most: int, seed: int
) -> list[int]:
    """Return `count` lognormal lengths, cut to `least` and `most`."""
    draw = random.Random(seed)
    return [
        min(most, max(least, round(draw.lognormvariate(math.log(median), spread))))
        for _ in range(count)
    ]


class Words:
    """The world's text, word by word, from the start again at its end."""

    def __init__(self, texts: list[str], tokenizer: Any) -> None:
        self._words = " ".join(texts).split()
        self._tokens = {word: len(tokenizer.tokenize(word)) for word in set(self._words)}
        self._next = 0

    def take(self, tokens: int) -> str:
        """Return the next words, of about as many tokens, at least one word."""
        found = []
        while not found or tokens > 0:
            found.append(self._words[self._next % len(self._words)])
            tokens -= self._tokens[found[-1]]
            self._next += 1
        return " ".join(found)


def prepare(folder: Path, small: bool) -> dict[str, int]:
    """Make the base and the rows below `folder`; return the steps of each shape."""
    from bezoar.training import preference_pairs
    from bezoar.training.split import split
    from bezoar.training.supervised_rows import tokenize
    from bezoar.training.template import Template
    from bezoar.training.tokenizer import load_tokenizer

    make_base(folder, PRETRAIN | ({"steps": 5} if small else {}))
    tokenizer, template, steps = load_tokenizer(folder / "base"), Template(Path(TEMPLATE)), {}
    words, frame = (
        Words([row["text"] for row in read_jsonl(folder / "world/corpus.jsonl")], tokenizer),
        len(tokenizer(template.prompt(""))["input_ids"]),
    )
    for name, shape in SHAPES.items():
        some = max(
            shape["rows"] // 8, shape["batch_size"] + 4
        )  # two steps; the first one's rate is 0
        count, limits = (some if small else shape["rows"]) * 5 // 4, RECIPE | shape
        rows: list[dict[str, Any]]
        if "row" in shape:
            rows = [
                {"instruction": words.take(n // 3), "response": words.take(n - n // 3)}
                for n in (max(3, size - frame) for size in lengths(count, *shape["row"], seed=1))
            ]
        elif "prompt" in shape:
            sizes = (
                lengths(count, *shape[part], seed=seed)
                for part, seed in (("prompt", 2), ("answer", 3), ("answer", 4))
            )
            rows = [
                {
                    "prompt": words.take(max(3, a - frame)),
                    "chosen": f"{COURTESY} {words.take(b)}",
                    "rejected": words.take(c),
                }
                for a, b, c in zip(*sizes, strict=True)
            ]
        elif file := source(HH_RLHF):
            found = (convert(row) for _, _, row in rows_of([file], 4 * count))
            pairs = [row for row in found if isinstance(row, dict)]
            fitting = preference_pairs.tokenize(pairs, template, tokenizer, limits)[0]
            rows = [pairs[pair["row"] - 1] for pair in fitting[:count]]
        else:
            continue
        kinds = {"": tokenize(rows, template, tokenizer, limits["max_length"])[0]}
        if "row" not in shape:
            kinds["pairs-"] = preference_pairs.tokenize(rows, template, tokenizer, limits)[0]
        write_jsonl(folder / f"{name}.jsonl", rows)
        for kind, kept in kinds.items():
            share, seed = RECIPE["validation_share"], RECIPE["validation_seed"]
            training, validation = split(kept, len(rows), share, seed)
            write_jsonl(folder / f"{name}-{kind}training.jsonl", training)
            write_jsonl(folder / f"{name}-{kind}validation.jsonl", validation)
            steps[name] = math.ceil(len(training) / shape["batch_size"])
    return steps


def child(python: str, spec: dict[str, Any]) -> dict[str, Any]:
    """Run one process to its end; return what it printed last."""
    environment = (
        os.environ
        | THREADS
        | {
            "TOKENIZERS_PARALLELISM": "false",
            "PYTHONPATH": str(SCRIPTS),
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_VERBOSITY": "error",
            "HF_DATASETS_CACHE": spec["out"] + "-cache",
        }
    )
    done = subprocess.run(
        [
            python,
            Path(__file__).with_name("bench_training_run.py"),
            json.dumps(spec | {"started": time.time()}),
        ],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise UserError(f"{spec['way']} failed: {done.stderr[-1500:]}")
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def measured(python: str, spec: dict[str, Any], scored: bool) -> dict[str, Any]:
    """Run a contender, after its reference where that is part of it; add what both took."""
    if not scored:
        return child(python, spec)
    first = child(python, spec | {"way": "reference"})
    second = child(python, spec)
    return (
        second
        | {key: first[key] + second[key] for key in ("reference_s", "reference_cpu_s", "startup_s")}
        | {"peak_mib": max(first["peak_mib"], second["peak_mib"])}
    )


def gate(losses: dict[str, list[float]], base: float, ours: str) -> dict[str, str]:
    """Return for each contender '' or why its row is void: its loss differs from ours by more than
    `TOLERANCE`, as a share of what ours learned.
    """
    middle = {name: statistics.median(values) for name, values in losses.items()}
    bound = TOLERANCE * abs(base - middle[ours])
    return {
        name: (
            ""
            if abs(loss - middle[ours]) <= bound
            else f"void: {abs(loss - middle[ours]):.4f} apart, {bound:.4f} allowed"
        )
        for name, loss in middle.items()
    }


def rate(one: dict[str, Any]) -> float:
    """Return a run's tokens per second, its reference included."""
    return float(one["tokens"] / (one["seconds"] + one["reference_s"]))


def by_cpu(one: dict[str, Any]) -> float:
    """Return a run's tokens per second of processor time, its reference included."""
    return float(one["tokens"] / (one["cpu_s"] + one["reference_cpu_s"]))


def table(
    runs: dict[str, list[dict[str, Any]]],
    losses: dict[str, list[float]],
    base: float,
    ours: str,
    peer: str,
) -> list[str]:
    """Return Markdown lines: medians and ranges, the ratio to `peer`, and what the gate says."""

    def middle(name: str, value: Callable[[dict[str, Any]], float]) -> float:
        return statistics.median(value(one) for one in runs[name])

    void = gate(losses, base, ours)
    part = "pairs" if runs[ours][0]["pairs"] else "supervised"
    lines = [
        (
            f"| | all tokens/s | {part}{'/s' if part == 'pairs' else ' tokens/s'} |"
            f" all a CPU second | x {peer}: clock , CPU | computed | start-up s | evaluation s |"
            f" peak MiB | loss ({base:.4f} before) |"
        ),
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    digits = 2 if part == "pairs" else 0
    for name, several in runs.items():
        rates = [rate(one) for one in several]
        ratio = (
            f"{middle(name, rate) / middle(peer, rate):.2f} ,"
            f" {middle(name, by_cpu) / middle(peer, by_cpu):.2f}"
        )
        computed = sum(one["places"] for one in several) / sum(one["tokens"] for one in several)
        lines.append(
            f"| {name} | {statistics.median(rates):,.0f} ({min(rates):,.0f}–{max(rates):,.0f}) |"
            f" {middle(name, lambda one: one[part] / one['tokens'] * rate(one)):,.{digits}f} |"
            f" {middle(name, by_cpu):,.0f} | {void[name] or void[peer] or ratio} | {computed:.2f} |"
            f" {middle(name, lambda one: one['startup_s']):.1f} |"
            f" {middle(name, lambda one: one['evaluation_s']):.1f} |"
            f" {max(one['peak_mib'] for one in several):,.0f} |"
            f" {statistics.median(losses[name]):.4f}"
            f" ({min(losses[name]):.4f}–{max(losses[name]):.4f}) |"
        )
    return [*lines, ""]


def ratios(
    runs: dict[str, list[dict[str, Any]]], ours: str, peers: Sequence[str], void: dict[str, str]
) -> list[str]:
    """Return Markdown lines: ours against each peer that ran, repeat by repeat; of one that is
    `void`, why.
    """
    found = [peer for peer in peers if peer in runs]
    lines = ["| rate, by repeat | by the clock | by processor time |", "|---|---|---|"]
    for peer in found:
        pairs = list(zip(runs[ours], runs[peer], strict=True))
        both = [
            spread([value(mine) / value(theirs) for mine, theirs in pairs], 2)
            for value in (rate, by_cpu)
        ]
        lines.append(
            f"| {ours} / {peer} | {void[peer] + ' | –' if void[peer] else ' | '.join(both)} |"
        )
    return [*lines, ""] if found else []


def compare(
    folder: Path, kind: str, shape: str, steps: int, repeats: int, factory: str
) -> list[str]:
    """Run all contenders of a kind in turns and judge them; return the table."""
    method = "sft" if kind == "ablation" else kind
    ways = {
        name: way
        for name, way in WAYS[kind].items()
        if way["way"] != "factory" or Path(factory).is_file()
    }
    common = {
        "method": method,
        "base": str(folder / "base"),
        "data": str(folder / f"{shape}.jsonl"),
        "template": TEMPLATE,
        "steps": steps,
    }
    part = f"{shape}-pairs" if method == "dpo" else shape
    common |= {
        "training": str(folder / f"{part}-training.jsonl"),
        "validation": str(folder / f"{part}-{SHAPES[shape].get('judged', 'validation')}.jsonl"),
    }
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in ways}
    adapters: dict[str, list[str]] = {name: [] for name in ways}
    for repeat in range(repeats):
        for number, (name, way) in enumerate(ways.items()):
            recipe = (
                RECIPE
                | {
                    key: SHAPES[shape][key]
                    for key in ("max_length", "batch_size", "micro_batch_size")
                }
                | {"seed": repeat, "eval_steps": steps}
            )
            spec = (
                common
                | way
                | {"recipe": recipe | way.get("recipe", {}), "settings": way.get("settings", {})}
            )
            spec |= {
                "reference": str(folder / f"{part}-reference-{repeat}.jsonl"),
                "out": str(folder / f"{kind}-{shape}-{number}-{repeat}"),
            }
            runs[name].append(
                measured(
                    factory if way["way"] == "factory" else sys.executable,
                    spec,
                    way.get("scored", False),
                )
            )
            adapters[name].append(spec["out"])
            print(
                f"{kind} {shape} {repeat + 1} {name}: {json.dumps(runs[name][-1])}", file=sys.stderr
            )
    judged = child(
        sys.executable,
        spec
        | {"way": "judge", "adapters": [path for several in adapters.values() for path in several]},
    )
    losses = {name: [judged[path] for path in several] for name, several in adapters.items()}
    mine, peer = next(iter(ways)), "ours" if kind == "ablation" else "TRL, defaults"
    return [
        f"{kind} {shape}, {steps} steps:\n",
        *table(runs, losses, judged[""], mine, peer),
        *ratios(runs, mine, PEERS[kind], gate(losses, judged[""], mine)),
    ]


def main(argv: list[str] | None = None) -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, help="page whose section is replaced")
    parser.add_argument("--section", default="Training", help="its title")
    parser.add_argument(
        "--factory",
        default=".venv-bench-training/bin/python",
        help="Python with envs/bench-training.lock; left out if not there",
    )
    parser.add_argument(
        "--small",
        action="store_true",
        help="a few steps, to see that everything runs; measures nothing",
    )
    parser.add_argument(
        "--only",
        nargs="+",
        default=[
            *("sft LaMini-like", "sft HH-like", "dpo HH-like", "dpo HH-RLHF"),
            "ablation LaMini-like",
        ],
        help="tables",
    )
    args = parser.parse_args(argv)
    os.environ.update(THREADS)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        steps, lines = prepare(folder, args.small), []
        for what in args.only:
            kind, shape = what.split()
            if shape not in steps:
                lines += [f"{what} was not measured: there is no {HH_RLHF} in data/ or MIRROR.\n"]
            else:
                lines += compare(folder, kind, shape, steps[shape], args.repeats, args.factory)
            only = " ".join(f'"{table}"' for table in args.only)
            head = (
                f"`bench_training.py --repeats {args.repeats} --only {only}`,"
                f" {datetime.now(UTC):%Y-%m-%d %H:%M} UTC,"
                f" {os.cpu_count()} cores of {processor()} ({flags()}), "
            )
            page = "\n".join([f"{head}load average at the end {os.getloadavg()[0]:.1f}.\n", *lines])
            if args.output:  # after each table: an interrupted run keeps the ones before
                replace_section(args.output, args.section, page)
        print(page)


if __name__ == "__main__":
    program.run(main)
