"""Evolve instructions as the OpenBezoar authors' code does (after WizardLM, arXiv 2304.12244), from databricks-dolly-15k's schema.

Usage: generate_evol.py --seeds dolly.jsonl --prompts prompts/evol_*.txt --store … [--facts …] --concurrency 16 \\
           --recipe '{"epochs": 3, …}' --code … --rows … --counts … --receipt …

For each category and epoch one strategy is drawn for the whole pool, for in-depth one of four operations; the teacher evolves each
instruction and answers it; a row that passes elimination is written and replaces its parent in the pool, otherwise the parent stays.
Columns: instruction, response, category, evolution_strategy, in-depth-evolving_operation (empty for in-breadth), epoch.

Elimination rules: no_information_gain (an evaluator calls child and parent equal, or does not say within 6 asks), sorry (the response
contains "sorry" and has fewer than 80 words), only_stop_words (nothing but stop words and punctuation), copied_prompt (the instruction holds a
section name of the prompt); and no_answer (nothing came back). Each epoch asks anew: a parent that stayed and draws the same operation again
gets another answer, not the stored one.

Recipe: epochs (int), seeds_per_category (int), max_seed_words (int; the paper's 1,024 teacher tokens, counted as words at 3/4 a token),
breadth_share (0-1, chance that a pool's strategy is in-breadth), evaluator_attempts (int), max_failure_share (0-1), teacher and evaluator
(see bezoar.llm), seed.
"""

import re
import string
from pathlib import Path
from typing import Any

from bezoar.errors import UserError, cli
from bezoar.files import read_jsonl
from bezoar.llm import Door
from bezoar.scheme import Funnel, check_failures, parser_for, prompt_texts, run, user
from bezoar.world import draw

OPERATIONS = ("add_constraints", "deepening", "concretizing", "increase_reasoning_steps")
RULES = ("no_answer", "copied_prompt", "no_information_gain", "sorry", "only_stop_words")
SECTION_NAMES = ("given prompt", "rewritten prompt", "created prompt", "harder instruction:", "new instruction:")
STOP_WORDS = frozenset(
    "a about above after again against all am an and any are as at be because been before being below between both but by can could did "
    "do does doing down during each few for from further had has have having he her here hers him his how i if in into is it its itself "
    "just me more most my no nor not now of off on once one only or other our out over own same she should so some such than that the their "
    "them then there these they this those through to too under until up very was we were what when where which while who whom why will "
    "with would you your yours yourself ours ourselves hers herself himself theirs themselves aren couldn d didn doesn don hadn hasn haven isn "
    "ll m mightn mustn needn re s shan shouldn t ve wasn weren won wouldn".split()  # what an apostrophe leaves is a stop word, too
)


def seed_text(row: dict[str, Any], max_words: int) -> str:
    """Return a Dolly row as one instruction: the instruction, and its context after a blank line, cut to `max_words`."""
    context = (row.get("context") or "").strip()
    text = row["instruction"].strip() + (f"\n\n{context}" if context else "")
    found = list(re.finditer(r"\S+", text))
    return text if len(found) <= max_words else text[: found[max_words - 1].end()]


def equal(text: str) -> bool | None:
    """Read the evaluator's word; None if neither appears."""
    words = re.findall(r"[a-z]+", text.lower())
    if "different" in words or "not" in words:
        return False
    return True if "equal" in words else None


def eliminate_response(text: str) -> str | None:
    """Return the rule that a response falls to, if any."""
    words = re.findall(r"\w+", text)
    if "sorry" in text.lower() and len(words) < 80:
        return "sorry"
    if all(word.lower().strip(string.punctuation) in STOP_WORDS for word in words):
        return "only_stop_words"
    return None


def copies_prompt(instruction: str) -> bool:
    """Say whether an evolved instruction holds a section name of the prompt that asked for it."""
    return any(name in instruction.lower() for name in SECTION_NAMES)


def pools(rows: list[dict[str, Any]], recipe: dict[str, Any]) -> dict[str, list[str]]:
    """Return category -> seed instructions, `seeds_per_category` of each, drawn by the seed."""
    by_category: dict[str, list[str]] = {}
    for row in rows:
        by_category.setdefault(row["category"], []).append(seed_text(row, recipe["max_seed_words"]))
    return {
        category: draw(recipe["seed"], "evol", category).sample(texts, min(recipe["seeds_per_category"], len(texts)))
        for category, texts in sorted(by_category.items())
    }


