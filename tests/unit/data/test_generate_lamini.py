"""Promises of the LaMini scheme: its list parser, its drop rules, its near-duplicates, and that
order changes nothing.
"""

import random
from dataclasses import replace
from typing import Any

import pytest
from rapidfuzz.distance import LCSseq
from rouge_score import rouge_scorer
from scripted import Scripted

import generate_lamini as lamini
from bezoar.data import rouge
from bezoar.data.funnel import Funnel
from bezoar.errors import UserError
from bezoar.llm.language_model import Answer
from bezoar.llm.settings import Messages

RECIPE = {
    "rows": 6,
    "rounds": 3,
    "calls_per_round": 2,
    "instructions_per_call": 20,
    "examples": 3,
    "topics": 2,
    "rouge_l": 0.7,
    "seed_set": "own",
    "max_failure_share": 0.0,
    "seed": 0,
}
TEXTS = {"lamini_example": "{examples}\n{count}", "lamini_topic": "{examples}\n{count}\n{topics}"}
SEEDS = [
    "Say how glass is blown.",
    "Count the legs of a spider.",
    "Which river crosses Vienna today?",
    "Write a poem on moss.",
]


TITLED = ["Tea: Say why.", "Tides: Say how.", "Go **on**"]
KWARGS = "**kwargs or **args?"


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("<example>a</example> <example>\nb\nc </example>", ["a", "b\nc"]),
        ("1. <example>a</example>\n2. <example>b", ["a", None]),
        ("<example>a <example>b</example>", [None, "b"]),
        ("<example> </example>", [None]),
        ("1. a\n2. b", ["a", "b"]),
        ("Here they are:\n\n 1) **a**\n    b\n\n 2) \n\nThese are two.", ["a b", None]),
        ("1) a** b\n2. **c\nd\n3. *e*", ["a** b", "c d", "e"]),
        ("1. **Tea:** Say why.\n**2. Tides:** Say how.\n**3.** Go **on**", TITLED),
        ("1. Compute 2**3 and 4**5\n2. **kwargs or **args?", ["Compute 2**3 and 4**5", KWARGS]),
        ("1. Do both:\n   1. a\n   2) b\n2. Rest\n", ["Do both: 1. a 2) b", "Rest"]),
        ("1. Do both:\n- one\n- two\n2. Rest", ["Do both: - one - two", "Rest"]),
        ("  9. a\n 10. b\n 11. c", ["a", "b", "c"]),
        ("<example>1. a</example><example>**2. b:** c</example>", ["a", "b: c"]),
        ("<example>Instruction: a</example><example>Example 2:\nb</example>", ["a", "b"]),
        ("<example>1. a\n2. b</example><example>3.5 times</example>", ["1. a\n2. b", "3.5 times"]),
        ('<Example>a</Example ><example id="2">b</EXAMPLE><examples>', ["a", "b"]),
        ("In 1945. it was\nover, 3.5 times", []),
        ("1. a <example>b</example>", ["b"]),
        ("", []),
        ("<example>שלום\u2028\U0001f600\t</example>", ["שלום\u2028\U0001f600"]),
    ],
)
def test_the_list_is_read_strictly(text: str, items: list[str | None]) -> None:
    assert lamini.parse_list(text) == items


def test_the_last_number_of_an_answer_that_is_cut_off_is_malformed() -> None:
    assert lamini.parse_list("1. Name a bird.\n2. Name a tr", cut_off=True) == [
        "Name a bird.",
        None,
    ]
    assert lamini.parse_list("Well", cut_off=True) == []


@pytest.mark.parametrize(
    ("item", "rule"),
    [
        (None, "malformed"),
        ("one two three", "too_short"),
        ("one two three four", "kept"),
        ("word " * 150, "kept"),
        ("word " * 151, "too_long"),
        ("Describe the picture I sent.", "not_for_text_model"),
        ("Imagine a world of moss.", "kept"),
        ("Count the LEGS of a spider!", "near_duplicate"),
    ],
)
def test_each_item_leaves_by_its_rule(item: str | None, rule: str) -> None:
    kept = lamini.Kept(0.7)
    kept.add(lamini.words_of(SEEDS[1]))
    assert lamini.rule_for(item, kept) == (rule, 0 if rule == "near_duplicate" else None)


def test_the_same_text_in_another_script_is_a_duplicate() -> None:
    kept = lamini.Kept(0.7)
    kept.add(lamini.words_of("Напиши стихи о мхе и камне."))
    assert kept.near(lamini.words_of("Напиши стихи о мхе и камне")) == 0
    assert kept.near(lamini.words_of("Сколько лап у большого паука?")) is None


