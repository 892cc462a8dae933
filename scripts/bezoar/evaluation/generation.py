"""Greedy and sampled generation, and log-probabilities, in batches of like length, with any causal
language model.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from bezoar import progress
from bezoar.errors import UserError
from bezoar.precision import overflow
from bezoar.training.tokenizer import Text, common, encode
from bezoar.training.weights import ends, positions, require_positions

ASKED = 16  # tokens from one look at an answer's text, decoded from its beginning, to the next


def generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Text],
    max_new_tokens: int,
    batch_size: int,
    temperature: float | Sequence[float] = 0.0,
    seed: int = 0,
    bos: bool = True,
    top_k: int = 0,
    complete: Callable[[str], bool] | None = None,
) -> list[tuple[str, str]]:
    """Return (text, stop reason) for each prompt, in order; the reason is `eos` or `length`.

    An answer ends at any token that the tokenizer or generation_config.json calls an end, and where
    the model's context does; and once `complete`, asked every `ASKED` tokens, says of the text so
    far that nothing is wanted of what follows, which saves time and changes nothing before it. The
    temperature is one for all prompts or one for each: 0 is greedy, any other draws from the
    `top_k` likeliest tokens, or from all for 0. Batches are left-padded and hold prompts of like
    length, whatever their temperatures; sampling is seeded once per batch. `bos` is False for
    prompts whose template writes BOS itself, if there is any. An embedding may have rows that the
    tokenizer has no piece for; such a token is no text. Raise `UserError` if a prompt fills the
    model's context.
    """
    import torch

    encoded = [encode(tokenizer, prompt, bos) for prompt in prompts]
    limits = room(model, encoded, max_new_tokens)
    stops = sorted({tokenizer.eos_token_id} | ends(model))
    known = set(tokenizer.get_vocab().values())
    results: list[tuple[str, str]] = [("", "length")] * len(prompts)
    each = [temperature] * len(prompts) if isinstance(temperature, int | float) else temperature
    # The temperatures are applied by `at_temperatures`.
    sampling = (
        {"do_sample": True, "temperature": 1.0, "top_k": top_k, "top_p": 1.0}
        if any(each)
        else {"do_sample": False}
    )

    def read(tokens: list[int]) -> tuple[str, bool]:
        """Return the text of an answer's tokens, and whether one of them ends it."""
        end = next((place for place, token in enumerate(tokens) if token in stops), None)
        pieces = [token for token in tokens[:end] if token in known]
        return tokenizer.decode(pieces, skip_special_tokens=True), end is not None

    groups = list(batches(encoded, limits, batch_size))
    for start, chosen in progress.track(groups, f"answer {len(prompts):,} prompts", unit="batches"):
        width = max(len(encoded[index]) for index in chosen)
        ids = torch.full((len(chosen), width), tokenizer.pad_token_id)
        mask = torch.zeros((len(chosen), width), dtype=torch.long)
        for row, index in enumerate(chosen):
            ids[row, width - len(encoded[index]) :] = torch.tensor(encoded[index])
            mask[row, width - len(encoded[index]) :] = 1
        processors: list[Any] = [require_numbers]
        criteria: list[Any] = []
        if any(each):
            processors.append(at_temperatures([each[index] for index in chosen]))
        if complete:
            criteria.append(completed(lambda tokens: complete(read(tokens)[0]), width))
        torch.manual_seed(seed + start)
        with torch.inference_mode():
            out = model.generate(
                input_ids=ids.to(model.device),
                attention_mask=mask.to(model.device),
                max_new_tokens=limits[chosen[0]],
                use_cache=True,
                pad_token_id=tokenizer.pad_token_id,
                eos_token_id=stops,
                logits_processor=processors,
                stopping_criteria=criteria,
                **sampling,
            )
        for row, index in enumerate(chosen):
            text, ended = read(out[row, width:].tolist())
            results[index] = (text, "eos" if ended else "length")
    return results


def require_numbers(_: Any, scores: Any) -> Any:
    """Return the scores of the next token; raise `UserError` if one is not a number."""
    if scores.isnan().any():
        raise UserError(overflow("a score of the next token"))
    return scores


def completed(complete: Callable[[list[int]], bool], width: int) -> Callable[[Any, Any], Any]:
    """Return a stopping criterion that asks, of each row, every `ASKED` tokens, whether its tokens
    after the first `width` are complete.
    """
    import torch

    def process(ids: Any, _: Any) -> Any:
        asked = (ids.shape[1] - width) % ASKED == 0
        rows = ids[:, width:].tolist() if asked else [[]] * len(ids)
        return torch.tensor([asked and complete(row) for row in rows], device=ids.device)

    return process


