"""Verdicts follow their rule, judges are not mixed, what was not run is never reproduced; the
paper's values appear beside ours or are refused.
"""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import check_claims
from bezoar.errors import UserError
from bezoar.evaluation import paper_values
from bezoar.evaluation.statistics import paired_difference
from bezoar.files import write_json
from bezoar.readers import read_json
from bezoar.workflow import recipes
from bezoar.workflow.configuration import resolved
from bezoar.workflow.layout import Layout

ROOT = Path(__file__).parents[3]
CLAIMS = ROOT / "config/claims.yaml"
MODELS = ["base", "openbezoar-sft", "openbezoar-hh-rlhf-sft", "openbezoar-hh-rlhf-dpo"]


def interval(mean: float, low: float, high: float) -> dict[str, float]:
    return {"mean": mean, "low": low, "high": high, "n": 9}


def chat(low: float, high: float) -> dict[str, Any]:
    summary = interval(5.0, 4.5, 5.5) | {"questions": 80}
    return {
        "models": {
            "openbezoar-sft": {
                "overall": summary,
                "turns": {"1": summary, "2": summary},
                "categories": {"math": summary},
            }
        },
        "differences": [
            {
                "candidate": "openbezoar-sft",
                "baseline": "base",
                **interval((low + high) / 2, low, high),
            }
        ],
    }


TABLES: dict[str, Any] = {
    "mtbench.json": {"judges": {"other": chat(-2, -1), "judge": chat(1, 2)}},
    "lm_eval.json": {
        "differences": [
            {
                "candidate": "openbezoar-sft",
                "baseline": "base",
                "mean_of_tasks": interval(0.1, -0.1, 0.3),
                "all_items": interval(1, 1, 1),
            }
        ],
        "mean_of_tasks": {"base": interval(0.50, 0.48, 0.52)},
        "metrics": {
            "base": {
                "piqa": {"acc": interval(0.770, 0.75, 0.79), "acc_norm": interval(0.78, 0.76, 0.80)}
            }
        },
        "metric": {"piqa": "acc", "rte": "acc"},
        "settings": {"limit": None},
        "calibration": {"verdict": "not calibrated"},
    },
    "generate/lamini.counts.json": {"kept": 1505},
    "generate/evol.counts.json": {"kept": 1000},
    "receipts/base.json": {"facts": {}},
}


def verdicts(
    scale: str = "paper", judge: str = "judge", tables: dict[str, Any] = TABLES
) -> dict[str, str]:
    return {
        row["id"]: row["verdict"]
        for row in check_claims.check(check_claims.read_claims(CLAIMS), tables, scale, judge)
    }


@pytest.mark.parametrize(
    ("low", "high", "margin", "expected"),
    [
        (0.1, 0.3, 0, "reproduced"),
        (-0.1, 0.3, 0, "undecided"),
        (-0.3, -0.1, 0, "not reproduced"),
        (-0.1, 0.3, 0.2, "reproduced"),
        (-0.9, -0.3, 0.2, "not reproduced"),
    ],
)
def test_a_verdict_follows_its_interval(
    low: float, high: float, margin: float, expected: str
) -> None:
    assert check_claims.verdict(interval((low + high) / 2, low, high), margin)[0] == expected


def test_each_claim_is_decided_by_its_own_artifact_and_judge() -> None:
    found = verdicts()
    assert (
        found["sft-above-base-chat"] == "reproduced"
        and verdicts(judge="other")["sft-above-base-chat"] == "not reproduced"
    )
    assert verdicts(judge="absent")["sft-above-base-chat"] == "not run"
    assert found["sft-above-base-lm-eval"] == "undecided", (
        "the mean over tasks decides, not all items"
    )
    assert (found["lamini-rows"], found["evol-rows"], found["orca-rows"]) == (
        "reproduced",
        "not reproduced",
        "not run",
    )
    assert (found["base-as-published"], found["base-size"]) == ("not reproduced", "not run")
    uncalibrated = copy.deepcopy(TABLES)
    uncalibrated["lm_eval.json"]["calibration"]["verdict"] = "not run"
    assert verdicts(tables=uncalibrated)["base-as-published"] == "not run"


