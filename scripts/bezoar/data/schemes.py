"""What the three generation schemes and the filter share: the command line, the funnel and the
final checks.
"""

import argparse
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from bezoar.data.funnel import Funnel
from bezoar.errors import UserError
from bezoar.files import write_json, write_jsonl
from bezoar.llm.answer_store import is_shard
from bezoar.llm.arguments import add_client_arguments
from bezoar.llm.client import LLMClient
from bezoar.llm.language_model import Answer
from bezoar.llm.prompts import check_fields
from bezoar.llm.settings import ModelSettings
from bezoar.llm.shards import Waiting, change, gather, shard_of_text, wait_for_others
from bezoar.provenance.receipt import Receipt, stage_parser
from bezoar.readers import read_text

# A truncated answer with a text is used; over_budget has ended the stage before.
FAILED = ("refused", "unparsable", "provider_error")


def parser_for(description: str | None, recipe: type) -> argparse.ArgumentParser:
    """Return a parser with the arguments of every program that asks a language model for rows."""
    parser = stage_parser(description, recipe)
    parser.add_argument(
        "--prompts", type=Path, nargs="+", required=True, help="the prompt files used"
    )
    add_client_arguments(parser)
    parser.add_argument(
        "--shard",
        type=shard_of_text,
        help="send one share of the requests, k/n, and write nothing but its store",
    )
    parser.add_argument(
        "--wait",
        type=float,
        default=0.0,
        help="seconds that a shard waits for the next answer of the others, where it needs them",
    )
    parser.set_defaults(asked_again=set())  # by a shard, however often it opens its stores
    parser.add_argument("--rows", type=Path, required=True, help="rows to write, JSONL")
    parser.add_argument("--counts", type=Path, required=True, help="the funnel to write, JSON")
    parser.add_argument(
        "--dropped", type=Path, help="what each rule dropped, to write, JSONL; without it, nowhere"
    )
    return parser


def prompt_texts(paths: Iterable[Path], fields: Mapping[str, Collection[str]]) -> dict[str, str]:
    """Return the templates of prompts by stem; `fields` are those of each template that is needed.
    A missing file or field and an unknown field are a `UserError`.
    """
    files = {path.stem: path for path in paths}
    if missing := [stem for stem in fields if stem not in files]:
        found = ", ".join(path.name for path in files.values()) or "nothing"
        raise UserError(f"prompts: expected {missing[0]}.txt, found {found}; add it")
    texts = {stem: read_text(path).strip() for stem, path in files.items()}
    for stem, names in fields.items():
        check_fields(texts[stem], names, str(files[stem]))
    return texts


def second_store(store: Path, role: str = "second") -> Path:
    """Return the store of a job's other model, beside its first."""
    return store.with_name(f"{store.stem}-{role}{store.suffix}")


def user(text: str, system: str = "") -> list[dict[str, str]]:
    """Return the messages of one request."""
    return [
        *([{"role": "system", "content": system}] if system else []),
        {"role": "user", "content": text},
    ]


def check_failures(
    answers: Iterable[tuple[str, Answer]],
    share: float,
    stage: str,
    failed: tuple[str, ...] = FAILED,
    planned: int = 0,
) -> None:
    """Raise `UserError` naming rows if more than `share` of the rows, or of those `planned` where
    more follow, ended in one of the states `failed`, or were cut off before there was any text.
    """
    rows = list(answers)
    lost = [(name, answer) for name, answer in rows if answer.state in failed or answer.cut_off]
    count = max(len(rows), planned)
    if len(lost) > share * count:
        names = ", ".join(name for name, _ in lost[:5])
        states = ", ".join(
            f"{count} {state}"
            for state, count in sorted(Counter(answer.state for _, answer in lost).items())
        )
        why = next((f" ({answer.error})" for _, answer in lost if answer.error), "")
        of = f"{count:,} planned" if count > len(rows) else f"{count:,}"
        what = f"{len(lost)} of {of} rows failed, more than {share:.0%}: {states}{why}: {names}…"
        raise UserError(f"{stage}: {what}; run again; answers are kept")


def open_client(args: argparse.Namespace, settings: ModelSettings, store: Path) -> LLMClient:
    """Return the client of one model of a stage: for a shard of its requests, or for all of them
    together with the answers of earlier shards.
    """
    if not args.shard:
        gather(store)
    asked = args.asked_again if args.shard else None
    return LLMClient.of(settings, store, args.concurrency, args.facts, args.mode, args.shard, asked)


def ask_share(args: argparse.Namespace, settings: str, make: Callable[[LLMClient], Any]) -> None:
    """Ask one shard's requests, what failed once; those that follow from other shards' answers as
    these come.
    """
    while True:
        seen = change(args.store, args.shard)
        try:
            with open_client(args, args.recipe[settings], args.store) as client:
                make(client)
            print("every answer is there; run without --shard to write the rows", flush=True)
            return
        except Waiting as waiting:
            if not wait_for_others(args.store, args.shard, seen, args.wait):
                print(waiting, flush=True)
                return


def run(
    args: argparse.Namespace,
    stage: str,
    settings: str,
    inputs: dict[str, Any],
    make: Callable[[LLMClient], tuple[list[dict], Funnel]],
) -> None:
    """Open the client, call `make`, and write rows, counts, what was dropped and the receipt; a
    shard only fills its store.
    """
    if args.shard:
        ask_share(args, settings, make)
        return
    with Receipt(
        args.receipt,
        stage=stage,
        recipe=args.recipe,
        code=args.code,
        inputs={**inputs, "prompts": args.prompts, **({"facts": args.facts} if args.facts else {})},
        outputs={
            "rows": args.rows,
            "counts": args.counts,
            **({"dropped": args.dropped} if args.dropped else {}),
            "store": args.store,
        },
    ) as receipt:
        with open_client(args, args.recipe[settings], args.store) as client:
            rows, funnel = make(client)
            seconds = args.store.parent.glob(f"{args.store.stem}-*.sqlite")
            receipt.outputs["store"] = [
                args.store,
                *sorted(path for path in seconds if not is_shard(path)),
            ]  # with a second model's, into which its shards' answers were put
            receipt.facts |= client.facts_for_receipt()
        write_jsonl(args.rows, rows)
        counts = funnel.as_json(client.counts())
        examples = {"examples": examples} if (examples := funnel.examples()) else {}
        write_json(args.counts, counts | examples)
        if args.dropped:
            write_jsonl(args.dropped, funnel.dropped)
        receipt.facts["counts"] = counts
        print(counts, flush=True)
