"""The report's first screen: time and price, all models over both benchmarks, verdicts, what was
substituted.
"""

import os
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import jinja2

from bezoar.report import plots

FEW, NEARLY_ALL = 0.05, 0.75  # shares
HARNESS, CHAT = "harness, mean of tasks", "chat rating, 1 to 10"


def sentence(benchmark: str, differences: list[tuple[str, str, dict[str, Any] | None]]) -> str:
    """Return one sentence on a benchmark; `differences` holds candidate, baseline and the paired
    difference with `mean`, `low`, `high` and `excludes_zero`, or None where it was not run.
    """
    known = [(one, other, d) for one, other, d in differences if d and d["mean"] is not None]
    clear = [
        f"{one} {'above' if d['mean'] > 0 else 'below'} {other}"
        for one, other, d in known
        if d["excludes_zero"]
    ]
    if not known:
        return f"{benchmark}: no paired difference was measured."
    if not clear:
        return f"{benchmark}: none of {len(known)} paired differences can be told from zero."
    return (
        f"{benchmark}: {len(clear)} of {len(known)} paired differences exclude zero"
        f" ({', '.join(clear)}); the intervals are not corrected for their number."
    )


def best(benchmark: str, means: dict[str, dict[str, Any] | None], digits: int) -> str:
    """Return one sentence on which model has the highest mean of a benchmark, and what it is."""
    known = {model: v["mean"] for model, v in means.items() if v and v["mean"] is not None}
    if not known:
        return f"{benchmark}: no model was measured."
    most = max(known.values())
    names = " and ".join(model for model, mean in known.items() if mean == most)
    return f"{benchmark}: the highest mean is {most:.{digits}f}, of {names}."


def longest(receipts: dict[str, dict[str, Any]], count: int = 3) -> list[tuple[str, float]]:
    """Return the stages that took longest, each with its minutes."""
    ordered = sorted(receipts, key=lambda name: (-receipts[name]["wall_s"], name))
    return [(name, receipts[name]["wall_s"] / 60) for name in ordered[:count]]


def used(facts: dict[str, Any]) -> dict[str, Any]:
    """Return how many answers of language models a stage used, how many of them it found stored,
    and what they cost.
    """
    return dict(facts.get("answers_used", {"answers": 0, "stored": 0, "usd": 0}))


