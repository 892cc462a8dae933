"""Promises: what the dress rehearsal took on this machine is shown by `make plan` and counts for
`make doctor`, for a base of its size alone.
"""

import json
from pathlib import Path
from typing import Any

import pytest

import plan_requests
from bezoar.workflow import dress_rehearsal, machine_checks, resources
from bezoar.workflow import machine as machine_of
from bezoar.workflow.configuration import merge, resolved
from bezoar.workflow.layout import Layout
from bezoar.workflow.resources import Needs

ROOT = Path(__file__).parents[3]


def receipt(stage: str, mem_gib: float, gpu_gib: float) -> dict[str, Any]:
    hardware = {"gpu": "a GPU", "gpu_peak_bytes": gpu_gib * 2**30} if gpu_gib else {}
    empty: dict[str, Any] = {
        key: {} for key in "recipe inputs outputs rows facts environment versions".split()
    }
    made = {"code": "", "command": ["x.py"], "git_commit": None, "git_dirty": False}
    took = {"started_unix_s": 0.0, "wall_s": 61.0, "peak_memory_bytes": mem_gib * 2**30}
    return {"stage": stage, **empty, **made, **took, "hardware": hardware}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project in which a dress rehearsal has run, on a GPU but for one stage."""
    for name in ("config", "prompts", "scripts", "envs", "rules", "profiles"):
        (tmp_path / name).symlink_to(ROOT / name)
    place = tmp_path / "results/dress-rehearsal/receipts"
    place.mkdir(parents=True)
    for stage, *peaks in (("sft", 9.0, 6.5), ("dpo", 40.0, 30.0), ("merge", 90.0, 0.0)):
        (place / f"{stage}_x.json").write_text(json.dumps(receipt(stage, *peaks)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def paper(**more: Any) -> Layout:
    return Layout(merge(resolved(["config/paper.yaml"]), more))


@pytest.mark.usefixtures("project")
def test_plan_shows_it_and_asks_for_no_less() -> None:
    lines = plan_requests.computing(paper(), "profiles/default")
    assert lines[0].split()[-4:] == ["took", "peak", "GPU", "peak"]
    row = {line.split()[0]: line.split() for line in lines}
    assert row["sft"][-5:] == ["1:01", "9,216", "MB", "6.5", "GiB"]
    assert row["dpo"][2:4] == ["41,360", "MB"] and row["dpo"][5:7] == ["30.6", "GiB"]
    assert "the dress rehearsal on this machine" in lines[-1]
    before = Needs(paper()).by_rule
    after = dress_rehearsal.needs(paper()).by_rule
    assert after["merge"] == before["merge"], "a CPU's merge says nothing of a GPU's"
    assert after["sft"].mem_mb == before["sft"].mem_mb, "short rows lower nothing"
    assert after["sft"].gpu_mb == 6656 + resources.CONTEXT_MB > before["sft"].gpu_mb
    assert after["dpo"].seconds == before["dpo"].seconds


def test_a_damaged_receipt_of_it_says_nothing(project: Path) -> None:
    path = project / "results/dress-rehearsal/receipts/dpo_x.json"
    held = json.loads(path.read_text())
    del held["peak_memory_bytes"]
    path.write_text(json.dumps(held))
    assert sorted(dress_rehearsal.took(paper())) == ["merge", "sft"]


@pytest.mark.usefixtures("project")
def test_doctor_measures_the_machine_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(machine_checks, "gpu", lambda need, *_: iter(asked.append(need) or []))
    monkeypatch.setattr(machine_of, "memory_gib", lambda: 36.0)
    monkeypatch.delenv("BEZOAR_CPU", raising=False)
    lines = list(machine_checks.problems(paper().config))
    assert asked == [30 * 1024 + resources.CONTEXT_MB]
    assert [line for line in lines if "36.0 GiB of memory may not do" in line]


@pytest.mark.usefixtures("project")
def test_a_base_of_another_size_and_another_scale_have_none() -> None:
    small = paper(sources={"base_model": "smollm2_135m_gguf"})
    assert dress_rehearsal.took(small) == {}
    rehearsal = Layout(resolved(["config/rehearsal.yaml"]))
    assert dress_rehearsal.took(rehearsal) == {}
    assert set(dress_rehearsal.took(paper())) == {"sft", "dpo", "merge"}


def test_without_a_dress_rehearsal_the_estimates_count(project: Path) -> None:
    (project / "results").rename(project / "elsewhere")
    assert plan_requests.computing(paper(), "profiles/default") == resources.table(paper())
