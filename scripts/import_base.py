"""Import a base model from a local snapshot or a GGUF file: one safetensors file in the given
precision, with its own tokenizer.

Usage: import_base.py --snapshot data/models/open_llama_3b_v2 --recipe '{"dtype": "float16", …}' \\
           --code … \\
           --base results/base --receipt results/base/receipt.json

A hub repository may hold its weights in several files or as pickles; every later stage reads one
`<results>/base/model.safetensors`. A snapshot whose weights are not exactly those that its
config.json describes is refused. The tokenizer's files are copied byte for byte, never
re-serialised: OpenLLaMA's authors warn that a converted (fast) tokenizer can split text
differently. A GGUF file holds a tokenizer in a form of its own, of which tokenizer.json is made.
"""

import shutil
from pathlib import Path
from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict

from bezoar import program, progress
from bezoar.arguments import model_directory
from bezoar.errors import UserError
from bezoar.files import whole_directory
from bezoar.model_files import TOKENIZER_FILES
from bezoar.provenance.receipt import Receipt, stage_parser
from bezoar.training.gguf import SUFFIX


class Recipe(TypedDict):
    """The settings of the stage, with their units."""

    dtype: Literal["float32", "float16", "bfloat16"]  # in which the weights are stored
    tokenizer: NotRequired[Literal["tokenizer.model", "tokenizer.json"]]  # the file whose ids count
    seed: int


def import_base(snapshot: Path, base: Path, dtype: str, tokenizer: str | None) -> dict[str, Any]:
    """Write `base` from `snapshot`, with the tokenizer that `tokenizer` names or, for None, all of
    its files; return facts for the receipt.
    """
    import torch

    from bezoar.training.tokenizer import PROBES, load_tokenizer, tokenizer_file
    from bezoar.training.weights import load_causal_lm

    if snapshot.suffix == SUFFIX:
        return import_gguf(snapshot, base, getattr(torch, dtype), tokenizer)
    if tokenizer and not (snapshot / tokenizer).is_file():
        raise UserError(
            f"{snapshot}/{tokenizer}: no such file; base.tokenizer names the file that counts, and"
            f" the model has {tokenizer_file(snapshot)}"
        )
    with progress.task("load the weights"):
        model = load_causal_lm(snapshot, getattr(torch, dtype))
    dropped = ("tokenizer.json", "vocab.json", "merges.txt")
    facts = {"parameters": sum(parameter.numel() for parameter in model.parameters())}
    with whole_directory(base) as fresh:
        model.save_pretrained(fresh, max_shard_size="1TB")
        for name in TOKENIZER_FILES:
            if (snapshot / name).is_file() and not (
                tokenizer == "tokenizer.model" and name in dropped
            ):
                shutil.copyfile(snapshot / name, fresh / name)
        found = load_tokenizer(fresh)
        if tokenizer_file(fresh) != tokenizer_file(snapshot):
            own = load_tokenizer(snapshot)
            differing = [text for text in PROBES if found(text) != own(text)]
            facts["probes_split_otherwise"] = len(differing)
            if differing:
                print(
                    f"{snapshot}: {tokenizer} splits {len(differing)} of {len(PROBES)} probes"
                    f" otherwise than {tokenizer_file(snapshot)}, the first {differing[0]!r};"
                    f" base.tokenizer names {tokenizer}",
                    flush=True,
                )
    return facts


def import_gguf(file: Path, base: Path, dtype: Any, tokenizer: str | None) -> dict[str, Any]:
    """Write `base` from a GGUF file in `dtype` (torch's); return facts for the receipt."""
    from bezoar.training.gguf import dequantized
    from bezoar.training.weights import load_causal_lm, require_finite

    if tokenizer not in (None, "tokenizer.json"):
        raise UserError(
            f"{file}: its tokenizer becomes tokenizer.json; set base.tokenizer: tokenizer.json"
        )
    with progress.task("dequantise the weights"):
        model, own = dequantized(file)
    require_finite(file, model.state_dict().items(), dtype)
    with whole_directory(base) as fresh:
        model.to(dtype).save_pretrained(fresh, max_shard_size="1TB")
        own.save_pretrained(fresh)
        load_causal_lm(fresh, dtype)  # complete, and with an embedding for each token
    return {"parameters": sum(parameter.numel() for parameter in model.parameters())}


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and import the base model."""
    parser = stage_parser(__doc__, Recipe)
    parser.add_argument(
        "--snapshot",
        type=model_directory,
        required=True,
        help="directory with config, weights and tokenizer, or a GGUF file",
    )
    parser.add_argument("--base", type=model_directory, required=True, help="directory to write")
    parser.add_argument(
        "--any-tokenizer",
        action="store_true",
        help="take all of the model's tokenizer files, whatever the recipe names: to evaluate it",
    )
    args = parser.parse_args(argv)
    tokenizer = None if args.any_tokenizer else args.recipe.get("tokenizer", "tokenizer.model")
    inputs = (
        sorted(path for path in args.snapshot.iterdir() if path.is_file())
        if args.snapshot.is_dir()
        else [args.snapshot] * args.snapshot.is_file()
    )
    with Receipt(
        args.receipt,
        stage="base",
        recipe=args.recipe,
        code=args.code,
        inputs={"snapshot": inputs},
        outputs={
            "base": [
                args.base / name
                for name in (
                    "config.json",
                    "model.safetensors",
                    *([tokenizer] if tokenizer else []),
                )
            ]
        },
    ) as receipt:
        receipt.facts |= import_base(args.snapshot, args.base, args.recipe["dtype"], tokenizer)


if __name__ == "__main__":
    program.run(main, forked=True)
