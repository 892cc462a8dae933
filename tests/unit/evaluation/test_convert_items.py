"""Items of a file are read by the harness's own tasks as if they came from the hub."""

import bz2
import json
from pathlib import Path
from typing import Any

import datasets  # noqa: F401 - it reads HF_HUB_OFFLINE once, and the harness's tasks set it
import pytest

import convert_items
import list_evaluation_items
from bezoar.errors import UserError
from bezoar.evaluation.harness import assignments, load_tasks

HELLASWAG = """\
Clean and jerk: A lady walks to a barbell. She bends down. the lady
3
swings and lands.
pulls the barbell.
pulls a rope.
stands up.
Home and Garden: How to sweep. Take a broom. Use it
0
with both hands.
as a hat.
never.
[substeps] at night.
"""
OPENBOOKQA = """\
ID\tQuestion Stem\tChoices\tComplete Question\tAnswer Key
8-343\tTo "save" money, eat\t(A) out (B) at home (C) gold (D) (never) twice\tunused\tB
"""
TRUTHFULQA = """\
Type,Category,Question,Best Answer,Correct Answers,Incorrect Answers,Source
A,B,What happens?,Nothing,Nothing; It passes,You grow; You die,https://example.org
"""


def converted(task: str, name: str, text: str, tmp_path: Path, examples: int = 0) -> Path:
    tmp_path.mkdir(exist_ok=True)
    file = tmp_path / name
    file.write_bytes(bz2.compress(text.encode()) if name.endswith("bz2") else text.encode())
    manifest = tmp_path / "data" / task / "manifest.json"
    convert_items.main(
        [
            *("--task", task, "--file", str(file), "--data", str(manifest), "--code", "c"),
            *("--recipe", json.dumps({"num_fewshot": examples, "seed": 0})),
            *("--receipt", str(tmp_path / "receipt.json")),
        ]
    )
    return manifest


def loaded(task: str, manifest: Path) -> Any:
    return load_tasks([task], [], assignments([f"{task}={manifest}"])[0])[task]


def test_hellaswag_has_the_harness_s_prompt_with_a_capital_after_the_context(
    tmp_path: Path,
) -> None:
    task = loaded("hellaswag", converted("hellaswag", "val.txt.bz2", HELLASWAG, tmp_path))
    first, second = sorted(task.eval_docs, key=lambda doc: doc["activity_label"])
    assert task.doc_to_text(first) == (
        "Clean and jerk: A lady walks to a barbell. She bends down. The lady"
    )
    assert task.doc_to_choice(first)[3] == "stands up." and int(task.doc_to_target(first)) == 3
    assert task.doc_to_text(second) == "Home and Garden: How to sweep. Take a broom. Use it"
    assert task.doc_to_choice(second)[3] == " at night.", "the harness removes WikiHow's marks"


@pytest.mark.parametrize(
    ("context", "after"),
    [
        ("A man bends down. he lifts", "he lifts"),
        ("How to write to u.s. citizens. Say who you are (e.g. a friend)", ""),
        ("How to clean dr. brown's bottles", ""),
        ("How to sweep. [step] Take a broom. use it", ""),
        ("A title [title] Ask mr. brown. he knows", ""),
    ],
)
def test_a_context_of_wikihow_goes_on_in_no_new_sentence(
    tmp_path: Path, context: str, after: str
) -> None:
    path = tmp_path / "val.txt"
    path.write_text(f"Activity: {context}\n0\na\nb\nc\nd\n")
    (item,) = convert_items.hellaswag(path)
    assert item["ctx_b"] == after
    assert " ".join(filter(None, (item["ctx_a"], item["ctx_b"]))) == context


def test_what_a_limit_takes_is_drawn_from_all_items(tmp_path: Path) -> None:
    items = [f"{'AB'[i >= 30]}: Item {i}\n0\na\nb\nc\nd\n" for i in range(100)]
    orders = [
        converted("hellaswag", "val.txt", "".join(items), tmp_path / place)
        .with_name("validation.jsonl")
        .read_text()
        for place in "xy"
    ]
    labels = [json.loads(line)["activity_label"] for line in orders[0].splitlines()]
    assert orders[0] == orders[1] and sorted(labels) == ["A"] * 30 + ["B"] * 70
    assert "B" in labels[:10]


def test_openbookqa_has_the_choices_of_its_letters(tmp_path: Path) -> None:
    task = loaded("openbookqa", converted("openbookqa", "test.tsv", OPENBOOKQA, tmp_path))
    (doc,) = task.eval_docs
    assert task.doc_to_text(doc) == 'To "save" money, eat'
    assert task.doc_to_choice(doc) == ["out", "at home", "gold", "(never) twice"]
    assert int(task.doc_to_target(doc)) == 1


