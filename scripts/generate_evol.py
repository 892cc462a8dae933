"""Evolve instructions as the OpenBezoar authors' code does (after WizardLM, arXiv 2304.12244), from
databricks-dolly-15k's schema.

Usage: generate_evol.py --seeds dolly.jsonl --prompts prompts/evol_*.txt \\
           --store … [--facts …] --concurrency 16 \\
           --recipe '{"epochs": 3, …}' --code … --rows … --counts … --receipt …  [--tokenizer
             tokenizer.json]

A category's seeds are drawn row by row, by their text: a row added to the file or taken from it, at
any place, changes one of them at most. For each category and epoch one strategy is drawn for the
whole pool, for in-depth one of four operations; the teacher evolves each instruction and answers
it; a row that passes elimination is written and replaces the instruction it came from in the pool;
otherwise that one stays. Columns: instruction, response, category, evolution_strategy,
in-depth-evolving_operation (empty for in-breadth), epoch.

Elimination rules: no_information_gain (an evaluator calls an instruction and its evolved form
equal, or does not say within 6 requests; more failed requests than `max_failure_share` end the
stage), sorry (the response contains "sorry" and has fewer than 80 words), only_stop_words (nothing
but stop words and punctuation), copied_prompt (the instruction holds a section name of the prompt);
no_answer (nothing came back); and too_long (prompt and answer do not fit the teacher's context: no
request). Each epoch sends new requests: an instruction that stayed and draws the same operation
again gets a new answer, not the stored one.

WizardLM's own variants are options: `strategy_draw: item` draws strategy and operation for each
instruction instead of each pool, and `complicate_input` adds its fifth operation.
"""

import re
import string
import unicodedata
from pathlib import Path
from typing import Any, Literal, NamedTuple, NotRequired

from tokenizers import Tokenizer
from typing_extensions import TypedDict

from bezoar import program
from bezoar.data.context import Context, read_tokenizer
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
from bezoar.errors import UserError
from bezoar.llm.client import LLMClient
from bezoar.llm.language_model import Answer
from bezoar.llm.reasoning import split_reasoning
from bezoar.llm.settings import Messages, ModelSettings, ServerSettings
from bezoar.readers import numbered, read_jsonl
from bezoar.rng import draw


class Recipe(TypedDict):
    """The settings of the stage, with their units."""

    epochs: int
    seeds_per_category: int
    max_seed_tokens: int  # tokens of --tokenizer, or 3/4 of a word per token without one
    breadth_share: float  # probability that the strategy is in-breadth
    strategy_draw: Literal["pool", "item"]
    complicate_input: bool
    evaluator_attempts: int
    max_failure_share: float
    teacher: ModelSettings
    evaluator: ModelSettings
    serve: NotRequired[ServerSettings]
    seed: int


OPERATIONS = ("add_constraints", "deepening", "concretizing", "increase_reasoning_steps")
RULES = (
    "too_long",
    "no_answer",
    "copied_prompt",
    "no_information_gain",
    "sorry",
    "only_stop_words",
)
OF_THE_RESPONSE = RULES[-2:]
UNREACHED = ("provider_error", "refused")  # of the evaluator; a text without a verdict is an answer
CLAUSE = re.compile(r"(?:(?!\bbut\b|\band\b)[^.,;:!?\n])+[?]?|\bbut\b|\band\b")
VERDICTS = {"equal": True, "unequal": False, "different": False}
NEGATIONS = frozenset(
    "not no non cannot never neither nor hardly far wrong false incorrect untrue fail fails"
    " without".split()
)
OPEN = frozenset(
    "whether if unclear unsure sure certain necessarily maybe perhaps might almost nearly less"
    " doubt hesitate hesitant reluctant".split()
)
NOT_SAID = re.compile(r"(?:n't|not|unable to) (?:say|tell|judge|decide|determine|conclude)\b")
SECTION_NAMES = (
    "given prompt",
    "rewritten prompt",
    "created prompt",
    "harder instruction:",
    "new instruction:",
)
STOP_WORDS = frozenset(
    "a about above after again against all am an and any are as at be because been before being"
    " below between both but by can could did "
    "do does doing down during each few for from further had has have having he her here hers him"
    " his how i if in into is it its itself "
    "just me more most my no nor not now of off on once one only or other our out over own same she"
    " should so some such than that the their "
    "them then there these they this those through to too under until up very was we were what when"
    " where which while who whom why will "
    "with would you your yours yourself ours ourselves hers herself himself theirs themselves aren"
    " couldn d didn doesn don hadn hasn haven isn "
    # what an apostrophe leaves over is a stop word, too
    "ll m mightn mustn needn re s shan shouldn t ve wasn weren won wouldn".split()
)