def test_what_was_not_run_is_never_reproduced() -> None:
    assert set(verdicts(tables={}).values()) == {"not run", "cannot be reproduced"}
    assert verdicts("rehearsal")["lamini-rows"] == "not run", "a statement about the paper's scale"


def test_a_verdict_on_another_base_or_on_other_data_is_none_about_the_paper() -> None:
    claims = check_claims.read_claims(CLAIMS)

    def about(scale: str, *differs: str) -> set[tuple[bool, tuple[str, ...]]]:
        rows = check_claims.check(claims, TABLES, scale, "judge", differs)
        tested = [row for row in rows if row["verdict"] != "cannot be reproduced"]
        return {(row["about_the_paper"], tuple(row["differs"])) for row in tested}

    assert about("paper") == {(True, ())}
    assert about("paper", "teacher.model: m") == {(False, ("teacher.model: m",))}
    assert about("trial") == {(False, ())}
    uncalibrated = copy.deepcopy(TABLES)
    uncalibrated["lm_eval.json"]["calibration"]["verdict"] = "not applicable"
    assert verdicts(tables=uncalibrated)["base-as-published"] == "not run"


SEEDS = ["sources.dolly", "sources.flan"]
OTHERS = [
    *("sft.order", "sources.preferences", "preferences.first", "lm_eval.tasks", "lm_eval.limit"),
    *(f"sources.mt_bench_{name}" for name in ("questions", "references", "judge_prompts")),
]


@pytest.mark.parametrize(
    ("files", "differs"),
    [
        (["paper.yaml"], []),
        (["teacher-48gb.yaml"], []),
        (["teacher-48gb.yaml", "teacher-24gb.yaml"], ["teacher.model"]),
        (["decontaminated.yaml"], ["data.remove"]),
        (["released.yaml"], []),
        (["mine.yaml"], ["sources.base_model", "teacher.model"]),
        (["released.yaml", "mine.yaml"], ["sources.base_model", "released.orca"]),
        (["flan-cot.yaml"], ["sources.flan"]),
        (["data.yaml"], [*SEEDS, *OTHERS]),
        (["released.yaml", "data.yaml"], OTHERS),
        (["trial.yaml"], []),
    ],
)
def test_what_differs_from_the_paper_follows_from_the_configuration(
    tmp_path: Path, files: list[str], differs: list[str]
) -> None:
    """The base's published values calibrate no other base."""
    mine = {
        "sources": {"base_model": "models/qwen3-0.6b"},
        "teacher": {"model": "qwen3:4b"},
        "released": {"orca": {"source": "released_evol"}},
    }
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(mine))
    data: dict[str, Any] = {
        "sources": {"dolly": "mine/dolly.jsonl", "flan": ["flan_cot_aqua"]},
        "sft": {"order": ["orca", "lamini", "evol"]},
        "preferences": {"first": 100},
        "lm_eval": {"tasks": ["boolq"], "limit": 10},
    }
    data["sources"] |= {key.partition(".")[2]: "mine/x" for key in OTHERS if "mt_bench" in key}
    data["sources"]["preferences"] = ["hh_rlhf_harmless_base_test"]
    (tmp_path / "data.yaml").write_text(yaml.safe_dump(data))
    folders = {"mine.yaml": tmp_path, "data.yaml": tmp_path}
    paths = [str(folders.get(name, ROOT / "config") / name) for name in files]
    layout = Layout(resolved(paths))
    assert [row.split(": ")[0] for row in recipes.claims(layout)["differs"]] == differs
    published = recipes.harness_table(layout, [])["published_base"]
    assert (published is None) == ("sources.base_model" in differs)


