"""Preference pairs as tokens, and their log-probabilities under a model: what DPO trains on, and
what its reference provides.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bezoar import precision, progress
from bezoar.errors import UserError
from bezoar.files import canonical, sha256_text
from bezoar.readers import numbered, read_jsonl
from bezoar.training.template import Template, text_of
from bezoar.training.tokenizer import common, encode


def tokenize(
    rows: list[dict[str, Any]], template: Template, tokenizer: Any, recipe: Mapping[str, Any]
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Return the pairs that fit, each {prompt, chosen, rejected (texts), row (from 1), ids:
    {prompt, chosen, rejected}}, both answers with EOS; and counts.

    A prompt longer than `max_prompt_length` or a pair longer than `max_length` (tokens) is left
    out.
    """
    counts = {"rows": len(rows), "prompt_too_long": 0, "too_long": 0}
    kept = []
    for number, row in enumerate(rows, start=1):
        for column in ("prompt", "chosen", "rejected"):
            text_of(row, column, f"dpo: pair {number}")
        prompt = template.pieces(row["prompt"])
        start = encode(tokenizer, prompt)
        whole = {
            side: [*encode(tokenizer, [*prompt, (row[side], False)]), tokenizer.eos_token_id]
            for side in ("chosen", "rejected")
        }
        if len(start) > recipe["max_prompt_length"]:
            counts["prompt_too_long"] += 1
        elif max(map(len, whole.values())) > recipe["max_length"]:
            counts["too_long"] += 1
        else:
            shared = min(common(start, ids) for ids in whole.values())
            ids = {"prompt": start[:shared]} | {
                side: found[shared:] for side, found in whole.items()
            }
            texts = {"prompt": template.prompt(row["prompt"])} | {
                side: row[side] for side in ("chosen", "rejected")
            }
            kept.append({**texts, "row": number, "ids": ids})
    return kept, counts


def columns(pairs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the pairs as TRL's DPOTrainer trains on them: token ids by side, and the reference's
    log-probabilities where they are known.
    """
    return [
        {f"{side}_ids": ids for side, ids in pair["ids"].items()}
        | {name: value for name, value in pair.items() if name.startswith("ref_")}
        for pair in pairs
    ]


def length(pair: dict[str, Any]) -> int:
    """Return the number of tokens of the longer sequence, to which a batch is padded."""
    return len(pair["ids"]["prompt"]) + max(
        len(pair["ids"]["chosen"]), len(pair["ids"]["rejected"])
    )


def key(pair: dict[str, Any], weights: str) -> str:
    """Return the sha256 that identifies a pair's tokens under the model with sha256 `weights`."""
    return sha256_text(canonical([weights, pair["ids"]]))


def score(
    model: Any, pairs: list[dict[str, Any]], pad: int, batch_size: int
) -> list[tuple[float, float]]:
    """Return (log-probability of the chosen answer, of the rejected one) in nats for each pair, as
    TRL's DPOTrainer computes them.

    `model` carries TRL's fused head (`add_fused_lm_head`). Pairs are batched by length; the order
    of the result is that of `pairs`.
    """
    import torch
    from trl.trainer.dpo_trainer import DataCollatorForPreference

    collate = DataCollatorForPreference(pad_token_id=pad)
    order = sorted(range(len(pairs)), key=lambda index: -length(pairs[index]))
    found: list[tuple[float, float]] = [(0.0, 0.0)] * len(pairs)
    device = model.device
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        batch = collate(columns([{"ids": pairs[index]["ids"]} for index in chosen]))
        batch = {name: tensor.to(device) for name, tensor in batch.items()}
        labels = batch["input_ids"].masked_fill(batch.pop("completion_mask") == 0, -100)
        with torch.no_grad(), precision.autocast(device):
            sums = (
                model(**batch, labels=labels, use_cache=False, fused_lm_head=True)
                .log_probs.float()
                .sum(dim=1)
                .cpu()
            )
        if not sums.isfinite().all():
            what, instead = "preferences: a log-probability", "a base in bfloat16 (base: dtype)"
            raise UserError(precision.overflow(what, instead))
        for place, index in enumerate(chosen):
            found[index] = (float(sums[place]), float(sums[place + len(chosen)]))
        progress.advance(len(chosen))
    return found


def read_reference(
    path: Path, pairs: list[dict[str, Any]], weights: str
) -> list[tuple[float, float]]:
    """Return the stored reference log-probabilities of `pairs`; raise `UserError` naming the first
    pair that has none.
    """
    stored: dict[str, tuple[float, float]] = {}
    for where, row in numbered(path, read_jsonl(path)):
        values = [row.get(side) for side in ("chosen", "rejected")]
        if not isinstance(row.get("key"), str) or not all(map(_finite, values)):
            raise UserError(
                f"{where}: expected key (text), chosen and rejected (nats); run"
                " score_reference.py again"
            )
        stored[row["key"]] = (float(row["chosen"]), float(row["rejected"]))
    found = []
    for number, pair in enumerate(pairs, start=1):
        logps = stored.get(key(pair, weights))
        if logps is None:
            raise UserError(
                f"{path}: pair {number} has no reference log-probabilities under these weights,"
                " this template and these lengths; run score_reference.py again"
            )
        found.append(logps)
    return found


def _finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
