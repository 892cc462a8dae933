"""The real upstream files through the real code: every row is used or dropped by a rule, and the
counts add up.
"""

import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from scripted import Scripted

import convert_items
import describe_data
import generate_lamini as lamini
import generate_orca as orca
import list_evaluation_items
from bezoar.data import contamination, duplicates, task_families
from bezoar.data.texts import words_of
from bezoar.evaluation.mtbench import read_references
from bezoar.readers import read_jsonl
from bezoar.workflow.configuration import resolved

ROOT = Path(__file__).parents[2]
MIRROR = Path(os.environ.get("BEZOAR_MIRROR") or ROOT / "data")
pytestmark = pytest.mark.skipif(
    not (MIRROR / "flan_cot").is_dir(),
    reason="no upstream files: set MIRROR to a folder that holds them",
)
LINES = {"aqua": 2728, "creak": 6915, "qasc": 1084, "strategyqa": 2061}


def orca_rows(**recipe: Any) -> tuple[list[dict[str, Any]], Any]:
    paths = [MIRROR / "flan_cot" / f"{name}_train.tsv" for name in LINES]
    messages = yaml.safe_load(
        (ROOT / "prompts" / "orca_system_messages.yaml").read_text(encoding="utf-8")
    )
    settings = {
        "quotas": {"cot": 10**6},
        "rows_per_task": 10**6,
        "max_failure_share": 0.0,
        "seed": 0,
        **recipe,
    }
    return orca.make(Scripted(lambda prompt, _: prompt), paths, messages, settings)


def test_every_line_of_the_chain_of_thought_files_is_used_or_dropped() -> None:
    rows, funnel = orca_rows()
    assert funnel.entered == sum(LINES.values()) == sum(funnel.left.values())
    assert funnel.left == {**dict.fromkeys(orca.RULES, 0), "kept": sum(LINES.values())}
    assert (
        len({(row["task_name"], row["original_index"]) for row in rows})
        == len(rows)
        == funnel.left["kept"]
    )
    assert not any("\\n" in row["inputs"] for row in rows)
    with_options = [row["task_name"] for row in rows if row["template_type"] == "zs_opt"]
    assert {name: with_options.count(name) for name in LINES} == {
        "aqua": 2728,
        "creak": 4931,
        "qasc": 1084,
        "strategyqa": 0,
    }


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
    texts = {
        kind: (ROOT / "prompts" / f"{kind}.txt").read_text(encoding="utf-8")
        for kind in ("lamini_example", "lamini_topic")
    }
    recipe = {
        "calls_per_round": 200,
        "examples": 3,
        "topics": 3,
        "instructions_per_call": 20,
        "seed_set": "alpaca",
        "seed": 0,
    }
    used: set[str] = set()
    for _, prompt in lamini.calls(texts, seeds, topics, recipe, 0):
        examples = [text for text in seeds if f"<example>{text}</example>" in prompt]
        assert len(examples) >= 3
        used |= set(examples)
    assert len(used) > 160


def test_what_is_in_the_chain_of_thought_files_is_found() -> None:
    """Exact duplicates counted by hand, nothing of MT-Bench, one seeded question of it, and what
    the four tasks are to the ten.
    """
    rows, _ = orca_rows()
    rows = [{**row, "gpt4_status": "Accept"} for row in rows]
    settings = {
        name: {**values, "seed": 0}
        for name, values in resolved([])["data"].items()
        if name in ("duplicates", "contamination")
    }
    questions = read_jsonl(MIRROR / "mt_bench" / "question.jsonl")
    references = read_references(MIRROR / "mt_bench" / "reference_answer.gpt-4.jsonl")
    items = contamination.Items(
        list(list_evaluation_items.of_chat(questions, references)), settings["contamination"]
    )
    seeded = {
        **rows[0],
        "explained_targets": f"As someone asked: {questions[0]['turns'][0].upper()}",
    }
    found = list(contamination.matches(items, [*rows, seeded], "orca", settings["contamination"]))
    assert [(line["row"], line["items"][0][:2], line["contaminated"]) for line in found] == [
        (len(rows) + 1, ["mt_bench", 81], True)
    ]
    sample = [row for row in rows if row["task_name"] in ("qasc", "strategyqa")]
    classes = duplicates.Classes()
    for number, row in enumerate(sample, start=1):
        classes.add("orca", number, row["inputs"])
    lines = list(duplicates.duplicates(classes, settings["duplicates"]))
    distinct = {" ".join(words_of(row["inputs"])) for row in sample}
    assert sum(line["kind"] == "exact" for line in lines) == len(sample) - len(distinct)
    audit = describe_data.audit(
        rows,
        task_families.load(ROOT / "config" / "task_families.yaml"),
        resolved([])["lm_eval"]["tasks"],
    )
    assert audit["accepted_by_relation"] == {
        "training_split": 0,
        "same_form": LINES["creak"] + LINES["qasc"] + LINES["strategyqa"],
        "none": LINES["aqua"],
        "unlisted": 0,
    }


def test_all_right_answers_of_truthfulqa_give_an_item_away() -> None:
    """Of 817 questions, most have several; a wrong answer gives nothing away."""

    class Mc2:
        eval_docs = tuple(convert_items.truthfulqa(MIRROR / "lm_eval" / "TruthfulQA.csv"))

        def doc_to_choice(self, doc: dict[str, Any]) -> list[str]:
            return doc["mc2_targets"]["choices"]

        def doc_to_target(self, doc: dict[str, Any]) -> int:
            return 0

    parts = Counter(row["part"] for row in list_evaluation_items.of_task("mc2", Mc2()))
    assert parts == {"question": 817, "gold": 2587, "choice": 3295}
