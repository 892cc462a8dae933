"""Write docs/deviations.md: every value that is not the paper's, from the tags of the configuration
and the models and prompts that replace the paper's.

Usage: write_deviations.py [--output docs/deviations.md] [config/paper.yaml]

A test compares the file with what this writes, so a deviation can neither be missing nor stale.
"""

import argparse
from pathlib import Path
from typing import Any

from bezoar import program
from bezoar.files import whole_file
from bezoar.workflow.configuration import PAPER, resolved
from bezoar.workflow.deviations import NO_REASON, tagged, with_reasons

MEANING = {
    "ours": ("Our choices", "Not known of the paper, or no longer possible; the reason is ours."),
    "inferred": ("Inferred", "Follows from what is published, with the reason."),
}


def substitutions(config: dict[str, Any]) -> list[str]:
    """Return what replaces something of the paper's, from the resolved configuration."""
    judge = config["mtbench"]["judgments"]
    found = []
    if judge["judge"]["model"] != judge["paper_judge"]:
        found.append(
            f"MT-Bench is judged by `{judge['judge']['model']}`; the paper's judge was"
            f" `{judge['paper_judge']}`. Their scores are never mixed."
        )
    rater, paper_rater = config["filter"]["rater"]["model"], config["filter"]["paper_rater"]
    if rater != paper_rater:
        found.append(
            f"Rows are rated by `{rater}`; the paper's rater was `{paper_rater}`. The columns"
            " `gpt4_…` keep their names, receipts and cards name the model."
        )
    for name, settings in (
        ("teacher", config["teacher"]),
        ("filter", config["filter"]["rater"]),
        ("evaluator of Evol-Instruct", config["generate"]["evol"]["evaluator"]),
        ("judge", judge["judge"]),
    ):
        if settings["revision"] is None and settings["base_url_env"] is None:
            found.append(
                f"The {name} is `{settings['model']}`, an id of its provider's; what is behind it"
                " cannot be verified, and the receipt records what answered."
            )
        elif settings["revision"] is None:
            found.append(
                f"The {name} is `{settings['model']}` without a pinned revision; the receipt"
                " records what answered."
            )
    return found


def cell(text: str) -> str:
    """Return text for a cell of a Markdown table."""
    return text.replace("|", "\\|")


def without(rows: list[dict[str, Any]]) -> str:
    """Return how many of the values have no reason beside them, as the end of a sentence."""
    count = sum(row["reason"].startswith(NO_REASON) for row in rows)
    return f", {count} of them without a reason beside them" if count else ""


def page(configs: list[Path], prompts: list[str]) -> str:
    """Return the document."""
    config, rows = resolved([str(path) for path in configs]), with_reasons(tagged(configs))
    listed = ", ".join(f"`{name}`" for name in prompts)
    named = " and ".join(f"`{path}`" for path in configs)
    lines = [
        "# Deviations",
        "",
        f"Written by `scripts/dev/write_deviations.py` from {named}; do not edit.",
        "",
        "## Substitutes",
        "",
        *(f"- {text}" for text in substitutions(config)),
        (
            f"- All {len(prompts)} prompt files are worded by us; the paper's prompts were not"
            f" published: {listed}."
        ),
    ]
    for tag, (title, text) in MEANING.items():
        mine = [row for row in rows if row["tag"] == tag]
        lines += [
            "",
            f"## {title}",
            "",
            f"{text} {len(mine)} values{without(mine)}.",
            "",
            "| key | value | reason |",
            "|---|---|---|",
        ]
        lines += [
            f"| `{row['key']}` | `{cell(row['value'])}` | {cell(row['reason'])} |" for row in mine
        ]
    counts = {tag: sum(row["tag"] == tag for row in rows) for tag in ("paper", "code")}
    return "\n".join(
        [
            *lines,
            "",
            (
                f"The other tagged values are the paper's ({counts['paper']}) or its public code's"
                f" ({counts['code']})."
            ),
            "",
        ]
    )


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path, nargs="*", default=[PAPER], help="configuration files")
    parser.add_argument(
        "--output", type=Path, default=Path("docs/deviations.md"), help="document to write"
    )
    args = parser.parse_args(argv)
    prompts = sorted(
        str(path)
        for path in Path("prompts").iterdir()
        if path.suffix in (".txt", ".yaml") and path.name != "topics.txt"
    )
    with whole_file(args.output) as stream:
        stream.write(page(args.config, prompts))


if __name__ == "__main__":
    program.run(main)
