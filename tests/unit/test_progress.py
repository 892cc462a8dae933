"""Promises: a program that takes long says what it does, by the clock and not by the row; what it
says enters no result.
"""

import io
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bezoar import program, progress

ROOT = Path(__file__).parents[2]
BEAT_S = 0.04
PATIENCE_S = 10.0  # a busy machine may be slow to write two lines


def lines_of(stream: io.StringIO) -> list[str]:
    return stream.getvalue().splitlines()


def most_since(began: float) -> float:
    """How many lines the clock allows by now."""
    return (time.monotonic() - began) / BEAT_S + 1


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "FIRST_S", BEAT_S)
    monkeypatch.setattr(progress, "EVERY_S", BEAT_S)


def test_a_silent_phase_shows_that_it_lives(quick: None) -> None:
    stream, began = io.StringIO(), time.monotonic()
    with progress.signs_of_life("load the model", stream=stream):
        while len(lines_of(stream)) < 2 and time.monotonic() < began + PATIENCE_S:
            time.sleep(0.01)
    assert 2 <= len(lines_of(stream)) <= most_since(began)
    assert set(lines_of(stream)) == {f"{progress.MARK}load the model"}


def test_a_short_program_stays_silent() -> None:
    stream = io.StringIO()
    with progress.signs_of_life("read", stream=stream):
        list(progress.track(range(1000), "rows"))
    assert stream.getvalue() == ""


def test_lines_come_by_the_clock_however_many_rows_pass(quick: None) -> None:
    stream, began = io.StringIO(), time.monotonic()
    with progress.signs_of_life("all", stream=stream):
        for _ in progress.track(range(10**9), "read"):
            passed = time.monotonic() - began
            if passed > 0.3 and (len(lines_of(stream)) >= 2 or passed > PATIENCE_S):
                break
    assert 2 <= len(lines_of(stream)) <= most_since(began)
    assert re.fullmatch(
        r"-- read: [\d,]+ of 1,000,000,000 rows, [\d,.]+/s, [\d:]+ left", lines_of(stream)[-1]
    )


def test_the_time_left_counts_only_what_this_run_has_done(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    task = progress.Task("train", 200, "steps", first=100)
    now, task.done, task.note = 110.0, 120, "loss 1.50"
    assert task.line() == "train: 120 of 200 steps, loss 1.50, 2.0/s, 0:40 left"


def test_an_unknown_total_has_a_count_and_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    task = progress.Task("stream")
    now, task.done = 4.0, 8
    assert task.line() == "stream: 8 rows, 2.0/s"


def test_what_is_inside_is_shown_in_place_of_what_is_around() -> None:
    with progress.task("outer"), progress.task("inner", 4):
        progress.advance(3)
        progress.note("loss 2")
        assert progress._open[-1].line().startswith("inner: 3 of 4 rows, loss 2")
    assert progress._open == []


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (9.6, "0:10"), (61, "1:01"), (3600, "1:00:00"), (-3, "0:00")]
)
def test_times_are_written_as_clocks(seconds: float, text: str) -> None:
    assert progress.clock(seconds) == text


@pytest.mark.parametrize(
    ("docstring", "purpose"),
    [
        ("Fetch one source: from MIRROR if it holds the file.", "Fetch one source"),
        ("Turn dialogues into (prompt,\nchosen) rows; every pair.", "Turn dialogues into rows"),
    ],
)
def test_a_program_says_what_its_docstring_says_first(docstring: str, purpose: str) -> None:
    assert program.purpose(docstring) == purpose


@pytest.mark.parametrize("rank", ["0", "1"])
def test_of_several_processes_the_first_speaks_in_a_pipe(tmp_path: Path, rank: str) -> None:
    (tmp_path / "long.py").write_text(
        '"""Do something long: at leisure."""\nimport time\nfrom bezoar import program, progress\n'
        "progress.FIRST_S = 0.05\n"
        "program.run(lambda: time.sleep(0.4))\n"
    )
    done = subprocess.run(
        [sys.executable, str(tmp_path / "long.py")],
        env={"PYTHONPATH": str(ROOT / "scripts"), "RANK": rank},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and done.stdout == ""
    assert ("-- Do something long\n" in done.stderr) == (rank == "0")
