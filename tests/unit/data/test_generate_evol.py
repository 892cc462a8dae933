"""Promises of the Evol-Instruct scheme: its draws, its four eliminations, and parents that stay."""

import json
from pathlib import Path
from typing import Any

import pytest
from scripted import Scripted, ScriptedModel
from simulated import SETTINGS
from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split

import generate_evol as evol
from bezoar.data.schemes import prompt_texts
from bezoar.errors import UserError
from bezoar.llm.client import LLMClient
from bezoar.llm.language_model import Answer

PROMPTS = Path(__file__).parents[3] / "prompts"
RECIPE = {
    "epochs": 3,
    "seeds_per_category": 4,
    "max_seed_tokens": 1024,
    "breadth_share": 0.25,
    "strategy_draw": "pool",
    "complicate_input": False,
    "evaluator_attempts": 6,
    "max_failure_share": 0.0,
    "seed": 0,
}
TEXTS = prompt_texts(sorted(PROMPTS.glob("evol_*.txt")), evol.prompt_fields(RECIPE))
ROWS = [
    {
        "instruction": f"Question {i} of {category}?",
        "context": "",
        "response": "unused",
        "category": category,
    }
    for category in ("open_qa", "closed_qa")
    for i in range(6)
]


def test_a_seed_is_instruction_blank_line_context_cut_to_so_many_tokens() -> None:
    row = {"instruction": " Sum it up. ", "context": "a  b\nc d", "category": "x"}
    assert evol.seed_text(row, 99, None) == "Sum it up.\n\na  b\nc d"
    assert evol.seed_text(row, 7, None) == "Sum it up.\n\na  b", "a word counts as 4/3 tokens"
    assert (
        evol.seed_text({**row, "context": None}, 99, None)
        == evol.seed_text({**row, "context": " "}, 99, None)
        == "Sum it up."
    )
    letters = Tokenizer(WordLevel({"?": 0}, unk_token="?"))
    letters.pre_tokenizer = Split(Regex("."), "isolated")
    assert evol.seed_text(row, 7, letters) == "Sum it "


def test_a_seed_more_or_less_changes_one_row_of_a_pool_at_most() -> None:
    rows = [{"instruction": f"Question {i}?", "category": "x"} for i in range(200)]
    recipe = {**RECIPE, "seeds_per_category": 50}
    pool = evol.pools(rows, recipe)["x"]
    assert len(pool) == 50 and max(pool) > 150, "from the whole file"
    drawn = set(pool.values())
    assert set(evol.pools(rows, {**recipe, "seed": 1})["x"].values()) != drawn
    lost = []
    for left_out in range(0, 200, 5):
        fewer = set(evol.pools(rows[:left_out] + rows[left_out + 1 :], recipe)["x"].values())
        assert drawn - fewer == drawn & {rows[left_out]["instruction"]}
        lost.append(len(drawn - fewer))
    assert set(lost) == {0, 1}


def test_seeds_that_differ_in_their_context_alone_are_drawn_apart() -> None:
    rows = [
        {"instruction": "Sum it up.", "context": f"Text {i}.", "category": "x"} for i in range(200)
    ]
    assert max(evol.pools(rows, {**RECIPE, "seeds_per_category": 20})["x"]) > 100


