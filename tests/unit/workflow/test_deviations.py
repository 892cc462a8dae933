"""docs/deviations.md says what the configuration says, no more and no less."""

import shutil
from pathlib import Path

import pytest

from write_deviations import main

ROOT = Path(__file__).parents[3]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("config", "prompts"):
        shutil.copytree(ROOT / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(project: Path) -> str:
    main(["--output", "out.md"])
    return (project / "out.md").read_text(encoding="utf-8")


def test_no_deviation_is_missing_or_stale(project: Path) -> None:
    committed = (ROOT / "docs/deviations.md").read_text(encoding="utf-8")
    assert written(project) == committed, "the configuration has moved on; run `make fix`"


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("  beta: 0.1 ", "  beta: 0.2 ", "| `dpo.beta` | `beta: 0.2` | the DPO paper's |"),
        ("# [ours] the DPO paper's", "# [ours] a guess", "| `dpo.beta` | `beta: 0.1` | a guess |"),
        (
            "first: 100000                         # [paper]",
            "first: 100000                         # [ours]",
            "| `preferences.first` | `first: 100000` | ",
        ),
    ],
)
def test_a_changed_value_reason_or_tag_shows(project: Path, old: str, new: str, line: str) -> None:
    before = written(project)
    config = project / "config/paper.yaml"
    text = config.read_text(encoding="utf-8")
    assert old in text
    config.write_text(text.replace(old, new, 1), encoding="utf-8")
    assert line in written(project) and line not in before


def test_the_judge_in_place_of_the_papers_is_named_and_disappears_with_it(project: Path) -> None:
    assert "the paper's judge was `claude-2.1`" in written(project)
    config = project / "config/paper.yaml"
    config.write_text(
        config.read_text(encoding="utf-8").replace(
            "model: claude-sonnet-4-5-20250929", "model: claude-2.1"
        ),
        encoding="utf-8",
    )
    assert "the paper's judge was" not in written(project)


def test_a_new_prompt_shows(project: Path) -> None:
    (project / "prompts/another.txt").write_text("hello")
    assert "`prompts/another.txt`" in written(project)
