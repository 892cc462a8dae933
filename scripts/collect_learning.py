"""Compare what the model has learned after each stage with the base and with the stage before it,
in paired differences with intervals.

Usage: collect_learning.py --measured …/learning/base.json … --recipe '{"seed": 0, …}' --code …
--output …/learning.json --receipt …

Files come in the order of training. For each state and held-out set: means with bootstrap intervals
over items; for each state against the base and against the state before it: paired differences.
`own` says which set a stage was trained on, `forgetting` how much later stages lost on a set after
its own stage.
"""

from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from bezoar import program
from bezoar.arguments import by_stem
from bezoar.evaluation.statistics import SHARES, bootstrap_mean, paired_difference
from bezoar.files import write_json
from bezoar.provenance.receipt import Receipt, stage_parser
from bezoar.readers import read_json


class Recipe(TypedDict):
    """The settings of the stage, with their units."""

    seed: int


OWN = {
    "lamini": "lamini",
    "orca": "orca",
    "evol": "evol",
    "openbezoar-hh-rlhf-sft": "preferences",
    "openbezoar-hh-rlhf-dpo": "preferences",
}
METRICS = {
    "lamini": ("loss", "exact_match", "right"),
    "orca": ("loss", "exact_match", "right"),
    "evol": ("loss", "exact_match", "right"),
    "preferences": ("accuracy", "margin"),
}
NATS = ("loss", "margin")  # no largest difference; the others are shares

Measured = dict[str, dict[str, dict[str, list[float]]]]


def table(measured: Measured, seed: int) -> dict[str, Any]:
    """Return state -> set -> metric -> {mean, low, high, n}."""
    return {
        state: {
            name: {
                metric: bootstrap_mean(
                    values[metric], seed, bounds=None if metric in NATS else SHARES
                )
                for metric in METRICS[name]
            }
            for name, values in sets.items()
        }
        for state, sets in measured.items()
    }


def differences(measured: Measured, seed: int) -> list[dict[str, Any]]:
    """Return paired differences of each state from the base and from the state before it, on every
    set.
    """
    states = list(measured)
    pairs = dict.fromkeys(
        [*((state, states[0]) for state in states[1:]), *zip(states[1:], states[:-1], strict=True)]
    )
    return [
        {
            "candidate": candidate,
            "baseline": baseline,
            "set": name,
            "metric": metric,
            "own": OWN.get(candidate) == name,
            **paired_difference(
                measured[candidate][name][metric],
                measured[baseline][name][metric],
                seed,
                None if metric in NATS else 1.0,
            ),
        }
        for candidate, baseline in pairs
        for name in measured[candidate]
        for metric in METRICS[name]
    ]


def forgetting(measured: Measured, seed: int) -> list[dict[str, Any]]:
    """Return how the last state differs, on each SFT set, from the state right after the set's own
    stage.
    """
    last = list(measured)[-1]
    return [
        {
            "set": name,
            "after": name,
            "last": last,
            "metric": "right",
            **paired_difference(measured[last][name]["right"], measured[name][name]["right"], seed),
        }
        for name in ("lamini", "orca", "evol")
        if name in measured
    ]


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and compare."""
    parser = stage_parser(__doc__, Recipe)
    parser.add_argument(
        "--measured",
        type=Path,
        nargs="+",
        required=True,
        help="measurements, one file per state, in the order of training",
    )
    parser.add_argument("--output", type=Path, required=True, help="table to write, JSON")
    args = parser.parse_args(argv)
    seed = args.recipe["seed"]
    with Receipt(
        args.receipt,
        stage="learning_table",
        recipe=args.recipe,
        code=args.code,
        inputs={"measured": args.measured},
        outputs={"output": args.output},
    ):
        measured = {name: read_json(path) for name, path in by_stem(args.measured).items()}
        write_json(
            args.output,
            {
                "states": table(measured, seed),
                "differences": differences(measured, seed),
                "forgetting": forgetting(measured, seed),
            },
        )


if __name__ == "__main__":
    program.run(main)
