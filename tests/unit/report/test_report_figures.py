"""Figures and the picture of the way of the data: what they say, and that their bytes repeat."""

import re
from pathlib import Path
from typing import Any

import pytest

from bezoar.report import data_section, figures, plots, templates, way_section

TEMPLATES = Path(figures.__file__).parent
UP = {"mean": 0.2, "low": 0.1, "high": 0.3, "detectable": 0.05}
FLAT = {"mean": 0.1, "low": -0.1, "high": 0.3, "detectable": None}
NONE = {"mean": None, "low": None, "high": None}
DRAWN = {
    "curves": lambda: plots.curves({"a": ([1, 2], [3.0, 4.0])}, "nats"),
    "bars": lambda: plots.bars(["x", "y"], {"a": [UP, NONE], "b": [None, FLAT]}, "rating"),
    "shares": lambda: plots.shares(["a", "b"], {"kept": [5, 0], "lost": [1234, 0]}, "percent"),
    "intervals": lambda: plots.intervals(["a", "b"], [UP, None], "mean"),
    "differences": lambda: plots.differences(["a", "b", "c"], [UP, FLAT, NONE], "difference"),
    "matrix": lambda: plots.matrix(["a"], ["x", "y"], [[0.5, None]], [["0.50", "–"]]),
    "radar": lambda: plots.radar(["x", "y", "z"], {"a": [1, 2, 3]}, 10),
}


@pytest.mark.parametrize("name", DRAWN)
def test_a_figure_has_the_same_bytes_twice_and_the_pages_own_ink(name: str) -> None:
    first, second = DRAWN[name](), DRAWN[name]()
    assert first == second and first.startswith("<svg") and first.rstrip().endswith("</svg>")
    assert "var(--muted)" in first and plots.INK not in first and plots.LINE not in first


def test_the_parts_of_a_bar_carry_their_counts() -> None:
    drawn = DRAWN["shares"]()
    assert ">1,234<" in drawn and ">5<" not in drawn  # the part of 5 is too narrow


def test_an_interval_that_contains_zero_is_hollow() -> None:
    drawn = [plots.differences(["a"], [value], "d") for value in (FLAT, UP)]
    assert ["fill-opacity: 0" in figure for figure in drawn] == [True, False]


def test_states_of_a_funnel_add_up_to_what_came_back() -> None:
    funnel = {
        "entered": 1010,
        "generated": 6,
        "accepted": 4,
        "rejected": 1,
        "unrated": 1,
        "dropped": {"too_short": 1, "malformed": 1, "surplus": 1, "over_quota": 1000},
        "eliminated": {"sorry": 1},
    }
    ended = data_section.ended(funnel)
    assert ended == {"accepted": 4, "rejected": 1, "unrated": 1, "dropped": 3, "eliminated": 1}
    assert data_section.came_back(funnel) == funnel["entered"] - 1000


def test_only_losses_of_one_kind_share_their_axes() -> None:
    sft = [{"step": 0, "eval_loss": 3.0}, {"step": 20, "eval_loss": 2.0}, {"step": 1, "loss": 3.0}]
    dpo = [{"step": 1, "eval_loss": 0.69, "rewards/margins": 0.0}]
    drawn = figures.validation({"sft": sft, "dpo": dpo})["validation"]
    assert ">sft<" in drawn and ">dpo<" not in drawn
    assert figures.validation({"dpo": dpo}) == {}


def test_a_curve_names_the_unit_that_all_its_lines_share() -> None:
    sft = [{"step": 1, "loss": 3.0}, {"step": 20, "eval_loss": 2.0}]
    dpo = [{"step": 1, "loss": 0.69, "rewards/margins": 0.0, "eval_rewards/accuracies": 0.5}]
    assert ">nats per token<" in figures.curve(sft)
    assert ">nats per token<" not in figures.curve(dpo) and ">reward margin<" in figures.curve(dpo)


def test_the_funnels_legend_names_its_columns() -> None:
    text = (TEMPLATES / "report_data.html.j2").read_text(encoding="utf-8")
    named = re.search(r"(\w+) counts requests, (\w+) the items found", text)
    assert named is not None
    assert all(f'<th class="n">{name}</th>' in text for name in named.groups())


def test_a_figure_of_several_files_links_none_of_them() -> None:
    module = templates.environment(TEMPLATES).get_template("report_figure.html.j2").module
    drawn = [module.figure("<svg></svg>", "all", "lines", data) for data in ("a.jsonl", "")]
    assert ['href="../a.jsonl"' in figure for figure in drawn] == [True, False]
    assert "<a" not in drawn[1]
    page = (TEMPLATES / "report.html.j2").read_text(encoding="utf-8")
    (validation,) = re.findall(r"figure\(figures\.validation, .*?\) \}\}", page)
    assert ".jsonl" not in validation


class Artifacts:
    """A scheme's counts and the pairs'."""

    def __init__(self) -> None:
        self.paths = {"merge/sft/merge.json": Path("merge.json")}

    def json(self, name: str) -> Any:
        funnel = {
            "entered": 10,
            "generated": 6,
            "accepted": 4,
            "rejected": 2,
            "unrated": 0,
            "dropped": {"too_short": 4},
        }
        return {
            "data/description.json": {"schemes": {"evol": {"funnel": funnel}}},
            "preferences/counts.json": {"used": 7, "read": 8},
        }[name]


def test_each_step_of_the_way_has_its_count_its_link_and_its_receipt() -> None:
    receipts = {
        "generate_evol": {"inputs": {"seeds": ["data/dolly.jsonl"], "prompts": ["p.txt"]}},
        "sft_evol": {"inputs": {}, "facts": {"training": 3, "validation": 1}},
        "data_clean_evol": {"inputs": {}, "facts": {"contaminated": 2, "task_family": 0}},
        "merge_sft": {"inputs": {}, "facts": {}},
    }
    html = way_section.section(
        templates.environment(TEMPLATES),
        Artifacts(),
        {"mean_of_tasks": {"sft": {"mean": 0.5}, "base": None}},
        {"models": {"base": {"overall": NONE}, "sft": {"overall": {"mean": 4.25}}}},
        receipts,
    )
    for words in (
        "<b>dolly.jsonl</b>",
        "<b>6 of 10</b>",
        '<a href="rows.html#evol">accepted by the filter</a><b>4 of 6</b>',
        '<a href="#data">removed before training</a><b>contaminated 2</b>',
        "<b>3 + 1 held out</b>",
        '<a href="rows.html#pairs">preference pairs</a><b>7 of 8</b>',
        "<b>not run here</b>",
        "<b>not measured</b>",
        '<a href="../merge/sft/README.md">sft</a><b>harness 0.500, chat 4.25</b>',
        "../receipts/merge_sft.json",
    ):
        assert words in html, words
    assert html.count("removed before training") == 1
    assert "../receipts/filter_evol.json" not in html, "a receipt that is not there has no link"