def test_every_claim_says_where_it_stands_what_tests_it_and_why_so_close() -> None:
    rows = check_claims.check(check_claims.read_claims(CLAIMS), TABLES, "paper", "judge")
    assert all(row["where"] and row["statement"] for row in rows)
    assert all(
        row["artifact"] and row["test"] and row["tolerance_reason"]
        for row in rows
        if row["verdict"] != "cannot be reproduced"
    )
    assert next(row["test"] for row in rows if row["id"] == "hh-sft-not-below-sft-chat").endswith(
        "openbezoar-sft > -0.3"
    )


def test_a_claim_without_a_test_is_refused(tmp_path: Path) -> None:
    claims = yaml.safe_load(CLAIMS.read_text())
    del claims["claims"][0]["difference"]
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(claims))
    with pytest.raises(
        UserError, match="claim sft-above-base-chat: expected either a difference or a value"
    ):
        check_claims.read_claims(tmp_path / "c.yaml")
    del claims["claims"][1]["where"]
    claims["claims"] = claims["claims"][1:]
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(claims))
    with pytest.raises(UserError, match="claim hh-sft-not-below-sft-chat: no where; add it"):
        check_claims.read_claims(tmp_path / "c.yaml")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda claims: claims["claims"][0]["difference"].update(measure="overal"),
            r"claim sft-above-base-chat: expected a measure of mtbench\.json \(overall\), found"
            r" overal; correct it",
        ),
        (
            lambda claims: claims["claims"][0]["difference"].update(measure="mean_of_tasks"),
            r"expected a measure of mtbench\.json \(overall\), found mean_of_tasks",
        ),
        (
            lambda claims: claims["claims"][0].update(artifact="receipts/base.json"),
            r"expected a measure of receipts/base\.json \(it has no differences\), found overall",
        ),
        (
            lambda claims: claims["claims"][0]["difference"].pop("margin"),
            r'claim sft-above-base-chat: lacks "difference\.margin"; correct it',
        ),
        (
            lambda claims: claims["claims"][0]["difference"].update(margin="0.3"),
            r'claim sft-above-base-chat: "difference\.margin": input should be a valid number',
        ),
        (
            lambda claims: claims["claims"][7]["value"].update(tolerence=1),
            r'claim base-size: has no key "value\.tolerence"; correct it',
        ),
        (lambda claims: claims["claims"][7].update(value=3), r'claim base-size: "value": input'),
        (lambda claims: claims.pop("not_testable"), r'c\.yaml: lacks "not_testable"; correct the'),
        (lambda claims: claims["unknown"].pop("tables"), r'c\.yaml: lacks "unknown\.tables"'),
        (
            lambda claims: claims["not_testable"][0].pop("reason"),
            r'c\.yaml: lacks "not_testable\.0\.reason"',
        ),
    ],
)
def test_a_mistake_in_the_claims_is_one_line_that_names_it(
    tmp_path: Path, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    claims = yaml.safe_load(CLAIMS.read_text())
    change(claims)
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(claims))
    with pytest.raises(UserError, match=message):
        check_claims.read_claims(tmp_path / "c.yaml")


@pytest.mark.parametrize("path", ["facts", "facts.name", "facts.good"])
def test_a_path_to_something_else_than_a_number_is_one_line(path: str) -> None:
    claims = yaml.safe_load(CLAIMS.read_text())
    claims["claims"] = [row for row in claims["claims"] if row["id"] == "base-size"]
    claims["claims"][0]["value"]["path"] = path
    tables = {"receipts/base.json": {"facts": {"name": "base", "good": True}}}
    with pytest.raises(UserError, match=f"claim base-size: expected a number at {path} of rec"):
        check_claims.check(claims, tables, "paper", "judge")


HEADER = "table,benchmark,model,task,metric,value,tolerance\n"


def filled(place: Path, *rows: str) -> Path:
    (place / "values.csv").write_text(HEADER + "".join(f"{row}\n" for row in rows))
    return place / "values.csv"


