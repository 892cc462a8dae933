"""Merge an adapter onto its base in 16 bits, and measure what the merge changes.

Usage: merge_adapter.py --base results/base --adapter results/sft/evol \\
           --probe results/filter/evol.jsonl --template template.json \\
           --recipe '{"merge_onto": "base", …}' --code … --model results/merge/openbezoar-sft
           --receipt …/receipt.json

--model is a directory; it gets a Hugging Face model (model.safetensors, config.json, tokenizer) and
  merge.json: max and
mean absolute logit difference and KL divergence (nats per token) of the merged model from the 4-bit
base with the adapter beside it, on the first `probe_rows` rows. Training saw the quantised base, so
a merge onto the 16-bit one differs; beyond `max_kl` the stage fails.
"""

import math
import shutil
from pathlib import Path
from typing import Any, Literal

from typing_extensions import TypedDict

from bezoar import precision, program, progress
from bezoar.arguments import model_directory
from bezoar.errors import UserError
from bezoar.files import whole_directory, write_json
from bezoar.model_files import TOKENIZER_FILES
from bezoar.provenance.receipt import Receipt, stage_parser
from bezoar.readers import read_jsonl
from bezoar.training.template import Template, training_text


class Recipe(TypedDict):
    """The settings of the stage, with their units."""

    merge_onto: Literal["base", "dequantised"]  # the paper's 16-bit base, or the 4-bit weights
    probe_rows: int
    max_length: int  # tokens
    max_kl: float  # nats per token
    threads: int
    seed: int


OUTPUTS = ("model.safetensors", "config.json", "merge.json")


def logits(model: Any, texts: list[list[int]]) -> list[Any]:
    """Return float32 log-probabilities, shape (tokens, vocabulary), one tensor per text."""
    import torch

    with torch.inference_mode():
        return [
            model(input_ids=torch.tensor([ids], device=model.device), use_cache=False)
            .logits[0]
            .float()
            .log_softmax(-1)
            .cpu()
            for ids in progress.track(texts, "run the probe rows")
        ]


def compare(before: list[Any], after: list[Any]) -> dict[str, float]:
    """Return KL(before || after) per token, the largest and the mean absolute difference of
    log-probabilities, and equal argmaxes.
    """
    tokens = sum(len(a) for a in before)
    pairs = list(zip(before, after, strict=True))
    kl = math.fsum(float((a.exp() * (a - b)).sum()) for a, b in pairs) / tokens
    return {
        "kl_nats_per_token": round(kl, 8),
        "max_logprob_difference": round(max(float((a - b).abs().max()) for a, b in pairs), 6),
        "mean_logprob_difference": round(
            math.fsum(float((a - b).abs().mean(1).sum()) for a, b in pairs) / tokens, 6
        ),
        "same_argmax": round(
            sum(int((a.argmax(1) == b.argmax(1)).sum()) for a, b in pairs) / tokens, 6
        ),
        "tokens": tokens,
    }


def merge(base: Path, adapter: Path, merge_onto: str) -> Any:
    """Return the merged model in bfloat16; the arithmetic is done in float32."""
    import torch

    from bezoar.training.qlora import load_4bit
    from bezoar.training.weights import load_adapter, load_causal_lm

    plain = load_causal_lm(base, torch.float32)
    if merge_onto == "dequantised":
        from bitsandbytes.functional import dequantize_4bit

        for name, module in load_4bit(base).named_modules():
            if hasattr(getattr(module, "weight", None), "quant_state"):
                plain.get_submodule(name).weight.data = (
                    dequantize_4bit(module.weight.data, module.weight.quant_state).float().cpu()
                )
    try:
        return load_adapter(plain, adapter).merge_and_unload(safe_merge=True).to(torch.bfloat16)
    except ValueError as error:  # from safe_merge: a product that is not finite
        raise UserError(f"{adapter}: cannot be merged onto {base}: {error}") from None


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
        for number, row in enumerate(read_jsonl(args.probe)[: recipe["probe_rows"]], start=1):
            instruction, system, response = training_text(row, f"{args.probe}:{number}")
            pieces = [*template.pieces(instruction, system), (response, False)]
            texts.append(encode(tokenizer, pieces)[: recipe["max_length"]])
        unmerged = load_adapter(load_4bit(args.base, cache_dequantized=True), args.adapter).eval()
        require_positions("merge: probe rows", unmerged, map(len, texts))
        if not any(texts):
            raise UserError(f"{args.probe}: no rows; expected some to measure the merge on")
        before = logits(unmerged, texts)
        with progress.task("merge the weights"):
            merged = merge(args.base, args.adapter, recipe["merge_onto"]).eval()
        report = {
            "merge_onto": recipe["merge_onto"],
            "probe_rows": len(texts),
            "difference": compare(before, logits(merged, texts)),
        }
        print(report, flush=True)
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
    program.run(main)
