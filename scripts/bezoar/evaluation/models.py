"""A causal language model and its tokenizer from a local directory, ours or not."""

from pathlib import Path
from typing import Any

from bezoar.precision import evaluation_dtype
from bezoar.training.tokenizer import beginning, load_tokenizer
from bezoar.training.weights import ends, load_causal_lm


def adds_bos(tokenizer: Any) -> bool:
    """Say whether the tokenizer begins a text with BOS by itself."""
    return tokenizer.bos_token_id is not None and tokenizer.bos_token_id in beginning(tokenizer)


def load(model: Path, dtype: str, threads: int) -> tuple[Any, Any]:
    """Return (network in evaluation mode, tokenizer), on the GPU if there is one, where `dtype` is
    the precision (see `bezoar.precision`); `threads` are the CPU's.

    Of what its generation_config.json says only the ends of an answer count: penalties, beams and
    the like would be settings that no recipe names. Raise `UserError` if the directory is not a
    complete model (`bezoar.training.weights`).
    """
    import torch
    from transformers import GenerationConfig

    torch.set_num_threads(threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = load_causal_lm(model, evaluation_dtype(dtype)).to(device).eval()
    tokenizer = load_tokenizer(model)
    network.generation_config = GenerationConfig(
        eos_token_id=sorted(ends(network)) or None, pad_token_id=tokenizer.pad_token_id
    )
    return network, tokenizer
