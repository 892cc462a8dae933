"""Rows of other forms than a program reads: read as what they are, or refused in one line."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import exchange_answers
import generate_evol
import generate_lamini
import judge_mtbench
from bezoar.data import flan, hh_rlhf, task_families
from bezoar.errors import UserError
from bezoar.evaluation import mtbench
from bezoar.files import write_jsonl
from bezoar.training import preference_pairs

FLAN = {
    "inputs": "Which is larger?",
    "targets": "2",
    "task_source": "CoT",
    "task_name": "t",
    "template_type": "zs_noopt",
}
QUESTIONS = [{"question_id": 81, "category": "math", "turns": ["2 + 3?", "And 4?"]}]
ANSWER: dict[str, Any] = {"question_id": 81, "model_id": "m", "choices": [{"turns": ["5", "20"]}]}


def test_flan_is_read_packed_and_with_the_place_of_its_lines(tmp_path: Path) -> None:
    lines = b"\xef\xbb\xbf" + b"".join(json.dumps(FLAN).encode() + b"\r\n" for _ in range(3))
    (tmp_path / "cot.jsonl.gz").write_bytes(gzip.compress(lines))
    rows, dropped = flan.read(tmp_path / "cot.jsonl.gz")
    assert [row["original_index"] for row in rows] == [0, 1, 2]
    assert not any(dropped.values())
    (tmp_path / "aqua_train.tsv.gz").write_bytes(gzip.compress(b"Why?\tyes\tbecause\r\n"))
    rows, _ = flan.read(tmp_path / "aqua_train.tsv.gz")
    assert [(row["inputs"], row["task_name"]) for row in rows] == [("Why?", "aqua")]


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("a.jsonl", b'{"inputs": "a", "targets": "b", "task": "c"}\n', "inputs, targets, task;"),
        ("a.jsonl", b'["a"]\n', "list;"),
        ("a.jsonl", b"a\tb\tc\n", "no JSON;"),
        ("a.tsv", b"a,b,c\n", "1 cells;"),
        ("a.tsv", b"", "nothing;"),
    ],
)
def test_a_file_without_one_row_of_flan_says_what_it_holds(
    tmp_path: Path, name: str, content: bytes, found: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"{name}:1: expected rows of Flan \(") as caught:
        flan.read(tmp_path / name)
    assert f"found {found} convert" in str(caught.value)


def test_preferences_are_read_packed_and_a_huge_number_is_named_with_its_row(
    tmp_path: Path,
) -> None:
    pair = {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: a\n\nAssistant: c"}
    lines = json.dumps(pair).encode() + b"\n"
    (tmp_path / "pairs.jsonl").write_bytes(gzip.compress(lines * 2))  # whatever it is called
    rows = list(hh_rlhf.rows_of([tmp_path / "pairs.jsonl"], 10))
    assert [(number, row) for _, number, row in rows] == [(1, pair), (2, pair)]
    (tmp_path / "pairs.jsonl").write_bytes(
        lines + lines.replace(b"}", b', "id": %s}' % (b"9" * 5000))
    )
    with pytest.raises(UserError, match=r"pairs\.jsonl:2: expected a number of at most 308 digits"):
        list(hh_rlhf.rows_of([tmp_path / "pairs.jsonl"], 10))
    assert len(list(hh_rlhf.rows_of([tmp_path / "pairs.jsonl"], 1))) == 1


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"choices": [{"turns": ["5"]}]}, r"expected 2 texts as `choices\[0\].turns`, found \['5"),
        ({"choices": [{"turns": ["5", None]}]}, "expected 2 texts"),
        ({"choices": []}, r"expected a choice with turns, found \[\]"),
        ({"choices": ["5"]}, "expected a choice with turns"),
        ({"choices": None}, "expected a list as `choices`, found nothing"),
        ({"question_id": "81"}, "expected a whole number as `question_id`"),
    ],
)
def test_an_answer_or_reference_without_both_turns_is_named(
    tmp_path: Path, change: dict[str, Any], found: str
) -> None:
    path = tmp_path / "rows.jsonl"
    write_jsonl(path, [{**ANSWER, "question_id": 1}, {**ANSWER, **change}])
    with pytest.raises(UserError, match=rf"rows\.jsonl:2: {found}"):
        mtbench.read_references(path)
    with pytest.raises(UserError, match=rf"rows\.jsonl:2: {found}"):
        judge_mtbench.read_answers(path, QUESTIONS)


@pytest.mark.parametrize(
    "read",
    [
        mtbench.read_questions,
        mtbench.read_references,
        mtbench.read_judge_prompts,
        generate_evol.read_seeds,
        lambda path: generate_lamini.read_inputs(path, path, {}),
        lambda path: list(exchange_answers.lines(path)),
        lambda path: preference_pairs.read_reference(path, [], ""),
    ],
)
def test_blank_lines_above_a_bad_row_do_not_shift_its_number(
    tmp_path: Path, read: Callable[[Path], object]
) -> None:
    (tmp_path / "rows.jsonl").write_text('\n \n{"another": "column"}\n')
    with pytest.raises(UserError, match=r"rows\.jsonl:3: "):
        read(tmp_path / "rows.jsonl")


def test_a_file_without_choices_is_named(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "rows.jsonl", [{"question_id": 81, "model_id": "m"}])
    with pytest.raises(UserError, match=r"rows\.jsonl:1: .* `choices`, found no such column"):
        judge_mtbench.read_answers(tmp_path / "rows.jsonl", QUESTIONS)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("[1, 2]", r"expected the system messages 1 to 16, found \[\]"),
        ("1: a", r"expected the system messages 1 to 16, found \[1\]"),
        (
            "".join(f"{n}: a\n" for n in range(1, 16)) + "16: [b]",
            r"message 16: expected a text, found \['b'\]",
        ),
        (
            "".join(f"{n}: a\n" for n in range(1, 16)) + "'16': b",
            "message 16: expected a text, found 'b'",
        ),
    ],
)
def test_system_messages_of_another_form_are_named(
    tmp_path: Path, content: str, found: str
) -> None:
    (tmp_path / "m.yaml").write_text(content)
    with pytest.raises(UserError, match=rf"m\.yaml: {found}"):
        flan.system_messages(tmp_path / "m.yaml")


def test_a_task_family_that_is_no_regular_expression_is_named(tmp_path: Path) -> None:
    (tmp_path / "f.yaml").write_text(
        "families:\n- {match: '(', evaluation: [a], relation: none, reason: r}\n"
    )
    with pytest.raises(UserError, match=r"f\.yaml: entry 1: expected a regular expression as"):
        task_families.load(tmp_path / "f.yaml")
