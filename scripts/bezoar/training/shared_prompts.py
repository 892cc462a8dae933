"""Preference pairs with their prompt computed once.

TRL makes two rows of a pair, prompt + chosen and prompt + rejected, and computes the prompt twice.
Here both answers follow one prompt in a single row: its last token is repeated before the rejected
answer, and positions and attention mask keep the answers apart, so that every answer token sees
what it saw in a row of its own. The model is asked for the same rows and returns the same numbers
up to rounding, log-probabilities and gradients; only dropout draws one noise for the prompt in
place of two. It holds for full attention whose positions come as `position_ids`. Whether that is so
is not believed but tried: a model that answers otherwise is left as it was.
"""

import functools
from typing import Any

from bezoar.training.forward_pass import replace_if_alike, tolerance, windowed

TRIED = 24  # tokens of each row of the pair that is tried
PER_TOKEN = ("log_probs", "entropy", "log_sum_sq_probs", "mean_logits", "is_top1", "label_mask")


def share(model: Any) -> bool:
    """Have `model`, which carries TRL's fused head, compute the prompt of a pair once; return
    whether it does.
    """
    text = model.config.get_text_config()
    if (
        model.config._attn_implementation not in ("sdpa", "eager")
        or windowed(text)
        or hasattr(text, "output_router_logits")  # its loss counts tokens by the rows' own mask
    ):
        return False
    twice = model.forward

    @functools.wraps(type(model).forward)  # `generate` looks at the signature
    def forward(
        self: Any,
        *args: Any,
        input_ids: Any = None,
        attention_mask: Any = None,
        labels: Any = None,
        fused_lm_head: bool = False,
        **more: Any,
    ) -> Any:
        given = {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels, **more}
        if not fused_lm_head:
            known = {name: value for name, value in given.items() if value is not None}
            return twice(*args, **known)
        rows = _Rows(input_ids, attention_mask, labels)
        found = twice(
            **more,
            input_ids=rows.ids,
            position_ids=rows.positions,
            attention_mask=rows.mask(self),
            shift_labels=rows.labels,
            fused_lm_head=True,
        )
        for name in PER_TOKEN:
            if name in found:
                found[name] = rows.apart(found[name])
        return found

    return replace_if_alike(model, forward, _pair(model), tolerance())


class _Rows:
    """The rows of a batch of pairs with one prompt each; chosen answers are its first half."""

    def __init__(self, input_ids: Any, attention_mask: Any, labels: Any) -> None:
        import torch

        pairs, self.width = len(input_ids) // 2, input_ids.shape[1]
        device = input_ids.device
        ends = attention_mask.sum(dim=1)
        starts = (labels != -100).int().argmax(dim=1)[:pairs]  # of a pair's both rows
        chosen, rejected = (side - starts for side in ends.chunk(2))
        longest = int((starts + chosen + 1 + rejected).max())
        self.ids = input_ids.new_zeros((pairs, longest))
        self.positions = input_ids.new_zeros((pairs, longest))
        self.labels = input_ids.new_full((pairs, longest), -100)
        # 0 is the prompt but for its last token, 1 and 2 the answers after it, -1 what is padded
        self.part = input_ids.new_full((pairs, longest), -1)
        sizes = zip(starts.tolist(), chosen.tolist(), rejected.tolist(), strict=True)
        for pair, (start, first, second) in enumerate(sizes):
            last = start - 1  # of the prompt; it predicts the first token of an answer
            self.ids[pair, :last] = input_ids[pair, :last]
            self.positions[pair, :last] = torch.arange(last, device=device)
            self.part[pair, :last] = 0
            for answer, row, begin, count in (
                (1, pair, last, first),
                (2, pairs + pair, start + first, second),
            ):
                here, there = slice(begin, begin + 1 + count), slice(last, start + count)
                self.ids[pair, here] = input_ids[row, there]
                self.positions[pair, here] = torch.arange(last, start + count, device=device)
                self.part[pair, here] = answer
                self.labels[pair, begin : begin + count] = labels[row, start : start + count]
        # Rows and places that predict the chosen answers' tokens, then the rejected ones'.
        self.to = (labels[:, 1:] != -100).nonzero(as_tuple=True)
        answers = [(self.labels != -100) & (self.part == answer) for answer in (1, 2)]
        found = [answer.nonzero(as_tuple=True) for answer in answers]
        self.source = tuple(torch.cat(places) for places in zip(*found, strict=True))

    def mask(self, model: Any) -> Any:
        """Return what each token may see, (pairs, 1, tokens, tokens), in the form that the model's
        attention takes.
        """
        import torch

        part = self.part
        same = part.unsqueeze(2) == part.unsqueeze(1)
        seen = (same | (part == 0).unsqueeze(1)).tril()
        itself = torch.eye(part.shape[1], dtype=torch.bool, device=part.device)
        seen = (seen | itself).unsqueeze(1)  # so that padding sees something
        if model.config._attn_implementation == "sdpa":
            return seen
        return torch.zeros(seen.shape, dtype=model.dtype, device=seen.device).masked_fill(
            ~seen, torch.finfo(model.dtype).min
        )

    def apart(self, values: Any) -> Any:
        """Return values by token as those of the given rows, (2 x pairs, width - 1)."""
        apart = values.new_zeros((2 * len(self.ids), self.width - 1))
        return apart.index_put(self.to, values[self.source])


def _pair(model: Any) -> dict[str, Any]:
    """Return a batch of one pair, on which sharing the prompt is tried."""
    import torch

    device, words = model.device, model.config.get_text_config().vocab_size
    ids = (torch.arange(2 * TRIED, device=device).reshape(2, TRIED) * 7919 + 11) % words
    start = TRIED // 2
    ids[1, :start] = ids[0, :start]
    mask = torch.ones_like(ids)
    ids[1, -3:], mask[1, -3:] = 0, 0  # the rejected answer is shorter
    labels = ids.masked_fill(mask == 0, -100)
    labels[:, :start] = -100
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}
