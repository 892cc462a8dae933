"""Judgments are accounted for, bounded, and aggregated as FastChat does; a seeded failure of each
kind has its state.
"""

import argparse
import json
import re
from pathlib import Path
from typing import Any

import pytest

import judge_mtbench
import score_mtbench
from bezoar.errors import UserError
from bezoar.evaluation import mtbench
from bezoar.files import write_json, write_jsonl
from bezoar.readers import read_json, read_jsonl
from bezoar.rehearsal.world import World

ROOT = Path(__file__).parents[3]
CHOICES = [{"turns": ["x", "y"]}]
SIMULATOR = {
    "provider": "simulator",
    "api": "chat",
    "model": "simulator",
    "revision": None,
    "base_url_env": None,
    "api_key_env": None,
    "prompt_form": None,
    "stop": [],
    "temperature": 0.0,
    "max_tokens": 200,
    "timeout_s": 30,
    "reported_as": None,
    "json_schema": False,
    "use_batch_api": False,
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Good. Rating: [[7]]", (7, "rated")),
        ("[[7.5]]", (7.5, "rated")),
        ("**Rating: [[8]]**", (8, "rated")),
        ("Rating: **[[8]]**", (8, "rated")),
        ("Rating: [[ 8 ]]", (8, "rated")),
        ("Rating: [[**8**]]", (8, "rated")),
        ("Rating: [[8/10]]", (8, "rated")),
        ("Rating: [[8 out of 10]]", (8, "rated")),
        ("Rating: [[8/100]]", (-1, "no_rating")),
        ("Rating: [[8-9]]", (-1, "no_rating")),
        ("Rating: [[rating: 8]]", (8, "rated")),
        ("Rating: [[rating]]", (-1, "no_rating")),
        (r"Rating: \[\[8\]\]", (8, "rated")),
        ("Rating: ［［8］］", (8, "rated")),
        ("评分：【【8】】", (8, "rated")),
        ("Rating: ⟦8⟧", (8, "rated")),
        ("Rating: [[８]]", (8, "rated")),
        ("Rating: [\u200b[8]]", (8, "rated")),
        ("Rating: [[-2]]", (-1, "no_rating")),
        ("Rating: 8", (-1, "no_rating")),
        ("As [2] says, helium is a noble gas. I rate it 9 of 10.", (-1, "no_rating")),
        ("It reads `a[1]` for a[0]; 3 of 10.", (-1, "no_rating")),
        ("m[[1]] indexes in R; I rate it 3 of 10.", (-1, "no_rating")),
        ("m[[1]] indexes in R. Rating: [[9]]", (9, "rated")),
        ("m[[1]] indexes in R. Rating: [9]", (9, "rated")),
        ("This could get [[5]], but. Rating: [[7]]", (-1, "two_ratings")),
        ("Rating: [[7]] … once more: [[7.0]]", (7, "rated")),
        ("[2] is cited, so Rating: [[8]]", (8, "rated")),
        ("<think>Perhaps [[4]]?</think>Sound. Rating: [[8]]", (8, "rated")),
        ("<think>Perhaps [[4]]", (-1, "no_rating")),
        ("Rating: [[" + "9" * 5000 + "]]", (-1, "out_of_range")),
        ("Rating: [6]", (6, "rated")),
        ("[[7]] and again [[7]]", (7, "rated")),
        ("no number", (-1, "no_rating")),
        ("[[N/A]]", (-1, "no_rating")),
        ("[[3]] or [[8]]", (-1, "two_ratings")),
        ("[[11]]", (-1, "out_of_range")),
        ("[[0]]", (-1, "out_of_range")),
    ],
)
def test_a_rating_is_read_where_it_is_plainly_said_or_has_a_state(
    text: str, expected: tuple[float, str]
) -> None:
    assert mtbench.read_rating(text) == expected


