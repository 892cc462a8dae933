"""The report's picture of the way of the data: from sources over schemes, filter and training to
models and their scores, with the counts of the receipts; every step links to its section, rows or
card, and to its receipt.
"""

from pathlib import Path
from typing import Any

import jinja2

from bezoar.report.data_section import Receipts, came_back, removed

NOT_SOURCES = {"prompts", "facts", "tokenizer", "streamed"}  # inputs that are no data

Step = dict[str, Any]  # title, text, link, receipt (a stage, or none)


def step(title: str, text: str, link: str, receipt: str | None, receipts: Receipts) -> Step:
    """Return a step, with its receipt if the stage has one."""
    return {
        "title": title,
        "text": text,
        "link": link,
        "receipt": receipt if receipt in receipts else None,
    }


def sources(receipt: dict[str, Any] | None) -> str:
    """Return the names of the data files that a stage read, or of the first of many."""
    inputs = receipt["inputs"] if receipt else {}
    names = [
        Path(file).name
        for kind, files in inputs.items()
        if kind not in NOT_SOURCES
        for file in files
    ]
    shown = ", ".join(names[:4])
    return f"{shown} and {len(names) - 4} more" if len(names) > 4 else shown or "not read here"


def trained(stage: str, receipts: Receipts) -> Step:
    """Return a training as a step: how many rows it learned from and was validated on."""
    facts = receipts.get(stage, {}).get("facts", {})
    known = "training" in facts
    text = f"{facts['training']:,} + {facts['validation']:,} held out" if known else "not run here"
    return step(stage.replace("_", " "), text, "#curves", stage, receipts)


def cleaned(rows: str, receipts: Receipts) -> list[Step]:
    """Return what was taken out before training as a step, if anything was."""
    text, stage = removed(receipts, rows), f"data_clean_{rows}"
    return [step("removed before training", text, "#data", stage, receipts)] if text else []


def lane(scheme: str, funnel: dict[str, Any], receipts: Receipts) -> list[Step]:
    """Return the steps of a scheme's rows; `funnel` is its part of data/description.json."""
    generate = f"generate_{scheme}"
    of = f" of {came_back(funnel):,}" if "entered" in funnel else ""
    return [
        step("source", sources(receipts.get(generate)), "#deviations", generate, receipts),
        step(f"{scheme}: generated", f"{funnel['generated']:,}{of}", "#data", generate, receipts),
        step(
            "accepted by the filter",
            f"{funnel['accepted']:,} of {funnel['generated']:,}",
            f"rows.html#{scheme}",
            f"filter_{scheme}",
            receipts,
        ),
        *cleaned(scheme, receipts),
        trained(f"sft_{scheme}", receipts),
    ]


def scores(model: str, lm_eval: dict[str, Any], chat: dict[str, Any]) -> str:
    """Return a model's means over both benchmarks, in words."""
    harness, rating = lm_eval["mean_of_tasks"].get(model), chat["models"][model]["overall"]
    parts = [f"harness {harness['mean']:.3f}"] if harness and harness["mean"] is not None else []
    parts += [f"chat {rating['mean']:.2f}"] if rating["mean"] is not None else []
    return ", ".join(parts) or "not measured"


def section(
    environment: jinja2.Environment,
    artifacts: Any,
    lm_eval: dict[str, Any],
    chat: dict[str, Any],
    receipts: Receipts,
) -> str:
    """Return the section as HTML."""
    description = artifacts.json("data/description.json") or {"schemes": {}}
    pairs = artifacts.json("preferences/counts.json")
    lanes = [
        lane(scheme, found["funnel"], receipts) for scheme, found in description["schemes"].items()
    ]
    lanes.append(
        [
            step("source", sources(receipts.get("preferences")), "#data", "preferences", receipts),
            step(
                "preference pairs",
                f"{pairs['used']:,} of {pairs['read']:,}",
                "rows.html#pairs",
                "preferences",
                receipts,
            ),
            *cleaned("pairs", receipts),
            trained("hh_sft", receipts),
            trained("dpo", receipts),
        ]
    )
    models = [
        step(
            model,
            scores(model, lm_eval, chat),
            f"../merge/{model}/README.md"
            if f"merge/{model}/merge.json" in artifacts.paths
            else "#models",
            next(
                (s for s in (f"merge_{model}", f"import_model_{model}", model) if s in receipts),
                None,
            ),
            receipts,
        )
        for model in chat["models"]
    ]
    return environment.get_template("report_way.html.j2").render(lanes=lanes, models=models)
