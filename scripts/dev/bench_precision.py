"""Measure float32 beside bfloat16 on this processor, and on it held to AVX2: a step of pretraining
and one pass of evaluation of the rehearsal's base.

Usage: bench_precision.py [--repeats 3] [--steps 20] [--output docs/benchmarks.md]

Weights and tokens are random: speed does not depend on them. A measurement is a process of its
own, one precision after the other within a repeat, so that both see the same machine. Two threads;
the first two steps are not counted. The peer is float32; a ratio above 1 says that bfloat16 takes
longer. The table replaces the section `## Precision` of --output.
"""

import argparse
import json
import os
import statistics
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench_page import flags, in_own_process, processor, replace_section, spread
from bezoar import precision, program
from bezoar.workflow.configuration import resolved

# Makes torch, oneDNN and MKL treat the processor as one with AVX2 and no bfloat16 units.
AVX2_ONLY = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
}
PROCESSORS = {"as it is": {}, "held to AVX2": AVX2_ONLY}


def measure(dtype: str, steps: int) -> dict[str, float]:
    """Return {train, forward}: median seconds of a step on 2,048 tokens, and of a pass on 4,096."""
    import torch

    from pretrain_base import build, optimizers_of

    torch.set_num_threads(2)
    precision.compute_dtype = lambda: getattr(torch, dtype)
    recipe = resolved(["config/rehearsal.yaml"])["pretrain"] | {"seed": 0}
    model = build(recipe, 3)
    optimizers = optimizers_of(model, recipe["weight_decay"])
    tokens = torch.randint(recipe["vocabulary_size"], (32, recipe["window"]))
    batch = tokens[: recipe["batch_size"]]
    train, forward = [], []
    for _ in range(steps + 2):
        started = time.perf_counter()
        with precision.autocast(model.device):
            loss = model(input_ids=batch, labels=batch, use_cache=False).loss
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        train.append(time.perf_counter() - started)
    for _ in range(steps + 2):
        started = time.perf_counter()
        with torch.inference_mode(), precision.autocast(model.device):
            model(input_ids=tokens, use_cache=False)
        forward.append(time.perf_counter() - started)
    return {"train": statistics.median(train[2:]), "forward": statistics.median(forward[2:])}


def section(found: list[dict[str, Any]], steps: int, repeats: int) -> str:
    """Return the Markdown of the section."""
    lines = [
        f"`bench_precision.py --steps {steps} --repeats {repeats}`,"
        f" {datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {os.cpu_count()} cores of {processor()}"
        f" ({flags()}), load average {os.getloadavg()[0]:.1f} at the end. Seconds: the median of"
        " the repeats and their range. Held to AVX2 by"
        f" {' '.join(f'`{key}={value}`' for key, value in AVX2_ONLY.items())}.",
        "",
        "| processor | what | float32 | bfloat16 | bfloat16 / float32 |",
        "|---|---|---|---|---|",
    ]
    for row in found:
        ratios = [b / f for f, b in zip(row["float32"], row["bfloat16"], strict=True)]
        lines.append(
            f"| {row['processor']} | {row['what']} | {spread(row['float32'])} |"
            f" {spread(row['bfloat16'])} | {spread(ratios, 2)} |"
        )
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20, help="steps of a measurement")
    parser.add_argument("--output", type=Path, help="Markdown page whose section is replaced")
    parser.add_argument("--once", choices=("float32", "bfloat16"), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.once:
        print(json.dumps(measure(args.once, args.steps)))
        return
    what = {"train": "training step, 2,048 tokens", "forward": "forward pass, 4,096 tokens"}
    found: list[dict[str, Any]] = []
    for held, environment in PROCESSORS.items():
        rows = {
            key: {"processor": held, "what": text, "float32": [], "bfloat16": []}
            for key, text in what.items()
        }
        for _ in range(args.repeats):
            for dtype in ("float32", "bfloat16"):
                for key, seconds in in_own_process(
                    dtype, __file__, [dtype, "--steps", str(args.steps)], environment
                ).items():
                    rows[key][dtype].append(seconds)
        found += rows.values()
    text = section(found, args.steps, args.repeats)
    print(text)
    if args.output:
        replace_section(args.output, "Precision", text)


if __name__ == "__main__":
    program.run(main)