def test_wizardlms_ways_are_options() -> None:
    """One draw an instruction instead of one a pool, and a fifth operation."""
    written, _, _ = run(strategy_draw="item", epochs=6)
    pairs = {
        (
            row["category"],
            row["epoch"],
            row["evolution_strategy"],
            row["in-depth-evolving_operation"],
        )
        for row in written
    }
    assert len(pairs) > 2 * 6
    assert {pair[3] for pair in pairs} == {"", *evol.OPERATIONS}
    written, _, _ = run(strategy_draw="item", complicate_input=True, epochs=6)
    assert {row["in-depth-evolving_operation"] for row in written} == {
        "",
        "complicate_input",
        *evol.OPERATIONS,
    }


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("Equal", True),
        ("equal.", True),
        ("Not equal", False),
        ("different", False),
        ("They aren't equal.", False),
        ("The two instructions aren’t equal in depth.", False),
        ("Unequal", False),
        ("They cannot be called equal.", False),
        ("The two are not different.", True),
        ("There is no difference between them: equal", True),
        ("**Equal**", True),
        ("Yes, they are equal.", True),
        ("No, they are equal.", True),
        ("No; different.", False),
        ("They are not equal but different.", False),
        ("They are equal, not different.", True),
        ("They're far from equal", False),
        ("They are anything but equal.", False),
        ("The second fails to be different.", True),
        ("They are without a doubt equal.", True),
        ("They are not only different", False),
        ("They are almost equal.", None),
        ("More or less equal", None),
        ("I cannot say that they are different.", None),
        ("Ｅｑｕａｌ", True),
        ("<think>Different? Not at all.</think>Equal", True),
        ("<think>They are equal", None),
        ("Are they equal? No.", None),
        ("Are they equal? They are not equal.", False),
        ("Equal or different, I am not sure", None),
        ("Equal in topic. Different in depth.", None),
        ("They are not necessarily equal.", None),
        ("They differ.", None),
        ("Equal: no", False),
        ("different = false", True),
        ("Equal: yes", True),
        ("I would hesitate to call them equal.", None),
        ("Hard to tell", None),
        ("Equality?", None),
        ("", None),
    ],
)
def test_the_evaluator_is_read_by_its_words(text: str, says: bool | None) -> None:
    assert evol.equal(text) is says


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("I'm SORRY, no.", "sorry"),
        ("sorry " + "word " * 78, "sorry"),
        ("sorry " + "word " * 79, None),
        ("It is the one, and that's it!", "only_stop_words"),
        ("I don't; you won't.", "only_stop_words"),
        ("… !? —", "only_stop_words"),
        ("42", None),
        ("是的", None),
    ],
)
def test_responses_are_eliminated_by_the_rules(text: str, rule: str | None) -> None:
    assert evol.eliminate_response(text) == rule


@pytest.mark.parametrize("name", ["given prompt", "#Rewritten Prompt#:", "CREATED PROMPT"])
def test_a_copied_section_name_eliminates(name: str) -> None:
    assert evol.copies_prompt(f"{name} do it")
    assert not evol.copies_prompt("Prompt the given user to rewrite it.")


def parent_of(prompt: str) -> str:
    """The instruction in an evolution prompt of ours."""
    return prompt.split("Instruction:\n")[1].rsplit("\n\n", 1)[0]


def teacher(prompt: str, attempt: int) -> str:
    if "Instruction:\n" in prompt:
        return f"{parent_of(prompt)} deeper{attempt}"
    return f"A substantial response to {prompt}"


def run(
    say: Any = teacher, judge: Any = lambda *_: "different", rows: Any = ROWS, **changes: Any
) -> tuple[list[dict], Any, Scripted]:
    client = Scripted(say)
    written, funnel = evol.evolve(
        client, Scripted(judge), TEXTS, evol.pools(rows, RECIPE), {**RECIPE, **changes}
    )
    return written, funnel, client


def test_one_strategy_and_one_operation_for_a_whole_pool_and_epoch() -> None:
    written, funnel, _ = run(epochs=12)
    drawn: dict[tuple, set] = {}
    for row in written:
        drawn.setdefault((row["category"], row["epoch"]), set()).add(
            (row["evolution_strategy"], row["in-depth-evolving_operation"])
        )
    assert len(drawn) == 24
    assert all(len(choices) == 1 for choices in drawn.values())
    seen = set.union(*drawn.values())
    assert {operation for strategy, operation in seen if strategy == "in-depth"} == set(
        evol.OPERATIONS
    )
    assert {operation for strategy, operation in seen if strategy == "in-breadth"} == {""}
    assert funnel.entered == 2 * 4 * 12 == len(written)


def test_a_child_that_passes_replaces_its_parent() -> None:
    written, _, _ = run()
    last = [row for row in written if row["epoch"] == 3]
    assert all(row["instruction"].endswith("deeper1 deeper2 deeper3") for row in last)
    assert list(last[0]) == [
        "instruction",
        "response",
        "category",
        "evolution_strategy",
        "in-depth-evolving_operation",
        "epoch",
    ]


def test_a_parent_whose_child_is_eliminated_stays_and_is_asked_anew() -> None:
    """The same parent under the same operation must not get the stored answer that was eliminated
    before.
    """

    def say(prompt: str, attempt: int) -> str:
        return (
            "I am sorry."
            if attempt == 1 and "Instruction:\n" not in prompt
            else teacher(prompt, attempt)
        )

    written, funnel, client = run(say, breadth_share=1.0)
    assert funnel.left == {**dict.fromkeys(evol.RULES, 0), "sorry": 8, "kept": 16}
    assert {row["epoch"] for row in written} == {2, 3}
    assert all(row["instruction"].endswith("? deeper2") for row in written if row["epoch"] == 2)
    evolving = [(prompt, attempt) for prompt, attempt in client.asked if "Instruction:\n" in prompt]
    assert len(set(evolving)) == len(evolving) == 24
    assert len({prompt for prompt, _ in evolving}) == 16


