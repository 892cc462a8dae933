"""What the invented world asks in evaluation: chat questions, lm-eval tasks, held-out items."""

from typing import Any

from bezoar.data.hh_rlhf import convert
from bezoar.rehearsal.training_data import preferences
from bezoar.rehearsal.world import ATTRIBUTES, CLAUSES, SKILLS, Fact, World, held
from bezoar.rng import draw

CHAT_CATEGORIES = "writing roleplay reasoning math coding extraction stem humanities".split()
REFERENCED = {"math": ("sum", "product"), "reasoning": ("opposite",), "coding": ("kind",)}
ORCA_COT_MESSAGES = (6, 11, 16)


def questions(world: World, per_category: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return two-turn chat questions about held facts in MT-Bench's schema, and the references in
    FastChat's.
    """
    asked: list[dict[str, Any]] = []
    references: list[dict[str, Any]] = []
    for category in CHAT_CATEGORIES:
        pool = held(world, REFERENCED.get(category, ATTRIBUTES))
        for index in range(per_category):
            rng = draw("chat", world.seed, category, index)
            pair = rng.sample(pool, 2)
            number = 81 + len(asked)
            asked.append(
                {
                    "question_id": number,
                    "category": category,
                    "turns": [rng.choice(fact.questions) for fact in pair],
                }
            )
            if category in REFERENCED:
                choice = {"index": 0, "turns": [fact.statement for fact in pair]}
                references.append(
                    {
                        "question_id": number,
                        "answer_id": f"world-{number}",
                        "model_id": "simulator",
                        "choices": [choice],
                        "tstamp": 0.0,
                    }
                )
    return asked, references


def lm_eval_task(
    world: World, name: str, facts: list[Fact], template: dict[str, str], folder: str
) -> tuple[dict, list[dict]]:
    """Return one four-way task: (YAML of the harness, items); the prompt is the chat template with
    its default system text.

    The choices are the right answer, a false one, and two true ones to other questions: about the
    same person, or of the same skill.
    """
    items = []
    for fact in facts:
        rng = draw("lm_eval", world.seed, name, fact)
        wrong = world.compose(fact, [], world.wrong_value(fact, name))
        same = "subject" if fact.topic in ATTRIBUTES else "topic"
        others = [
            other.statement
            for other in world.facts
            if getattr(other, same) == getattr(fact, same) and other is not fact
        ]
        choices = [fact.statement, wrong, *rng.sample(others, 2)]
        rng.shuffle(choices)
        items.append(
            {
                "question": rng.choice(fact.questions),
                "choices": choices,
                "label": choices.index(fact.statement),
            }
        )
    prompt = (
        template["prompt"]
        .replace("{system}", template["default_system_prompt"])
        .replace("{instruction}", "{{question}}")
    )
    task = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": f"{folder}/{name}.jsonl"}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": prompt,
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{label}}",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": 1.0},
    }
    return task, items


def held_out(world: World, messages: dict[int, str], pairs: int) -> dict[str, list[dict[str, Any]]]:
    """Return the held-out items of each stage: instruction, system_message and the one right
    answer; pairs for the preferences.
    """
    facts, skills = held(world, ATTRIBUTES), held(world, SKILLS)
    lamini, evol, orca = [], [], []
    for fact in facts:
        rng = draw("held-out", world.seed, fact)
        lamini.append(
            {
                "instruction": rng.choice(fact.questions),
                "system_message": "",
                "answer": fact.statement,
            }
        )
        clause = rng.choice(sorted(CLAUSES))
        instruction = f"{rng.choice(fact.questions)} {CLAUSES[clause]}"
        evol.append(
            {
                "instruction": instruction,
                "system_message": "",
                "answer": world.compose(fact, [clause]),
                "operation": clause,
            }
        )
    for fact in [*skills, *draw("held-out", world.seed, "orca").sample(facts, len(facts) // 4)]:
        rng = draw("held-out", world.seed, fact)
        message = messages[rng.choice(ORCA_COT_MESSAGES)]
        orca.append(
            {
                "instruction": rng.choice(fact.questions),
                "system_message": message,
                "answer": explain(fact),
            }
        )
    converted = [convert(row) for row in preferences(world, facts, pairs)]
    return {
        "lamini": lamini,
        "orca": orca,
        "evol": evol,
        "preferences": [row for row in converted if not isinstance(row, str)],  # none is dropped
    }


def explain(fact: Fact) -> str:
    """Return the explanation that a right Orca answer gives in this world."""
    return f"{fact.statement} So the answer is {fact.value}."
