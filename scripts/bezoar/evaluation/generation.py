"""Greedy and sampled generation, and log-probabilities, in batches of like length; with any causal
language model.
"""

from collections.abc import Sequence
from typing import Any


def generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    max_new_tokens: int,
    batch_size: int,
    temperature: float = 0.0,
    seed: int = 0,
) -> list[tuple[str, str]]:
    """Return (text, stop reason) for each prompt, in order; the reason is `eos` or `length`.

    Temperature 0 is greedy. Batches are left-padded and hold prompts of like length; sampling is
    seeded once a batch.
    """
    import torch

    encoded = [tokenizer(prompt)["input_ids"] for prompt in prompts]
    order = sorted(range(len(prompts)), key=lambda index: (len(encoded[index]), index))
    results: list[tuple[str, str]] = [("", "length")] * len(prompts)
    sampling = (
        {"do_sample": True, "temperature": temperature, "top_k": 0}
        if temperature > 0
        else {"do_sample": False}
    )
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        width = max(len(encoded[index]) for index in chosen)
        ids = torch.full((len(chosen), width), tokenizer.pad_token_id)
        mask = torch.zeros((len(chosen), width), dtype=torch.long)
        for row, index in enumerate(chosen):
            ids[row, width - len(encoded[index]) :] = torch.tensor(encoded[index])
            mask[row, width - len(encoded[index]) :] = 1
        torch.manual_seed(seed + start)
        with torch.inference_mode():
            out = model.generate(
                input_ids=ids.to(model.device),
                attention_mask=mask.to(model.device),
                max_new_tokens=max_new_tokens,
                use_cache=True,
                pad_token_id=tokenizer.pad_token_id,
                eos_token_id=tokenizer.eos_token_id,
                **sampling,
            )
        for row, index in enumerate(chosen):
            new = out[row, width:].tolist()
            ended = tokenizer.eos_token_id in new
            new = new[: new.index(tokenizer.eos_token_id)] if ended else new
            results[index] = (
                tokenizer.decode(new, skip_special_tokens=True),
                "eos" if ended else "length",
            )
    return results


def log_probabilities(
    model: Any, tokenizer: Any, pairs: Sequence[tuple[str, str]], batch_size: int
) -> list[tuple[float, int]]:
    """Return (sum of log-probabilities in nats, tokens) of each completion with its EOS, given its
    prompt.
    """
    import torch

    rows: list[tuple[list[int], int]] = []
    for prompt, completion in pairs:
        ids = [*tokenizer(prompt + completion)["input_ids"], tokenizer.eos_token_id]
        rows.append((ids, len(tokenizer(prompt)["input_ids"])))
    order = sorted(range(len(pairs)), key=lambda index: (len(rows[index][0]), index))
    results = [(0.0, 0)] * len(pairs)
    for start in range(0, len(order), batch_size):
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
            results[index] = (
                float(logps[place, prefix - 1 : length - 1].double().sum()),
                length - prefix,
            )
    return results
