"""A causal language model and its tokenizer from a local directory, ours or anybody's."""

from pathlib import Path
from typing import Any

from bezoar.errors import UserError
from bezoar.precision import evaluation_dtype


def tokenizer_of(model: Path) -> Any:
    """Return the tokenizer of a model directory: SentencePiece's own where it ships that (see
    bezoar.training.tokenizer), else transformers'.

    A pad token is set where there is none; it is only ever masked.
    """
    if (model / "tokenizer.model").is_file():
        from bezoar.training.tokenizer import load_tokenizer

        return load_tokenizer(model)
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True)
    except (OSError, ValueError):
        raise UserError(
            f"{model}: no tokenizer that can be read; expected tokenizer.model or tokenizer.json"
            " beside the weights"
        ) from None
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    return tokenizer


def adds_bos(tokenizer: Any) -> bool:
    """Say whether the tokenizer begins a text with BOS by itself."""
    return tokenizer.bos_token_id is not None and tokenizer("a")["input_ids"][:1] == [
        tokenizer.bos_token_id
    ]


def load(model: Path, dtype: str, threads: int) -> tuple[Any, Any]:
    """Return (network in evaluation mode, tokenizer), on the GPU if there is one, where `dtype` is
    the precision (see `bezoar.precision`); `threads` are the CPU's.
    """
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network: Any = AutoModelForCausalLM.from_pretrained(
        model, dtype=evaluation_dtype(dtype), local_files_only=True
    )
    network = network.to(device).eval()
    return network, tokenizer_of(model)
