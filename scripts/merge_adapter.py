"""Merge an adapter onto its base in 16 bits, and measure what the merge changes.

Usage: merge_adapter.py --base results/base --adapter results/sft/evol \\
           --probe results/filter/evol.jsonl --template template.json \\
           --recipe '{"merge_onto": "base", …}' --code … --model results/merge/openbezoar-sft
           --receipt …/receipt.json

--model is a directory; it gets a Hugging Face model (model.safetensors, config.json, tokenizer) and
merge.json: the largest and the mean absolute difference of log-probabilities and the KL divergence
(nats per token) of the merged model from the 4-bit base with the adapter beside it, on the first
`probe_rows` rows. Training saw the quantised base, so a merge onto the 16-bit one differs; beyond
`max_kl` the stage fails.
"""

import gc
import math
import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from typing_extensions import TypedDict

from bezoar import precision, program, progress
from bezoar.arguments import model_directory
from bezoar.errors import UserError
from bezoar.files import whole_directory, write_json
from bezoar.model_files import TOKENIZER_FILES
from bezoar.provenance.receipt import Receipt, stage_parser
from bezoar.readers import numbered, read_jsonl
from bezoar.training.template import Template, training_text


class Recipe(TypedDict):
    """The settings of the stage, with their units."""

    merge_onto: Literal["base", "dequantised"]  # the paper's 16-bit base, or the 4-bit weights
    probe_rows: int
    max_length: int  # tokens
    max_kl: float  # nats per token
    threads: int
    seed: int


# A small base keeps its dequantised weights in memory, which saves time and moves no bit.
KEEP_BELOW_BYTES = 10**9
OUTPUTS = ("model.safetensors", "config.json", "merge.json")


def logits(model: Any, texts: list[list[int]]) -> Iterator[Any]:
    """Yield float32 log-probabilities, shape (tokens, vocabulary), one tensor on the CPU per
    text."""
    import torch

    for ids in progress.track(texts, "run the probe rows"):
        with torch.inference_mode():
            found = model(input_ids=torch.tensor([ids], device=model.device), use_cache=False)
            scores = found.logits[0].float().log_softmax(-1).cpu()
        yield scores


@contextmanager
def computing_in(model: Any, dtype: Any) -> Iterator[None]:
    """Have the layers of `model` compute in `dtype`, each with a copy of its weights that is there
    while it computes: 13 GB for a model of 3.4 billion weights would be more than all else takes.
    """
    from torch.nn import Parameter

    stored: dict[Any, dict[str, Any]] = {}

    def convert(layer: Any, _: Any) -> None:
        stored[layer] = dict(layer.named_parameters(recurse=False))
        for name, weight in stored[layer].items():
            setattr(layer, name, Parameter(weight.to(dtype), requires_grad=False))

    def restore(layer: Any, *_: Any) -> None:
        for name, weight in stored.pop(layer).items():
            setattr(layer, name, weight)

    with ExitStack() as hooks:
        for layer in model.modules():
            hooks.enter_context(layer.register_forward_pre_hook(convert))
            hooks.enter_context(layer.register_forward_hook(restore))
        yield


def compare(pairs: Iterable[tuple[Any, Any]]) -> dict[str, float]:
    """Return KL(before || after) per token, the largest and the mean absolute difference of
    log-probabilities, and equal argmaxes, of the pairs (before, after) of all texts.
    """
    kl: list[float] = []
    largest: list[float] = []
    mean: list[float] = []
    same = tokens = 0
    for a, b in pairs:
        difference = (a - b).abs()
        kl.append(float((a.exp() * (a - b)).sum()))
        largest.append(float(difference.max()))
        mean.append(float(difference.mean(1).sum()))
        same += int((a.argmax(1) == b.argmax(1)).sum())
        tokens += len(a)
    return {
        "kl_nats_per_token": round(math.fsum(kl) / tokens, 8),
        "max_logprob_difference": round(max(largest), 6),
        "mean_logprob_difference": round(math.fsum(mean) / tokens, 6),
        "same_argmax": round(same / tokens, 6),
        "tokens": tokens,
    }


def stored_dtype(path: Path) -> Any:
    """Return the `torch.dtype` that holds every weight of a safetensors file: the file's own if it
    has one of 16 bits, else float32.
    """
    import torch
    from safetensors import safe_open

    with safe_open(path, framework="pt") as stored:
        kinds = {stored.get_slice(name).get_dtype() for name in stored.keys()}  # noqa: SIM118
    known = {"F16": torch.float16, "BF16": torch.bfloat16}
    return known[kinds.pop()] if len(kinds) == 1 and kinds <= known.keys() else torch.float32


