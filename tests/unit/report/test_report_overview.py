"""The first screen of the report is computed from the artifacts."""

from pathlib import Path

import pytest

from bezoar.report import overview_section, templates

UP = {"mean": 0.2, "low": 0.1, "high": 0.3, "excludes_zero": True}
DOWN = {"mean": -0.2, "low": -0.3, "high": -0.1, "excludes_zero": True}
FLAT = {"mean": 0.1, "low": -0.1, "high": 0.3, "excludes_zero": False}


@pytest.mark.parametrize(
    ("differences", "expected"),
    [
        ([("b", "a", UP), ("c", "a", FLAT)], "X: 1 of 2 paired differences exclude zero (b above"),
        ([("b", "a", DOWN), ("c", "a", None)], "X: 1 of 1 paired differences exclude zero (b bel"),
        ([("b", "a", FLAT)], "X: none of 1 paired differences can be told from zero."),
        ([("b", "a", None)], "X: no paired difference was measured."),
    ],
)
def test_the_sentence_follows_the_intervals(differences: list, expected: str) -> None:
    assert overview_section.sentence("X", differences).startswith(expected)


def test_verdicts_time_and_price_are_counted_and_the_bytes_are_the_same_twice() -> None:
    receipts = {
        name: {
            "wall_s": 1800,
            "started_unix_s": begun,
            "facts": facts,
            "recipe": {},
            "hardware": {"cores": 2, "machine": "arm64"},
        }
        for name, begun, facts in (
            ("orca", 0, {"answers_used": {"answers": 1, "stored": 0, "usd": 1.25}}),
            ("sft", 5400, {}),
        )
    }
    verdicts = ("undecided", "reproduced", "undecided")
    claims = {
        "claims": [{"verdict": verdict} for verdict in verdicts],
        "judge": {"used": "<simulator>", "paper": "GPT-4"},
    }
    environment = templates.environment(Path(templates.__file__).parent)
    pages = [
        overview_section.section(
            environment,
            claims,
            {"mean_of_tasks": {"base": UP}, "differences": []},
            {
                "models": {"base": {"overall": UP}, "sft": {"overall": {"mean": None}}},
                "differences": [],
            },
            receipts,
            [{"count": 4}, {"count": 3}],
            ["<b> is no judge"],
        )
        for _ in range(2)
    ]
    assert pages[0] == pages[1]
    for words in (
        '1 reproduced (<a href="#claim-2">2</a>)',
        '2 undecided (<a href="#claim-1">1</a>, <a href="#claim-3">3</a>)',
        "the highest mean is 0.200, of base.",
        "2.00 from the first to the last",
        '<a href="#stage-orca">orca</a> (30.0 minutes)',
        "7 values",
        "1.00 hours in sum",
        "1970-01-01 (UTC) on arm64, 2 cores",
        "1.25 USD",
        "<svg",
    ):
        assert words in pages[0]
    assert pages[0].count("<svg") == 2 and "&lt;b&gt; is no judge" in pages[0]
    assert "<simulator>" not in pages[0] and "&lt;simulator&gt;" in pages[0]


def test_answers_without_text_and_ratings_that_are_all_alike_are_said() -> None:
    chat = {"models": {"base": {"ratings": {"5": 60, "1": 20}}, "dpo": {"ratings": {"5": 76}}}}
    answered = {
        "base": {"judgments": 80, "empty_answers": 4},
        "dpo": {"judgments": 80, "empty_answers": 5},
    }
    description = {"schemes": {"evol": {"filter": {"ratings": {"1": 9, "8": 3}}}}}
    assert overview_section.warnings(chat, answered, description) == [
        "5 of dpo's 80 answers have no text, and the judge rates them, too.",
        "136 of the judge's 156 ratings are 5: it hardly tells good from bad.",
    ]
    description["schemes"]["orca"] = {"filter": {"ratings": {"1": 1}}}
    assert (
        "10 of the filter's 13 ratings are 1"
        in overview_section.warnings({"models": {}}, {}, description)[0]
    )
    assert overview_section.warnings({"models": {"base": {}}}, {"base": {}}, {"schemes": {}}) == []


def test_who_took_which_part_and_when_is_read_from_the_receipts() -> None:
    receipts = {
        "base": {
            "started_unix_s": 0,
            "wall_s": 60,
            "git_commit": "abcdef0123",
            "inputs": {"snapshot": {"data/small/model.gguf": "x"}},
            "facts": {"parameters": 5},
            "recipe": {},
        },
        "generate_orca": {
            "started_unix_s": 90_000,
            "wall_s": 1,
            "git_commit": "0123456789",
            "facts": {"answers_used": {"answers": 8, "stored": 6, "usd": 0.1}},
            "recipe": {"teacher": {"model": "t"}},
        },
        "filter_orca": {
            "started_unix_s": 90_001,
            "wall_s": 1,
            "facts": {"answers_used": {"answers": 3, "stored": 0, "usd": 0.1}},
            "recipe": {"rater": {"model": "r"}},
        },
        "filter_evol": {  # three rows, of which two were asked again, three answers stored
            "started_unix_s": 90_001,
            "wall_s": 1,
            "facts": {
                "states": {"answered": 3},
                "sent": 2,
                "usd": 0.2,
                "answers_used": {"answers": 5, "stored": 3, "usd": 0.5},
            },
            "recipe": {},
        },
    }
    assert overview_section.used(receipts["filter_evol"]["facts"])["usd"] == 0.5
    pairs = {"used": 800, "read": 900}  # of preferences, not answers
    assert overview_section.used(pairs) == {"answers": 0, "stored": 0, "usd": 0}
    assert overview_section.ran(receipts) == {
        "days": ["1970-01-01", "1970-01-02"],
        "commits": ["01234567", "abcdef01"],
        "answers": 16,
        "stored": 9,
    }
    assert overview_section.cast(receipts, "j") == {
        "base": ["small/model.gguf"],
        "parameters": 5,
        "teacher": ["t"],
        "rater": ["r"],
        "judge": ["j"],
    }
    snapshot = {f"data/hub/small/{name}": "x" for name in ("config.json", "model.safetensors")}
    receipts["base"]["inputs"] = {"snapshot": snapshot}
    assert overview_section.cast(receipts, "j")["base"] == ["hub/small"]


def test_answers_that_end_at_their_limit_and_a_judge_that_disagrees_with_itself_are_said() -> None:
    receipts = {
        f"mtbench_answers_{model}": {
            "facts": {"endings": {"eos": 80 - cut, "length": cut}},
            "recipe": {"max_new_tokens": 48},
        }
        for model, cut in {"base": 7, "dpo": 2}.items()
    }
    assert overview_section.cut_off(receipts) == [
        "9 of 160 chat answers end at the limit of 48 tokens (base 7, dpo 2)."
    ]
    receipts["mtbench_answers_base"]["facts"]["endings"] = {"eos": 80}
    assert overview_section.cut_off(receipts) == []
    receipts["mtbench_answers_base"]["facts"]["endings"] = {"eos": 60, "reasoning": 20}
    assert overview_section.cut_off(receipts) == [
        "20 of 160 chat answers are empty, because the reasoning before them had no end"
        " (base 20, dpo 0)."
    ]
    chat = {"models": {}, "same_prompts": {"shared": 41, "rated_differently": 6}}
    (said,) = overview_section.warnings(chat, {}, {"schemes": {}})
    assert said.startswith("The judge rated 6 of 41 prompts differently")