def seed_text(row: dict[str, Any], max_tokens: int, tokenizer: Tokenizer | None) -> str:
    """Return a Dolly row as one instruction: the instruction, and its context after a blank line,
    cut to `max_tokens`.

    Without a tokenizer a word counts as 4/3 tokens.
    """
    context = (row.get("context") or "").strip()
    text = row["instruction"].strip() + (f"\n\n{context}" if context else "")
    if tokenizer is None:
        ends = [match.end() for match in re.finditer(r"\S+", text)]
        max_tokens = max_tokens * 3 // 4
    else:
        ends = [end for _, end in tokenizer.encode(text, add_special_tokens=False).offsets]
    return text if len(ends) <= max_tokens else text[: ends[max_tokens - 1]]


def equal(text: str) -> bool | None:
    """Return the evaluator's verdict on two instructions: True for equal, False for different, None
    if it is not clear.

    A negation ("not", "n't", "cannot", "far from") reverses the next such word of its clause.
    Questions do not count, nor do clauses that leave it open or contradict another.
    """
    plain = unicodedata.normalize("NFKC", split_reasoning(text)[1]).replace("’", "'").lower()
    plain = re.sub(r"\b(?:anything|all) but\b", "not", plain)
    plain = re.sub(r"\b(equal|different|unequal)\s*[:=]\s*(?:no|false)\b", r"not \1", plain)
    plain = re.sub(r"\bnot (?:only|just)\b|\b(?:without|no) (?:a )?doubt\b", "", plain)
    says: set[bool | None] = set()
    for clause in CLAUSE.findall(plain):
        negated = False
        words = re.findall(r"[a-z']+", clause)
        for word in [] if clause.endswith("?") else words:
            if word in NEGATIONS or word.endswith("n't"):
                negated = not negated
            elif word in VERDICTS:
                plainly = OPEN.isdisjoint(words) and not NOT_SAID.search(clause)
                says.add(VERDICTS[word] != negated if plainly else None)
                negated = False
    return says.pop() if len(says) == 1 else None


def eliminate_response(text: str) -> str | None:
    """Return the rule that eliminates a response, if any."""
    words = re.findall(r"\w+", text)
    if "sorry" in text.lower() and len(words) < 80:
        return "sorry"
    if all(word.lower().strip(string.punctuation) in STOP_WORDS for word in words):
        return "only_stop_words"
    return None


def copies_prompt(instruction: str) -> bool:
    """Say whether an evolved instruction holds a section name of the prompt that asked for it."""
    return any(name in instruction.lower() for name in SECTION_NAMES)


def pools(
    rows: list[dict[str, Any]], recipe: Recipe, tokenizer: Tokenizer | None = None
) -> dict[str, dict[int, str]]:
    """Return category -> {row number: seed instruction}: the `seeds_per_category` rows with the
    lowest draws.
    """
    by_category: dict[str, list[tuple[float, int]]] = {}
    for number, row in enumerate(rows, start=1):
        drawn = draw(recipe["seed"], "evol", "seed", row["instruction"], row.get("context") or "")
        by_category.setdefault(row["category"], []).append((drawn.random(), number))
    return {
        category: {
            number: seed_text(rows[number - 1], recipe["max_seed_tokens"], tokenizer)
            for _, number in sorted(draws)[: recipe["seeds_per_category"]]
        }
        for category, draws in sorted(by_category.items())
    }


def operations(recipe: Recipe) -> tuple[str, ...]:
    """Return the in-depth operations that a recipe draws from."""
    return (*OPERATIONS, "complicate_input") if recipe["complicate_input"] else OPERATIONS


def prompt_fields(recipe: Recipe) -> dict[str, tuple[str, ...]]:
    """Return the fields of each template that a recipe needs."""
    return {
        "evol_equal": ("first", "second"),
        "evol_in_breadth": ("instruction",),
        "evol_in_depth": ("method", "instruction"),
        **{f"evol_operation_{name}": () for name in operations(recipe)},
    }