@pytest.mark.parametrize(("task", "right"), [("truthfulqa_mc1", 1), ("truthfulqa_mc2", 2)])
def test_truthfulqa_has_right_answers_before_wrong_ones(
    task: str, right: int, tmp_path: Path
) -> None:
    read = loaded(task, converted(task, "TruthfulQA.csv", TRUTHFULQA, tmp_path))
    (doc,) = read.eval_docs
    assert read.doc_to_text(doc).endswith("Q: What happens?\nA:")
    assert read.doc_to_choice(doc)[:right] == ["Nothing", "It passes"][:right]
    assert read.doc_to_choice(doc)[right:] == ["You grow", "You die"]


def test_every_right_answer_of_truthfulqa_is_listed_as_one(tmp_path: Path) -> None:
    read = loaded(
        "truthfulqa_mc2", converted("truthfulqa_mc2", "TruthfulQA.csv", TRUTHFULQA, tmp_path)
    )
    parts = {row["text"]: row["part"] for row in list_evaluation_items.of_task("t", read)}
    assert parts == {
        "What happens?": "question",
        **dict.fromkeys(["Nothing", "It passes"], "gold"),
        **dict.fromkeys(["You grow", "You die"], "choice"),
    }


def test_the_manifest_holds_what_the_data_are(tmp_path: Path) -> None:
    manifest = converted("openbookqa", "test.tsv", OPENBOOKQA, tmp_path)
    assert sorted(json.loads(manifest.read_text())["files"]) == ["README.md", "test.jsonl"]
    assert json.loads((tmp_path / "receipt.json").read_text())["facts"] == {"items": 1}


@pytest.mark.parametrize(
    ("task", "name", "text", "line"),
    [
        ("hellaswag", "x.txt", HELLASWAG + "one more\n", r"x\.txt: expected 6 lines an item"),
        (
            "hellaswag",
            "x.txt",
            HELLASWAG.replace("\n3\n", "\n4\n"),
            r"x\.txt:1: expected `activity",
        ),
        (
            "hellaswag",
            "x.txt",
            "\n" + HELLASWAG.replace("\n0\n", "\n\n5\n"),
            r"x\.txt:8: expected `activity",
        ),
        ("hellaswag", "x.txt", "", r"x\.txt: no items; fetch the file again"),
        ("openbookqa", "x.tsv", OPENBOOKQA.replace("\tB\n", "\tE\n"), r"x\.tsv: row 1: expected"),
        ("openbookqa", "x.tsv", OPENBOOKQA.replace("\tB\n", "\n"), r"x\.tsv:2: expected 5 cells"),
        ("openbookqa", "x.tsv", OPENBOOKQA.replace("ID\t", "id\t"), r"x\.tsv: row 1: expected"),
        ("openbookqa", "x.tsv", OPENBOOKQA.replace("(C)", "(B)"), r"x\.tsv: row 1: .* letter once"),
        (
            "openbookqa",
            "x.tsv",
            OPENBOOKQA.replace("at home", ""),
            r"x\.tsv: row 1: .* with a text",
        ),
        ("openbookqa", "x.tsv", OPENBOOKQA.replace("(A)", "It is (A)"), r"x\.tsv: row 1: expected"),
        (
            "openbookqa",
            "x.tsv",
            OPENBOOKQA + OPENBOOKQA.splitlines()[1],
            r"x\.tsv: row 2: ID 8-343 appears twice; remove one",
        ),
        (
            "openbookqa",
            "x.jsonl",
            '{"ID": "1", "Question Stem": "Why?", "Choices": ["a", "b"], "Answer Key": "A"}',
            r"x\.jsonl: row 1: expected",
        ),
        (
            "truthfulqa_mc2",
            "x.csv",
            TRUTHFULQA.replace("Best", "Worst"),
            r"x\.csv: row 1: expected",
        ),
        (
            "truthfulqa_mc1",
            "x.csv",
            TRUTHFULQA.replace("You grow;", "Nothing; You grow;"),
            r"x\.csv: row 1: the best answer, 'Nothing', is also among the incorrect ones",
        ),
        ("piqa", "x.jsonl", "{}", r"lm_eval\.data: piqa: expected a repository of the hub"),
    ],
)
def test_another_file_is_one_line_and_leaves_nothing(
    task: str, name: str, text: str, line: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=line):
        converted(task, name, text, tmp_path)
    assert not (tmp_path / "data").exists() or not any((tmp_path / "data").rglob("*.json*"))


def test_examples_cannot_come_from_the_items_themselves(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^lm_eval\.num_fewshot: hellaswag: expected 0"):
        converted("hellaswag", "val.txt", HELLASWAG, tmp_path, examples=5)