def test_the_shipped_file_is_empty_and_every_table_is_unknown(tmp_path: Path) -> None:
    assert paper_values.read(ROOT / "config/paper_values.csv", MODELS) == []
    counts = {"tables": 8, "figures": 27}
    assert check_claims.unknown(counts, []) == [
        *(f"Table {n}" for n in range(1, 9)),
        "Figures 1 to 27",
    ]
    rows = paper_values.read(filled(tmp_path, "Table 3,lm_eval,base,piqa,acc,0.77,0.01"), MODELS)
    assert (
        "Table 3" not in check_claims.unknown(counts, rows)
        and len(check_claims.unknown(counts, rows)) == 8
    )


@pytest.mark.parametrize(
    ("n", "most", "margin", "expected"),
    [(1000, 1.0, 0.01, "reproduced"), (200, 1.0, 0.01, "undecided"), (200, 9.0, 0.3, "reproduced")],
)
def test_an_interval_without_width_is_no_certainty(
    n: int, most: float, margin: float, expected: str
) -> None:
    same = paired_difference([0.5] * n, [0.5] * n, 0, most)
    assert check_claims.verdict(same, margin)[0] == expected
    assert check_claims.verdict(same, 0.0)[0] == "undecided"


@pytest.mark.parametrize("n", [1, 3, 10, 20, 100])
def test_a_verdict_and_the_page_agree_on_equal_differences(n: int) -> None:
    found = paired_difference([6.0] * n, [5.0] * n, 0, 9.0)
    assert found["excludes_zero"] == (check_claims.verdict(found, 0.0)[0] == "reproduced")
    assert found["excludes_zero"] == (n >= 100)


@pytest.mark.parametrize(
    ("row", "verdict"),
    [
        ("Table 1,lm_eval,base,piqa,acc,0.775,0.01", "reproduced"),
        ("Table 1,lm_eval,base,piqa,acc,0.76,0.005", "undecided"),
        ("Table 1,lm_eval,base,piqa,acc,0.70,0.01", "not reproduced"),
        ("Table 1,lm_eval,base,mean_of_tasks,acc,0.51,0.02", "reproduced"),
        ("Table 1,lm_eval,base,boolq,acc,0.6,0.01", "not run"),
        ("Table 2,mtbench,openbezoar-sft,overall,judge,5.1,0.2", "reproduced"),
        ("Table 2,mtbench,openbezoar-sft,math,claude-2.1,5.1,0.2", "cannot be reproduced"),
        ("Table 2,mtbench,base,turn 1,claude-2.1,5.1,0.2", "not run"),
    ],
)
def test_a_value_of_the_paper_stands_beside_ours_with_a_verdict(
    tmp_path: Path, row: str, verdict: str
) -> None:
    found = paper_values.compare(
        paper_values.read(filled(tmp_path, row), MODELS), TABLES, "judge", "paper"
    )[0]
    assert found["verdict"] == verdict and found["reason"]
    assert (found["ours"] is None) == (verdict == "not run")
    small = paper_values.compare(
        paper_values.read(filled(tmp_path, row), MODELS), TABLES, "judge", "rehearsal"
    )[0]
    other = paper_values.compare(
        paper_values.read(filled(tmp_path, row), MODELS), TABLES, "judge", "paper", ["base: b"]
    )[0]
    assert small["verdict"] == other["verdict"]
    assert small["verdict"] in ("not run", "cannot be reproduced"), (
        "a miniature reproduces no number of the paper"
    )