def strategy_of(category: str, number: int, epoch: int, recipe: Recipe) -> tuple[str, str]:
    """Return (strategy, operation) of one instruction in one epoch: drawn for its pool, or for
    itself; in-breadth has no operation.
    """
    drawn_for = (category, number) if recipe["strategy_draw"] == "item" else (category,)
    rng = draw(recipe["seed"], "evol", *drawn_for, epoch)
    if rng.random() < recipe["breadth_share"]:
        return "in-breadth", ""
    return "in-depth", rng.choice(operations(recipe))


class Parent(NamedTuple):
    """An instruction at the beginning of an epoch, and the prompt that is to evolve it."""

    category: str
    number: int
    epoch: int
    text: str
    strategy: str
    operation: str
    prompt: Messages

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"evol epoch {self.epoch} {self.category} seed {self.number}"

    def row(self, instruction: str, response: str) -> dict[str, Any]:
        """Return the row of its child."""
        return {
            "instruction": instruction,
            "response": response,
            "category": self.category,
            "evolution_strategy": self.strategy,
            "in-depth-evolving_operation": self.operation,
            "epoch": self.epoch,
        }


def parents_in(
    pool: dict[str, dict[int, str]], epoch: int, texts: dict[str, str], recipe: Recipe
) -> list[Parent]:
    """Return every instruction of a pool, with the prompt that an epoch has for it."""
    found = []
    for category, instructions in pool.items():
        for number, text in instructions.items():
            strategy, operation = strategy_of(category, number, epoch, recipe)
            template = texts["evol_in_depth" if operation else "evol_in_breadth"]
            method = texts[f"evol_operation_{operation}"].format() if operation else ""
            prompt = user(template.format(method=method, instruction=text))
            found.append(Parent(category, number, epoch, text, strategy, operation, prompt))
    return found


def evolve(
    client: LLMClient,
    evaluator: LLMClient,
    texts: dict[str, str],
    pool: dict[str, dict[int, str]],
    recipe: Recipe,
    tokenizer: Path | None = None,
) -> tuple[list[dict], Funnel]:
    """Run all epochs over a pool that is changed in place; return the rows and their funnel.

    What the teacher has no room for is not asked: the parent stays for the next epoch.
    """
    funnel, written = Funnel(*RULES), []
    model = client.settings
    context = Context(model.context, model.max_tokens, model.prompt_form, tokenizer)
    for epoch in range(1, recipe["epochs"] + 1):
        parents = parents_in(pool, epoch, texts, recipe)
        names = [parent.name for parent in parents]
        prompts = [parent.prompt for parent in parents]
        fate = {
            i: "too_long"
            for i, prompt in enumerate(prompts)
            if not context.fits(prompt[-1]["content"])
        }
        evolved = ask_some(client, prompts, names, fate, epoch, recipe)
        for i, answer in evolved.items():
            if answer.state != "answered":
                fate[i] = "no_answer"
            elif copies_prompt(answer.text):
                fate[i] = "copied_prompt"
        pairs = {i: (parents[i].text, evolved[i].text) for i in evolved if i not in fate}
        equals = without_gain(evaluator, pairs, names, texts["evol_equal"], recipe)
        fate |= dict.fromkeys(equals, "no_information_gain")
        alive = [i for i in pairs if i not in fate]
        fate |= {i: "too_long" for i in alive if not context.fits(evolved[i].text)}
        prompts = [user(evolved[i].text if i in evolved else "") for i in range(len(parents))]
        responses = ask_some(client, prompts, names, fate, epoch, recipe)
        fate |= {
            i: (eliminate_response(answer.text) or "kept") if answer.usable else "no_answer"
            for i, answer in responses.items()
        }
        for i, parent in enumerate(parents):
            shown = responses if fate[i] in OF_THE_RESPONSE else evolved
            funnel.leave(
                fate[i],
                text=shown[i].text if i in shown else None,
                like=parent.text if fate[i] == "no_information_gain" else None,
            )
            if fate[i] == "kept":
                written.append(parent.row(evolved[i].text, responses[i].text))
                pool[parent.category][parent.number] = evolved[i].text
        print(f"epoch {epoch}: {len(written)} rows", flush=True)
    return written, funnel


