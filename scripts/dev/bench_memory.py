"""Measure what the loss over the vocabulary takes in memory: a step of SFT and one of DPO with the
logits of all tokens, with TRL's fused head, and as the stages compute it.

Usage: bench_memory.py [--repeats 2] [--vocabularies 32000 49152] [--tokens 2048]
           [--output docs/benchmarks.md]

The model is a small one (two layers, hidden 256) in float32 with random weights and a LoRA adapter,
so that what is seen is the loss's; --tokens are those of a forward pass, prompts included. Half of
a pair's row is its prompt, computed twice but for the stages' way. A measurement is a process of
its own on a CPU, forward and backward once: the most resident memory above that before the step.
All ways must give the same loss. The table replaces `## Memory of the loss` in --output.
"""

import argparse
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench_page import (
    flags,
    in_own_process,
    peak_mib,
    processor,
    replace_section,
    resident_mib,
    spread,
)
from bezoar import program
from bezoar.errors import UserError

WAYS = ("all logits", "TRL's fused head", "ours")
METHODS = ("SFT", "DPO")
ROW = 256  # tokens
BETA = 0.1
SAME = 1e-3  # nats, between the losses of two ways


def model_of(vocabulary: int, way: str) -> Any:
    """Return a random model with an adapter, whose loss is computed by `way`."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM
    from trl.trainer.utils import add_fused_lm_head

    from bezoar.training import output_layer

    torch.manual_seed(0)
    sizes = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2}
    config = LlamaConfig(**sizes, num_attention_heads=4, vocab_size=vocabulary)
    base = LlamaForCausalLM(config).requires_grad_(False)
    if way != WAYS[0]:
        add_fused_lm_head(base)
    if way == "ours" and not output_layer.lighten(base):
        raise UserError("the output layer was left as it was; nothing of ours would be measured")
    return get_peft_model(base, LoraConfig(r=8, target_modules=["q_proj", "v_proj"]))


def sft(model: Any, ids: Any, fused: bool) -> Any:
    """Return the loss of rows, by the trainers' calls."""
    return model(input_ids=ids, labels=ids, **({"fused_lm_head": True} if fused else {})).loss


def dpo(model: Any, ids: Any, fused: bool) -> Any:
    """Return the loss of pairs, chosen answers in the first half, whose reference gives zero."""
    import torch

    labels = ids.clone()
    labels[:, : ROW // 2] = -100
    if fused:
        mask = torch.ones_like(ids)
        found = model(input_ids=ids, attention_mask=mask, labels=labels, fused_lm_head=True)
        each = found.log_probs
    else:
        logits, following = model(input_ids=ids).logits[:, :-1], labels[:, 1:]
        of = logits.log_softmax(dim=-1).gather(2, following.clamp(min=0).unsqueeze(2)).squeeze(2)
        each = of * (following != -100)
    chosen, rejected = each.sum(dim=1).chunk(2)
    return -torch.nn.functional.logsigmoid(BETA * (chosen - rejected)).mean()


def measure(method: str, vocabulary: int, way: str, tokens: int) -> dict[str, float]:
    """Return {mib, loss} of a step in this process."""
    import torch

    from bezoar.training.shared_prompts import share

    torch.set_num_threads(2)
    model, fused = model_of(vocabulary, way), way != WAYS[0]
    ids = torch.randint(
        vocabulary, (tokens // ROW, ROW), generator=torch.Generator().manual_seed(1)
    )
    if method == "DPO":
        chosen, rejected = ids.chunk(2)
        rejected[:, : ROW // 2] = chosen[:, : ROW // 2]
        if way == "ours" and not share(model.get_base_model()):
            raise UserError("prompts were computed twice; nothing of ours would be measured")
    model.train()
    before = resident_mib()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forget the peak so far
    loss = (sft if method == "SFT" else dpo)(model, ids, fused)
    loss.backward()
    return {"mib": peak_mib() - before, "loss": float(loss.detach())}


def one(method: str, vocabulary: int, way: str, tokens: int) -> dict[str, float]:
    """Return what `measure` finds in a process of its own, on a CPU."""
    words = [method, str(vocabulary), way, "--tokens", str(tokens)]
    return in_own_process(way, __file__, words, {"CUDA_VISIBLE_DEVICES": ""})


def row(
    method: str, vocabulary: int, tokens: int, run: Callable[[str], list[dict[str, float]]]
) -> str:
    """Return a line of the table; `run` measures a way several times."""
    found = {way: run(way) for way in WAYS}
    losses = [one["loss"] for several in found.values() for one in several]
    if max(losses) - min(losses) > SAME:
        raise UserError(f"{method}, {vocabulary}: losses from {min(losses)} to {max(losses)}")
    cells = [spread([one["mib"] for one in several], 0) for several in found.values()]
    logits = tokens * vocabulary * 4 / 2**20
    return f"| {method} | {vocabulary:,} | {' | '.join(cells)} | {logits:,.0f} |"


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--vocabularies", type=int, nargs="+", default=[32000, 49152])
    parser.add_argument("--tokens", type=int, default=2048, help="of a forward pass")
    parser.add_argument("--output", type=Path, help="Markdown page whose section is replaced")
    parser.add_argument("--once", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.once:
        method, vocabulary, way = args.once
        print(json.dumps(measure(method, int(vocabulary), way, args.tokens)))
        return
    lines = [
        f"| step, {args.tokens:,} tokens | vocabulary | {' | '.join(f'{w}, MiB' for w in WAYS)} |"
        " logits in float32, MiB |",
        "|---" * 6 + "|",
    ]
    for method in METHODS:
        for vocabulary in args.vocabularies:

            def run(way: str, case: tuple[str, int] = (method, vocabulary)) -> list[dict]:
                return [one(*case, way, args.tokens) for _ in range(args.repeats)]

            lines.append(row(method, vocabulary, args.tokens, run))
            print(lines[-1], flush=True)
    head = (
        f"`bench_memory.py --repeats {args.repeats} --tokens {args.tokens}`,"
        f" {datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {processor()} ({flags()}). Resident memory that"
        " a step adds: median of the repeats and their range.\n"
    )
    if args.output:
        replace_section(args.output, "Memory of the loss", "\n".join([head, *lines]) + "\n")


if __name__ == "__main__":
    program.run(main)
