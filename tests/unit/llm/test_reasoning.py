"""bezoar.llm.reasoning: where a model's reasoning ends and its answer begins."""

import time

import pytest

from bezoar.llm.reasoning import split_reasoning


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>\nRating: 3?\n</think>\n\n[[9]]", ("Rating: 3?", "\n\n[[9]]", True)),
        ("<think></think>Yes", ("", "Yes", True)),
        ("<THINK>a</THINK>Yes", ("a", "Yes", True)),
        ("\n <thinking>a</thinking> Yes", ("a", " Yes", True)),
        ("<think>a</think><think>b</think>Yes", ("a\n\nb", "Yes", True)),
        ("<think>a<think>b</think>c</think>Yes", ("a<think>b\n\nc", "Yes", True)),
        ("a 3, or 4\n</think>Yes", ("a 3, or 4", "Yes", True)),
        ("a</think>\n<think>b</think>Yes", ("a\n\nb", "Yes", True)),
        ("<think>never ended", ("never ended", "", False)),
        ("<think>a</think><think>b", ("a\n\nb", "", False)),
        ("a</think><think>", ("a", "", False)),
        ("<thought>a</think>b", ("a</think>b", "", False)),
        ("Write <think>x</think> in HTML", ("", "Write <think>x</think> in HTML", True)),
        ("Write <Think>x</think> in HTML", ("", "Write <Think>x</think> in HTML", True)),
        ("\ufeff<think >a</think >Yes", ("a", "Yes", True)),
        ("[THINK]a [[4]][/THINK]Yes", ("a [[4]]", "Yes", True)),
        ("[THINK]never ended", ("never ended", "", False)),
        ("a[/THINK]Yes", ("a", "Yes", True)),
        ("[think] is a tag", ("", "[think] is a tag", True)),
        ("\u25c1think\u25b7a\u25c1/think\u25b7Yes", ("a", "Yes", True)),
        ("<seed:think>a</seed:think>Yes", ("a", "Yes", True)),
        ("Close it with `</think>`.", ("", "Close it with `</think>`.", True)),
        ("a</think>Write `</think>`.", ("a", "Write `</think>`.", True)),
        ("Yes", ("", "Yes", True)),
        ("", ("", "", True)),
    ],
)
def test_leading_reasoning_is_separated(text: str, expected: tuple[str, str, bool]) -> None:
    assert split_reasoning(text) == expected


@pytest.mark.parametrize(
    "part", ["</think>", "<think></think>", "<think>", " <thought>a</thought>", "[THINK]"]
)
def test_many_tags_take_no_longer_than_reading_them(part: str) -> None:
    started = time.perf_counter()
    assert "<" not in split_reasoning(part * 20_000)[1]
    assert time.perf_counter() - started < 2
