"""The report's section on the data: the funnel, the filter, duplicates, what is shared with the
evaluation, task families.
"""

from typing import Any

import jinja2

from bezoar.report import plots

NOT_ASKED = ("over_quota", "few_shot", "unknown_submix", "bigbench", "empty", "too_long")


Receipts = dict[str, dict[str, Any]]


def used(receipts: Receipts, schemes: list[str]) -> dict[str, dict[str, int]]:
    """Return scheme -> what its training counted: rows, training, validation, truncated and without
    a supervised token.
    """
    return {
        scheme: receipts[f"sft_{scheme}"]["facts"]
        for scheme in schemes
        if f"sft_{scheme}" in receipts
    }


def removed(receipts: Receipts, rows: str) -> str:
    """Return which rules of `data: remove` took how many rows of a set out of what is trained on,
    in words; nothing where no rule did.
    """
    facts = receipts.get(f"data_clean_{rows}", {}).get("facts", {})
    counts = {key: facts.get(key) for key in ("contaminated", "task_family")}
    return ", ".join(f"{key.replace('_', ' ')} {count:,}" for key, count in counts.items() if count)


def figures(
    schemes: dict[str, dict[str, Any]], duplicates: dict[str, Any] | None
) -> dict[str, str]:
    """Return name -> figure: what became of the rows, accept rates, lengths, overlaps."""
    tenths = list(range(1, 11))
    by = {
        key: {
            name: (tenths[: len(rates)], rates)
            for name, scheme in schemes.items()
            if (rates := scheme["filter"].get(f"accept_rate_by_{key}_decile"))
        }
        for key in ("length", "position")
    }
    words = {
        part: {
            name: (list(range(0, 101, 10)), scheme["words"][part])
            for name, scheme in schemes.items()
            if scheme["words"][part]
        }
        for part in ("instruction", "response")
    }
    ends = [ended(scheme["funnel"]) for scheme in schemes.values()]
    drawn = {
        "funnel": plots.shares(
            list(schemes),
            {part: [end[part] for end in ends] for part in ends[0]},
            "percent of the items that came back",
        ),
        **{
            f"accepted by {key}": plots.curves(rates, "accept rate", f"tenth by {what}", 0.0)
            for (key, rates), what in zip(
                by.items(), ("length of the response", "position in the file"), strict=True
            )
        },
        **{
            f"words of the {part}": plots.curves(lengths, "words", "percent of the rows", 0.0)
            for part, lengths in words.items()
        },
    }
    if duplicates:
        sizes, kinds = duplicates["rows"], (duplicates["exact"], duplicates["near"])
        drawn["overlaps"] = plots.matrix(
            list(sizes),
            list(sizes),
            [[sum(k[a][b] for k in kinds) / (sizes[a] or 1) for b in sizes] for a in sizes],
            [[" + ".join(f"{k[a][b]:,}" for k in kinds) for b in sizes] for a in sizes],
        )
    return drawn


def came_back(funnel: dict[str, Any]) -> int:
    """Return how many items of a scheme were asked for and came back."""
    return sum(ended(funnel).values())


def ended(funnel: dict[str, Any]) -> dict[str, int]:
    """Return how many items that came back ended in each state."""
    return {
        **{key: funnel[key] for key in ("accepted", "rejected", "unrated")},
        **{
            key: sum(count for rule, count in funnel.get(key, {}).items() if rule not in NOT_ASKED)
            for key in ("dropped", "eliminated")
        },
    }


def marked(lines: list[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """Return set -> kind -> how many of its rows have a duplicate, in whichever set; `lines` are
    those of data/duplicates.jsonl.
    """
    found: dict[str, dict[str, set[int]]] = {}
    for line in lines:
        for name, row in ((line["set"], line["row"]), (line["of_set"], line["of_row"])):
            found.setdefault(name, {}).setdefault(line["kind"], set()).add(row)
    return {
        name: {kind: len(rows) for kind, rows in kinds.items()} for name, kinds in found.items()
    }


def section(environment: jinja2.Environment, artifacts: Any, receipts: Receipts) -> str:
    """Return the section as HTML."""
    description = artifacts.json("data/description.json")
    schemes = list(description["schemes"]) if description else []
    duplicates = artifacts.json("data/duplicates.json")
    return environment.get_template("report_data.html.j2").render(
        schemes=description["schemes"] if description else {},
        figures=figures(description["schemes"], duplicates) if schemes else {},
        families=description["task_families"] if description else None,
        duplicates=duplicates,
        marked=marked(artifacts.rows("data/duplicates.jsonl")),
        contamination=artifacts.json("data/contamination.json"),
        used=used(receipts, schemes),
        removed={scheme: removed(receipts, scheme) for scheme in schemes},
    )
