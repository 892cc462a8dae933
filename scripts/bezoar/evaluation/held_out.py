"""DPO's child beside its parent on held-out pairs: preference accuracy with paired intervals, from
the margins that training kept.
"""

from typing import Any

from bezoar.evaluation.statistics import bootstrap_mean, paired_difference


def compared(found: dict[str, Any], seed: int) -> dict[str, Any]:
    """Return {pairs, parent, child, difference, kl_nats_per_token} from dpo/held_out.json; a pair
    is right if its margin is above zero.
    """
    parent, child = ([float(margins[side] > 0) for margins in found["margins"]] for side in (0, 1))
    return {
        "pairs": len(parent),
        "parent": bootstrap_mean(parent, seed),
        "child": bootstrap_mean(child, seed),
        "difference": paired_difference(child, parent, seed),
        "kl_nats_per_token": found["kl_nats_per_token"],
    }
