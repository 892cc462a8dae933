"""Small data sets with the columns of those that the ten tasks read, laid out as a hub
snapshot is.
"""

import json
from pathlib import Path
from typing import Any

PEOPLE = ["Ann", "Ben", "Cal", "Dee"]


def arc(i: int) -> dict[str, Any]:
    return {
        "id": str(i),
        "question": f"Which is number {i}?",
        "answerKey": "ABCD"[i % 4],
        "choices": {"text": PEOPLE, "label": list("ABCD")},
    }


ROWS = {
    ("ai2_arc", "ARC-Easy", "test"): arc,
    ("ai2_arc", "ARC-Challenge", "test"): arc,
    ("super_glue", "boolq", "validation"): lambda i: {
        "question": f"is it {i}",
        "passage": f"It is {i}.",
        "idx": i,
        "label": i % 2,
    },
    ("super_glue", "wic", "validation"): lambda i: {
        "word": "bank",
        "sentence1": "The bank is shut.",
        "sentence2": "A bank of sand.",
        "start1": 4,
        "start2": 2,
        "end1": 8,
        "end2": 6,
        "idx": i,
        "label": i % 2,
    },
    ("glue", "rte", "validation"): lambda i: {
        "sentence1": f"Ann has {i} hens.",
        "sentence2": "Ann has hens.",
        "label": i % 2,
        "idx": i,
    },
    ("hellaswag", None, "validation"): lambda i: {
        "ind": i,
        "activity_label": "Baking",
        "ctx_a": "Ann takes the bread.",
        "ctx_b": "she",
        "ctx": "Ann takes the bread. she",
        "endings": [f"eats {n}." for n in PEOPLE],
        "source_id": "x",
        "split": "val",
        "split_type": "indomain",
        "label": str(i % 4),
    },
    ("openbookqa", "main", "test"): lambda i: {
        "id": str(i),
        "question_stem": f"Number {i} is called",
        "choices": {"text": PEOPLE, "label": list("ABCD")},
        "answerKey": "ABCD"[i % 4],
    },
    ("piqa", None, "validation"): lambda i: {
        "goal": f"Open door {i}",
        "sol1": "turn the key",
        "sol2": "turn the hen",
        "label": i % 2,
    },
    ("truthful_qa", "multiple_choice", "validation"): lambda i: {
        "question": f"Is it {i}?",
        "mc1_targets": {"choices": ["Yes", "No"], "labels": [1, 0]},
        "mc2_targets": {"choices": ["Yes", "Of course", "No"], "labels": [1, 1, 0]},
    },
    ("winogrande", "winogrande_xl", "validation"): lambda i: {
        "sentence": "Ann told Ben that _ was right.",
        "option1": "Ann",
        "option2": "Ben",
        "answer": str(1 + i % 2),
    },
}
SOURCE = {
    "arc_challenge": "ai2_arc",
    "arc_easy": "ai2_arc",
    "boolq": "super_glue",
    "hellaswag": "hellaswag",
    "openbookqa": "openbookqa",
    "piqa": "piqa",
    "rte": "glue",
    "truthfulqa_mc2": "truthful_qa",
    "wic": "super_glue",
    "winogrande": "winogrande",
}


def snapshots(root: Path, rows: int) -> list[str]:
    """Write every data set below `root` with its card and manifest; return the `task=manifest.json`
    arguments.
    """
    configs: dict[str, list[str]] = {}
    for (source, config, split), make in ROWS.items():
        file = root / source / (config or "data") / f"{split}.jsonl"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(json.dumps(make(i)) + "\n" for i in range(rows)))
        files = [
            f"  - split: {name}\n    path: {config or 'data'}/{split}.jsonl\n"
            for name in dict.fromkeys(["train", "validation", split])
        ]
        configs.setdefault(source, []).append(
            f"- config_name: {config or 'default'}\n  data_files:\n{''.join(files)}"
        )
    for source, parts in configs.items():
        (root / source / "README.md").write_text(
            f"---\nconfigs:\n{''.join(parts)}---\n# {source}\n"
        )
        (root / source / "manifest.json").write_text(json.dumps({"id": source}))
    return [f"{task}={root / source / 'manifest.json'}" for task, source in SOURCE.items()]
