"""docs/deviations.md says what the configuration says, no more and no less."""

import re
import shutil
from pathlib import Path

import pytest

from bezoar.workflow import deviations, recipes
from bezoar.workflow.configuration import resolved
from bezoar.workflow.layout import Layout
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
        config.read_text(encoding="utf-8").replace("model: claude-sonnet-5-5", "model: claude-2.1"),
        encoding="utf-8",
    )
    assert "the paper's judge was" not in written(project)


def test_the_rater_in_place_of_the_papers_is_named() -> None:
    committed = (ROOT / "docs/deviations.md").read_text(encoding="utf-8")
    assert "Rows are rated by `gpt-5.5-2026-04-23`; the paper's rater was `gpt-4`" in committed


def test_an_id_of_a_provider_is_not_called_a_missing_revision(project: Path) -> None:
    text = written(project)
    assert re.findall(r"^- The (.*) is `.*` without a pinned revision", text, re.MULTILINE) == [
        "teacher"
    ]
    whose = re.findall(r"^- The (.*) is `.*`, an id of its provider's; what", text, re.MULTILINE)
    assert whose == ["filter", "evaluator of Evol-Instruct", "judge"]


def test_a_new_prompt_shows(project: Path) -> None:
    (project / "prompts/another.txt").write_text("hello")
    assert "`prompts/another.txt`" in written(project)


CONFIG = r"""
# [ours] no value stands here
outer:                        # [ours] for all within
  marks: ["### System:", 'it''s # [paper] no remark', "a\" # b"]   # [ours] the template's
  address: http://host/#part  # [code] a fragment
  plain: {one: 1, two: 2}     # licence [paper]
  none: 3                     # [ours]
  block: |
    text # [ours] is text
  flow: {first: 1,            # [ours] of the first
         second: 2, third: 3}   # [inferred] of both
  list:
    - item                    # [ours] of the list
alone: "#"                    # [ours]
half: a#b # [code]x
"""


def test_a_hash_in_a_string_is_no_comment_and_brackets_of_an_outer_value_are_left_out(
    tmp_path: Path,
) -> None:
    (tmp_path / "c.yaml").write_text(CONFIG)
    rows = [
        (row["key"], row["value"], row["tag"], row["reason"])
        for row in deviations.with_reasons(deviations.tagged([tmp_path / "c.yaml"]))
    ]
    assert rows == [
        ("alone", 'alone: "#"', "ours", "no reason given"),
        ("half", "half: a#b", "code", "x"),
        ("outer", "outer:", "ours", "for all within"),
        ("outer.address", "address: http://host/#part", "code", "a fragment"),
        ("outer.flow", "flow: {first: 1", "ours", "of the first"),
        ("outer.flow.second", "second: 2, third: 3", "inferred", "of both"),
        ("outer.list", "- item", "ours", "of the list"),
        (
            "outer.marks",
            """marks: ["### System:", 'it''s # [paper] no remark', "a\\" # b"]""",
            "ours",
            "the template's",
        ),
        ("outer.none", "none: 3", "ours", "no reason given; see `outer`"),
        ("outer.plain", "plain: {one: 1, two: 2}", "paper", "licence"),
    ]


def test_a_missing_reason_is_called_one_and_counted(project: Path) -> None:
    text = written(project)
    assert "no counterpart" not in text
    assert f"{text.count('| no reason given')} of them without a reason beside them" in text


@pytest.mark.parametrize(
    ("files", "warmup", "lora"),
    [
        (["config/paper.yaml"], "code", "paper"),
        (["config/paper.yaml", "config/rehearsal.yaml"], "ours", "paper"),
        (["config/paper.yaml", "mine.yaml"], "ours", "ours, paper"),
        (["config/paper.yaml", "untagged.yaml"], "ours", "ours, paper"),
    ],
)
def test_a_model_card_has_the_tags_that_are_in_force(
    project: Path, files: list[str], warmup: str, lora: str
) -> None:
    mine = "sft:\n  warmup_steps: 2   # [ours]\n  lora: {r: 8}   # [ours]\n"
    (project / "mine.yaml").write_text(mine)
    (project / "untagged.yaml").write_text(mine.replace("   # [ours]", ""))
    tags = recipes.model_card(Layout(resolved(files)), "openbezoar-sft", files)["tags"]["sft"]
    assert (tags["warmup_steps"], tags["lora"], tags["schedule"]) == (warmup, lora, "code")
