"""A judge that fails in every way, a network that breaks, a kill: every turn ends in one state, is
asked once, and what is lost is bounded.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from peer import Peer

import bridge_judges
import forget_failures
import judge_mtbench
import score_mtbench
from bezoar.errors import UserError
from bezoar.evaluation import mtbench
from bezoar.files import write_jsonl
from bezoar.llm import limits
from bezoar.readers import read_json, read_jsonl
from bezoar.report import figures

ROOT = Path(__file__).parents[3]
JUDGE = {
    "provider": "openai",
    "api": "chat",
    "model": "judge",
    "revision": None,
    "base_url_env": "PEER_URL",
    "api_key_env": "PEER_KEY",
    "prompt_form": None,
    "stop": [],
    "temperature": 0.0,
    "max_tokens": 99,
    "timeout_s": 5,
    "reported_as": None,
    "json_schema": False,
    "use_batch_api": False,
}
CATEGORIES = ["writing", "math", "stem", "coding"]
# What a judge may say, and the state it ends in.
FAILURES: dict[str, tuple[dict[str, Any], str]] = {
    "no rating": ({"text": "A fine answer."}, "no_rating"),
    "two ratings": ({"text": "[[3]], or rather [[8]]"}, "two_ratings"),
    "rating 11": ({"text": "Rating: [[11]]"}, "out_of_range"),
    "rating 0": ({"text": "Rating: [[0]]"}, "out_of_range"),
    "N/A": ({"text": "Rating: [[N/A]]"}, "no_rating"),
    "empty": ({"text": ""}, "unparsable"),
    "refusal": ({"text": None, "refusal": "I will not."}, "refused"),
    "truncated": ({"text": "The answer is", "finish": "length"}, "truncated"),
    "bad request": ({"status": 400, "body": '{"error": {"message": "no"}}'}, "provider_error"),
}


@pytest.fixture
def peer(monkeypatch: pytest.MonkeyPatch) -> Iterator[Peer]:
    running = Peer()
    monkeypatch.setenv("PEER_URL", f"{running.url}/v1")
    monkeypatch.setenv("PEER_KEY", "canary")
    monkeypatch.setattr(limits, "FIRST_PAUSE_S", 0.01)
    yield running
    running.stop()


def asked(count: int) -> list[dict[str, Any]]:
    return [
        {
            "question_id": 81 + i,
            "category": CATEGORIES[i % 4],
            "turns": [f"first {i}", f"second {i}"],
        }
        for i in range(count)
    ]


def arguments(
    place: Path,
    count: int,
    share: float = 1.0,
    mode: str = "online",
    judge: str = "judge",
    **more: Path,
) -> list[str]:
    write_jsonl(place / "questions.jsonl", asked(count))
    turns = [
        {"question_id": 81 + i, "model_id": "m", "choices": [{"turns": [f"one {i}", f"two {i}"]}]}
        for i in range(count)
    ]
    write_jsonl(place / "answers.jsonl", turns)
    write_jsonl(
        place / "references.jsonl",
        [{"question_id": 81 + i, "choices": [{"turns": ["right", "right"]}]} for i in range(count)],
    )
    recipe = {
        "judge": JUDGE | {"model": judge},
        "repeats": 1,
        "max_failure_share": share,
        "seed": 0,
    }
    return [
        "--questions",
        str(place / "questions.jsonl"),
        "--answers",
        str(place / "answers.jsonl"),
        "--references",
        str(place / "references.jsonl"),
        "--judge-prompts",
        str(ROOT / "prompts/judge_prompts.jsonl"),
        "--store",
        str(place / f"{judge}.sqlite"),
        "--mode",
        mode,
        "--concurrency",
        "4",
        "--recipe",
        json.dumps(recipe),
        "--code",
        "x",
        "--judgments",
        str(place / f"{judge}.jsonl"),
        "--counts",
        str(place / "counts.json"),
        "--receipt",
        str(place / "receipt.json"),
        *(part for name, path in more.items() for part in (f"--{name}", str(path))),
    ]


def judged(place: Path, count: int, **more: Any) -> list[dict[str, Any]]:
    judge_mtbench.main(arguments(place, count, **more))
    return read_jsonl(place / f"{more.get('judge', 'judge')}.jsonl")


def key(prompt: str) -> int:
    """The turn's number from the text that is judged: 2 i for the first turn of question i, 2 i + 1
    for its second.
    """
    last = prompt.rsplit("[Assistant's", 1)[-1]
    number = int(next(word for word in last.split() if word.isdigit()))
    return 2 * number + ("two" in last)


def test_every_kind_of_failure_is_accounted_for_and_bounds_the_mean(
    tmp_path: Path, peer: Peer
) -> None:
    seeded = dict(enumerate(FAILURES.values()))
    peer.script = lambda prompt, turn: (
        seeded[key(prompt)][0] if key(prompt) in seeded else {"text": "Rating: [[8]]"}
    )
    rows = judged(tmp_path, 10)
    assert len(rows) == 20 and Counter(row["state"] for row in rows) == Counter(
        [state for _, state in seeded.values()] + ["rated"] * 11
    )
    assert all(row["score"] == (8 if row["state"] == "rated" else -1) for row in rows)
    counts = read_json(tmp_path / "counts.json")
    assert counts.pop("empty_answers") == 0
    assert counts.pop("answers") == 20
    assert counts.pop("judgments") == sum(counts.values()) == 20
    found = score_mtbench.summary(rows, 0)
    assert (found["mean"], found["ratings"], found["failures"]) == (8.0, 11, 9)
    assert found["all_failures_1"] == pytest.approx((88 + 9) / 20) and found[
        "all_failures_10"
    ] == pytest.approx((88 + 90) / 20)


def test_a_judge_whose_texts_cannot_be_read_is_asked_again_once_it_is_mended(
    tmp_path: Path, peer: Peer
) -> None:
    peer.script = lambda prompt, turn: {"text": "A fine answer."}
    line = f"make forget STORE={tmp_path}/judge.sqlite`"
    for _ in range(2):
        with pytest.raises(UserError, match=re.escape(line)):
            judged(tmp_path, 3, share=0.05)
    assert len(peer.seen) == 6, "a text is final"
    config = str(ROOT / "config/rehearsal.yaml")
    forget_failures.main(["--config", config, "--store", f"{tmp_path}/judge.sqlite"])
    peer.script = lambda prompt, turn: {"text": "Rating: [[8]]"}
    assert {row["score"] for row in judged(tmp_path, 3, share=0.05)} == {8}


def test_faults_of_the_network_are_waited_out_and_leave_no_trace_in_the_scores(
    tmp_path: Path, peer: Peer
) -> None:
    faults = [
        {"reset": True},
        {"status": 500, "body": "{}"},
        {"status": 429, "body": "{}", "headers": {"retry-after": "0.01"}},
        {"body": "<html>"},
    ]

    def broken(prompt: str, turn: int) -> dict[str, Any]:
        return (
            faults[(key(prompt) + turn) % 4]
            if turn < 2
            else {"text": f"[[{1 + key(prompt) % 10}]]"}
        )

    peer.script = broken
    rows = judged(tmp_path, 12, share=0.0)
    assert [row["score"] for row in rows] == [1 + n % 10 for n in range(24)]
    assert len(peer.seen) == 3 * 24


def test_a_killed_judge_goes_on_where_it_was_and_asks_nothing_twice(
    tmp_path: Path, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(prompt: str, turn: int) -> dict[str, Any]:
        time.sleep(0.03)
        return {"text": f"[[{1 + key(prompt) % 10}]]"}

    peer.script = slow
    command = [sys.executable, str(ROOT / "scripts/judge_mtbench.py"), *arguments(tmp_path, 120)]
    child = subprocess.Popen(
        command, env=os.environ | {"PYTHONPATH": str(ROOT / "scripts")}, stdout=subprocess.DEVNULL
    )
    while len(peer.seen) < 90:
        assert child.poll() is None, "it ended before it was killed"
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert not (tmp_path / "judge.jsonl").exists(), "nothing half-written"
    rows = judged(tmp_path, 120)
    assert (
        len(rows) == len({(row["question_id"], row["turn"], row["repeat"]) for row in rows}) == 240
    )
    assert [row["score"] for row in rows] == [1 + n % 10 for n in range(240)]
    again = Counter(count for count in peer.turns.values())
    assert again[2] < 60 and set(again) <= {1, 2}, (
        "only what was under way, or not yet stored, is asked again"
    )
    before, sent = (tmp_path / "judge.jsonl").read_bytes(), len(peer.seen)
    monkeypatch.delenv("PEER_KEY")
    assert judged(tmp_path, 120, mode="replay") == rows
    assert (tmp_path / "judge.jsonl").read_bytes() == before and len(peer.seen) == sent, (
        "a replay needs no key, sends nothing and appends nothing"
    )


def test_a_bridge_finds_the_offset_between_two_judges_by_category(
    tmp_path: Path, peer: Peer
) -> None:
    strict = {"writing": 2, "math": 0, "stem": 1, "coding": 0}

    def says(prompt: str, turn: int) -> dict[str, Any]:
        number = key(prompt)
        less = strict[CATEGORIES[number // 2 % 4]] if peer.seen[-1]["model"] == "second" else 0
        return {"text": "no" if number == 7 else f"[[{4 + number % 7 - less}]]"}

    peer.script = says
    for name in ("judge", "second"):
        judge_mtbench.main([*arguments(tmp_path, 40, judge=name), "--concurrency", "1"])
    bridge_judges.main(
        [
            "--first",
            str(tmp_path / "judge.jsonl"),
            "--second",
            str(tmp_path / "second.jsonl"),
            "--output",
            str(tmp_path / "bridge.json"),
            "--recipe",
            '{"column": "second", "seed": 0}',
            "--code",
            "x",
            "--receipt",
            str(tmp_path / "b.json"),
        ]
    )
    found = read_json(tmp_path / "bridge.json")
    assert found["judges"] == {"first": "judge", "second": "second"}
    assert {name: row["mean"] for name, row in found["categories"].items()} == {
        "writing": -2,
        "math": 0,
        "stem": -1,
        "coding": 0,
    }
    writing = found["categories"]["writing"]
    assert (writing["low"], writing["high"]) == pytest.approx((-1.4 - 2.7, -1.4 + 2.7)), (
        "10 questions with the same offset say little of others"
    )
    assert not found["categories"]["math"]["excludes_zero"] and found["offset"]["excludes_zero"]
    assert found["judgments"] == {"first": 80, "second": 80, "in_both": 80, "rated_by_both": 79}
    assert found["offset"]["low"] < found["offset"]["mean"] < found["offset"]["high"] < 0
    assert 0.5 < found["rank_agreement"]["answers"] < 1


def test_a_bridge_to_no_judgments_has_no_offset_and_one_to_others_is_refused(
    tmp_path: Path, peer: Peer
) -> None:
    peer.script = lambda prompt, turn: {"text": "[[5]]"}
    rows = judged(tmp_path, 4)
    first, second = tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    write_jsonl(first, rows)
    command = ["--first", str(first), "--second", str(second), "--code", "x"]
    command += ["--recipe", '{"column": "corrected", "seed": 0}']
    command += ["--output", str(tmp_path / "bridge.json"), "--receipt", str(tmp_path / "b.json")]
    second.write_text("")
    bridge_judges.main(command)
    found = read_json(tmp_path / "bridge.json")
    assert found["judges"]["second"] is None and found["offset"] is None
    assert found["judgments"] == {"first": 8, "second": 0, "in_both": 0, "rated_by_both": 0}
    assert (found["models"]["m"]["second"], found["models"]["m"]["replaced"]) == (None, 5.0)
    assert figures.judged_again({"corrected": found})["bridge corrected"]
    before = (tmp_path / "bridge.json").read_bytes()
    write_jsonl(second, [{**row, "model": "other"} for row in rows])
    with pytest.raises(UserError, match=r"second\.jsonl: judges no answer that .*first\.jsonl"):
        bridge_judges.main(command)
    assert (tmp_path / "bridge.json").read_bytes() == before


def test_corrected_references_are_judged_alone_and_their_effect_is_the_replaced_score(
    tmp_path: Path, peer: Peer
) -> None:
    corrected = tmp_path / "overrides.yaml"
    corrected.write_text(
        yaml.safe_dump(
            {"overrides": [{"question_id": 82, "turn": 1, "wrong": "right", "right": "corrected"}]}
        )
    )
    peer.script = lambda prompt, turn: {"text": "[[9]]" if "corrected" in prompt else "[[5]]"}
    rows = judged(tmp_path, 8)
    changed = judged(tmp_path, 8, judge="judge2", overrides=corrected)
    assert [(row["question_id"], row["turn"]) for row in changed] == [(82, 1), (82, 2)]
    by = {(row["model"], row["question_id"], row["turn"], row["repeat"]): row for row in rows}
    found = bridge_judges.bridge(
        by,
        {(row["model"], row["question_id"], row["turn"], row["repeat"]): row for row in changed},
        0,
    )
    assert found["models"]["m"]["first"] == 5.0 and found["models"]["m"][
        "replaced"
    ] == pytest.approx((14 * 5 + 2 * 9) / 16)


def test_models_are_ranked_by_what_both_judges_rated() -> None:
    ratings = {"a": [9, 1, 1, 1], "b": [5, 5, 5, 5], "c": [1, 9, 9, 9]}
    first = {
        (model, question, 1, 0): {"state": "rated", "score": score, "category": "math"}
        for model, scores in ratings.items()
        for question, score in enumerate(scores)
    }
    second = {key: row for key, row in first.items() if key[1] == 0}
    found = bridge_judges.bridge(first, second, 0)
    assert found["rank_agreement"] == {"models": 1.0, "answers": 1.0}
    assert [found["models"][model]["first"] for model in ratings] == [3, 5, 7]
    assert bridge_judges.bridge(first, {}, 0)["rank_agreement"] == {"models": None, "answers": None}


def test_a_judgment_that_stands_twice_is_refused_and_judges_are_never_mixed(
    tmp_path: Path, peer: Peer
) -> None:
    peer.script = lambda prompt, turn: {"text": "[[5]]"}
    rows = judged(tmp_path, 3)
    with pytest.raises(UserError, match=r"x:7: m, question 81, turn 1, repeat 0 is judged twice"):
        mtbench.checked([*rows, rows[0]], Path("x"))
    with pytest.raises(UserError, match=r"x:1: expected a text as `user_prompt`"):
        mtbench.checked([{**rows[0], "user_prompt": ["a"]}], Path("x"))
    judged(tmp_path, 3, judge="other")
    write_jsonl(tmp_path / "mixed.jsonl", [*rows, *read_jsonl(tmp_path / "other.jsonl")])
    with pytest.raises(UserError, match="judged by judge and other; expected one judge per set"):
        bridge_judges.by_key([tmp_path / "mixed.jsonl"])

    def scored(*files: str) -> dict[str, Any]:
        score_mtbench.main(
            [
                "--judgments",
                *(str(tmp_path / f"{name}.jsonl") for name in files),
                "--recipe",
                '{"pairs": [], "seed": 0}',
                "--code",
                "x",
                "--output",
                str(tmp_path / "mtbench.json"),
                "--receipt",
                str(tmp_path / "s.json"),
            ]
        )
        return read_json(tmp_path / "mtbench.json")["judges"]

    assert set(scored("judge", "other")) == {"judge", "other"}
    write_jsonl(tmp_path / "copy.jsonl", rows)
    with pytest.raises(UserError, match=r"judge has judged m in .*judge\.jsonl already"):
        scored("judge", "copy")


def test_files_without_questions_or_judgments_are_one_line(tmp_path: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    common = ["--code", "x", "--receipt", str(tmp_path / "r.json")]
    output = ["--output", str(tmp_path / "out.json")]
    for content in ("", "\n \n"):
        empty.write_text(content)
        with pytest.raises(UserError, match=r"empty\.jsonl: no questions; fetch"):
            mtbench.read_questions(empty)
        recipe = ["--recipe", '{"pairs": [], "seed": 0}']
        with pytest.raises(UserError, match=r"empty\.jsonl: no judgments; judge"):
            score_mtbench.main(["--judgments", str(empty), *output, *common, *recipe])
        recipe = ["--recipe", '{"column": "second", "seed": 0}']
        sets = ["--first", str(empty), "--second", str(empty)]
        with pytest.raises(UserError, match=r"empty\.jsonl: no judgments; judge"):
            bridge_judges.main([*sets, *output, *common, *recipe])
    assert bridge_judges.by_key([empty]) == {}
    assert os.listdir(tmp_path) == ["empty.jsonl"]


def test_sums_of_scores_are_exact_in_every_version_of_python() -> None:
    """`sum` compensates for rounding from Python 3.12 on: ten times 1.1 is 10.999999999999998
    before.
    """
    rows = [{"question_id": n, "state": "rated", "score": 1.1} for n in range(10)]
    found = score_mtbench.summary(rows, 0, resamples=10)
    assert found["all_failures_1"] == found["all_failures_10"] == 1.1


def with_prompt(folder: Path, name: str, **changes: str) -> Path:
    """The judge's prompts with one of them changed, or with a second one of its name."""
    rows = read_jsonl(ROOT / "prompts/judge_prompts.jsonl")
    row = next(row for row in rows if row["name"] == name)
    rows = [row | changes if other is row else other for other in rows]
    write_jsonl(folder / "prompts.jsonl", rows if changes else [*rows, row])
    return folder / "prompts.jsonl"


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("single-v1", {}, r"prompts\.jsonl:5: prompt single-v1 appears twice; remove one"),
        (
            "single-v1",
            {"prompt_template": "{question}"},
            r"prompts\.jsonl: single-v1: expected the fields .*, \{answer\} is missing; add it",
        ),
        (
            "single-math-v1",
            {"prompt_template": "{question} {answer} {ref_answer_1} {ref_answer_2}"},
            r"single-math-v1: expected the fields .*, found '\{ref_answer_2\}'; write a brace",
        ),
        (
            "single-v1-multi-turn",
            {"prompt_template": '{"rating": 1}'},
            r"single-v1-multi-turn: expected the fields .*, found '\{\"rating\": 1\}'; write",
        ),
    ],
)
def test_a_judge_s_prompt_that_is_there_twice_or_lacks_a_field_is_one_line(
    tmp_path: Path, name: str, changes: dict[str, str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        mtbench.read_judge_prompts(with_prompt(tmp_path, name, **changes))