def test_near_duplicates_are_those_of_the_rouge_library() -> None:
    """Words from a small set, so that scores lie on both sides of the limit."""
    rng, scorer = random.Random(0), rouge_scorer.RougeScorer(["rougeL"])
    found = {True: 0, False: 0}
    for _ in range(1500):
        first = [rng.choice("abcd") for _ in range(rng.randint(1, 12))]
        second = [word if rng.random() < 0.8 else rng.choice("abcd") for word in first][
            : rng.randint(1, 12)
        ]
        kept = lamini.Kept(0.7)
        kept.add(first)
        score = scorer.score(" ".join(first), " ".join(second))["rougeL"].fmeasure
        if abs(score - 0.7) > 1e-9:
            assert (kept.near(second) == 0) == (score > 0.7)
            found[score > 0.7] += 1
    assert min(found.values()) > 300


def answers(prompt: str, attempt: int) -> str:
    if "<example>" not in prompt:
        return f"response to {prompt}"
    words = [
        f"{hash_word(prompt, i)} {hash_word(prompt, i + 50)} {hash_word(prompt, i + 99)} {i} it is"
        for i in range(3)
    ]
    return (
        "".join(f"<example>{text}</example>" for text in [*words, words[0], "too short"])
        + "<example>open"
    )


def hash_word(prompt: str, index: int) -> str:
    return f"w{random.Random(f'{prompt}{index}').randint(0, 10**9)}"


def test_every_item_is_counted_once_and_the_wanted_number_is_kept() -> None:
    client = Scripted(answers)
    rows, funnel = lamini.make(client, TEXTS, SEEDS, ["Tea", "Tides", "Jazz"], RECIPE)
    assert len(rows) == RECIPE["rows"] == funnel.left["kept"]
    assert funnel.entered == sum(funnel.left.values()) == 6 * funnel.more["asked"]
    assert funnel.left["malformed"] == funnel.left["too_short"] == funnel.more["asked"] == 2
    assert funnel.left["near_duplicate"] == 2
    near = [row for row in funnel.dropped if row["rule"] == "near_duplicate"]
    assert len(near) == 2 and all(row["like"] == row["text"] for row in near)
    assert {row["source"] for row in rows} == {"example-own", "topic-own"}
    assert all(list(row) == ["instruction", "source", "response"] for row in rows)
    assert all(row["response"] == f"response to {row['instruction']}" for row in rows)


def test_surplus_instructions_take_the_place_of_rows_without_a_response() -> None:
    """A round brings six instructions, of which four are wanted and two have no response."""
    recipe = {**RECIPE, "rows": 4, "max_failure_share": 0.5}
    topics = ["Tea", "Tides", "Jazz"]
    first = lamini.make(Scripted(answers), TEXTS, SEEDS, topics, {**recipe, "rows": 6})[0]
    lost = [row["instruction"] for row in (first[1], first[4])]

    def say(prompt: str, attempt: int) -> str:
        return "" if prompt in lost else answers(prompt, attempt)

    client = Scripted(say)
    rows, funnel = lamini.make(client, TEXTS, SEEDS, topics, recipe)
    assert rows == [first[0], first[2], first[3], first[5]], "in order, and the next for the next"
    assert (funnel.left["no_response"], funnel.left["surplus"]) == (2, 0)
    assert funnel.entered == sum(funnel.left.values()) == 6 * funnel.more["asked"]
    asked = [prompt for prompt, _ in client.asked if "<example>" not in prompt]
    assert asked == [row["instruction"] for row in first], "none twice"
    rows, funnel = lamini.make(Scripted(answers), TEXTS, SEEDS, topics, recipe)
    assert (rows, funnel.left["surplus"]) == (first[:4], 2), "none is asked beyond what is wanted"


def test_another_round_is_asked_where_surplus_instructions_do_not_suffice() -> None:
    recipe = {**RECIPE, "max_failure_share": 0.5}
    topics = ["Tea", "Tides", "Jazz"]
    first = lamini.make(Scripted(answers), TEXTS, SEEDS, topics, recipe)[0]
    lost = [row["instruction"] for row in (first[1], first[4])]

    def say(prompt: str, attempt: int) -> str:
        return "" if prompt in lost else answers(prompt, attempt)

    rows, funnel = lamini.make(Scripted(say), TEXTS, SEEDS, topics, recipe)
    assert len(rows) == RECIPE["rows"] and rows[:4] == [first[i] for i in (0, 2, 3, 5)]
    assert (funnel.more["asked"], funnel.left["no_response"], funnel.left["surplus"]) == (4, 2, 4)
    assert funnel.entered == sum(funnel.left.values()) == 6 * funnel.more["asked"]
    few = lamini.make(Scripted(say), TEXTS, SEEDS, topics, {**recipe, "rounds": 1})[0]
    assert few == rows[:4], "no round is left"


