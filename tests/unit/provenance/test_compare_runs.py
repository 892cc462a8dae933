"""Two runs side by side: what they were made with, which bytes differ, which numbers moved."""

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

import compare_runs
from bezoar.errors import UserError
from bezoar.files import write_json, write_jsonl


def make(
    root: Path,
    name: str,
    seed: int = 0,
    right: int = 3,
    items: str = "one",
    metric: str = "acc",
    judge: str = "j",
    data: str = "",
) -> Path:
    """A run below `root` that was recorded as `results/<name>`: 10 items, `right` of them right."""
    folder = root / "results" / name
    samples = [
        {"task": "t", "doc_id": i, "target": "0", metric: float(i < right)} for i in range(10)
    ]
    rated = {"turn": 1, "repeat": 0, "state": "rated", "score": 5, "judge": [judge, "single-v1"]}
    judged: list[dict[str, Any]] = [{"question_id": i, **rated} for i in range(4)]
    judged.append({**judged[0], "question_id": 9, "state": "no_rating", "score": -1})
    texts = [{"task": "t", "item": 0, "part": "question", "text": items}]
    write_jsonl(folder / "data/evaluation_items.jsonl", texts)
    write_jsonl(folder / "lm_eval/base.samples.jsonl", samples)
    write_jsonl(folder / "mtbench/base/judgments.jsonl", judged)
    write_json(folder / "lm_eval.json", {"models": {"base": {}}, "metric": {"t": metric}})
    verdict = "reproduced" if right > 5 else "undecided"
    write_json(folder / "claims.json", {"claims": [{"statement": "It is.", "verdict": verdict}]})
    stages: dict[str, dict[str, Any]] = {
        "data_items": {
            "inputs": {"tasks": {"t.yaml": items}, "data": {"m.json": data} if data else {}}
        },
        "lm_eval_base": {"outputs": {"samples": {"lm_eval/base.samples.jsonl": f"s{right}"}}},
        "lm_eval_table": {"recipe": {"metric": {}, "seed": seed}},
        "mtbench_judgments_base": {"inputs": {"questions": {"q.jsonl": "q"}}},
    }
    for number, (stage, more) in enumerate(stages.items()):
        receipt = {
            "stage": stage,
            "recipe": {"seed": seed, "target": f"results/{name}/x"},
            "code": "c",
            "inputs": {},
            "outputs": {},
            "rows": {},
            "facts": {},
            "command": ["p.py", "--receipt", f"results/{name}/receipts/{stage}.json"],
            "environment": {"locks": {"main.lock": "l"}},
            "git_commit": None,
            "git_dirty": False,
            "started_unix_s": number,
            "wall_s": 1.0,
            "peak_memory_bytes": 1,
            "hardware": {},
            "versions": {},
            **more,
        }
        for kind in ("inputs", "outputs"):
            receipt[kind] = {
                key: {
                    path if "/" not in path else f"results/{name}/{path}": digest
                    for path, digest in files.items()
                }
                for key, files in receipt[kind].items()
            }
        write_json(folder / f"receipts/{stage}.json", receipt)
    return folder


def compare(a: Path, b: Path, capsys: pytest.CaptureFixture[str], status: int = 1) -> list[str]:
    if status:
        with pytest.raises(SystemExit) as ended:
            compare_runs.main([str(a), str(b)])
        assert ended.value.code == status
    else:
        compare_runs.main([str(a), str(b)])
    return capsys.readouterr().out.splitlines()


def test_a_run_is_the_same_as_itself_below_another_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = compare(make(tmp_path, "a"), make(tmp_path, "b"), capsys, status=0)
    assert "  nothing" in lines and "Outputs: 4 of 4 stages wrote the same bytes." in lines
    assert "  base, t: 0.300 -> 0.300, none of 10 items moved" in lines


