"""Measure SFT and DPO on a GPU at OpenLLaMA-3B's shape with random weights, TRL's and ours:
tokens/s, share of the bf16 peak, memory.

Usage: bench_training_gpu.py [--sequences 512 2048] [--micro 8] [--batch 32] [--steps 8] [--peak
989] [--raw numbers.json] [--shape tiny] [--methods dpo] [--only "TRL, defaults" "ours"]

Rows fill the sequence, so there is hardly any padding to save: this is the speed of the arithmetic.
Each run is a process of its own, on one GPU; its first step, which loads kernels, does not count.
--peak is the dense bf16 peak in TFLOPS, for cards whose name is not known here. The arithmetic of a
token is LoRA's: forward, and backward to the activations, through every matrix, and causal
attention; recomputation and a reference pass are not part of it. A run that fails (memory) is a
line that says so. --raw is written after every run. --shape tiny tries the program on any machine.
"""

import argparse
import math
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench_page import TEMPLATE, make_world
from bench_training import RECIPE, Words, measured
from bezoar import program
from bezoar.errors import UserError
from bezoar.files import write_json, write_jsonl
from bezoar.readers import read_jsonl

SHAPES = {
    "openllama-3b": {
        "hidden_size": 3200,
        "mlp_size": 8640,
        "layers": 26,
        "heads": 32,
        "vocabulary_size": 32000,
    },
    "tiny": {"hidden_size": 64, "mlp_size": 128, "layers": 2, "heads": 2, "vocabulary_size": 1536},
}
PEAKS = {
    "H200": 989.0,
    "H100": 989.0,
    "A100": 312.0,
    "L40S": 362.0,
    "A10": 125.0,
    "L4": 121.0,
}  # TFLOPS, dense bf16, by the makers' data sheets
# In bfloat16: by default TRL keeps what is not quantised, and its activations, in float32.
ALIKE = {"model_init_kwargs": {"attn_implementation": "sdpa"}}
PLAIN = {"gradient_checkpointing": False} | ALIKE
LEAST_MEMORY = {"gradient_checkpointing": True, "cache_dequantized": False}
WAYS: dict[str, dict[str, dict[str, Any]]] = {
    "sft": {
        "TRL, defaults": {"way": "trl"},
        "TRL, bfloat16": {"way": "trl", "settings": ALIKE},
        "TRL, gradients not checkpointed": {"way": "trl", "settings": PLAIN},
        "ours": {"way": "ours"},
        "ours, gradients checkpointed": {"way": "ours", "recipe": {"gradient_checkpointing": True}},
        "ours, neither cached": {"way": "ours", "recipe": LEAST_MEMORY},
    },
    "dpo": {
        "TRL, defaults": {"way": "trl"},
        "TRL, bfloat16": {"way": "trl", "settings": ALIKE},
        "TRL, gradients not checkpointed": {"way": "trl", "settings": PLAIN},
        "ours, first run": {"way": "ours", "scored": True},
        "ours, first run, prompts twice": {"way": "ours", "scored": True, "without": ["shared"]},
        "ours, neither cached": {"way": "ours", "scored": True, "recipe": LEAST_MEMORY},
        "ours, second run": {"way": "ours"},
    },
}


def arithmetic(shape: dict[str, int], length: int) -> float:
    """Return the floating-point operations of LoRA training for one token of a sequence of
    `length`.

    A weight costs 2 forward and 2 backward (to the activations; its own gradient is not computed).
    Causal attention costs half of its two products of length x hidden, forward once and backward
    twice.
    """
    hidden = shape["hidden_size"]
    weights = (
        shape["layers"] * (4 * hidden * hidden + 3 * hidden * shape["mlp_size"])
        + shape["vocabulary_size"] * hidden
    )
    return 4.0 * weights + 6.0 * shape["layers"] * length * hidden


def peak_of(name: str) -> float:
    """Return the bf16 peak of a card in TFLOPS, by its name; 0 if unknown."""
    return next((peak for card, peak in PEAKS.items() if card in name), 0.0)


def build(shape: dict[str, int], directory: Path, texts: list[str]) -> None:
    """Write a model of `shape` with random weights, in bfloat16, and a tokenizer."""
    import pretrain_base

    directory.mkdir()
    (directory / "tokenizer.model").write_bytes(pretrain_base.train_tokenizer(texts, 1536))
    drawn = {"embedding_rows": None, "tie_word_embeddings": True, "steps": 0, "seed": 0}
    model = pretrain_base.build({**shape, **drawn, "context": 2048}, pad_token_id=3)
    model.save_pretrained(directory)


