"""A policy beside its reference on preference pairs that it was not trained on."""

import math
import random
from typing import Any

from bezoar import precision, progress
from bezoar.training import preference_pairs

KL_PAIRS = 64  # drawn ones, on whose chosen answers the divergence is measured


def compare(
    model: Any, pairs: list[dict[str, Any]], pad_id: int, batch_size: int
) -> dict[str, Any]:
    """Return {rows, margins, chosen_gain_nats, kl_nats_per_token, kl_tokens} of tokenised pairs
    that hold their log-probabilities under the reference, which is the model with its adapter
    switched off; print the accuracy of both.

    `rows` holds the row of each pair in the file of pairs, from 1; `margins` [reference, policy]:
    log-probability of the chosen answer less that of the rejected one, in nats. The gain is the
    mean log-probability of a chosen answer under the policy less that under the reference, the
    divergence KL(policy || reference).
    """
    model.eval()
    with progress.task("score the held-out pairs", len(pairs), "pairs"):
        scores = preference_pairs.score(model, pairs, pad_id, batch_size)
    policy = [chosen - rejected for chosen, rejected in scores]
    gains = [
        chosen - pair["ref_chosen_logps"] for (chosen, _), pair in zip(scores, pairs, strict=True)
    ]
    reference = [pair["ref_chosen_logps"] - pair["ref_rejected_logps"] for pair in pairs]
    before, after = (sum(margin > 0 for margin in of) / len(pairs) for of in (reference, policy))
    print(f"held-out accuracy {before:.3f} -> {after:.3f}", flush=True)
    divergence, tokens = 0.0, 0
    by_row = sorted(pairs, key=lambda pair: pair["row"])  # a draw depends on no other order
    drawn = random.Random(0).sample(by_row, min(KL_PAIRS, len(by_row)))
    for pair in progress.track(drawn, "measure the divergence", unit="pairs"):
        ours = _log_probabilities(model, pair["ids"])
        with model.disable_adapter():
            theirs = _log_probabilities(model, pair["ids"])
        divergence += float((ours.exp() * (ours - theirs)).sum())
        tokens += len(ours)
    return {
        "rows": [pair["row"] for pair in pairs],
        "margins": [[round(a, 6), round(b, 6)] for a, b in zip(reference, policy, strict=True)],
        "chosen_gain_nats": round(math.fsum(gains) / len(gains), 6),
        "kl_nats_per_token": round(divergence / tokens, 6),
        "kl_tokens": tokens,
    }


def _log_probabilities(model: Any, ids: dict[str, list[int]]) -> Any:
    """Return those of every token of the vocabulary at each token of the chosen answer, (tokens,
    vocabulary), float32.
    """
    import torch

    row = torch.tensor([ids["prompt"] + ids["chosen"]], device=model.device)
    with torch.no_grad(), precision.autocast(model.device):
        logits = model(input_ids=row, use_cache=False).logits[0, len(ids["prompt"]) - 1 : -1]
    return logits.float().log_softmax(-1)
