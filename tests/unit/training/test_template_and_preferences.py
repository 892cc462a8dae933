"""The chat template is rendered byte for byte; dialogues become rows or are dropped with a
rule id.
"""

import gzip
import json
from pathlib import Path

import pytest

import prepare_preferences as preferences
from bezoar.errors import UserError
from bezoar.training.template import Template, training_text

ROOT = Path(__file__).parents[3]


def test_the_template_is_rendered_exactly() -> None:
    template = Template(ROOT / "prompts" / "chat_template.json")
    assert (
        template.prompt("Do {it}.", "Be {system}.")
        == "### System:\nBe {system}.\n\n### Instruction:\nDo {it}.\n\n### Response:"
    )
    assert (
        template.prompt("Do.", "")
        == "### System:\nAnswer the instruction.\n\n### Instruction:\nDo.\n\n### Response:"
    )
    assert template.answer(template.prompt("Do.") + " Done. ") == "Done."


def test_a_template_without_its_keys_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text("{}")
    with pytest.raises(UserError, match=r"t\.json: expected a text under `prompt`"):
        Template(tmp_path / "t.json")


def test_each_schemes_columns_are_found() -> None:
    assert training_text({"instruction": "i", "response": "r"}) == ("i", "", "r")
    assert training_text(
        {"inputs": "i", "system_message": "s", "explained_targets": "e", "targets": "t"}
    ) == ("i", "s", "e")
    assert training_text({"prompt": "p", "chosen": "c", "rejected": "r"}) == ("p", "", "c")
    assert training_text({"instruction": "i", "response": "r", "system_message": None})[1] == ""


@pytest.mark.parametrize(
    ("row", "column"),
    [
        ({}, "instruction"),
        ({"instruction": "i"}, "response"),
        ({"instruction": "i", "response": None}, "response"),
        ({"instruction": 1, "response": "r"}, "instruction"),
        ({"explained_targets": "e"}, "inputs"),
        ({"instruction": "i", "response": "r", "system_message": 3}, "system_message"),
        ({"chosen": "c"}, "prompt"),
    ],
)
def test_a_row_without_its_texts_is_one_line_with_its_number(row: dict, column: str) -> None:
    with pytest.raises(UserError, match=f"sft: row 7: expected a text under `{column}`"):
        training_text(row, "sft: row 7")


@pytest.mark.parametrize(
    "prompt", ["{system}", "{instruction} {instruction}", "{system}{system}{instruction}"]
)
def test_a_template_has_each_placeholder_once(tmp_path: Path, prompt: str) -> None:
    content = {"prompt": prompt, "default_system_prompt": "", "response_split": "x"}
    (tmp_path / "t.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"expected \{instruction\} once"):
        Template(tmp_path / "t.json")


def test_placeholders_in_a_rows_text_are_text(tmp_path: Path) -> None:
    template = Template(ROOT / "prompts" / "chat_template.json")
    assert "### System:\nSay {instruction}.\n\n### Instruction:\n{system}\n" in template.prompt(
        "{system}", "Say {instruction}."
    )


def pair(chosen: str, rejected: str) -> dict[str, str]:
    return {"chosen": chosen, "rejected": rejected}


@pytest.mark.parametrize(
    ("row", "result"),
    [
        (
            pair("\n\nHuman: q\n\nAssistant: a", "\n\nHuman: q\n\nAssistant: b"),
            {"prompt": "q", "chosen": "a", "rejected": "b"},
        ),
        (
            pair(
                "\n\nHuman: q\n\nAssistant: x\n\nHuman: r\n\nAssistant: a",
                "\n\nHuman: q\n\nAssistant: x\n\nHuman: r\n\nAssistant: b",
            ),
            {"prompt": "Human: q\n\nAssistant: x\n\nHuman: r", "chosen": "a", "rejected": "b"},
        ),
        (pair("\n\nHuman: q\n\nAssistant: a", "\n\nHuman: p\n\nAssistant: b"), "no_shared_prefix"),
        (pair("\n\nHuman: q\n\nAssistant: a", "\n\nHuman: q\n\nAssistant: a "), "equal_answers"),
        (pair("\n\nHuman: q\n\nAssistant: ", "\n\nHuman: q\n\nAssistant: b"), "empty_turn"),
        (pair("\n\nHuman: q\n\nHuman: a", "\n\nHuman: q\n\nAssistant: b"), "odd_speakers"),
        (pair("\n\nHuman: q", "\n\nHuman: q"), "odd_speakers"),
        (pair("", ""), "odd_speakers"),
        (
            pair("Be kind.\n\nHuman: q\n\nAssistant: a", "\n\nHuman: q\n\nAssistant: b"),
            "odd_speakers",
        ),
        (pair("Human: q\n\nAssistant: a", "Be kind.\n\nHuman: q\n\nAssistant: b"), "odd_speakers"),
        (
            pair(" \r\n\r\nHuman: q\r\n\r\nAssistant: a", "Human: q\n\nAssistant: b"),
            {"prompt": "q", "chosen": "a", "rejected": "b"},
        ),
        ({"chosen": 1, "rejected": "x"}, "not_a_pair"),
        ("text", "not_a_pair"),
        (pair("\n\nHuman: \ud83d\n\nAssistant: a", "\n\nHuman: q\n\nAssistant: b"), "not_a_pair"),
        (
            pair(
                "\n\nHuman: a\tb \\n שלום\u200f\u2028\n\nAssistant: x",
                "\n\nHuman: a\tb \\n שלום\u200f\u2028\n\nAssistant: y",
            ),
            {"prompt": "a\tb \\n שלום\u200f", "chosen": "x", "rejected": "y"},
        ),
        (
            pair(
                f"\n\nHuman: {'q ' * 500_000}\n\nAssistant: x",
                f"\n\nHuman: {'q ' * 500_000}\n\nAssistant: y",
            ),
            {"prompt": ("q " * 500_000).strip(), "chosen": "x", "rejected": "y"},
        ),
    ],
)
def test_a_dialogue_is_a_row_or_has_a_rule(row: object, result: object) -> None:
    assert preferences.convert(row) == result


def test_the_first_rows_run_over_files_in_order_and_a_bad_line_is_named(tmp_path: Path) -> None:
    good = json.dumps(pair("\n\nHuman: q\n\nAssistant: a", "\n\nHuman: q\n\nAssistant: b"))
    with gzip.open(tmp_path / "one.jsonl.gz", "wt") as stream:
        stream.write(f"{good}\n{good}\n")
    (tmp_path / "two.jsonl").write_text(f"{good}\nnonsense\n")
    files = [tmp_path / "one.jsonl.gz", tmp_path / "two.jsonl"]
    assert [(path.name, number) for path, number, _ in preferences.rows_of(files, 3)] == [
        ("one.jsonl.gz", 1),
        ("one.jsonl.gz", 2),
        ("two.jsonl", 1),
    ]
    with pytest.raises(UserError, match=r"two\.jsonl:2: expected one JSON object a line"):
        list(preferences.rows_of(files, 4))
