"""Preference pairs with their prompt computed once.

TRL makes two rows of a pair, prompt + chosen and prompt + rejected, and computes the prompt twice.
Here both answers follow one prompt: its last token is repeated before the rejected answer, and
positions and attention (`bezoar.training.padding_free`) keep the answers apart, so that every token
of an answer sees what it saw in a row of its own; nothing is padded. The model is asked for the
same rows and returns the same numbers up to rounding, log-probabilities and gradients; only a
recipe with dropout, which ours is not, draws one noise for the prompt in place of two. Whether that
is so is not believed but tried: a model that answers otherwise keeps its two rows.
"""

import functools
from typing import Any

from bezoar.training import padding_free
from bezoar.training.forward_pass import replace_if_alike, tolerance

TRIED = 24  # tokens of each row of the pair that is tried
PER_TOKEN = ("log_probs", "entropy", "log_sum_sq_probs", "mean_logits", "is_top1", "label_mask")


def share(model: Any) -> bool:
    """Have `model`, which carries TRL's fused head, compute the prompt of a pair once; return
    whether it does.
    """
    if not padding_free.prepare(model):
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
            row_lengths=rows.lengths,
            shift_labels=rows.labels,
            fused_lm_head=True,
        )
        for name in PER_TOKEN:
            if name in found:
                found[name] = rows.apart(found[name])
        return found

    return replace_if_alike(model, forward, _pair(model), tolerance())


class _Rows:
    """The pairs of a batch laid end to end, (1, tokens): of each its prompt but for the last token,
    then twice that token and an answer. Chosen answers are the first half of the given batch.
    """

    def __init__(self, input_ids: Any, attention_mask: Any, labels: Any) -> None:
        import torch

        pairs, self.shape = len(input_ids) // 2, (len(input_ids), input_ids.shape[1] - 1)
        ends = attention_mask.sum(dim=1).tolist()
        starts = (labels != -100).int().argmax(dim=1).tolist()
        self.lengths: list[tuple[int, ...]] = []
        places: list[tuple[int, range]] = []  # rows, and tokens of them
        for pair in range(pairs):
            rows, last = (pair, pairs + pair), starts[pair] - 1
            places += [(pair, range(last)), *((row, range(last, ends[row])) for row in rows)]
            self.lengths.append((last, *(ends[row] - last for row in rows)))
        device = input_ids.device
        row = torch.cat([torch.full((len(tokens),), row) for row, tokens in places]).to(device)
        token = torch.cat([torch.arange(t.start, t.stop) for _, t in places]).to(device)
        self.ids = input_ids[row, token].unsqueeze(0)
        self.positions = token.unsqueeze(0)
        following = torch.nn.functional.pad(labels, (0, 1), value=-100)[row, token + 1]
        self.labels = following.unsqueeze(0)
        self.answers = following != -100
        self.to = (row[self.answers], token[self.answers])

    def apart(self, values: Any) -> Any:
        """Return values by token as those of the given rows, (2 x pairs, width - 1)."""
        return values.new_zeros(self.shape).index_put(self.to, values[0, self.answers])


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