def without_gain(
    evaluator: LLMClient,
    pairs: dict[int, tuple[str, str]],
    names: list[str],
    template: str,
    recipe: Recipe,
) -> list[int]:
    """Return the places of the pairs that the evaluator calls equal, or does not judge."""
    verdicts = evaluator.ask_until(
        [user(template.format(first=first, second=second)) for first, second in pairs.values()],
        [names[i] for i in pairs],
        equal,
        recipe["evaluator_attempts"],
    )
    check_failures(
        [(names[i], answer) for i, (_, answer) in zip(pairs, verdicts, strict=True)],
        recipe["max_failure_share"],
        "generate evol, evaluator",
        UNREACHED,
    )
    return [i for i, (same, _) in zip(pairs, verdicts, strict=True) if same is not False]


def ask_some(
    client: LLMClient,
    prompts: list[Messages],
    names: list[str],
    fate: dict[int, str],
    epoch: int,
    recipe: Recipe,
) -> dict[int, Answer]:
    """Ask the prompts whose items have no fate yet; return their answers by place."""
    asked = [i for i in range(len(prompts)) if i not in fate]
    answers = client.ask([prompts[i] for i in asked], [names[i] for i in asked], attempt=epoch)
    found = dict(zip(asked, answers, strict=True))
    check_failures(
        [(names[i], answer) for i, answer in found.items()],
        recipe["max_failure_share"],
        "generate evol",
    )
    return found


def read_seeds(path: Path) -> list[dict[str, Any]]:
    """Return the seeds, rows in Dolly's columns; raise `UserError` naming the first malformed
    one. Seed tasks in Self-Instruct's schema are taken, too.
    """
    rows = []
    for where, found in numbered(path, read_jsonl(path)):
        row = as_dolly(found) if "instances" in found else found
        texts_there = all(
            isinstance(row.get(column), str) and row[column].strip()
            for column in ("instruction", "category")
        )
        if not texts_there or not isinstance(row.get("context") or "", str):
            raise UserError(
                f"{where}: expected texts under `instruction`, `context`, `category`;"
                " fix or remove the row"
            )
        rows.append(row)
    if not rows:
        raise UserError(f"{path}: no rows; fetch the seeds again")
    return rows


def as_dolly(task: dict[str, Any]) -> dict[str, Any]:
    """Return a seed task in Dolly's columns: its first input is the context, and the categories are
    Self-Instruct's two kinds of tasks.
    """
    instances = task["instances"]
    first = instances[0] if isinstance(instances, list) and instances else None
    return {
        "instruction": task.get("instruction"),
        "context": first.get("input") if isinstance(first, dict) else None,
        "category": "classification" if task.get("is_classification") is True else "generation",
    }


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and generate."""
    parser = parser_for(__doc__, Recipe)
    parser.add_argument(
        "--seeds", type=Path, required=True, help="JSONL in Dolly's or Self-Instruct's schema"
    )
    parser.add_argument(
        "--tokenizer", type=Path, nargs="?", help="the teacher's tokenizer.json, to cut long seeds"
    )
    args = parser.parse_args(argv)
    rows = read_seeds(args.seeds)
    texts = prompt_texts(args.prompts, prompt_fields(args.recipe))
    pool = pools(rows, args.recipe, read_tokenizer(args.tokenizer) if args.tokenizer else None)

    def make(client: LLMClient) -> tuple[list[dict], Funnel]:
        other = second_store(args.store, "evaluator")
        with open_client(args, args.recipe["evaluator"], other) as evaluator:
            fresh = {category: dict(seeds) for category, seeds in pool.items()}
            written, funnel = evolve(client, evaluator, texts, fresh, args.recipe, args.tokenizer)
            client.count_in(evaluator)
            funnel.more = {
                "asked": funnel.entered,
                "evaluator_states": dict(sorted(evaluator.states.items())),
            }
        return written, funnel

    run(
        args,
        "generate_evol",
        "teacher",
        {"seeds": args.seeds, **({"tokenizer": args.tokenizer} if args.tokenizer else {})},
        make,
    )


if __name__ == "__main__":
    program.run(main)
