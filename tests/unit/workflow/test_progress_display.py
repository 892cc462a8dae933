"""Promises: a run shows which step of how many, how long it has taken and will take; a failed step
is one block with the end of its log.
"""

import json
import time
from itertools import pairwise
from pathlib import Path

import pytest

from bezoar.workflow import duration
from bezoar.workflow.duration import Plan, Step, makespan
from bezoar.workflow.progress_display import SAID, TAIL, Display, last_lines, name_of


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


CHAIN = {
    "world": Step("world", "world"),
    "base": Step("base", "base", frozenset({"world"}), threads=2),
    "sft lamini": Step("sft lamini", "sft", frozenset({"base"}), priority=1),
    "learning base": Step("learning base", "learning", frozenset({"base"})),
    "all": Step("all", "all", frozenset({"sft lamini", "learning base"})),
}
SECONDS = {"world": 2.0, "base": 100.0, "sft lamini": 40.0, "learning base": 30.0}


@pytest.fixture
def display(tmp_path: Path) -> Display:
    lines: list[str] = []
    made = Display(lines.append, Clock())
    made.record = tmp_path / "seconds.json"
    made.begin(Plan(CHAIN, 2, "results/x", "rehearsal"), SECONDS, own=False)
    made.lines = lines  # type: ignore[attr-defined]
    return made


def at(display: Display, now: float) -> list[str]:
    display.lines.clear()  # type: ignore[attr-defined]
    display.now.now = now  # type: ignore[attr-defined]
    return display.lines  # type: ignore[attr-defined, no-any-return]


@pytest.mark.parametrize(("cores", "expected"), [(1, 172.0), (2, 142.0), (16, 142.0)])
def test_the_whole_takes_its_longest_chain_or_its_work(cores: int, expected: float) -> None:
    assert makespan(CHAIN, SECONDS, cores, {}) == expected


def test_what_is_at_work_counts_with_what_is_left_of_it() -> None:
    rest = {name: step for name, step in CHAIN.items() if name != "world"}
    assert makespan(rest, SECONDS, 2, {"base": 7.0}) == 47.0


def test_a_run_begins_with_its_steps_and_its_time(display: Display) -> None:
    assert display.lines[0].startswith("4 steps on 2 cores: about 2:22")  # type: ignore[attr-defined]


def test_a_step_at_work_is_shown_within_five_seconds_and_every_ten(
    display: Display, tmp_path: Path
) -> None:
    display.started("base", tmp_path / "base.txt")
    shown = []
    for second in range(1, 60):
        lines = at(display, second)
        (tmp_path / "base.txt").write_text(f"noise\n-- train: {second} of 1000 steps, 9:09 left\n")
        display.tick()
        shown += [(second, line) for line in lines]
    times = [second for second, _ in shown]
    assert times[0] <= 5
    assert all(b - a <= 10 for a, b in pairwise(times))
    assert len(times) <= 7
    assert "base: train: 13 of 1000 steps, 9:09 left" in shown[1][1]


def test_the_time_left_that_a_step_says_itself_decides(display: Display, tmp_path: Path) -> None:
    display.started("world", None)
    display.now.now = 2.0  # type: ignore[attr-defined]
    display.finished("world")
    display.started("base", tmp_path / "base.txt")
    (tmp_path / "base.txt").write_text("-- train: 1 of 1000 steps, 1:30:00 left\n")
    assert display.left() == 5400.0 + 40.0


def test_what_the_first_steps_took_corrects_the_rest(display: Display) -> None:
    display.started("world", None)
    at(display, 2.0)
    display.finished("world")
    display.started("base", None)
    lines = at(display, 202.0)
    display.finished("base")
    assert display.left() == pytest.approx(40 * 202 / 102)
    assert lines == ["[2/4]  3:22 of about 4:41  base: done in 3:20"]
    assert json.loads(display.record.read_text())["results/x"]["base"] == 200.0


def test_an_unchanged_step_is_no_record(display: Display, tmp_path: Path) -> None:
    (tmp_path / "log").write_text("unchanged: same command\n")
    display.started("world", tmp_path / "log")
    lines = at(display, 1.0)
    display.finished("world")
    assert "world: unchanged" in lines[0] and not display.record.exists()


def test_without_a_record_there_is_no_invented_time() -> None:
    lines: list[str] = []
    display = Display(lines.append, Clock())
    display.begin(Plan(CHAIN, 2, "results", "paper"), {}, own=False)
    display.started("base", None)
    display.line("base: started")
    assert "known after a first run" in lines[0]
    assert lines[-1] == "[0/4]  0:00  base: started"


def test_a_step_of_a_cluster_is_in_the_queue_until_it_writes_its_log(
    display: Display, tmp_path: Path
) -> None:
    display.begin(Plan(CHAIN, 1, "results/x", "rehearsal", jobs=16), SECONDS, own=False)
    assert display.lines[-2] == "4 steps on a cluster, 16 at once: how long depends on its queue"  # type: ignore[attr-defined]
    log = tmp_path / "base.txt"
    log.write_text("-- train: 9 of 1000 steps\n")  # of the job before, which was killed
    display.started("base", log)
    lines = at(display, 4.0)
    display.tick()
    assert lines == ["[0/4]  0:04  base: in the queue for 0:04"]
    log.write_text("-- train: 10 of 1000 steps\n")
    lines = at(display, 15.0)
    display.tick()
    assert lines == ["[0/4]  0:15  base: train: 10 of 1000 steps"]