def at_temperatures(temperatures: Sequence[float]) -> Callable[[Any, Any], Any]:
    """Return a processor of scores (rows, vocabulary) that divides each row by its temperature, and
    leaves one of temperature 0 its likeliest token alone.
    """
    import torch

    def process(_: Any, scores: Any) -> Any:
        by_row = torch.tensor(temperatures, device=scores.device)[:, None]
        likeliest = torch.full_like(scores, -math.inf)
        likeliest.scatter_(1, scores.argmax(-1, keepdim=True), 0.0)
        return torch.where(by_row > 0, scores / by_row, likeliest)

    return process


def room(model: Any, encoded: Sequence[list[int]], max_new_tokens: int) -> list[int]:
    """Return how many tokens each answer may have: `max_new_tokens`, or what a prompt leaves of the
    model's context; a line says how many answers that shortens.
    """
    limit = positions(model)
    if limit is None:
        return [max_new_tokens] * len(encoded)
    for number, ids in enumerate(encoded, start=1):
        if len(ids) >= limit:
            raise UserError(
                f"prompt {number} has {len(ids)} tokens, and the model was made for {limit}; take a"
                " model with a longer context, or shorter prompts"
            )
    found = [min(max_new_tokens, limit - len(ids)) for ids in encoded]
    if cut := sum(count < max_new_tokens for count in found):
        print(
            f"{cut} of {len(found)} prompts leave fewer than max_new_tokens {max_new_tokens} of the"
            f" model's {limit} tokens; their answers end there",
            flush=True,
        )
    return found


def batches(
    encoded: Sequence[list[int]], limits: Sequence[int], batch_size: int
) -> Iterator[tuple[int, list[int]]]:
    """Yield (place of its first, indices) of batches of like length, whose answers may all be
    equally long.
    """
    order = sorted(range(len(encoded)), key=lambda index: (len(encoded[index]), index))
    start = 0
    while start < len(order):
        limit = limits[order[start]]
        chosen = [
            index for index in order[start : start + batch_size] if limits[index] == limit
        ]  # limits fall with length, so those that differ come last
        yield start, chosen
        start += len(chosen)


def log_probabilities(
    model: Any, tokenizer: Any, pairs: Sequence[tuple[Text, str]], batch_size: int
) -> list[tuple[float, int]]:
    """Return (sum of log-probabilities in nats, tokens) of each completion with its EOS, given its
    prompt.
    """
    import torch

    rows: list[tuple[list[int], int]] = []
    for prompt, completion in pairs:
        pieces = [(prompt, False)] if isinstance(prompt, str) else list(prompt)
        ids = [*encode(tokenizer, [*pieces, (completion, False)]), tokenizer.eos_token_id]
        rows.append((ids, common(encode(tokenizer, prompt), ids)))
    require_positions("log-probabilities: texts", model, (len(ids) for ids, _ in rows))
    order = sorted(range(len(pairs)), key=lambda index: (len(rows[index][0]), index))
    results = [(0.0, 0)] * len(pairs)
    for start in progress.track(
        range(0, len(order), batch_size), f"score {len(order):,} answers", unit="batches"
    ):
        chosen = order[start : start + batch_size]
        width = max(len(rows[index][0]) for index in chosen)
        batch = torch.full((len(chosen), width), tokenizer.pad_token_id)
        mask = torch.zeros((len(chosen), width), dtype=torch.long)
        for place, index in enumerate(chosen):
            length = len(rows[index][0])
            batch[place, :length], mask[place, :length] = torch.tensor(rows[index][0]), 1
        with torch.inference_mode():
            logits = model(
                input_ids=batch.to(model.device),
                attention_mask=mask.to(model.device),
                use_cache=False,
            ).logits
            logps = (
                torch.log_softmax(logits[:, :-1].float(), -1)
                .gather(2, batch[:, 1:, None].to(model.device))[..., 0]
                .cpu()
            )
        for place, index in enumerate(chosen):
            length, prefix = len(rows[index][0]), rows[index][1]
            total = float(logps[place, prefix - 1 : length - 1].double().sum())
            if not math.isfinite(total):
                raise UserError(overflow("a log-probability"))
            results[index] = (total, length - prefix)
    return results
