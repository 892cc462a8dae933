"""Write instruction data as LaMini-LM does (arXiv 2304.14402): new instructions from examples and
topics first, their responses second.

Usage: generate_lamini.py --seeds seed_tasks.jsonl --topics topics.txt \\
           --prompts prompts/lamini_example.txt prompts/lamini_topic.txt \\
           --store … [--facts …] --concurrency 16 --recipe '{"rows": 1505, …}' --code … --rows …
             --counts … --receipt …

Columns: instruction, source (kind of prompt and seed set), response. Each drop has a rule id:
malformed (no closing tag, cut off, empty), too_short (3 words or fewer), too_long (more than 150),
not_for_text_model (images, audio, files), near_duplicate (ROUGE-L above `rouge_l` with any kept
instruction or seed, as in Self-Instruct), no_response, surplus (beyond `rows`; the first of them
take the place of rows without a response, and another round follows where they do not suffice). The
counts also say how many calls were sent and how many of them brought no item at all.
"""

import re
from pathlib import Path
from typing import Any, NotRequired

from typing_extensions import TypedDict

from bezoar import program
from bezoar.data.funnel import Funnel
from bezoar.data.rouge import Kept
from bezoar.data.schemes import check_failures, parser_for, prompt_texts, run, user
from bezoar.data.texts import words_of
from bezoar.errors import UserError
from bezoar.llm.client import LLMClient
from bezoar.llm.language_model import Answer
from bezoar.llm.settings import ModelSettings, ServerSettings
from bezoar.readers import numbered, read_jsonl, read_lines
from bezoar.rng import draw


class Recipe(TypedDict):
    """The settings of the stage, with their units."""

    rows: int  # to keep before the filter
    rounds: int  # of calls, at most
    calls_per_round: int
    instructions_per_call: int
    examples: int  # in one prompt
    topics: int  # in one prompt
    rouge_l: float  # above it an instruction is a near-duplicate
    seed_set: str  # for `source`
    max_failure_share: float
    teacher: ModelSettings
    serve: NotRequired[ServerSettings]
    seed: int


PROMPTS = {  # the fields of each template
    "lamini_example": ("count", "examples"),
    "lamini_topic": ("count", "examples", "topics"),
}
RULES = (
    "malformed",
    "too_short",
    "too_long",
    "not_for_text_model",
    "near_duplicate",
    "surplus",
    "no_response",
)
NOT_TEXT = re.compile(
    r"\b(image|picture|photo|video|audio|sound"
    r" file|recording|attached|attachment|upload|webcam|screenshot)s?\b",
    re.I,
)


OPENING = re.compile(r"<example(?:\s[^<>]*)?>", re.IGNORECASE)
CLOSING = re.compile(r"</example\s*>", re.IGNORECASE)
NUMBERED = re.compile(
    r"^(?P<indent>[ \t]*)(?P<bold>\*\*)?\d{1,3}[.):](?P<closed>\*\*)?[ \t]+", re.MULTILINE
)
LABEL = re.compile(
    r"(?P<bold>\*\*)?(?:(?:example|instruction)(?:[ \t]*#?\d{1,3})?:|#?\d{1,3}[.):])"
    r"(?P<closed>\*\*)?\s+",
    re.IGNORECASE,
)
BOLD_START = re.compile(r"\*\*(?=\S)([^*]*[^*\s])\*\*")
DEEPER = 2  # columns beyond the first number of a list: a step of the item above


def rest_of(label: re.Match[str], text: str) -> str:
    """Return the text after a label; stars that were opened before the label stay open."""
    opened = label["bold"] and not label["closed"]
    return f"**{text}" if opened else text


def without_stars(text: str) -> str:
    """Return an item without the stars around it, or around its beginning, such as a title; stars
    in pairs elsewhere stay.
    """
    if start := BOLD_START.match(text):
        text = start[1] + text[start.end() :]
    for mark in ("**", "*"):
        inside = text.removeprefix(mark).removesuffix(mark)
        text = text if mark in inside else inside.strip()
    return text


def numbered_items(text: str) -> list[str]:
    """Return the items of a numbered list: what follows a number at the beginning of a line, up to
    the next one or a blank line. Numbers further in are steps of an item and part of it.
    """
    found = list(NUMBERED.finditer(text))
    columns = [len(match["indent"].expandtabs(4)) for match in found]
    own = [
        match for match, column in zip(found, columns, strict=True) if column < columns[0] + DEEPER
    ]
    ends = [*(match.start() for match in own[1:]), len(text)]
    items = []
    for match, end in zip(own, ends, strict=False):
        body = re.split(r"\n[ \t]*\n", text[match.end() : end])[0]
        body = rest_of(match, " ".join(body.split()))
        items.append(without_stars(body.strip(' "')).strip(' "'))
    return items


def tagged_item(body: str) -> str:
    """Return what stands between two tags without a number or label before it; a list of several
    numbers stays as it is.
    """
    body = body.strip()
    label = LABEL.match(body)
    if label and len(NUMBERED.findall(body)) <= 1:
        body = rest_of(label, body[label.end() :])
    return without_stars(body)


def parse_list(text: str, cut_off: bool = False) -> list[str | None]:
    """Return the items of an answer; an item without its closing tag, or with nothing in it, is
    None.

    Many models number their items and leave the tags out. Without a tag, the items are those of
    the numbered list; the last item of an answer that is `cut_off` is None.
    """
    if not OPENING.search(text):
        items = [item or None for item in numbered_items(text)]
        return [*items[:-1], None] if items and cut_off else items
    parts = (CLOSING.split(part, maxsplit=1) for part in OPENING.split(text)[1:])
    return [(tagged_item(body) or None) if closed else None for body, *closed in parts]


