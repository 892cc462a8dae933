"""Have a language model judge generated rows, as the paper has GPT-4 do; every row is kept with its
verdict.

Usage: filter_rows.py --data results/generate/lamini.jsonl --prompts prompts/filter.txt \\
           --store … [--facts …] --concurrency 16 \\
           --recipe '{"rater": {…}, …}' --code … --rows results/filter/lamini.jsonl --counts …
             --receipt …

The rater reads the instruction, behind its system message if the row has one (Orca's), and the
response. Adds gpt4_status (Accept, Reject, or Unrated where no verdict could be read), gpt4_rating
(1-10 or null) and gpt4_reason. Training keeps Accept. The columns keep the paper's names whichever
model the configuration puts in GPT-4's place; the receipt says which.

A second rater may read the same rows with the same prompt. Its verdict goes to second_status,
second_rating and second_reason and decides nothing; the counts say how far the two agree: Cohen's
kappa over the rows that both rated, and the rows that either alone accepts. Whether a rater is also
the teacher is recorded beside it: models tend to prefer their own text (Panickssery et al. 2024,
arXiv 2404.13076).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NotRequired

from typing_extensions import TypedDict

from bezoar import program
from bezoar.data.funnel import Funnel
from bezoar.data.schemes import (
    check_failures,
    open_client,
    parser_for,
    prompt_texts,
    run,
    second_store,
    user,
)
from bezoar.data.verdicts import PROMPTS, VERDICT, by_length, rater_prompt, verdict
from bezoar.errors import UserError
from bezoar.evaluation.agreement import cohen_kappa
from bezoar.llm.client import LLMClient
from bezoar.llm.settings import ModelSettings, ServerSettings
from bezoar.readers import numbered, read_jsonl


class Recipe(TypedDict):
    """The settings of the stage, with their units."""

    rater: ModelSettings
    second_rater: ModelSettings | None
    teacher: str  # its name: does a rater rate its own text?
    attempts: int  # requests before a row is Unrated
    max_unrated_share: float
    max_failure_share: float
    serve: NotRequired[ServerSettings]  # of the raters, where the workflow serves one
    seed: int


def agreement(rated: list[dict[str, Any]], recipe: Recipe) -> dict[str, Any]:
    """Return how far two raters agree on the rows that both rated, both directions of disagreement,
    and which rater rates its own text.
    """
    both = [row for row in rated if "Unrated" not in (row["gpt4_status"], row["second_status"])]
    accepts = [(row["gpt4_status"] == "Accept", row["second_status"] == "Accept") for row in both]
    models = {"first": recipe["rater"]["model"], "second": recipe["second_rater"]["model"]}
    return {
        "second_rater": models["second"],
        "both_rated": len(both),
        "kappa": cohen_kappa(accepts, recipe["seed"]),
        "only_first_accepts": accepts.count((True, False)),
        "only_second_accepts": accepts.count((False, True)),
        "accept_rate": {
            name: round(sum(pair[i] for pair in accepts) / max(1, len(both)), 4)
            for i, name in enumerate(models)
        },
        "rates_itself": next(
            (name for name, model in models.items() if model == recipe["teacher"]), None
        ),
    }


def verdicts(
    client: LLMClient, prompts: list[list[dict[str, str]]], names: list[str], recipe: Recipe
) -> Iterator[tuple[str, int | None, str]]:
    """Yield (status, rating, reason) of each prompt; raise `UserError` if too many have none."""
    results = client.ask_until(prompts, names, verdict, recipe["attempts"], VERDICT)
    check_failures(
        [(n, answer) for n, (_, answer) in zip(names, results, strict=True)],
        recipe["max_failure_share"],
        "filter",
        ("provider_error",),
    )
    unrated = [n for n, (found, _) in zip(names, results, strict=True) if not found]
    if len(unrated) > recipe["max_unrated_share"] * len(names):
        raise UserError(
            f"filter: {len(unrated)} of {len(names)} rows without a verdict, more than"
            f" {recipe['max_unrated_share']:.0%}: {', '.join(unrated[:5])}…"
        )
    for found, answer in results:
        yield (
            (found["status"], found["rating"], found["reason"])
            if found
            else ("Unrated", None, f"no verdict: {answer.state}")
        )


def rate(
    client: LLMClient,
    rows: list[dict[str, Any]],
    template: str,
    recipe: Recipe,
    name: str,
    second: LLMClient | None = None,
) -> tuple[list[dict], Funnel]:
    """Return every row with its verdict, and the counts."""
    prompts, names = [], []
    for where, row in numbered(Path(name), rows):
        prompts.append(user(rater_prompt(template, row, where)))
        names.append(where)
    funnel, rated = Funnel("reject", "unrated"), []
    for row, (status, rating, reason) in zip(
        rows, verdicts(client, prompts, names, recipe), strict=True
    ):
        funnel.leave({"Accept": "kept", "Reject": "reject"}.get(status, "unrated"))
        rated.append({**row, "gpt4_status": status, "gpt4_rating": rating, "gpt4_reason": reason})
    funnel.more = {
        "accept_rate_by_length_decile": by_length(rated),
        "rater": recipe["rater"]["model"],
    }
    if second:
        for row, (status, rating, reason) in zip(
            rated, verdicts(second, prompts, names, recipe), strict=True
        ):
            row |= {"second_status": status, "second_rating": rating, "second_reason": reason}
        funnel.more["agreement"] = agreement(rated, recipe)
    return rated, funnel


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and rate."""
    parser = parser_for(__doc__, Recipe)
    parser.add_argument("--data", type=Path, required=True, help="generated rows, JSONL")
    args = parser.parse_args(argv)
    rows = read_jsonl(args.data)
    if not rows:
        raise UserError(f"{args.data}: no rows; look at the counts of the stage that wrote it")
    template = prompt_texts(args.prompts, PROMPTS)["filter"]

    def make(client: LLMClient) -> tuple[list[dict], Funnel]:
        if args.recipe["second_rater"] is None:
            return rate(client, rows, template, args.recipe, str(args.data))
        with open_client(args, args.recipe["second_rater"], second_store(args.store)) as second:
            rated = rate(client, rows, template, args.recipe, str(args.data), second)
            client.count_in(second)
            return rated

    run(args, "filter", "rater", {"data": args.data}, make)


if __name__ == "__main__":
    program.run(main)
