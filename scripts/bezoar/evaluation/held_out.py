"""DPO's policy beside its reference on held-out pairs: preference accuracy with paired intervals,
from the margins that training kept.
"""

from typing import Any

from bezoar.evaluation.statistics import SHARES, bootstrap_mean, paired_difference


def compared(found: dict[str, Any], seed: int) -> dict[str, Any]:
    """Return {pairs, reference, policy, difference, kl_nats_per_token} from dpo/held_out.json; a
    pair is right if its margin is above zero.
    """
    reference, policy = (
        [float(margins[side] > 0) for margins in found["margins"]] for side in (0, 1)
    )
    return {
        "pairs": len(reference),
        "reference": bootstrap_mean(reference, seed, bounds=SHARES),
        "policy": bootstrap_mean(policy, seed, bounds=SHARES),
        "difference": paired_difference(policy, reference, seed),
        "kl_nats_per_token": found["kl_nats_per_token"],
    }
