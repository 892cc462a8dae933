"""Unfinished work is gone on with only by what began it."""

from pathlib import Path

import pytest

from bezoar.evaluation.parts import Parts
from bezoar.files import write_json
from bezoar.provenance.resumption import MARK, keep_if_same

BEGUN = {"recipe": {"rate": 0.1, "shift": 0}, "code": "x", "inputs": {"data": {"a": "0" * 64}}}


def test_work_of_the_same_is_kept(tmp_path: Path) -> None:
    keep_if_same(tmp_path / "work", BEGUN)
    (tmp_path / "work/checkpoint-2").mkdir()
    keep_if_same(tmp_path / "work", BEGUN)
    assert (tmp_path / "work/checkpoint-2").is_dir()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"recipe": {"rate": 0.2, "shift": 0}}, "recipe.rate: 0.1 -> 0.2"),
        ({"code": "y"}, "code: x -> y"),
        ({"recipe": {"rate": 0.1, "shift": None}}, "recipe.shift: 0 -> null"),
        ({"recipe": {"rate": 0.1, "shift": False}}, "recipe.shift: 0 -> false"),
        ({"inputs": {"data": {"a": "1" * 64}}}, "inputs.data.a: 000000000000… -> 111111111111…"),
    ],
)
def test_work_of_anything_else_goes_and_one_line_says_why(
    change: dict, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keep_if_same(tmp_path / "work", BEGUN)
    (tmp_path / "work/checkpoint-2").mkdir()
    keep_if_same(tmp_path / "work", BEGUN | change)
    assert sorted(path.name for path in (tmp_path / "work").iterdir()) == [MARK]
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 and lines[0].endswith(message)


@pytest.mark.parametrize(
    "mark", [None, "", "[]", "{", "[" * 100_000], ids=lambda text: str(text)[:9]
)
def test_work_without_a_mark_goes(
    mark: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "work/checkpoint-2").mkdir(parents=True)
    if mark is not None:
        (tmp_path / "work" / MARK).write_text(mark)
    keep_if_same(tmp_path / "work", BEGUN)
    assert not (tmp_path / "work/checkpoint-2").exists()
    assert "starting afresh, an interrupted run had other" in capsys.readouterr().out


def test_parts_are_kept_for_the_same_and_made_again_for_anything_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "scores.jsonl"
    assert Parts(output, BEGUN).get("one/two", lambda: [1]) == [1]
    assert Parts(output, BEGUN).get("one/two", lambda: [2]) == [1]
    assert Parts(output, BEGUN | {"code": "y"}).get("one/two", lambda: [3]) == [3]
    assert capsys.readouterr().out.count("starting afresh") == 1
    parts = Parts(output, BEGUN | {"code": "y"})
    for broken in ("", "[]", "{}"):
        (parts.folder / "one_two.json").write_text(broken)
        assert parts.get("one/two", lambda: [4]) == [4]
    parts.clear()
    assert not list(tmp_path.iterdir())
    write_json(output, [])


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", "{", "[" * 100_000, "\ufeff{", '{"value": NaN}']
)
def test_a_damaged_part_is_made_again(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = Parts(tmp_path / "scores.jsonl", BEGUN)
    parts.get("one", lambda: [1])
    (parts.folder / "one.json").write_text(content, encoding="utf-8")
    assert parts.get("one", lambda: [2]) == [2]
    assert capsys.readouterr().out.endswith("cannot be read and is made again\n")
    assert parts.get("one", lambda: [3]) == [2]