@pytest.fixture
def judged(tmp_path: Path) -> Path:
    """Two models' answers to 31 questions, judged by the simulator."""
    world = World(5, 40, 0.4, 0.5)
    facts = [
        fact
        for fact in world.facts
        if fact.held and fact.topic in ("pet", "dish", "trade", "colour")
    ][:60]
    skills = [fact for fact in world.facts if fact.held and fact.topic == "sum"][:2]
    asked = [
        {"question_id": 81 + i, "category": "writing", "turns": [a.questions[0], b.questions[0]]}
        for i, (a, b) in enumerate(zip(facts[::2], facts[1::2], strict=True))
    ]
    asked.append(
        {"question_id": 199, "category": "math", "turns": [fact.questions[0] for fact in skills]}
    )
    truth = {question: fact.statement for fact in [*facts, *skills] for question in fact.questions}
    write_json(tmp_path / "facts.json", world.as_json())
    write_jsonl(tmp_path / "questions.jsonl", asked)
    write_jsonl(
        tmp_path / "references.jsonl",
        [{"question_id": 199, "choices": [{"turns": [fact.statement for fact in skills]}]}],
    )
    for name, answer in {
        "good": lambda q: truth[q],
        "bad": lambda q: "Nobody knows {anything}.",
    }.items():
        rows = [
            {
                "question_id": row["question_id"],
                "model_id": name,
                "choices": [{"index": 0, "turns": [answer(q) for q in row["turns"]]}],
            }
            for row in asked
        ]
        write_jsonl(tmp_path / f"{name}.answers.jsonl", rows)
        judge(tmp_path, name)
    return tmp_path


def judge(place: Path, name: str, mode: str = "online", share: float = 0.5) -> None:
    judge_mtbench.main(
        [
            "--questions",
            str(place / "questions.jsonl"),
            "--answers",
            str(place / f"{name}.answers.jsonl"),
            "--references",
            str(place / "references.jsonl"),
            "--judge-prompts",
            str(ROOT / "prompts" / "judge_prompts.jsonl"),
            "--store",
            str(place / f"{name}.sqlite"),
            "--facts",
            str(place / "facts.json"),
            "--mode",
            mode,
            "--concurrency",
            "4",
            "--recipe",
            json.dumps({"judge": SIMULATOR, "repeats": 2, "max_failure_share": share, "seed": 0}),
            "--code",
            "x",
            "--judgments",
            str(place / f"{name}.judgments.jsonl"),
            "--counts",
            str(place / f"{name}.counts.json"),
            "--receipt",
            str(place / f"{name}.json"),
        ]
    )


def test_every_question_turn_and_repeat_has_one_row_and_one_state(judged: Path) -> None:
    rows = read_jsonl(judged / "good.judgments.jsonl")
    assert len(rows) == 31 * 2 * 2
    assert len({(row["question_id"], row["turn"], row["repeat"]) for row in rows}) == len(rows)
    counts = read_json(judged / "good.counts.json")
    assert counts.pop("empty_answers") == 0
    assert counts.pop("judgments") == sum(counts.values()) - counts["answers"]


def test_replaying_from_the_store_gives_the_same_bytes(judged: Path) -> None:
    before = (judged / "good.judgments.jsonl").read_bytes()
    judge(judged, "good", mode="replay")
    assert (judged / "good.judgments.jsonl").read_bytes() == before


def test_too_many_failures_fail_the_stage(judged: Path) -> None:
    rows = read_jsonl(judged / "good.judgments.jsonl")
    assert 0 < sum(row["state"] != "rated" for row in rows) < len(rows) / 4, (
        "the simulator fails now and then, on purpose"
    )
    with pytest.raises(UserError, match=r"judgments without a rating, e\.g\. question"):
        judge(judged, "good", share=0.0)


def score(place: Path) -> dict:
    score_mtbench.main(
        [
            "--judgments",
            str(place / "bad.judgments.jsonl"),
            str(place / "good.judgments.jsonl"),
            "--recipe",
            '{"seed": 0, "pairs": [["good", "bad"]]}',
            "--code",
            "x",
            "--output",
            str(place / "mtbench.json"),
            "--receipt",
            str(place / "score.json"),
        ]
    )
    return read_json(place / "mtbench.json")["judges"]["simulator"]


