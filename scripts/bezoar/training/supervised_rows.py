"""Rows of supervised fine-tuning as tokens."""

from typing import Any

from bezoar.training.template import Template, training_text
from bezoar.training.tokenizer import common, encode

COUNTED = ("rows", "not_accepted", "no_supervised_token", "truncated", "training", "validation")


def tokenize(
    rows: list[dict[str, Any]], template: Template, tokenizer: Any, max_length: int
) -> tuple[list[dict], dict[str, int]]:
    """Return rows of input_ids and completion_mask, ending in EOS, cut to `max_length` tokens, each
    with its `row` from 1; and counts by reason.
    """
    counts = dict.fromkeys(COUNTED, 0)
    kept = []
    for number, row in enumerate(rows, start=1):
        counts["rows"] += 1
        if row.get("gpt4_status", "Accept") != "Accept":
            counts["not_accepted"] += 1
            continue
        instruction, system, response = training_text(row, f"sft: row {number}")
        prompt = template.pieces(instruction, system)
        ids = [*encode(tokenizer, [*prompt, (response, False)]), tokenizer.eos_token_id]
        start = common(encode(tokenizer, prompt), ids)
        if not response or start >= min(len(ids) - 1, max_length):
            counts["no_supervised_token"] += 1
            continue
        counts["truncated"] += len(ids) > max_length
        ids = ids[:max_length]
        mask = [0] * start + [1] * (len(ids) - start)
        kept.append({"row": number, "input_ids": ids, "completion_mask": mask})
    return kept, counts