def test_settings_bytes_numbers_and_verdicts_are_named_in_pairs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = compare(make(tmp_path, "a"), make(tmp_path, "b", seed=1, right=8), capsys)
    assert "  recipe.seed: 0 -> 1   (data_items, lm_eval_base, lm_eval_table," in lines[4]
    assert not any("target" in line for line in lines), "the root's name is no difference"
    assert "  others, in order: lm_eval_base" in lines
    assert any(
        line.startswith("  base, t: 0.300 -> 0.800, in pairs +0.500 (")
        and line.endswith("5 of 10 items moved")
        for line in lines
    )
    assert "  base, chat: 5.000 -> 5.000, none of 4 items moved" in lines
    assert "  claim: It is. undecided -> reproduced" in lines


def test_other_items_are_not_paired(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = compare(make(tmp_path, "a"), make(tmp_path, "b", right=8, items="two"), capsys)
    assert "  base, t: 0.300 -> 0.800, other items" in lines
    assert any("source.t.yaml: one -> two" in line for line in lines)


def test_one_task_more_leaves_the_items_of_the_others_in_pairs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = compare(make(tmp_path, "größe"), make(tmp_path, "b", right=8, data="more"), capsys)
    assert any(line.startswith("  base, t: 0.300 -> 0.800, in pairs +0.500 (") for line in lines)
    assert not any("target" in line for line in lines), "the root's name is no difference"


def test_two_metrics_or_two_judges_are_not_paired(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    filtered = make(tmp_path, "a", metric="exact_match,strict-match")
    same = compare(filtered, make(tmp_path, "b", metric="exact_match,strict-match"), capsys, 0)
    assert "  base, t: 0.300 -> 0.300, none of 10 items moved" in same
    lines = compare(filtered, make(tmp_path, "c", right=4, judge="k"), capsys)
    assert "  t: by exact_match,strict-match -> acc, not compared" in lines
    assert "  base, chat: judged by j -> k, not compared" in lines
    assert not any(line.startswith(("  base, t:", "  base, chat: 5")) for line in lines)


def test_a_stage_of_one_run_alone_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = make(tmp_path, "a"), make(tmp_path, "b")
    (b / "receipts/mtbench_judgments_base.json").unlink()
    (b / "receipts/lm_eval_table.json").unlink()  # it has not come so far
    (b / "lm_eval.json").unlink()
    lines = compare(a, b, capsys)
    assert "only in A: lm_eval_table, mtbench_judgments_base" in lines


def test_an_archive_is_compared_like_a_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a = make(tmp_path, "a")
    make(tmp_path / "elsewhere", "b")
    with tarfile.open(tmp_path / "b.tar", "w") as archive:
        archive.add(tmp_path / "elsewhere", "run")
    lines = compare(a, tmp_path / "b.tar", capsys, status=0)
    assert "Outputs: 4 of 4 stages wrote the same bytes." in lines


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("none", None, r"none/receipts: no such directory; name the results"),
        ("broken.tar", b"no archive", r"broken\.tar: expected an archive of a run"),
        ("empty.tar", b"\0" * 10240, r"empty\.tar: expected the receipts of one run, found"),
    ],
)
def test_what_is_no_run_is_one_line(
    tmp_path: Path, name: str, content: bytes | None, line: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=line):
        compare_runs.main([str(make(tmp_path, "a")), str(tmp_path / name)])


def test_a_broken_receipt_is_one_line(tmp_path: Path) -> None:
    a = make(tmp_path, "a")
    (a / "receipts/data_items.json").write_text(json.dumps({"stage": "data_items"}))
    with pytest.raises(UserError, match=r'data_items.*lacks "recipe", .*not a receipt'):
        compare_runs.main([str(a), str(a)])


def test_turns_of_one_question_are_no_independent_items() -> None:
    gaps = dict(enumerate((1.0, -1.0, 2.0, 0.0, 1.0)))
    once = compare_runs.compared(
        "x", {(q, 1): 5.0 for q in gaps}, {(q, 1): 5 + g for q, g in gaps.items()}, True
    )
    turns = [(q, turn) for q in gaps for turn in (1, 2)]
    twice = compare_runs.compared(
        "x", dict.fromkeys(turns, 5.0), {(q, t): 5 + gaps[q] for q, t in turns}, True
    )
    assert once.partition("),")[0] == twice.partition("),")[0]