def test_a_failed_step_is_one_block_with_the_end_of_its_log(
    display: Display, tmp_path: Path
) -> None:
    log = tmp_path / "sft.txt"
    log.write_text("".join(f"line {i}\n-- sign {i}\n" for i in range(99)) + "error: no rows\n")
    display.started("sft lamini", log)
    at(display, 41.0)
    block = list(display.failed("sft lamini"))
    assert block[0] == "error: sft lamini failed after 0:41"
    assert block[-2] == "    error: no rows" and str(log) in block[1]
    assert len(block) == TAIL + 3 and not any("sign" in line for line in block)


def test_a_step_that_was_killed_is_shown_with_its_last_sign(
    display: Display, tmp_path: Path
) -> None:
    (tmp_path / "log").write_text("-- train: 1 of 9 steps\n-- train: 2 of 9 steps\n")
    display.started("base", tmp_path / "log")
    assert "    -- train: 2 of 9 steps" in list(display.failed("base"))


def test_a_job_that_the_scheduler_refused_is_not_explained_by_an_old_log(
    display: Display, tmp_path: Path
) -> None:
    log, other = tmp_path / "sft.txt", tmp_path / "slurm.txt"
    log.write_text("error: of yesterday\n")
    other.write_text("slurmstepd: error: oom_kill\n")
    display.started("sft lamini", log)
    said = "SLURM sbatch failed. The error message was 'sbatch: error: invalid\n qos'.\n    sbatch"
    found = SAID.search(said)
    assert found and found[1] == "sbatch: error: invalid\n qos"
    block = list(display.failed("sft lamini", "OUT_OF_MEMORY", other))
    assert block[0] == "error: sft lamini failed after 0:00: OUT_OF_MEMORY"
    assert block[1:3] == [f"  the end of {other}:", "    slurmstepd: error: oom_kill"]


def test_a_bar_that_was_drawn_over_counts_as_its_last_state(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"a\n 10%|#\r 20%|##\r 30%|###\n\n\xff\n")
    assert last_lines(tmp_path / "log", 2) == [" 30%|###", "\ufffd"]
    assert last_lines(tmp_path / "none", 2) == []


def test_names_do_not_depend_on_the_order_of_wildcards() -> None:
    one = name_of("mtbench_rejudge", {"model": "base", "column": "strict"})
    assert one == name_of("mtbench_rejudge", {"column": "strict", "model": "base"})
    assert one == "mtbench_rejudge strict base"


def test_a_first_rehearsal_is_scaled_by_the_probe_and_a_later_one_is_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = duration.reference("rehearsal")
    monkeypatch.setattr(duration, "probe", lambda: 2 * reference["probe_s"])
    plan, record = Plan(CHAIN, 2, "results/x", "rehearsal"), tmp_path / "seconds.json"
    seconds, own = duration.seconds_of(plan, record)
    assert not own and seconds["base"] == 2 * reference["seconds"]["base"]
    for name in SECONDS:
        duration.record("results/x", name, SECONDS[name], record)
    assert duration.seconds_of(plan, record) == (SECONDS, True)
    assert duration.seconds_of(Plan(CHAIN, 2, "elsewhere", "paper"), record) == ({}, False)


def test_a_step_never_run_takes_as_long_as_others_of_its_rule(tmp_path: Path) -> None:
    duration.record("r", "sft lamini", 30, tmp_path / "s.json")
    duration.record("r", "sft orca", 50, tmp_path / "s.json")
    plan = Plan({"sft evol": Step("sft evol", "sft")}, 1, "r", "paper")
    assert duration.seconds_of(plan, tmp_path / "s.json") == ({"sft evol": 40.0}, False)


def test_the_probe_keeps_one_core_busy() -> None:
    duration.probe()  # imports numpy
    whole, own = time.process_time(), time.thread_time()
    duration.probe()
    whole, own = time.process_time() - whole, time.thread_time() - own
    assert whole < 1.2 * own, "threads of a busy machine wait for each other"


def test_the_probe_is_quick_and_positive() -> None:
    began = time.perf_counter()
    assert duration.probe() > 0
    assert time.perf_counter() - began < 5


def test_a_record_that_is_no_record_is_none(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text("{broken")
    assert duration.read(tmp_path / "s.json") == {}
    (tmp_path / "s.json").write_text("[1]")
    assert duration.read(tmp_path / "s.json") == {}


def test_a_step_that_goes_on_from_an_earlier_run_says_nothing_of_the_time_of_a_whole_one(
    display: Display, tmp_path: Path
) -> None:
    log = tmp_path / "base.txt"
    log.write_text("resuming: step 99\n-- train: 100 of 100 steps\n")
    display.started("base", log)
    at(display, 1.0)
    left = display.left()
    display.finished("base")
    assert "base" not in duration.recorded("results/x", display.record)
    assert display.left() == left - 99.0, "nothing is scaled by a hundredth"