def merge(base: Path, adapter: Path, merge_onto: str) -> Any:
    """Return the merged model in bfloat16, on the GPU if there is one.

    The arithmetic is done in float32, layer by layer: the model itself stays in 16 bits.
    """
    import torch
    from peft.tuners.tuners_utils import BaseTunerLayer

    from bezoar.training.qlora import load_4bit
    from bezoar.training.weights import load_adapter, load_causal_lm

    device = "cuda" if torch.cuda.is_available() else "cpu"
    plain = load_causal_lm(base, stored_dtype(base / "model.safetensors")).to(device)
    layers = dict(plain.named_modules())
    quantised = dict(load_4bit(base).named_modules()) if merge_onto == "dequantised" else {}
    adapted = load_adapter(plain, adapter)
    tuned = {
        id(module.get_base_layer()): module
        for module in adapted.modules()
        if isinstance(module, BaseTunerLayer)
    }
    for name, layer in layers.items():
        packed = getattr(quantised.get(name), "weight", None)
        if id(layer) not in tuned and not hasattr(packed, "quant_state"):
            continue
        if hasattr(packed, "quant_state"):
            layer.weight.data = dequantised(packed)
        layer.float()
        if id(layer) in tuned:
            try:
                tuned[id(layer)].merge(safe_merge=True)
            except ValueError as error:  # from safe_merge: a product that is not finite
                raise UserError(f"{adapter}: cannot be merged onto {base}: {error}") from None
        layer.to(torch.bfloat16)
    merged = adapted.unload()
    for tensor in merged.state_dict(keep_vars=True).values():  # no buffer that is not saved
        if tensor.is_floating_point():
            tensor.data = tensor.data.to(torch.bfloat16)
    return merged


def dequantised(weight: Any) -> Any:
    """Return a 4-bit weight as it is multiplied by."""
    from bitsandbytes.functional import dequantize_4bit

    return dequantize_4bit(weight.data, weight.quant_state)


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and merge."""
    parser = stage_parser(__doc__, Recipe)
    parser.add_argument(
        "--base",
        type=model_directory,
        required=True,
        help="model directory the adapter was trained on",
    )
    parser.add_argument("--adapter", type=model_directory, required=True, help="adapter directory")
    parser.add_argument("--probe", type=Path, required=True, help="rows to compare on, JSONL")
    parser.add_argument("--template", type=Path, required=True, help="chat template, JSON")
    parser.add_argument(
        "--model", type=model_directory, required=True, help="model directory to write"
    )
    args = parser.parse_args(argv)

    import torch

    from bezoar.training.qlora import check_lineage, deterministic, load_4bit
    from bezoar.training.tokenizer import encode, load_tokenizer, tokenizer_file
    from bezoar.training.weights import load_adapter, require_positions

    recipe = args.recipe
    inputs = {
        "base": args.base / "model.safetensors",
        "adapter": args.adapter / "adapter_model.safetensors",
        "lineage": args.adapter / "lineage.json",
        "probe": args.probe,
        "template": args.template,
    }
    with Receipt(
        args.receipt,
        stage="merge",
        recipe=recipe,
        code=args.code,
        inputs=inputs,
        outputs={"model": [args.model / name for name in (*OUTPUTS, tokenizer_file(args.base))]},
    ) as receipt:
        deterministic(recipe["seed"], recipe["threads"])
        check_lineage(args.adapter, args.base)
        template, tokenizer = Template(args.template), load_tokenizer(args.base)
        texts = []
        probe = numbered(args.probe, read_jsonl(args.probe))
        for where, row in islice(probe, recipe["probe_rows"]):
            instruction, system, response = training_text(row, where)
            pieces = [*template.pieces(instruction, system), (response, False)]
            texts.append(encode(tokenizer, pieces)[: recipe["max_length"]])
        weights = args.base / "model.safetensors"
        keep = not torch.cuda.is_available() and weights.stat().st_size < KEEP_BELOW_BYTES
        unmerged = load_adapter(load_4bit(args.base, cache_dequantized=keep), args.adapter).eval()
        require_positions("merge: probe rows", unmerged, map(len, texts))
        if not any(texts):
            raise UserError(f"{args.probe}: no rows; expected some to measure the merge on")
        args.model.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".probes-", dir=args.model.parent) as folder:
            # On disk, because 64 rows of 512 tokens are 4 GB, and one model at a time is in memory.
            before = []
            for number, found in enumerate(logits(unmerged, texts)):
                before.append(Path(folder) / f"{number}.pt")
                torch.save(found, before[-1])
            del unmerged
            gc.collect()
            torch.cuda.empty_cache()
            with progress.task("merge the weights"):
                merged = merge(args.base, args.adapter, recipe["merge_onto"]).eval()
            with computing_in(merged, precision.compute_dtype()):
                pairs = zip(map(torch.load, before), logits(merged, texts), strict=True)
                difference = compare(pairs)
        report = {
            "merge_onto": recipe["merge_onto"],
            "probe_rows": len(texts),
            "difference": difference,
        }
        print(report, flush=True)
        if math.isnan(report["difference"]["kl_nats_per_token"]):
            raise UserError(
                "merge: the KL divergence is not a number: the base or the merged model overflows"
                " in 16 bits; take base: dtype: bfloat16"
            )
        if report["difference"]["kl_nats_per_token"] > recipe["max_kl"]:
            raise UserError(
                f"merge: KL {report['difference']['kl_nats_per_token']:.4f} nats per token is above"
                f" max_kl {recipe['max_kl']}; use merge_onto: dequantised"
            )
        with whole_directory(args.model) as fresh:
            merged.save_pretrained(fresh, max_shard_size="1TB")
            for name in TOKENIZER_FILES:
                if (args.base / name).is_file():
                    shutil.copyfile(args.base / name, fresh / name)
            write_json(fresh / "merge.json", report)
        receipt.facts |= report | {"compute_dtype": precision.name(precision.compute_dtype())}


if __name__ == "__main__":
    program.run(main, forked=True)
