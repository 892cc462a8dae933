"""Have the teacher explain Flan Collection rows under a system message, as Orca does (arXiv
2306.02707).

Usage: generate_orca.py --flan aqua_train.tsv … --prompts prompts/orca_system_messages.yaml \\
           --store … [--facts …] [--tokenizer tokenizer.json] --concurrency 16 \\
           --recipe '{"quotas": {"cot": 1500}, …}' --code … --rows … --counts … --receipt …

Input files: chain-of-thought TSV (question TAB answer TAB explanation, newlines as backslash-n;
submix cot), or JSONL of a submix with inputs, targets, task_source, task_name, template_type, such
as stream_flan.py writes with counts of what it dropped (--streamed). Only zero-shot templates
(zs_opt, zs_noopt) are taken. Columns: original_index, inputs, targets, task_source, task_name,
template_type, system_message, explained_targets, dataset_source.

Drop rules: malformed (not three columns, a missing field, or text that is not Unicode), empty (no
question or answer), few_shot, unknown_submix (task_source is none of the Flan Collection's),
bigbench (T0), too_long (prompt and answer do not fit the teacher's context; another row takes its
place), over_quota, no_response.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NotRequired

from typing_extensions import TypedDict

from bezoar import program
from bezoar.data import flan
from bezoar.data.context import Context
from bezoar.data.funnel import Funnel
from bezoar.data.schemes import check_failures, parser_for, run, user
from bezoar.errors import UserError
from bezoar.llm.client import LLMClient
from bezoar.llm.settings import ModelSettings, ServerSettings
from bezoar.readers import read_json


class Recipe(TypedDict):
    """The settings of the stage, with their units."""

    quotas: dict[str, int]  # submix: rows
    rows_per_task: int  # at most, of a task within its submix
    max_failure_share: float
    teacher: ModelSettings
    serve: NotRequired[ServerSettings]
    seed: int


RULES = (*flan.RULES, "too_long", "over_quota", "no_response")


def make(
    client: LLMClient,
    paths: list[Path],
    messages: dict[int, str],
    recipe: Recipe,
    streamed: Sequence[dict[str, int]] = (),
    tokenizer: Path | None = None,
) -> tuple[list[dict], Funnel]:
    """Return the rows and their funnel; `streamed` are the counts of what was dropped before the
    files were written, `tokenizer` is the teacher's.
    """
    funnel, rows = Funnel(*RULES), []
    for counts in streamed:
        for rule, count in counts.items():
            if rule not in ("read", "kept"):
                funnel.leave(rule, count)
    for path in paths:
        found, dropped = flan.read(path)
        rows += found
        for rule, count in dropped.items():
            funnel.leave(rule, count)
    model = client.settings
    context = Context(model.context, model.max_tokens, model.prompt_form, tokenizer)
    fits = flan.fitting(context.fits, messages, recipe["seed"])
    chosen, too_long = flan.choose(rows, recipe, fits)
    funnel.leave("too_long", len(too_long))
    funnel.leave("over_quota", len(rows) - len(chosen) - len(too_long))
    if not chosen:
        raise UserError(
            f"{paths[0]}: no row of {funnel.entered} is taken; look at the quotas and at what was"
            f" dropped: {funnel.left}"
        )
    for row in chosen:
        row["system_message"] = flan.system_message(row, messages, recipe["seed"])
    names = [f"orca {row['task_name']} row {row['original_index']}" for row in chosen]
    answers = client.ask([user(row["inputs"], row["system_message"]) for row in chosen], names)
    check_failures(zip(names, answers, strict=True), recipe["max_failure_share"], "generate orca")
    funnel.more = {"asked": len(chosen)}
    written = []
    for row, answer in zip(chosen, answers, strict=True):
        funnel.leave("kept" if answer.usable else "no_response", text=row["inputs"])
        if answer.usable:
            source = row.pop("dataset_source")
            written.append({**row, "explained_targets": answer.text, "dataset_source": source})
    return written, funnel


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and generate."""
    parser = parser_for(__doc__, Recipe)
    parser.add_argument(
        "--flan", type=Path, nargs="+", required=True, help="Flan files, .tsv or .jsonl"
    )
    parser.add_argument(
        "--streamed",
        type=Path,
        nargs="*",
        default=[],
        help="counts of the files that were streamed, JSON",
    )
    parser.add_argument(
        "--tokenizer", type=Path, nargs="?", help="the teacher's tokenizer.json, to count tokens"
    )
    args = parser.parse_args(argv)
    messages = flan.system_messages(args.prompts[0])
    streamed = [read_json(path) for path in args.streamed]

    def make_with(client: LLMClient) -> tuple[list[dict], Funnel]:
        return make(client, args.flan, messages, args.recipe, streamed, args.tokenizer)

    inputs = {"flan": args.flan, "streamed": args.streamed}
    if args.tokenizer:
        inputs["tokenizer"] = args.tokenizer
    run(args, "generate_orca", "teacher", inputs, make_with)


if __name__ == "__main__":
    program.run(main)
