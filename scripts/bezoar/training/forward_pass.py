"""Another forward pass in the place of a model's own, where it is seen to answer alike."""

import types
from collections.abc import Callable, Mapping
from typing import Any


def replace_if_alike(
    model: Any, forward: Callable[..., Any], given: Mapping[str, Any], tolerance: float
) -> bool:
    """Have `model`, which carries TRL's fused head, compute by `forward`, a method, if both give
    the batch `given` the same log-probabilities, up to `tolerance` in nats; return whether it does.
    """
    import torch

    from bezoar import precision

    before, training, alike = model.forward, model.training, False
    batch = {**given, "use_cache": False, "fused_lm_head": True}
    model.eval()
    try:
        with torch.no_grad(), precision.autocast(model.device):
            expected = before(**batch).log_probs.float()
            model.forward = types.MethodType(forward, model)
            found = model(**batch).log_probs.float()
        alike = bool((expected - found).abs().max() <= tolerance)
    except (AttributeError, IndexError, TypeError, ValueError, RuntimeError):
        pass  # a model of another make, which one of the two does not fit
    finally:
        model.train(training)
        if not alike:
            model.forward = before
    return alike