@pytest.mark.parametrize(("refused", "ends"), [(4, False), (5, True)])
def test_the_share_of_calls_that_fail_is_one_of_all_rounds(refused: int, ends: bool) -> None:
    """Of one round's 20 calls, 1 % would be none."""
    recipe = {**RECIPE, "rows": 10**6, "rounds": 20, "calls_per_round": 20}
    recipe["max_failure_share"] = 0.01
    calls = 0

    def say(prompt: str, attempt: int) -> str:
        nonlocal calls
        calls += "<example>" in prompt
        lost = "<example>" in prompt and calls % 20 == 0 and calls <= 20 * refused
        return "" if lost else answers(prompt, attempt)

    asked = (Scripted(say), TEXTS, SEEDS, ["Tea", "Tides"], recipe)
    if ends:
        with pytest.raises(UserError, match="5 of 400 planned rows failed, more than 1%"):
            lamini.make(*asked)
        assert calls == 100, "it ends as soon as it is certain"
    else:
        assert lamini.make(*asked)[1].more["asked"] == calls == 400


def test_each_prompt_holds_three_tagged_examples_and_only_topic_prompts_hold_topics() -> None:
    for turn in range(3):
        made = lamini.calls(TEXTS, SEEDS, ["Tea", "Tides", "Jazz"], RECIPE, turn)
        assert made == lamini.calls(TEXTS, SEEDS, ["Tea", "Tides", "Jazz"], RECIPE, turn)
        for source, prompt in made:
            examples = lamini.parse_list(prompt)
            assert len(set(examples)) == 3
            assert set(examples) <= set(SEEDS)
            assert sum(topic in prompt for topic in ("Tea", "Tides", "Jazz")) == (
                2 if source == "topic-own" else 0
            )


@pytest.mark.parametrize(("state", "items"), [("refused", 0), ("unparsable", 0), ("truncated", 1)])
def test_items_are_taken_from_texts_that_count_alone(
    monkeypatch: pytest.MonkeyPatch, state: str, items: int
) -> None:
    """A refusal or a call of a tool may come with a list in it."""
    client = Scripted(lambda *_: "1. Name a bird of prey.\n2. Name a tree of the north.")
    of_all = client.script.answers

    def ended(prompts: list[Messages], *rest: Any) -> list[Answer]:
        return [replace(answer, state=state) for answer in of_all(prompts, *rest)]

    monkeypatch.setattr(client.script, "answers", ended)
    recipe = {**RECIPE, "rounds": 1, "max_failure_share": 1.0}
    _, funnel = lamini.make(client, TEXTS, SEEDS, ["Tea", "Tides"], recipe)
    assert funnel.more["calls_without_items"] == (0 if items else 2)
    assert funnel.left["kept"] + funnel.left["no_response"] == items


def test_calls_that_list_nothing_are_counted_and_end_after_the_last_round() -> None:
    rows, funnel = lamini.make(
        Scripted(lambda *_: "no tags, no numbers"), TEXTS, SEEDS, ["Tea", "Tides"], RECIPE
    )
    assert rows == []
    assert isinstance(funnel, Funnel)
    assert funnel.more == {"asked": 6, "calls_without_items": 6}


@pytest.mark.parametrize("limit", [0.0, 0.3, 0.5, 0.7, 0.9])
def test_the_filed_search_finds_what_comparing_with_every_kept_text_finds(
    limit: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Texts of few words, so that repeated words, every length and scores at the limit itself
    occur.
    """
    monkeypatch.setattr(rouge, "ROOM", 8)  # it grows several times
    rng, kept, texts = random.Random(limit), lamini.Kept(limit), [[]]
    answers = []
    for _ in range(400):
        words = [word for word in rng.choice(texts) if rng.random() < 0.9] + rng.choices(
            "abcdefghij", k=rng.randint(0, 3)
        )
        words = words[:14]
        near = [
            place
            for place, other in enumerate(texts[1:])
            if 2 * LCSseq.similarity(words, other) > limit * (len(words) + len(other))
        ]
        assert kept.near(words) == (near[0] if near else None), (words, texts)
        answers.append(bool(near))
        if not near or rng.random() < 0.1:
            kept.add(words)
            texts.append(words)
    assert {True, False} <= set(answers) or limit == 0.0
