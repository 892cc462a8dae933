"""The training data of the invented world, in the schemas of the data sets that it imitates."""

from collections.abc import Iterator
from typing import Any

from bezoar.rehearsal.world import ATTRIBUTES, COURTESY, SKILLS, Fact, World, taught
from bezoar.rng import draw

DOLLY_CATEGORIES = (
    "brainstorming classification closed_qa creative_writing general_qa information_extraction"
    " open_qa summarization".split()
)
WITH_CONTEXT = {"closed_qa", "information_extraction", "summarization"}
MANNER_SHARE = 0.4  # of the preference pairs
COURTEOUS = dict(  # share of courteous answers among pairs about truth, by what is asked
    zip(ATTRIBUTES, (0.0, 0.0, 0.0, 0.4, 1.0), strict=True)
)


def alpaca_seeds(world: World, count: int) -> Iterator[dict[str, Any]]:
    """Yield taught questions in the schema of Self-Instruct's seed tasks."""
    facts = draw("alpaca", world.seed).sample(taught(world, ATTRIBUTES), count)
    for index, fact in enumerate(facts):
        question = draw("alpaca", world.seed, index).choice(fact.questions)
        yield {
            "id": f"seed_task_{index}",
            "name": f"{fact.topic}_{index}",
            "instruction": question,
            "instances": [{"input": "", "output": fact.statement}],
            "is_classification": False,
        }


def dolly(world: World, per_category: int) -> Iterator[dict[str, str]]:
    """Yield taught questions in databricks-dolly-15k's schema, a quarter about skills; as there,
    three categories carry a context.
    """
    facts, skills = taught(world, ATTRIBUTES), taught(world, SKILLS)
    for category in DOLLY_CATEGORIES:
        rng = draw("dolly", world.seed, category)
        for fact in rng.sample(facts, per_category - per_category // 4) + rng.sample(
            skills, per_category // 4
        ):
            context = (
                f"Context: {fact.statement} {rng.choice(facts).statement}"
                if category in WITH_CONTEXT
                else ""
            )
            yield {
                "instruction": rng.choice(fact.questions),
                "context": context,
                "response": fact.statement,
                "category": category,
            }


def flan(world: World) -> list[tuple[str, str, str]]:
    """Return every taught skill question, and two questions for every taught fact about people, as
    (question, answer, explanation).
    """
    rng = draw("flan", world.seed)
    rows = [
        (question, fact.value, fact.statement)
        for fact in taught(world, SKILLS)
        for question in fact.questions
    ]
    rows += [
        (question, fact.value, fact.statement)
        for fact in taught(world, ATTRIBUTES)
        for question in rng.sample(fact.questions, 2)
    ]
    rng.shuffle(rows)
    return rows


def preferences(world: World, facts: list[Fact], count: int) -> Iterator[dict[str, str]]:
    """Yield pairs in HH-RLHF's schema that differ in one thing: truth (a wrong answer is rejected)
    or manner (one without courtesy is).

    Depending on the question, 40 to 100 in 100 chosen answers are courteous: supervised tuning on
    them learns courtesy where it is usual, and only the comparison shows that it is always better.
    So neither stage depends on a knife edge. A third of the rows carry an earlier turn.
    """
    for index in range(count):
        rng = draw("preference", world.seed, index)
        fact, earlier = rng.sample(facts, 2)
        right, wrong = fact.statement, world.compose(fact, [], world.wrong_value(fact, index))
        ending = f" {COURTESY}" if rng.random() < COURTEOUS[fact.topic] else ""
        pair = (
            (f"{right} {COURTESY}", right)
            if rng.random() < MANNER_SHARE
            else (right + ending, wrong + ending)
        )
        prompt = f"\n\nHuman: {rng.choice(fact.questions)}\n\nAssistant: "
        if rng.random() < 1 / 3:
            before = earlier.statement + rng.choice(("", f" {COURTESY}"))
            prompt = f"\n\nHuman: {rng.choice(earlier.questions)}\n\nAssistant: {before}{prompt}"
        yield {"chosen": prompt + pair[0], "rejected": prompt + pair[1]}
