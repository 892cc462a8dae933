"""The real upstream files through the real code: every row is used or dropped by a rule, and the counts add up."""

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

import generate_lamini as lamini
import generate_orca as orca
from bezoar.files import read_jsonl
from bezoar.llm import Answer, Door

ROOT = Path(__file__).parents[2]
MIRROR = Path(os.environ.get("MIRROR") or ROOT / "data")
pytestmark = pytest.mark.skipif(not (MIRROR / "flan_cot").is_dir(), reason="no upstream files: set MIRROR to a folder that holds them")
LINES = {"aqua": 2728, "creak": 6915, "qasc": 1084, "strategyqa": 2061}


class Echo(Door):
    """A door that answers with the instruction itself."""

    def __init__(self) -> None:
        super().__init__({}, Path("unused"), 1, None)

    def ask(self, prompts: list[list[dict[str, str]]], names: list[str], attempt: int = 0) -> list[Answer]:
        return [Answer("answered", prompt[-1]["content"], {}, "echo") for prompt in prompts]


def orca_rows(**recipe: Any) -> tuple[list[dict[str, Any]], Any]:
    paths = [MIRROR / "flan_cot" / f"{name}_train.tsv" for name in LINES]
    messages = yaml.safe_load((ROOT / "prompts" / "orca_system_messages.yaml").read_text(encoding="utf-8"))
    settings = {"quotas": {"cot": 10**6}, "rows_per_task": 10**6, "max_failure_share": 0.0, "seed": 0, **recipe}
    return orca.make(Echo(), paths, messages, settings)


def test_every_line_of_the_chain_of_thought_files_is_used_or_dropped() -> None:
    rows, funnel = orca_rows()
    assert funnel.entered == sum(LINES.values()) == sum(funnel.left.values())
    assert funnel.left == {**dict.fromkeys(orca.RULES, 0), "kept": sum(LINES.values())}
    assert len({(row["task_name"], row["original_index"]) for row in rows}) == len(rows) == funnel.left["kept"]
    assert not any("\\n" in row["inputs"] for row in rows)
    with_options = [row["task_name"] for row in rows if row["template_type"] == "zs_opt"]
    assert {name: with_options.count(name) for name in LINES} == {"aqua": 2728, "creak": 4931, "qasc": 1084, "strategyqa": 0}


def test_the_papers_number_of_rows_is_drawn_from_them_within_the_quota_of_a_task() -> None:
    rows, funnel = orca_rows(quotas={"cot": 5520}, rows_per_task=1500)
    tasks = [row["task_name"] for row in rows]
    counts = {name: tasks.count(name) for name in LINES}
    assert counts["aqua"] == counts["creak"] == 1500
    assert sum(counts.values()) == 5520
    assert funnel.left["over_quota"] == sum(LINES.values()) - 5520


def test_all_seed_tasks_are_used() -> None:
    seeds = [row["instruction"] for row in read_jsonl(MIRROR / "alpaca" / "seed_tasks.jsonl")]
    assert len(seeds) == 175
    assert all(seed.strip() for seed in seeds)
    topics = (ROOT / "prompts" / "topics.txt").read_text(encoding="utf-8").splitlines()
    texts = {kind: (ROOT / "prompts" / f"{kind}.txt").read_text(encoding="utf-8") for kind in ("lamini_example", "lamini_topic")}
    recipe = {"calls_per_round": 200, "examples": 3, "topics": 3, "instructions_per_call": 20, "seed_set": "alpaca", "seed": 0}
    used: set[str] = set()
    for _, prompt in lamini.calls(texts, seeds, topics, recipe, 0):
        examples = [text for text in seeds if f"<example>{text}</example>" in prompt]
        assert len(examples) >= 3
        used |= set(examples)
    assert len(used) > 160
