"""A causal language model and its tokenizer from a local directory, ours or not."""

from pathlib import Path
from typing import Any

from bezoar.errors import UserError
from bezoar.precision import evaluation_dtype
from bezoar.training.tokenizer import load_tokenizer
from bezoar.training.weights import ends, load_causal_lm

# Bytes a value -> the part of the largest logit by which rounding may move another.
MOVED = {2: 0.05, 4: 1e-4, 8: 1e-6}


def load(model: Path, dtype: str, threads: int) -> tuple[Any, Any]:
    """Return (network in evaluation mode, tokenizer), on the GPU if there is one, where `dtype` is
    the precision (see `bezoar.precision`); `threads` are the CPU's.

    Of what its generation_config.json says only the ends of an answer count: penalties, beams and
    the like would be settings that no recipe names. Raise `UserError` if the directory is not a
    complete model (`bezoar.training.weights`), or not a causal one.
    """
    import torch

    torch.set_num_threads(threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = load_causal_lm(model, evaluation_dtype(dtype)).to(device).eval()
    tokenizer = load_tokenizer(model)
    require_causal(model, network)
    keep_only_ends(network, tokenizer)
    return network, tokenizer


def keep_only_ends(network: Any, tokenizer: Any) -> None:
    """Leave of what a model's generation_config.json sets only the ends of an answer."""
    from transformers import GenerationConfig

    network.generation_config = GenerationConfig(
        eos_token_id=sorted(ends(network)) or None, pad_token_id=tokenizer.pad_token_id
    )


def require_causal(directory: Path, network: Any) -> None:
    """Raise `UserError` if what a model says of a token depends on the tokens after it, as that of
    a masked language model does: its log-probabilities would be those of texts that it has seen.
    """
    import torch

    rows = network.get_input_embeddings().weight.shape[0]
    first = [index % rows for index in range(7, 15)]
    second = [*first[:-1], (first[-1] + 1) % rows]
    with torch.inference_mode():
        ids = torch.tensor([first, second], device=network.device)
        one, other = network(input_ids=ids, use_cache=False).logits[:, :-1].float()
    moved = float((one - other).abs().max() / one.abs().max().clamp(min=1e-6))
    if moved > MOVED[network.dtype.itemsize]:
        raise UserError(
            f"{directory}: {type(network).__name__} looks at the tokens after the one that it is to"
            " say; expected a causal language model"
        )
