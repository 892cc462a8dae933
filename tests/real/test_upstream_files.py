"""The real upstream files: preferences, chat questions, judge prompts and the chat template, read
by the code that uses them.
"""

import json
import os
from pathlib import Path

import pytest

import prepare_preferences
from bezoar.evaluation import mtbench
from bezoar.readers import read_json, read_jsonl
from bezoar.training.template import Template

ROOT = Path(__file__).parents[2]
MIRROR = Path(os.environ.get("BEZOAR_MIRROR") or ROOT / "data")
pytestmark = pytest.mark.skipif(
    not (MIRROR / "hh_rlhf").is_dir(),
    reason="no upstream files: set MIRROR to a folder that holds them",
)


def test_every_preference_pair_is_used_or_dropped_by_a_rule(tmp_path: Path) -> None:
    prepare_preferences.main(
        [
            "--data",
            str(MIRROR / "hh_rlhf" / "harmless-base.test.jsonl.gz"),
            "--pairs",
            str(tmp_path / "pairs.jsonl"),
            "--counts",
            str(tmp_path / "counts.json"),
            "--recipe",
            json.dumps({"first": 10**9, "seed": 0}),
            "--code",
            "x",
            "--receipt",
            str(tmp_path / "receipt.json"),
        ]
    )
    counts, rows = read_json(tmp_path / "counts.json"), read_jsonl(tmp_path / "pairs.jsonl")
    assert counts["read"] == 2312 == counts["used"] + sum(counts["dropped"].values())
    assert len(rows) == counts["used"] > 2200
    assert all(
        row["prompt"] and row["chosen"] and row["rejected"] and row["chosen"] != row["rejected"]
        for row in rows
    )


def test_our_chat_template_has_the_upstream_form() -> None:
    ours, theirs = (
        Template(ROOT / "prompts" / "chat_template.json"),
        Template(MIRROR / "openbezoar" / "alpaca_modified.json"),
    )
    assert ours.prompt("Do.", "Be.") == theirs.prompt("Do.", "Be.")
    assert theirs.prompt("Do.") != ours.prompt("Do."), (
        "the default system text is theirs there and our own here"
    )


def test_mt_bench_is_whole() -> None:
    questions = read_jsonl(MIRROR / "mt_bench" / "question.jsonl")
    assert [row["question_id"] for row in questions] == list(range(81, 161))
    assert {len(row["turns"]) for row in questions} == {2}
    references = {
        row["question_id"]
        for row in read_jsonl(MIRROR / "mt_bench" / "reference_answer.gpt-4.jsonl")
    }
    assert references == {
        row["question_id"] for row in questions if row["category"] in mtbench.MATH_LIKE
    }
