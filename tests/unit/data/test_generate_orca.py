"""Promises of the Orca scheme: every line accounted for, quotas, and the system messages each
submix allows.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from scripted import Scripted

import generate_orca as orca

MESSAGES = yaml.safe_load(
    (Path(__file__).parents[3] / "prompts" / "orca_system_messages.yaml").read_text(
        encoding="utf-8"
    )
)
RECIPE: dict[str, Any] = {
    "quotas": {"cot": 100, "niv2": 100, "t0": 100, "flan2021": 100, "dialog": 100},
    "rows_per_task": 100,
    "max_failure_share": 0.0,
    "seed": 0,
}


def flan(source: str, index: int = 0, **changes: Any) -> dict[str, Any]:
    return {
        "inputs": f"Question {index}?",
        "targets": "gold",
        "task_source": source,
        "task_name": f"{source} task",
        "template_type": "zs_noopt",
        **changes,
    }


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def make(paths: list[Path], **changes: Any) -> tuple[list[dict], Any, Scripted]:
    client = Scripted(lambda prompt, attempt: f"because {prompt}")
    rows, funnel = orca.make(client, paths, MESSAGES, {**RECIPE, **changes})
    return rows, funnel, client


def test_every_line_of_a_chain_of_thought_file_is_used_or_dropped_by_a_rule(tmp_path: Path) -> None:
    lines = [
        b"Why?\\nOptions:\\n- a\\n- b\ta\tSince b is not.",  # used, with options
        # used: a line separator of Unicode is text, the explanation may be empty
        "Wo?\u2028 שלום\tda\t".encode(),
        b"Why?\tyes",  # two columns
        b"a\tb\tc\td",  # four columns
        b"",  # a blank line is no row
        b" \r",  # nor is this one
        b"Why?\t\tbecause",  # no answer
        b" \tyes\tbecause",  # no question
        b"\xff\xfe?\tyes\tbecause",  # no UTF-8
        b"x" * 1_000_000 + b"\tyes\tbecause\r",  # a megabyte, and a Windows line end
    ]
    path = tmp_path / "creak_train.tsv"
    path.write_bytes(b"\n".join(lines) + b"\n")
    rows, funnel, _ = make([path])
    assert funnel.left == {**dict.fromkeys(orca.RULES, 0), "malformed": 3, "empty": 2, "kept": 3}
    assert funnel.entered == len(lines) - 2
    by_index = {row["original_index"]: row for row in rows}
    assert sorted(by_index) == [0, 1, 9]
    assert (by_index[0]["inputs"], by_index[0]["template_type"]) == (
        "Why?\nOptions:\n- a\n- b",
        "zs_opt",
    )
    assert (by_index[1]["inputs"], by_index[1]["template_type"]) == ("Wo?\u2028 שלום", "zs_noopt")
    assert {row["task_name"] for row in rows} == {"creak"}


def test_every_row_of_a_submix_is_used_or_dropped_by_a_rule(tmp_path: Path) -> None:
    rows = [
        flan("NIv2"),
        flan("P3", task_name="BIG-bench emoji"),
        flan("Flan2021", template_type="fs_opt"),
        flan("mascot"),
        flan("Dialog", inputs="\ud83d half"),
        flan("T0", inputs=3),
        flan("CoT", targets=" "),
    ]
    path = write(tmp_path / "mix.jsonl", rows)
    path.write_text(path.read_text() + "not JSON\n" + "[" * 100_000 + "\n[1]")
    written, funnel, _ = make([path])
    assert [row["dataset_source"] for row in written] == ["niv2"]
    dropped = {
        "bigbench": 1,
        "few_shot": 1,
        "unknown_submix": 1,
        "malformed": 5,
        "empty": 1,
        "kept": 1,
    }
    assert funnel.left == {**dict.fromkeys(orca.RULES, 0), **dropped}


def test_columns_are_those_of_the_paper_and_gold_stays_apart_from_the_explanation(
    tmp_path: Path,
) -> None:
    rows, _, _ = make([write(tmp_path / "mix.jsonl", [flan("CoT")])])
    assert list(rows[0]) == [
        "original_index",
        "inputs",
        "targets",
        "task_source",
        "task_name",
        "template_type",
        "system_message",
        "explained_targets",
        "dataset_source",
    ]
    assert (rows[0]["targets"], rows[0]["explained_targets"]) == ("gold", "because Question 0?")


@pytest.mark.parametrize(
    ("source", "template", "allowed"),
    [
        ("CoT", "zs_opt", {6, 11, 16}),
        ("NIv2", "zs_noopt", {1, 2, 5, 7, 9, 12, 13, 14, 15}),
        ("P3", "zs_opt", {1, 2, 3, 5, 7}),
        ("Flan2021", "zs_opt", {8, 10}),
        ("Flan2021", "zs_noopt", {3, 4, 7}),
    ],
)
def test_a_submix_uses_exactly_its_system_messages(
    tmp_path: Path, source: str, template: str, allowed: set[int]
) -> None:
    rows, _, client = make(
        [
            write(
                tmp_path / "mix.jsonl",
                [flan(source, i, template_type=template) for i in range(100)],
            )
        ]
    )
    assert {row["system_message"] for row in rows} == {MESSAGES[number] for number in allowed}
    assert client.systems == [row["system_message"] for row in rows]


def test_quotas_hold_for_submix_and_task_and_do_not_depend_on_the_order_of_files(
    tmp_path: Path,
) -> None:
    first = write(
        tmp_path / "a.jsonl", [flan("NIv2", i, task_name=f"task{i % 3}") for i in range(60)]
    )
    second = write(tmp_path / "b.jsonl", [flan("CoT", i, task_name="gsm") for i in range(60)])
    limits = {"quotas": {"niv2": 20, "cot": 9}, "rows_per_task": 8}
    rows, funnel, _ = make([first, second], **limits)
    tasks = [row["task_name"] for row in rows]
    assert {name: tasks.count(name) for name in set(tasks)}.keys() == {
        "task0",
        "task1",
        "task2",
        "gsm",
    }
    assert max(tasks.count(name) for name in tasks) == 8 == tasks.count("gsm")
    assert len(tasks) == 28
    assert funnel.left["over_quota"] == 92
    assert funnel.entered == 120
    assert make([second, first], **limits)[0] == rows


@pytest.mark.parametrize(
    ("source", "shares"),
    [("T0", [10, 10, 3]), ("Flan2021", [10, 10, 3]), ("NIv2", [10, 10, 3]), ("CoT", None)],
)
def test_a_task_has_its_share_of_rows_in_cot_alone(
    tmp_path: Path, source: str, shares: list[int] | None
) -> None:
    """Orca draws a task, then one of its rows, so that no task is chosen for its size."""
    sizes = {"large": 300, "middle": 30, "small": 3}
    rows = [
        flan(source, i, task_name=name, inputs=f"{name} {i}?")
        for name, size in sizes.items()
        for i in range(size)
    ]
    submix = {"T0": "t0", "Flan2021": "flan2021", "NIv2": "niv2", "CoT": "cot"}[source]
    made, _, _ = make([write(tmp_path / "mix.jsonl", rows)], quotas={submix: 23})
    tasks = [row["task_name"] for row in made]
    found = [tasks.count(name) for name in sizes]
    assert found == shares if shares else found[0] > 15
    assert tasks != sorted(tasks), "in drawn order"


def test_another_seed_draws_other_rows(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [flan("CoT", i) for i in range(60)])
    drawn = [
        {row["original_index"] for row in make([path], quotas={"cot": 20}, seed=seed)[0]}
        for seed in (0, 1)
    ]
    assert drawn[0] != drawn[1]


def test_rows_of_one_task_with_the_same_place_in_two_files_are_told_apart(tmp_path: Path) -> None:
    files = [
        write(tmp_path / name, [flan("NIv2", inputs=text)])
        for name, text in (("a.jsonl", "Say yes."), ("b.jsonl", "Say no. " * 50))
    ]
    rows = [row for path in files for row in orca.flan.read(path)[0]]
    fits = orca.flan.fitting(lambda system, text: len(text) < 100, MESSAGES, 0)
    assert [fits(row) for row in rows] == [True, False]
    chosen = [make(order, rows_per_task=1)[0] for order in (files, files[::-1])]
    assert chosen[0] == chosen[1], "the order of the files decides nothing"