def ran(receipts: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the days on which the stages ran (UTC), the commits of the code that they ran with,
    and how many answers of language models they found stored, of how many.
    """
    found = receipts.values()
    days = sorted({f"{datetime.fromtimestamp(t, UTC):%Y-%m-%d}" for t in span(receipts)})
    asked = [used(receipt["facts"]) for receipt in found]
    return {
        "days": days,
        "commits": sorted({r["git_commit"][:8] for r in found if r.get("git_commit")}),
        "answers": sum(facts["answers"] for facts in asked),
        "stored": sum(facts["stored"] for facts in asked),
    }


def cast(receipts: dict[str, dict[str, Any]], judge: str) -> dict[str, Any]:
    """Return who took which part: the base's file or directory and parameters, and the models that
    taught, rated rows and judged chat, each a list of names.
    """
    base = receipts.get("base", {"inputs": {}, "facts": {}})
    recipes = {name: receipt["recipe"] for name, receipt in receipts.items()}
    files = [name.removeprefix("data/") for name in base["inputs"].get("snapshot", {})]

    def models(stages: str, key: str) -> list[str]:
        return sorted(
            {r[key]["model"] for name, r in recipes.items() if name.startswith(stages) and key in r}
        )

    return {
        "base": [os.path.commonpath(files)] if files else [],
        "parameters": base["facts"].get("parameters"),
        "teacher": models("generate_", "teacher"),
        "rater": models("filter_", "rater"),
        "judge": [judge],
    }


def span(receipts: dict[str, dict[str, Any]]) -> tuple[float, float]:
    """Return when the first stage began and the last ended, in seconds of Unix time."""
    begun = [receipt["started_unix_s"] for receipt in receipts.values()]
    ended = [r["started_unix_s"] + r["wall_s"] for r in receipts.values()]
    return min(begun), max(ended)


def numbered(claims: list[dict[str, Any]]) -> list[tuple[str, list[int]]]:
    """Return (verdict, numbers of the claims that have it, from 1), by verdict."""
    found: dict[str, list[int]] = {}
    for number, claim in enumerate(claims, 1):
        found.setdefault(claim["verdict"], []).append(number)
    return sorted(found.items())


def warnings(
    chat: dict[str, Any], answered: dict[str, dict[str, Any]], description: dict[str, Any]
) -> list[str]:
    """Return a sentence for each sign that a rating says little: answers without text, and ratings
    that are nearly all the same.

    `answered` is model -> its mtbench/…/counts.json, `description` data/description.json.
    """
    found = []
    for model, counts in answered.items():
        given = counts.get("answers", counts.get("judgments", 0))
        if (empty := counts.get("empty_answers", 0)) > FEW * given:
            found.append(
                f"{empty} of {model}'s {given} answers have no text, and the judge rates them, too."
            )
    ratings: Counter[str] = Counter()
    for model in chat["models"].values():
        ratings.update(model.get("ratings", {}))
    filtered: Counter[str] = Counter()
    for scheme in description["schemes"].values():
        filtered.update(scheme["filter"]["ratings"])
    same = chat.get("same_prompts", {})
    if different := same.get("rated_differently"):
        found.append(
            f"The judge rated {different} of {same['shared']} prompts differently that were the"
            " same for several models: a difference may be its own."
        )
    for who, counted in (("judge", ratings), ("filter", filtered)):
        total = counted.total()
        if total and (most := counted.most_common(1)[0])[1] > NEARLY_ALL * total:
            found.append(
                f"{most[1]} of the {who}'s {total} ratings are {most[0]}: it hardly tells good from"
                " bad."
            )
    return found


def cut_off(receipts: dict[str, dict[str, Any]]) -> list[str]:
    """Return a sentence each if more than a few chat answers end where their limit of tokens does,
    or are empty because the model's reasoning had no end.
    """
    answered = {
        name.removeprefix("mtbench_answers_"): receipt
        for name, receipt in receipts.items()
        if name.startswith("mtbench_answers_") and "endings" in receipt["facts"]
    }
    total = sum(sum(receipt["facts"]["endings"].values()) for receipt in answered.values())
    limits = sorted({receipt["recipe"]["max_new_tokens"] for receipt in answered.values()})
    said = []
    for ending, what in {
        "length": f"end at the limit of {' or '.join(map(str, limits))} tokens",
        "reasoning": "are empty, because the reasoning before them had no end",
    }.items():
        cut = {model: r["facts"]["endings"].get(ending, 0) for model, r in answered.items()}
        if sum(cut.values()) > FEW * total:
            by = ", ".join(f"{model} {count}" for model, count in cut.items())
            said.append(f"{sum(cut.values())} of {total} chat answers {what} ({by}).")
    return said


def machine(hardware: dict[str, Any]) -> str:
    """Return a receipt's processor, cores and GPU, if it used one, in words."""
    words = f"{hardware['machine']}, {hardware['cores']} cores"
    return f"{words}, {hardware['gpu']}" if "gpu" in hardware else words


def section(
    environment: jinja2.Environment,
    claims: dict[str, Any],
    lm_eval: dict[str, Any],
    chat: dict[str, Any],
    receipts: dict[str, dict[str, Any]],
    deviations: list[dict[str, Any]],
    cautions: list[str],
) -> str:
    """Return the section as HTML."""
    found = list(receipts.values())
    begun, ended = span(receipts)
    models = list(chat["models"])
    panels = {
        HARNESS: [lm_eval["mean_of_tasks"].get(model) for model in models],
        CHAT: [chat["models"][model]["overall"] for model in models],
    }
    harness = [(d["candidate"], d["baseline"], d["mean_of_tasks"]) for d in lm_eval["differences"]]
    rated = [(d["candidate"], d["baseline"], d) for d in chat["differences"]]
    return environment.get_template("report_overview.html.j2").render(
        figures=[plots.intervals(models, values, label) for label, values in panels.items()],
        sentences=[sentence("Harness", harness), sentence("Chat", rated)],
        best=[
            best("Harness", dict(zip(models, panels[HARNESS], strict=True)), 3),
            best("Chat", dict(zip(models, panels[CHAT], strict=True)), 2),
        ],
        verdicts=numbered(claims["claims"]),
        longest=longest(receipts),
        elapsed_hours=(ended - begun) / 3600,
        stages=len(found),
        machines=sorted({machine(receipt["hardware"]) for receipt in found}),
        hours=sum(receipt["wall_s"] for receipt in found) / 3600,
        usd=sum(used(receipt["facts"])["usd"] for receipt in found),
        judge=claims["judge"],
        deviations=sum(row["count"] for row in deviations),
        ran=ran(receipts),
        cast=cast(receipts, claims["judge"]["used"]),
        cautions=[*cautions, *cut_off(receipts)],
    )