def rule_for(item: str | None, kept: Kept) -> tuple[str, int | None]:
    """Return the rule that drops an item, or `kept`, and the place of the text that it is near."""
    if item is None:
        return "malformed", None
    count = len(item.split())
    if count <= 3:
        return "too_short", None
    if count > 150:
        return "too_long", None
    if NOT_TEXT.search(item):
        return "not_for_text_model", None
    place = kept.near(words_of(item))
    return "kept" if place is None else "near_duplicate", place


def calls(
    texts: dict[str, str], seeds: list[str], topics: list[str], recipe: Recipe, turn: int
) -> list[tuple[str, str]]:
    """Return (source, prompt) of one round: every other call is about topics."""
    made = []
    for index in range(recipe["calls_per_round"]):
        rng = draw(recipe["seed"], "lamini", turn, index)
        kind = "lamini_topic" if index % 2 else "lamini_example"
        examples = "\n".join(
            f"<example>{text}</example>" for text in rng.sample(seeds, recipe["examples"])
        )
        fields = {"examples": examples, "count": str(recipe["instructions_per_call"])}
        fields["topics"] = ", ".join(rng.sample(topics, recipe["topics"]))
        made.append(
            (f"{kind.removeprefix('lamini_')}-{recipe['seed_set']}", texts[kind].format(**fields))
        )
    return made


def make(
    client: LLMClient, texts: dict[str, str], seeds: list[str], topics: list[str], recipe: Recipe
) -> tuple[list[dict], Funnel]:
    """Return the rows and their funnel."""
    funnel, kept = Funnel(*RULES), Kept(recipe["rouge_l"])
    for text in seeds:
        kept.add(words_of(text))
    texts_kept = list(seeds)  # in the order of `kept`
    rows: list[dict[str, Any]] = []
    whole: list[dict[str, Any]] = []
    called: list[tuple[str, Answer]] = []
    tried: list[tuple[str, Answer]] = []
    share, without_items = recipe["max_failure_share"], 0
    for turn in range(recipe["rounds"]):
        made = calls(texts, seeds, topics, recipe, turn)
        names = [f"lamini round {turn} call {index}" for index in range(len(made))]
        answers = client.ask([user(prompt) for _, prompt in made], names)
        called += zip(names, answers, strict=True)
        most = recipe["rounds"] * recipe["calls_per_round"]
        check_failures(called, share, "generate lamini", planned=most)
        for (source, _), answer in zip(made, answers, strict=True):
            text = answer.text if answer.usable else ""
            items = parse_list(text, cut_off=answer.state == "truncated")
            without_items += not items
            for item in items:
                rule, near = rule_for(item, kept)
                if rule == "kept" and item is not None:
                    kept.add(words_of(item))
                    texts_kept.append(item)
                    rows.append({"instruction": item, "source": source})
                else:
                    like = None if near is None else texts_kept[near]
                    funnel.leave(rule, text=item, like=like)
        print(f"round {turn + 1}: {len(rows)}/{recipe['rows']} instructions", flush=True)
        if len(rows) < recipe["rows"] and turn + 1 < recipe["rounds"]:
            continue
        while waiting := rows[len(tried) : len(tried) + recipe["rows"] - len(whole)]:
            names = [f"lamini row {len(tried) + index}" for index in range(len(waiting))]
            answers = client.ask([user(row["instruction"]) for row in waiting], names)
            tried += zip(names, answers, strict=True)
            check_failures(tried, share, "generate lamini")
            for row, answer in zip(waiting, answers, strict=True):
                funnel.leave("kept" if answer.usable else "no_response", text=row["instruction"])
                if answer.usable:
                    whole.append({**row, "response": answer.text})
        if len(whole) == recipe["rows"]:
            break
    for row in rows[len(tried) :]:
        funnel.leave("surplus", text=row["instruction"])
    funnel.more = {"asked": len(called), "calls_without_items": without_items}
    return whole, funnel


def read_inputs(seeds: Path, topics: Path, recipe: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Return the instructions of the seed tasks and the topics, enough of both for one prompt."""
    instructions: list[str] = []
    for where, row in numbered(seeds, read_jsonl(seeds)):
        if not isinstance(row.get("instruction"), str) or not row["instruction"].strip():
            raise UserError(f"{where}: expected a text under `instruction`; fix or remove the row")
        instructions.append(row["instruction"])
    names = read_lines(topics)
    if len(instructions) < recipe["examples"] or len(names) < recipe["topics"]:
        raise UserError(
            f"{seeds}, {topics}: {len(instructions)} seeds and {len(names)} topics, fewer than one"
            " prompt needs"
        )
    return instructions, names


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and generate."""
    parser = parser_for(__doc__, Recipe)
    parser.add_argument(
        "--seeds", type=Path, required=True, help="seed tasks in Self-Instruct's schema, JSONL"
    )
    parser.add_argument("--topics", type=Path, required=True, help="one topic a line")
    args = parser.parse_args(argv)
    seeds, topics = read_inputs(args.seeds, args.topics, args.recipe)
    texts = prompt_texts(args.prompts, PROMPTS)
    inputs = {"seeds": args.seeds, "topics": args.topics}
    run(
        args,
        "generate_lamini",
        "teacher",
        inputs,
        lambda client: make(client, texts, seeds, topics, args.recipe),
    )


if __name__ == "__main__":
    program.run(main)