@pytest.mark.parametrize(
    ("change", "row", "reason"),
    [
        (
            {"settings": {"limit": 100}},
            "Table 1,lm_eval,base,piqa,acc,0.77,0.01",
            "ours is of the first 100 items of each task alone",
        ),
        (
            {"metric": {"piqa": "acc", "rte": "acc_norm"}},
            "Table 1,lm_eval,base,mean_of_tasks,acc,0.5,0.02",
            "ours is the mean of tasks by acc and acc_norm",
        ),
        (
            {},
            "Table 1,lm_eval,base,mean_of_tasks,acc_norm,0.5,0.02",
            "ours is the mean of tasks by acc",
        ),
    ],
)
def test_other_items_and_means_of_other_metrics_decide_nothing(
    tmp_path: Path, change: dict[str, Any], row: str, reason: str
) -> None:
    tables = {**TABLES, "lm_eval.json": {**TABLES["lm_eval.json"], **change}}
    chat = "Table 2,mtbench,openbezoar-sft,overall,judge,5.1,0.2"
    rows = paper_values.read(filled(tmp_path, row, chat), MODELS)
    found, other = paper_values.compare(rows, tables, "judge", "paper")
    assert (found["verdict"], found["reason"]) == ("not run", reason)
    assert other["verdict"] == "reproduced"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            "Table 1,lm-eval,base,piqa,acc,0.7,0.1",
            (
                r"values\.csv:2: benchmark 'lm-eval': expected one of lm_eval, mtbench; nearest is"
                r" `lm_eval`"
            ),
        ),
        (
            "Table 1,lm_eval,openbezoar,piqa,acc,0.7,0.1",
            r"model 'openbezoar': expected one of base, .* nearest is `openbezoar-sft`",
        ),
        (
            "Table 1,lm_eval,base,piqa,acc,52.3,0.1",
            r"values\.csv:2: value 52\.3: expected an accuracy from 0 to 1, 0\.523 and not 52\.3",
        ),
        (
            "Table 1,mtbench,base,overall,claude-2.1,0.5,0.1",
            r"value 0\.5: expected a rating from 1 to 10",
        ),
        ("Table 1,lm_eval,base,piqa,acc,high,0.1", r"value 'high': expected a number"),
        ("Table 1,lm_eval,base,piqa,acc,0.7,-1", r"tolerance -1: expected 0 or more"),
        ("Table 1,lm_eval,base,piqa,acc,0.7", r"values\.csv:2: expected 7 columns, found 6"),
        (",lm_eval,base,piqa,acc,0.7,0.1", r"values\.csv:2: no table; every column is needed"),
        (
            "T,lm_eval,base,piqa,acc,0.7,0.1\nT,lm_eval,base,piqa,acc,0.8,0.1",
            r"values\.csv:3: base, piqa, acc appears twice",
        ),
    ],
)
def test_a_mistake_in_the_file_is_one_line_that_names_the_row(
    tmp_path: Path, row: str, message: str
) -> None:
    with pytest.raises(UserError, match=message) as error:
        paper_values.read(filled(tmp_path, row), MODELS)
    assert "\n" not in str(error.value)
    (tmp_path / "values.csv").write_text("table;model\n")
    with pytest.raises(UserError, match=r"values\.csv:1: expected the header table,benchmark"):
        paper_values.read(tmp_path / "values.csv", MODELS)


def test_the_program_writes_claims_values_and_what_is_unknown(tmp_path: Path) -> None:
    for name, content in TABLES.items():
        write_json(tmp_path / name, content)
    recipe = (
        '{"scale": "paper", "differs": [], "judge": "judge", "paper_judge": "claude-2.1",'
        ' "models": ["base"], "seed": 0}'
    )
    check_claims.main(
        [
            "--claims",
            str(CLAIMS),
            "--paper-values",
            str(filled(tmp_path, "Table 4,lm_eval,base,piqa,acc,0.77,0.01")),
            "--results",
            str(tmp_path),
            "--artifacts",
            *(str(tmp_path / name) for name in TABLES),
            "--output",
            str(tmp_path / "claims.json"),
            "--recipe",
            recipe,
            "--code",
            "x",
            "--receipt",
            str(tmp_path / "r.json"),
        ]
    )
    found = read_json(tmp_path / "claims.json")
    assert found["judge"] == {"paper": "claude-2.1", "used": "judge"}
    assert (
        found["paper_values"][0]["verdict"] == "reproduced"
        and found["paper_values"][0]["ours"]["mean"] == 0.77
    )
    assert len(found["unknown"]) == 8