def rows(method: str, count: int, length: int, words: Words, frame: int) -> list[dict[str, str]]:
    """Return rows that fill `length` tokens: those of SFT are cut there, pairs keep a little
    below.
    """
    if method == "sft":
        return [
            {"instruction": words.take(length // 4), "response": words.take(length)}
            for _ in range(count)
        ]
    half = (length - frame) * 2 // 5
    return [
        {"prompt": words.take(half), "chosen": words.take(half), "rejected": words.take(half)}
        for _ in range(count)
    ]


def one(
    folder: Path, method: str, name: str, way: dict[str, Any], length: int, args: argparse.Namespace
) -> dict[str, Any]:
    """Run one contender; return its numbers, or its error."""
    stem = f"{method}-{length}"
    recipe = (
        RECIPE
        | {
            "micro_batch_size": args.micro,
            "batch_size": args.batch,
            "max_length": length,
            "max_prompt_length": length,
            "eval_steps": args.steps,
            "seed": 0,
            "learning_rate": 0.0003,
        }
        | way.get("recipe", {})
    )
    spec = {
        "method": method,
        "base": str(folder / "base"),
        "template": TEMPLATE,
        "steps": args.steps,
        "data": str(folder / f"{stem}.jsonl"),
        "training": str(folder / f"{stem}-training.jsonl"),
        "reference": str(folder / f"{stem}-reference.jsonl"),
    }
    micro = {"per_device_train_batch_size": args.micro} if way["way"] == "trl" else {}
    spec |= way | {
        "recipe": recipe,
        "settings": micro | way.get("settings", {}),
        "out": str(folder / f"{stem}-{name}"),
    }
    found = {"method": method, "sequence": length, "name": name}
    try:
        return found | measured(sys.executable, spec, way.get("scored", False))
    except UserError as error:
        return found | {"error": str(error)[-300:]}


def line(found: dict[str, Any], operations: float, peak: float) -> str:
    """Return one line of the table."""
    start = f"| {found['method']} | {found['sequence']} | {found['name']} |"
    if "error" in found:
        return f"{start} failed: {found['error'].strip().splitlines()[-1][:100]} | | |"
    seconds = found["seconds"] - found["first_s"] + found["reference_s"]
    rate = (found["tokens"] - found["first_tokens"]) / seconds
    share = f"{100 * rate * operations / peak / 1e12:.1f} %" if peak else "–"
    return f"{start} {rate:,.0f} | {share} | {found['peak_mib']:,.0f} |"


def main(argv: list[str] | None = None) -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=sorted(SHAPES), default="openllama-3b")
    parser.add_argument("--sequences", type=int, nargs="+", default=[512, 2048])
    parser.add_argument("--micro", type=int, default=8, help="rows per forward pass, for both")
    parser.add_argument("--batch", type=int, default=32, help="rows per step")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--peak", type=float, help="bf16 TFLOPS of the card")
    parser.add_argument("--methods", nargs="+", choices=sorted(WAYS), default=list(WAYS))
    names = sorted({name for ways in WAYS.values() for name in ways})
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="lines to measure")
    parser.add_argument("--raw", type=Path, help="file to write the raw numbers to, JSON")
    args = parser.parse_args(argv)

    import torch

    from bezoar.training import preference_pairs
    from bezoar.training.split import split
    from bezoar.training.supervised_rows import tokenize
    from bezoar.training.template import Template
    from bezoar.training.tokenizer import load_tokenizer

    card = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    peak, shape, found = args.peak or peak_of(card), SHAPES[args.shape], []
    facts = {
        "card": card,
        "torch": torch.__version__,
        "shape": shape,
        "peak_tflops": peak,
        "flop_per_token": {str(length): arithmetic(shape, length) for length in args.sequences},
    }
    if args.shape != "tiny" and not torch.cuda.is_available():
        raise UserError("no GPU: this shape needs one; --shape tiny tries the program without")
    with tempfile.TemporaryDirectory() as name:
        folder, template = Path(name), Template(Path(TEMPLATE))
        make_world(folder)
        texts = [row["text"] for row in read_jsonl(folder / "world/corpus.jsonl")]
        build(shape, folder / "base", texts)
        torch.cuda.empty_cache()
        tokenizer = load_tokenizer(folder / "base")
        words, frame = Words(texts, tokenizer), len(tokenizer(template.prompt(""))["input_ids"])
        print(
            f"{card}, torch {torch.__version__}, {args.shape}\n\n| | sequence | | tokens/s | of the"
            " bf16 peak | peak MiB |\n|---|---|---|---|---|---|"
        )
        for length in args.sequences:
            for method in args.methods:
                ways = {name: way for name, way in WAYS[method].items() if name in args.only}
                data = rows(
                    method,
                    math.ceil(args.steps * args.batch / (1 - RECIPE["validation_share"])),
                    length,
                    words,
                    frame,
                )
                limits = {"max_length": length, "max_prompt_length": length}
                kept = (
                    preference_pairs.tokenize(data, template, tokenizer, limits)[0]
                    if method == "dpo"
                    else tokenize(data, template, tokenizer, length)[0]
                )
                write_jsonl(folder / f"{method}-{length}.jsonl", data)
                write_jsonl(
                    folder / f"{method}-{length}-training.jsonl",
                    split(kept, len(data), RECIPE["validation_share"], RECIPE["validation_seed"])[
                        0
                    ],
                )
                for contender, way in ways.items():
                    found.append(one(folder, method, contender, way, length, args))
                    print(line(found[-1], arithmetic(shape, length), peak), flush=True)
                    if args.raw:
                        write_json(args.raw, facts | {"runs": found})


if __name__ == "__main__":
    program.run(main)