@pytest.mark.parametrize(
    ("say", "judge", "rule"),
    [
        (lambda prompt, _: "Rewritten prompt: x", lambda *_: "different", "copied_prompt"),
        (teacher, lambda *_: "equal", "no_information_gain"),
        (teacher, lambda *_: "who knows", "no_information_gain"),
        (lambda *_: "it is the one", lambda *_: "different", "only_stop_words"),
        (lambda *_: "", lambda *_: "different", "no_answer"),
    ],
)
def test_each_elimination_has_its_rule_and_the_counts_add_up(
    say: Any, judge: Any, rule: str
) -> None:
    written, funnel, _ = run(say, judge, max_failure_share=1.0)
    assert written == []
    assert funnel.left[rule] == funnel.entered == sum(funnel.left.values()) == 24
    held_against_parent = rule == "no_information_gain"
    assert all(("like" in row) == held_against_parent for row in funnel.dropped)


def test_the_evaluator_is_asked_again_at_most_six_times() -> None:
    evaluator = Scripted(lambda prompt, attempt: "different" if attempt == 5 else "mumble")
    _, funnel = evol.evolve(
        Scripted(teacher), evaluator, TEXTS, evol.pools(ROWS, RECIPE), {**RECIPE, "epochs": 1}
    )
    assert funnel.left["kept"] == 8
    assert len(evaluator.asked) == 8 * 6


@pytest.mark.parametrize("state", ["provider_error", "refused"])
def test_an_evaluator_that_fails_ends_the_stage_and_drops_no_row(state: str) -> None:
    class Failing(ScriptedModel):
        def answers(self, prompts: list, *others: Any) -> list[Answer]:
            failed = Answer(state, "", {}, "m", error="no such deployment")
            said = super().answers(prompts, *others)
            hit = ["Question 1 " in prompt[-1]["content"] for prompt in prompts]
            return [failed if bad else answer for bad, answer in zip(hit, said, strict=True)]

    def evolved(share: float) -> dict[str, int]:
        evaluator = LLMClient(Failing(lambda *_: "different"))
        seeds = {"open_qa": {n: f"Question {n} ?" for n in (1, 2, 3, 4)}}
        changes = {"epochs": 1, "max_failure_share": share}
        return evol.evolve(Scripted(teacher), evaluator, TEXTS, seeds, {**RECIPE, **changes})[
            1
        ].left

    line = rf"evaluator: 1 of 4 rows failed, .*1 {state} \(no such deployment\)"
    with pytest.raises(UserError, match=line):
        evolved(0.2)
    assert evolved(0.25)["no_information_gain"] == 1


def test_text_that_looks_like_a_field_is_left_alone() -> None:
    seen: list[str] = []

    def judge(prompt: str, attempt: int) -> str:
        seen.append(prompt)
        return "different"

    run(
        judge=judge,
        rows=[{"instruction": "Explain {second} and {instruction}.", "category": "x"}],
        epochs=1,
    )
    assert seen[0].count("Explain {second} and {instruction}.") == 2
    assert seen[0].count("Explain {second} and {instruction}. deeper1") == 1


@pytest.mark.parametrize(
    "row",
    [
        {"instruction": "x"},
        {"instruction": " ", "category": "x"},
        {"instruction": "x", "category": "y", "context": 3},
    ],
)
def test_a_bad_seed_is_named(tmp_path: Path, row: dict[str, Any]) -> None:
    from bezoar.files import write_jsonl

    write_jsonl(tmp_path / "dolly.jsonl", [ROWS[0], row])
    arguments = {
        "seeds": "dolly.jsonl",
        "prompts": "p",
        "store": "s",
        "rows": "r",
        "counts": "c",
        "receipt": "t",
    }
    argv = [
        part for name, value in arguments.items() for part in (f"--{name}", str(tmp_path / value))
    ]
    recipe = json.dumps(RECIPE | {"teacher": SETTINGS, "evaluator": SETTINGS})
    with pytest.raises(UserError, match=r"dolly\.jsonl:2: expected texts"):
        evol.main([*argv, "--concurrency", "1", "--code", "c", "--recipe", recipe])
