"""The output layer and the loss behind it on a CPU: what TRL's fused head returns, in fewer passes.

TRL's head multiplies by the output layer once for the log-probabilities and once more for their
gradient, and reads the logits of a whole batch again for each number that it returns. A frozen
layer needs neither: the gradient of a token's log-probability is the weight of its label minus the
mean weight of the vocabulary, and both are computed here while a tile of logits is still in the
processor's cache. Tokens without a label are left out. Numbers and gradients are TRL's up to
rounding. On a GPU, in other precisions and for heads that scale or cap their logits, TRL's stays;
a try on a few tokens decides the rest.
"""

import functools
from typing import Any

from bezoar.training.forward_pass import replace_if_alike

TILE = 256  # tokens whose logits are held at once
TRIED = 24  # tokens
TOLERANCE = 1e-4  # nats
# Of a model's configuration: what stands between the layer's product and the logits.
BETWEEN = (
    "final_logit_softcapping logit_scale output_multiplier lm_head_multiplier logits_scaling"
).split()


def lighten(model: Any) -> bool:
    """Have `model`, which carries TRL's fused head, compute it so; return whether it does."""
    import torch

    head, text = model.get_output_embeddings(), model.config.get_text_config()
    if (
        type(head) is not torch.nn.Linear  # an adapter of its own, or 4 bits
        or head.bias is not None
        or head.weight.requires_grad
        or head.weight.device.type != "cpu"
        or head.weight.dtype != torch.float32
        or hasattr(text, "output_router_logits")  # its loss has a second part
        or any(getattr(text, name, None) is not None for name in BETWEEN)
    ):
        return False
    fused = model.forward

    @functools.wraps(type(model).forward)  # `generate` looks at the signature
    def forward(
        self: Any,
        *args: Any,
        labels: Any = None,
        shift_labels: Any = None,
        fused_lm_head: bool = False,
        **more: Any,
    ) -> Any:
        if not fused_lm_head:
            given = {"labels": labels, "shift_labels": shift_labels}
            known = {name: value for name, value in given.items() if value is not None}
            return fused(*args, **known, **more)
        items = more.pop("num_items_in_batch", None)
        hidden = self.base_model(*args, **more | {"use_cache": False}).last_hidden_state
        if shift_labels is None:
            hidden, shift_labels = hidden[:, :-1], labels[:, 1:]
        return _scored(hidden, self.get_output_embeddings().weight, shift_labels, items)

    ids = (torch.arange(TRIED).unsqueeze(0) * 7919 + 11) % text.vocab_size
    row = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
    return replace_if_alike(model, forward, row, TOLERANCE)


def _scored(hidden: Any, weight: Any, labels: Any, items: Any) -> Any:
    """Return TRL's output for hidden states and the labels of the next tokens; what has no label
    is zero.
    """
    from trl.trainer.utils import FusedCausalLMOutput

    mask = labels != -100
    found = _function().apply(hidden[mask], weight, labels[mask])
    log_probs, entropy, mean_logits, is_top1 = (
        values.new_zeros(mask.shape).masked_scatter(mask, values) for values in found
    )
    return FusedCausalLMOutput(
        loss=-log_probs.sum() / (mask.sum().clamp(min=1) if items is None else items),
        log_probs=log_probs,
        entropy=entropy,
        mean_logits=mean_logits,
        is_top1=is_top1,
        label_mask=mask,
    )


@functools.cache
def _function() -> Any:
    """Return the differentiable function of hidden states, weight and labels by token."""
    import torch

    class Scores(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, hidden: Any, weight: Any, labels: Any) -> Any:
            log_probs, entropy, mean_logits = (hidden.new_empty(len(hidden)) for _ in range(3))
            is_top1 = torch.empty(len(hidden), dtype=torch.bool)
            slopes = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
            for start in range(0, len(hidden), TILE):
                tile = slice(start, start + TILE)
                label = labels[tile].unsqueeze(1)
                logits = hidden[tile] @ weight.T
                all_log_probs = logits.log_softmax(dim=1)
                probs = all_log_probs.exp()
                log_probs[tile] = all_log_probs.gather(1, label).squeeze(1)
                mean_logits[tile] = logits.mean(dim=1)
                is_top1[tile] = (logits.gather(1, label) == logits.amax(1, keepdim=True)).squeeze(1)
                if slopes is not None:
                    slopes[tile] = weight[labels[tile]].addmm_(probs, weight, alpha=-1)
                entropy[tile] = -(probs.mul_(all_log_probs)).sum(dim=1)
            ctx.save_for_backward(slopes)
            ctx.mark_non_differentiable(entropy, mean_logits, is_top1)
            return log_probs, entropy, mean_logits, is_top1

        @staticmethod
        def backward(ctx: Any, *gradients: Any) -> Any:
            (slopes,) = ctx.saved_tensors
            return slopes * gradients[0].unsqueeze(1), None, None

    return Scores
