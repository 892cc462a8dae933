"""Import a base model from a local snapshot: one safetensors file in the given precision, with its
own tokenizer.

Usage: import_base.py --snapshot data/models/open_llama_3b_v2 --recipe '{"dtype": "float16"}' \\
           --code … \\
           --base results/base --receipt results/base/receipt.json

A hub repository may hold its weights in several files or as pickles; every later stage names one
`<results>/base/model.safetensors`. The tokenizer's files are copied byte for byte, never
re-serialised: OpenLLaMA's authors warn that a converted (fast) tokenizer can split text
differently.
"""

import shutil
from pathlib import Path
from typing import Literal

from typing_extensions import TypedDict

from bezoar import program
from bezoar.errors import UserError
from bezoar.files import whole_directory
from bezoar.provenance.receipt import Receipt, stage_parser


class Recipe(TypedDict):
    """The settings of the stage, with their units."""

    dtype: Literal["float32", "float16", "bfloat16"]  # in which the weights are stored
    seed: int


TOKENIZER_FILES = [
    "tokenizer.model",
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
]


def import_base(snapshot: Path, base: Path, dtype: str, any_tokenizer: bool = False) -> int:
    """Write `base` from `snapshot`; return the number of parameters."""
    import torch
    from transformers import AutoModelForCausalLM

    if not (snapshot / "config.json").is_file():
        raise UserError(
            f"{snapshot}/config.json: no such file; expected a Hugging Face model directory"
        )
    if not any_tokenizer and not (snapshot / "tokenizer.model").is_file():
        raise UserError(
            f"{snapshot}/tokenizer.model: no such file; the slow (SentencePiece) tokenizer is"
            " required"
        )
    model = AutoModelForCausalLM.from_pretrained(
        snapshot, dtype=getattr(torch, dtype), local_files_only=True
    )
    with whole_directory(base) as fresh:
        model.save_pretrained(fresh, max_shard_size="1TB")
        for name in TOKENIZER_FILES:
            if (snapshot / name).is_file():
                shutil.copyfile(snapshot / name, fresh / name)
    return sum(parameter.numel() for parameter in model.parameters())


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and import the base model."""
    parser = stage_parser(__doc__, Recipe)
    parser.add_argument(
        "--snapshot", type=Path, required=True, help="directory with config, weights and tokenizer"
    )
    parser.add_argument("--base", type=Path, required=True, help="directory to write")
    parser.add_argument(
        "--any-tokenizer",
        action="store_true",
        help="take a model without tokenizer.model too, to evaluate it",
    )
    args = parser.parse_args(argv)
    inputs = (
        sorted(path for path in args.snapshot.iterdir() if path.is_file())
        if args.snapshot.is_dir()
        else []
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
                    *([] if args.any_tokenizer else ["tokenizer.model"]),
                )
            ]
        },
    ) as receipt:
        receipt.facts["parameters"] = import_base(
            args.snapshot, args.base, args.recipe["dtype"], args.any_tokenizer
        )


if __name__ == "__main__":
    program.run(main)
