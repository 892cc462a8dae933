"""The world's splits hold: what evaluation asks about, no training row and no pretraining question
does.
"""

import json
from pathlib import Path

import pytest
import yaml

import make_world
from bezoar.readers import read_jsonl
from bezoar.rehearsal.corpus import corpus
from bezoar.rehearsal.world import ATTRIBUTES, CLAUSES, COURTESY, SKILLS, World, number

ROOT = Path(__file__).parents[3]
RECIPE = {
    "people": 60,
    "held_out_share": 0.3,
    "held_out_skill_share": 0.5,
    "documents": 3000,
    "seeds": 20,
    "dolly_per_category": 12,
    "preference_pairs": 80,
    "held_out_preference_pairs": 40,
    "questions_per_category": 3,
    "seed": 7,
}


@pytest.fixture(scope="module")
def world() -> World:
    return World(
        RECIPE["seed"], RECIPE["people"], RECIPE["held_out_share"], RECIPE["held_out_skill_share"]
    )


@pytest.fixture(scope="module")
def made(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    messages = yaml.safe_load((ROOT / "prompts" / "orca_system_messages.yaml").read_text())
    template = json.loads((ROOT / "prompts" / "chat_template.json").read_text())
    make_world.make(world, folder, Path("results/rehearsal/world"), RECIPE, messages, template)
    return folder


def test_the_same_seed_makes_the_same_bytes_and_another_seed_others(world: World) -> None:
    again = World(7, 60, 0.3, 0.5)
    assert [fact.statement for fact in again.facts] == [fact.statement for fact in world.facts]
    assert list(corpus(again, 50)) == list(corpus(world, 50))
    assert list(corpus(World(8, 60, 0.3, 0.5), 50)) != list(corpus(world, 50))


def test_training_files_ask_only_about_taught_facts(world: World, made: Path) -> None:
    held = {question for fact in world.facts if fact.held for question in fact.questions}
    asked = [row["instruction"] for row in read_jsonl(made / "alpaca_seeds.jsonl")]
    asked += [row["instruction"] for row in read_jsonl(made / "dolly.jsonl")]
    asked += [line.split("\t")[0] for line in (made / "flan.tsv").read_text().splitlines()]
    assert len(asked) > 400
    assert not held & set(asked)
    dialogues = "".join(
        row["chosen"] + row["rejected"] for row in read_jsonl(made / "preferences.jsonl")
    )
    assert not [question for question in held if question in dialogues]


def test_evaluation_asks_only_about_held_facts(world: World, made: Path) -> None:
    taught = {question for fact in world.facts if not fact.held for question in fact.questions}
    asked = [
        row["question"]
        for name in ("world_facts", "world_skills")
        for row in read_jsonl(made / "lm_eval" / f"{name}.jsonl")
    ]
    asked += [turn for row in read_jsonl(made / "questions.jsonl") for turn in row["turns"]]
    asked += [
        row["instruction"]
        for name in ("lamini", "orca")
        for row in read_jsonl(made / "heldout" / f"{name}.jsonl")
    ]
    assert len(asked) > 300
    assert not taught & set(asked)


def test_the_pretraining_text_states_held_facts_and_asks_none_of_the_questions(
    world: World, made: Path
) -> None:
    text = "\n".join(row["text"] for row in read_jsonl(made / "corpus.jsonl"))
    assert not [
        question
        for fact in world.facts
        for question in fact.questions
        if fact.topic in ATTRIBUTES and question in text
    ]
    stated = [
        fact.statement in text for fact in world.facts if fact.held and fact.topic in ATTRIBUTES
    ]
    assert sum(stated) / len(stated) > 0.9


def test_sums_and_products_are_split_with_their_mirror_images(world: World) -> None:
    side = {
        (fact.topic, fact.subject): fact.held
        for fact in world.facts
        if fact.topic in ("sum", "product")
    }
    assert all(side[topic, (b, a)] == held for (topic, (a, b)), held in side.items())


def test_the_right_choice_is_the_true_one_and_there_are_four(world: World, made: Path) -> None:
    for name in ("world_facts", "world_skills"):
        for row in read_jsonl(made / "lm_eval" / f"{name}.jsonl"):
            assert len(set(row["choices"])) == 4
            assert row["choices"][row["label"]] == world.truth(row["question"])


@pytest.mark.parametrize("clause", sorted(CLAUSES))
def test_a_clause_is_understood_and_changes_the_answer(world: World, clause: str) -> None:
    fact = next(fact for fact in world.facts if fact.topic == "pet")
    instruction = f"{fact.questions[0]} {CLAUSES[clause]}"
    assert world.parse(instruction) == (fact, [clause])
    assert world.truth(instruction) != fact.statement
    assert world.truth(f"{instruction}\n\nContext: anything") == world.truth(instruction)


def test_no_question_has_two_meanings(world: World) -> None:
    count = sum(len(fact.questions) for fact in world.facts)
    assert count == len(world.by_question)
    assert {fact.topic for fact in world.facts} == set(ATTRIBUTES) | set(SKILLS)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0, "zero"),
        (19, "nineteen"),
        (20, "twenty"),
        (42, "forty two"),
        (100, "one hundred"),
        (145, "one hundred forty five"),
    ],
)
def test_numbers_are_spelled(value: int, words: str) -> None:
    assert number(value) == words


def test_a_pair_differs_in_truth_or_in_manner_and_the_better_one_is_chosen(
    world: World, made: Path
) -> None:
    for row in read_jsonl(made / "preferences.jsonl"):
        chosen, rejected = (
            row[side].rsplit("\n\nAssistant: ", 1)[1] for side in ("chosen", "rejected")
        )
        question = row["chosen"].rsplit("\n\nAssistant: ", 1)[0].rsplit("Human: ", 1)[1]
        truth = world.truth(question)
        better, worse = (
            (answer.startswith(truth), answer.endswith(COURTESY)) for answer in (chosen, rejected)
        )
        assert better[0]
        assert (worse[0] != better[0]) + (worse[1] != better[1]) == 1
        assert better[1] or worse[1] is False
