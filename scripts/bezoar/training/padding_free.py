"""Rows of a training pass, concatenated without padding.

Rows of unlike length in one batch cost padding. Sorting a run's rows by length saves it, and makes
batches that teach less than random ones. Laid end to end they cost neither: every layer but
attention works token by token, and attention is computed row by row. Losses and gradients are those
of padded rows up to rounding. It holds for attention that transformers looks up by name, with
positions that come as `position_ids` and no window. Whether that is so is not believed but tried: a
model that answers otherwise keeps its padding. An answer may differ by rounding, and a model that
has learnt little hardly attends; so it is tried, too, that what a token must not see changes no
bit, nor the positions that a padded row has anyway, and that another position changes some.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from bezoar.training.forward_pass import tolerance, tried, windowed

ATTENTION = "sdpa_by_row"  # the name by which transformers looks it up
TRIED = (12, 9)  # tokens of the rows that are tried


def prepare(model: Any) -> bool:
    """Have `model` take the batches of `collate` beside padded ones, whose padding must be at the
    right; return whether it does.
    """
    import torch
    from transformers import AttentionInterface
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    text = model.config.get_text_config()
    if (
        model.config._attn_implementation != "sdpa"
        or windowed(text)
        or hasattr(text, "output_router_logits")  # its loss counts tokens by the rows' own mask
    ):
        return False
    AttentionInterface.register(ATTENTION, _by_row)
    ids = [(place * 7919 + 11) % text.vocab_size for place in range(sum(TRIED))]
    middle = slice(TRIED[0], -1)  # depends neither on the first row nor on the last token
    unseen = [*((token + 1) % text.vocab_size for token in ids[: TRIED[0]]), *ids[TRIED[0] :]]

    def rows(of: list[int]) -> list[dict[str, list[int]]]:
        return [{"input_ids": of[: TRIED[0]]}, {"input_ids": of[TRIED[0] :]}]

    def scores(batch: dict[str, Any]) -> Any:
        given = {
            name: value.to(model.device) if torch.is_tensor(value) else value
            for name, value in batch.items()
            if name != "labels"
        }
        return model(**given, use_cache=False).logits.float().log_softmax(dim=-1)

    def padded(positions: bool = False) -> Any:
        collator = DataCollatorForLanguageModeling(pad_token_id=0, return_position_ids=positions)
        found = scores(collator(rows(ids)))
        return torch.cat([row[:size] for row, size in zip(found, TRIED, strict=True)])

    def together(of: list[int], last: int) -> Any:
        batch = collate(rows(of))
        batch["position_ids"][0, -1] = last
        return scores(batch)[0]

    def each() -> list[Any]:
        before = padded()
        model.set_attn_implementation(ATTENTION)
        place = TRIED[1] - 1
        after = [padded(), padded(positions=True), together(ids, place)]
        return [before, *after, together(unseen, 2 * place)]

    does = False
    if found := tried(model, each):
        expected, still, numbered, flat, blind = found
        does = (
            max(float((way - expected).abs().max()) for way in (still, flat)) <= tolerance()
            and torch.equal(numbered, still)
            and torch.equal(blind[middle], flat[middle])
            and not torch.equal(blind[-1], flat[-1])  # of the same row, at another place
        )
    if not does:
        model.set_attn_implementation("sdpa")
    return does


def collate(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return rows of `input_ids` and `labels` as a batch of one row, (1, tokens), with
    `position_ids` that begin anew and the rows' lengths; a row's first token has no label.

    The lengths are no tensor, so that no layer has to ask a GPU for them.
    """
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    batch = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)(list(rows))
    kept = {name: batch[name] for name in ("input_ids", "labels", "position_ids")}
    return kept | {"row_lengths": [(len(row["input_ids"]),) for row in rows]}


def _by_row(
    module: Any,
    query: Any,
    key: Any,
    value: Any,
    attention_mask: Any,
    row_lengths: list[tuple[int, ...]] | None = None,
    **more: Any,
) -> tuple[Any, None]:
    """Compute attention as `sdpa` does; of rows that are laid end to end, of each by itself.

    `row_lengths` has the tokens of each row; or of a beginning, and of each end that follows it and
    sees no other end. Takes (batch, heads, tokens, size) and returns (batch, tokens, heads, size),
    as transformers has it. Of padded rows transformers gives no mask here, and a causal layer needs
    none for padding at the right.
    """
    import torch
    from transformers import AttentionInterface

    sdpa = AttentionInterface()["sdpa"]
    if row_lengths is None:
        return sdpa(module, query, key, value, attention_mask, **more)

    def attended(states: Sequence[Any]) -> Any:
        return sdpa(module, *states, None, **more)[0]

    found, sizes = [], list(map(sum, row_lengths))
    rows = zip(*(states.split(sizes, dim=2) for states in (query, key, value)), strict=True)
    for row, (beginning, *ends) in zip(rows, row_lengths, strict=True):
        if not ends:
            found.append(attended(row))
        begin = beginning
        for end in ends:
            parts = [(0, beginning), (begin, end)]
            states = [torch.cat([held.narrow(2, *part) for part in parts], dim=2) for held in row]
            found.append(attended(states)[:, 0 if begin == beginning else beginning :])
            begin += end
    return torch.cat(found, dim=1), None