def evolve(door: Door, evaluator: Door, texts: dict[str, str], rows: list[dict], recipe: dict[str, Any]) -> tuple[list[dict], Funnel]:
    """Run all epochs; return the rows and their funnel."""
    pool, funnel, written = pools(rows, recipe), Funnel(*RULES), []
    for epoch in range(1, recipe["epochs"] + 1):
        prompts, parents, about = [], [], []
        for category, instructions in pool.items():
            chance = draw(recipe["seed"], "evol", category, epoch)
            breadth = chance.random() < recipe["breadth_share"]
            operation = "" if breadth else chance.choice(OPERATIONS)
            for index, text in enumerate(instructions):
                method = texts.get(f"evol_operation_{operation}", "")
                template = texts["evol_in_breadth" if breadth else "evol_in_depth"]
                prompts.append(user(template.replace("{method}", method).replace("{instruction}", text)))
                parents.append(text)
                about.append((category, index, "in-breadth" if breadth else "in-depth", operation))
        names = [f"evol epoch {epoch} {category} seed {index}" for category, index, _, _ in about]
        evolved = door.ask(prompts, names, attempt=epoch)
        check_failures(zip(names, evolved, strict=True), recipe["max_failure_share"], "generate evol")
        fate: dict[int, str] = {}
        for i, answer in enumerate(evolved):
            if answer.state != "answered":
                fate[i] = "no_answer"
            elif copies_prompt(answer.text):
                fate[i] = "copied_prompt"
        alive = [i for i in range(len(evolved)) if i not in fate]
        compare = [user(texts["evol_equal"].format(first=parents[i], second=evolved[i].text)) for i in alive]
        verdicts = evaluator.ask_until(compare, [names[i] for i in alive], equal, recipe["evaluator_attempts"])
        fate |= {i: "no_information_gain" for i, (same, _) in zip(alive, verdicts, strict=True) if same is not False}
        alive = [i for i in alive if i not in fate]
        said = door.ask([user(evolved[i].text) for i in alive], [names[i] for i in alive], attempt=epoch)
        responses = dict(zip(alive, said, strict=True))
        check_failures([(names[i], answer) for i, answer in responses.items()], recipe["max_failure_share"], "generate evol")
        for i, (category, index, strategy, operation) in enumerate(about):
            if i in responses:
                usable = responses[i].state in ("answered", "truncated")
                fate[i] = (eliminate_response(responses[i].text) or "kept") if usable else "no_answer"
            funnel.leave(fate[i])
            if fate[i] == "kept":
                written.append({
                    "instruction": evolved[i].text, "response": responses[i].text, "category": category,
                    "evolution_strategy": strategy, "in-depth-evolving_operation": operation, "epoch": epoch,
                })  # fmt: skip
                pool[category][index] = evolved[i].text
        print(f"epoch {epoch}: {len(written)} rows", flush=True)
    return written, funnel


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and generate."""
    parser = parser_for(__doc__)
    parser.add_argument("--seeds", type=Path, required=True, help="databricks-dolly-15k's schema, JSONL")
    args = parser.parse_args(argv)
    rows = read_jsonl(args.seeds)
    for number, row in enumerate(rows, start=1):
        texts_there = all(isinstance(row.get(column), str) and row[column].strip() for column in ("instruction", "category"))
        if not texts_there or not isinstance(row.get("context") or "", str):
            raise UserError(f"{args.seeds}:{number}: expected texts under `instruction`, `context`, `category`; mend or remove the row")
    texts = prompt_texts(args.prompts)

    def make(door: Door) -> tuple[list[dict], Funnel]:
        other = args.store.with_name(args.store.name.replace(".sqlite", "-evaluator.sqlite"))
        with Door(args.recipe["evaluator"], other, args.concurrency, args.facts, args.mode) as evaluator:
            written, funnel = evolve(door, evaluator, texts, rows, args.recipe)
            funnel.more = {"evaluator_states": dict(sorted(evaluator.states.items()))}
        return written, funnel

    run(args, "generate_evol", "teacher", {"seeds": args.seeds}, make)


if __name__ == "__main__":
    cli(main)