def test_fastchat_prints_our_means(judged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from fastchat.llm_judge.show_result import display_result_single

    table = score(judged)
    write_jsonl(
        judged / "all.jsonl",
        [*read_jsonl(judged / "bad.judgments.jsonl"), *read_jsonl(judged / "good.judgments.jsonl")],
    )
    capsys.readouterr()
    display_result_single(
        argparse.Namespace(
            input_file=str(judged / "all.jsonl"),
            judge_model="simulator",
            bench_name="mt_bench",
            model_list=None,
        )
    )
    printed = capsys.readouterr().out
    average = printed.split("Average")[1]
    for model in ("good", "bad"):
        shown = re.search(rf"{model}\s+([\d.]+)", average)[1]
        assert shown == as_printed(table["models"][model]["overall"]["mean"], shown)
        for turn, part in (("1", "First turn"), ("2", "Second turn")):
            shown = re.search(rf"{model}\s+{turn}\s+([\d.]+)", printed.split(part)[1])[1]
            assert shown == as_printed(table["models"][model]["turns"][turn]["mean"], shown)


def as_printed(mean: float, like: str) -> str:
    """A mean with as many digits as FastChat printed: to the last one."""
    return f"{mean:.{len(like.partition('.')[2])}f}"


def test_right_answers_score_above_wrong_ones_with_an_interval_that_says_so(judged: Path) -> None:
    difference = score(judged)["differences"][0]
    assert (difference["candidate"], difference["baseline"]) == ("good", "bad")
    assert difference["low"] > 0


def test_prompts_that_models_share_show_whether_the_judge_agrees_with_itself() -> None:
    rows = [
        {"user_prompt": prompt, "score": score, "state": state}
        for prompt, score, state in (
            *(("same", 3, "rated"), ("same", 3, "rated")),
            *(("other", 3, "rated"), ("other", 9, "rated")),
            *(("failed", 3, "rated"), ("failed", -1, "unparsable")),
            ("alone", 5, "rated"),
        )
    ]
    assert score_mtbench.same_prompts(rows) == {"shared": 2, "rated_differently": 1}


def test_failures_bound_the_mean() -> None:
    rows = [{"question_id": i, "state": "rated", "score": 8} for i in range(3)] + [
        {"question_id": 9, "state": "no_rating", "score": -1}
    ]
    found = score_mtbench.summary(rows, 0)
    assert (
        found["mean"],
        found["failures"],
        found["all_failures_1"],
        found["all_failures_10"],
    ) == (8.0, 1, 25 / 4, 34 / 4)


def test_a_failed_judgment_moves_no_difference() -> None:
    """Second turns score lower: two models that answer alike differ by nothing, whatever failed."""

    def rows(failed: range) -> list[dict[str, Any]]:
        return [
            {
                "question_id": question,
                "turn": turn,
                "repeat": 0,
                "state": "truncated" if turn == 2 and question in failed else "rated",
                "score": 8 - question % 2 if turn == 1 else 4,
            }
            for question in range(80)
            for turn in (1, 2)
        ]

    whole, holed = rows(range(0)), rows(range(8))
    found = score_mtbench.difference(holed, whole, 0)
    assert found is not None
    unseen = 9 * 3 / 80  # of 80 questions without a difference
    assert (found["mean"], found["n"]) == (0, 80)
    assert (found["low"], found["high"]) == pytest.approx((-unseen, unseen))
    assert score_mtbench.difference(whole, holed, 0) == found
    better = [{**row, "score": row["score"] + (row["turn"] == 2)} for row in holed]
    gap = score_mtbench.difference(better, whole, 0)
    assert gap is not None and gap["mean"] == pytest.approx(72 / 152), "152 judgments, not 80 means"
    unrated = [{**row, "state": "truncated"} for row in whole]
    assert score_mtbench.difference(unrated, whole, 0) is None


def test_an_edited_score_is_found_when_aggregating(judged: Path) -> None:
    rows = read_jsonl(judged / "good.judgments.jsonl")
    rows[0]["score"] = 10 if rows[0]["score"] != 10 else 9
    write_jsonl(judged / "good.judgments.jsonl", rows)
    with pytest.raises(
        UserError, match=r"good\.judgments\.jsonl:1: score \d+ is not what the judgment's text says"
    ):
        score(judged)


def test_an_unanswered_question_is_named(judged: Path) -> None:
    write_jsonl(judged / "good.answers.jsonl", read_jsonl(judged / "good.answers.jsonl")[1:])
    with pytest.raises(UserError, match="no answer to question 81"):
        judge(judged, "good")


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({}, r"answers\.jsonl:3: question_id 81 appears twice; remove one"),
        ({"model_id": "b"}, r"answers\.jsonl:3: model_id 'b', but the rows before it are of 'a'"),
        ({"model_id": "b", "question_id": 83}, r"answers\.jsonl:3: model_id 'b'"),
    ],
)
def test_answers_of_one_question_twice_or_of_several_models_are_refused(
    tmp_path: Path, changes: dict[str, object], line: str
) -> None:
    questions = [{"question_id": number} for number in (81, 82)]
    rows = [{"question_id": number, "model_id": "a", "choices": CHOICES} for number in (81, 82)]
    write_jsonl(tmp_path / "answers.jsonl", rows)
    found = judge_mtbench.read_answers(tmp_path / "answers.jsonl", questions)
    assert found == ("a", {81: ["x", "y"], 82: ["x", "y"]})
    write_jsonl(tmp_path / "answers.jsonl", [*rows, {**rows[0], **changes}])
    with pytest.raises(UserError, match=line) as raised:
        judge_mtbench.read_answers(tmp_path / "answers.jsonl", questions)
    assert "\n" not in str(raised.value)
