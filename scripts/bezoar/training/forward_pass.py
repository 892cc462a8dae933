"""Other ways through a model, in the place of its own, where they are seen to answer alike."""

import types
from collections.abc import Callable, Mapping
from typing import Any

from bezoar.errors import shortage

EXACT = 1e-3  # nats a token, for float32
ROUNDED = 0.25  # for bfloat16, which rounds at 2^-8


def tolerance() -> float:
    """Return by how many nats a token two ways may differ that are equal but for rounding."""
    import torch

    from bezoar import precision

    return EXACT if precision.compute_dtype() == torch.float32 else ROUNDED


def tried(model: Any, compute: Callable[[], list[Any]]) -> list[Any] | None:
    """Return what `compute` gives with `model` in evaluation, without gradients; None where it
    fails on a model of another make. A shortage of memory is raised.
    """
    import torch

    from bezoar import precision

    training = model.training
    model.eval()
    try:
        with torch.no_grad(), precision.autocast(model.device):
            return compute()
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, RuntimeError) as error:
        if shortage(error):
            raise
        return None
    finally:
        model.train(training)


def replace_if_alike(
    model: Any, forward: Callable[..., Any], given: Mapping[str, Any], within: float
) -> bool:
    """Have `model`, which carries TRL's fused head, compute by `forward`, a method, if both give
    the batch `given` the same log-probabilities, up to `within` in nats; return whether it does.
    """
    before = model.forward
    batch = {**given, "use_cache": False, "fused_lm_head": True}

    def both() -> list[Any]:
        expected = before(**batch).log_probs.float()
        model.forward = types.MethodType(forward, model)
        return [expected, model(**batch).log_probs.float()]

    found = tried(model, both)
    same = found is not None and bool((found[0] - found[1]).abs().max() <= within)
    if not same:
        model.forward = before
    return same


def windowed(text: Any) -> bool:
    """Tell whether some layer sees only what is near, so that an attention mask would be ignored or
    replace its window; `text` is the configuration of a text model.
    """
    kinds = set(getattr(text, "layer_types", None) or ["full_attention"])
    window = getattr(text, "sliding_window", None) and getattr(text, "use_sliding_window", True)
    return bool(window) or kinds != {"full_attention"}
