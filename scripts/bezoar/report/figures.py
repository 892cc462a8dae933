"""The report's figures of models, judges and learning, from its artifacts; those of the data are
drawn by `data_section`.
"""

from typing import Any

from bezoar.report import plots

Rows = list[dict[str, Any]]
BRIDGE = "bridge "  # before a column's name


def against(difference: dict[str, Any]) -> str:
    """Return what a paired difference compares, in words."""
    return f"{difference['candidate']} − {difference['baseline']}".replace("openbezoar-", "")


def compared(lm_eval: dict[str, Any], chat: dict[str, Any]) -> dict[str, str]:
    """Return the forest plots of both benchmarks' paired differences."""
    harness, rated = lm_eval["differences"], chat["differences"]
    return {
        "harness": plots.differences(
            [against(d) for d in harness],
            [d["mean_of_tasks"] for d in harness],
            "difference, mean of tasks",
        ),
        "chat": plots.differences([against(d) for d in rated], rated, "difference in rating"),
    }


def mean(rated: dict[str, Any]) -> float:
    """Return the mean of ratings, or NaN, which leaves a gap, if there is none."""
    return float("nan") if rated["mean"] is None else float(rated["mean"])


def by_category(chat: dict[str, Any]) -> dict[str, str]:
    """Return the ratings by category, as radar and as bars."""
    models = {name: model["categories"] for name, model in chat["models"].items()}
    names = list(next(iter(models.values())))
    return {
        "radar": plots.radar(
            names, {model: [mean(table[c]) for c in names] for model, table in models.items()}, 10
        ),
        "bars": plots.bars(
            names,
            {model: [table[c] for c in names] for model, table in models.items()},
            "rating, 1 to 10",
        ),
    }


def learned(learning: dict[str, Any]) -> dict[str, str]:
    """Return right answers by state and set, and what was forgotten of each set."""
    sets = [name for name in learning["states"]["base"] if name != "preferences"]
    means = [
        [*(state[name]["right"]["mean"] for name in sets), state["preferences"]["accuracy"]["mean"]]
        for state in learning["states"].values()
    ]
    lost = learning["forgetting"]
    own = [d for d in learning["differences"] if d["own"] and d["metric"] in ("right", "accuracy")]
    return {
        "right": plots.matrix(
            list(learning["states"]),
            [*sets, "preferences"],
            means,
            [["–" if mean is None else f"{mean:.2f}" for mean in line] for line in means],
        ),
        "own": plots.differences(
            [f"{d['set']}: {against(d)}" for d in own], own, "difference of shares"
        ),
        "forgotten": plots.differences(
            [d["set"] for d in lost], lost, "change of the share of right answers"
        ),
    }


def validation(curves: dict[str, Rows]) -> dict[str, str]:
    """Return the validation losses of all stages on shared axes; `curves` is stage -> log. DPO is
    not among them: its loss is of another kind.
    """
    series = {}
    for stage, rows in curves.items():
        points = [(row["step"], row["eval_loss"]) for row in rows if "eval_loss" in row]
        if points and not any("rewards/margins" in row for row in rows):
            last = max(step for step, _ in points) or 1
            series[stage] = (
                [100 * step / last for step, _ in points],
                [loss for _, loss in points],
            )
    if not series:
        return {}
    return {"validation": plots.curves(series, "nats per token", "percent of the stage's steps")}


def judged_again(bridges: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Return the offsets of each other judge by category; `bridges` is column -> comparison."""
    return {
        f"{BRIDGE}{name}": plots.differences(
            ["all", *bridge["categories"]],
            [bridge["offset"], *bridge["categories"].values()],
            "other rating less the main one",
        )
        for name, bridge in bridges.items()
    }


def curve(rows: Rows) -> str:
    """Return the figure of one stage: losses in nats per token, or of preference training its
    margins, accuracies and losses, which have no unit in common.
    """
    names = {"loss": "training loss", "eval_loss": "validation loss"}
    if any("rewards/margins" in row for row in rows):
        names = {
            "rewards/margins": "reward margin",
            "eval_rewards/accuracies": "share of held-out pairs whose margin grew",
            "loss": "training loss",
        }
    series = {}
    for key, label in names.items():
        points = [(row["step"], row[key]) for row in rows if key in row]
        if points:
            series[label] = ([step for step, _ in points], [value for _, value in points])
    return plots.curves(series, "nats per token" if "eval_loss" in names else "")
