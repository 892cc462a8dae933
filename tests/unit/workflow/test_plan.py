"""Promises of `make plan`: it counts what is pending, by stage, with the arithmetic of the price
file, and sends nothing.
"""

import json
import re
from datetime import datetime, tzinfo
from pathlib import Path

import pytest

import plan_requests
from bezoar.llm.answer_store import Entry, Store, key_of
from bezoar.llm.budget import LEDGER, Ledger
from bezoar.llm.settings import ModelSpec, request_of
from bezoar.llm.stored_model import StoredModel
from bezoar.workflow.configuration import resolved

PRICES = """date: 2026-01-01
models:
  gpt-5.5-2026-04-23: {input: 10.0, output: 100.0, batch_share: 0.5, source: s, verified: v}
  h2oai/h2ogpt-gm-oasst1-en-2048-falcon-40b-v2:
    {input: 0.0, output: 0.0, batch_share: 1.0, gpus: 2, tokens_per_second: 100,
     source: s, verified: v}
"""


@pytest.fixture
def overlay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paper's configuration with its results elsewhere, small, and prices that are easy to
    multiply by.
    """
    (tmp_path / "prices.yaml").write_text(PRICES)
    monkeypatch.setenv("BEZOAR_PRICES", str(tmp_path / "prices.yaml"))
    monkeypatch.chdir(Path(__file__).parents[3])
    quotas = {"cot": 20, "niv2": 0, "t0": 0, "flan2021": 0, "dialog": 0}
    mine = {
        "pathvars": {"results": str(tmp_path / "results")},
        "generate": {
            "lamini": {"rows": 30},
            "orca": {"quotas": quotas},
            "evol": {"epochs": 1, "seeds_per_category": 2},
        },
    }
    (tmp_path / "mine.yaml").write_text(json.dumps(mine))
    return ["config/paper.yaml", str(tmp_path / "mine.yaml")]


def plan(
    overlay: list[str], capsys: pytest.CaptureFixture[str], *more: str
) -> tuple[dict[str, list[str]], str]:
    plan_requests.main(["--config", *overlay, *more])
    text = capsys.readouterr().out
    requests = text.partition("\ncomputing ")[0].splitlines()
    parts = [re.split(r" \*| {2,}", line, maxsplit=1) for line in requests]
    return {
        name: rest[0].replace(",", "").split()
        for name, *rest in parts
        if name[:1].isalpha() and rest
    }, text


def test_every_stage_is_counted_and_priced_low_expected_and_high(
    overlay: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(*_: object) -> None:
        raise AssertionError("a plan sends nothing")

    monkeypatch.setattr(StoredModel, "send", nothing)
    rows, text = plan(overlay, capsys)
    assert [
        rows[stage][0]
        for stage in (
            "generate orca",
            "generate evol: evaluator",
            "filter lamini",
            "filter evol",
            "judge",
        )
    ] == ["20", "16", "30", "16", "640"]
    pending, stored, tokens_in, tokens_out, low, expected, high = rows["filter lamini"][:7]
    assert (stored, tokens_out) == ("0", str(30 * 45))
    assert float(expected) == pytest.approx(
        (int(tokens_in) * 10 + int(tokens_out) * 100) / 1e6, abs=0.01
    )
    assert float(high) == pytest.approx(
        3 * (int(tokens_in) * 10 + int(pending) * 256 * 100) / 1e6, abs=0.01
    )
    assert float(low) < float(expected) < float(high)
    assert (
        rows["judge"][4] == "no"
        and "claude-sonnet-5-5: 4 bytes a token (texts vary by a third); no price" in text
    )
    assert rows["generate orca"][7] == f"{20 * 200 / 100 / 3600 * 2:.1f}"
    monkeypatch.setenv("BEZOAR_MODE", "batch")
    batch, _ = plan(overlay, capsys)
    assert float(batch["filter lamini"][5]) == pytest.approx(float(expected) / 2, abs=0.01)
    assert batch["generate evol: evaluator"] == rows["generate evol: evaluator"], (
        "its rounds cannot be batches"
    )


def test_what_is_stored_is_not_pending(
    overlay: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    settings = resolved(overlay)["teacher"]
    seen: list[str] = []

    def say(prompt: str) -> tuple[str, str]:
        seen.append(prompt)
        return "x", "response"

    planner = plan_requests.Planner(
        plan_requests.Load(ModelSpec.of(settings)), tmp_path / "none.sqlite", len, say
    )
    planner.answers(
        [[{"role": "user", "content": text}] for text in "abc"], ["1", "2", "3"], 0, None
    )
    assert (planner.load.requests, planner.load.stored, seen) == (3, 0, ["a", "b", "c"])
    store = Store(tmp_path / "some.sqlite")
    request = request_of(settings, [{"role": "user", "content": "b"}])
    store.put(
        [
            Entry(
                key_of(request),
                request,
                {"state": "answered", "text": "y", "usage": {}, "model": settings["model"]},
            )
        ]
    )
    store.close()
    planner = plan_requests.Planner(
        plan_requests.Load(ModelSpec.of(settings)), tmp_path / "some.sqlite", len, say
    )
    answers = planner.answers(
        [[{"role": "user", "content": text}] for text in "abc"], ["1", "2", "3"], 0, None
    )
    assert (planner.load.requests, planner.load.stored, [answer.text for answer in answers]) == (
        2,
        1,
        ["x", "y", "x"],
    )
    planner.close()
    (tmp_path / "some.sqlite").rename(tmp_path / "some.shard-2-of-3.sqlite")
    planner = plan_requests.Planner(
        plan_requests.Load(ModelSpec.of(settings)), tmp_path / "some.sqlite", len, say
    )
    planner.answers([[{"role": "user", "content": "b"}]], ["2"], 0, None)
    planner.close()
    assert (planner.load.requests, planner.load.stored) == (0, 1), "nor what a shard has stored"


def test_the_teachers_tokens_are_counted_by_its_own_tokenizer_once_it_is_there(
    overlay: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    path = tmp_path / "tokenizer.json"
    own = {"sources": {"teacher_tokenizer": str(path)}}
    (tmp_path / "own.yaml").write_text(json.dumps(own))
    by_bytes, text = plan([*overlay, str(tmp_path / "own.yaml")], capsys)
    teacher = resolved(overlay)["teacher"]["model"]
    assert f"{teacher}: 4 bytes a token" in text
    tokenizer = Tokenizer(WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(path))
    by_words, text = plan([*overlay, str(tmp_path / "own.yaml")], capsys)
    assert f"{teacher}: its own tokenizer" in text and text.count("its own tokenizer") == 1
    # A stand-in's words have six letters and a space, so they are fewer than fours of bytes.
    assert int(by_words["generate orca"][2]) < int(by_bytes["generate orca"][2])
    assert by_words["filter orca"] == by_bytes["filter orca"]
    assert plan_requests.counter(path)("one two three") == 3
    assert plan_requests.counter(None)("שלום") == 2


def asked(rows: dict[str, list[str]]) -> dict[str, str]:
    """Stage -> pending requests; the lines about models begin with no number."""
    return {name: cells[0] for name, cells in rows.items() if cells[1:2] and cells[1].isdigit()}


def test_released_data_ask_no_teacher_and_no_filter(
    overlay: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    rows, _ = plan([*overlay, "config/released.yaml"], capsys)
    assert asked(rows) == {"judge": "640"}


def test_second_judges_extra_models_and_a_second_rater_are_counted(
    overlay: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    rater = resolved(overlay)["filter"]["rater"]
    (tmp_path / "rater.yaml").write_text(json.dumps({"filter": {"second_rater": rater}}))
    more = ["config/second-judge.yaml", "config/released-models.yaml", str(tmp_path / "rater.yaml")]
    rows, _ = plan([*overlay, *more], capsys)
    assert rows["judge"][0] == rows["judge: gpt-5-5"][0] == str(7 * 160)
    corrected = int(rows["judge: corrected-references"][0])
    # Both turns of some questions, for seven models.
    assert 0 < corrected < 7 * 160 and corrected % 14 == 0
    for scheme in ("lamini", "evol", "orca"):
        assert rows[f"filter {scheme}: second"] == rows[f"filter {scheme}"]


@pytest.mark.parametrize(
    ("today", "said"),
    [
        ("2026-11-27", "note: claude-sonnet-4-5-20250929 ends on 2026-11-30, in 3 days"),
        ("2026-12-01", "claude-sonnet-4-5-20250929 was shut down on 2026-11-30"),
        ("2026-09-01", ""),
    ],
)
def test_a_model_that_ends_within_the_time_of_a_run_is_named_and_so_is_what_has_no_price(
    overlay: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    today: str,
    said: str,
) -> None:
    class Clock(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> "Clock":
            return cls.fromisoformat(f"{today}T12:00:00+00:00")

    monkeypatch.setattr(plan_requests, "datetime", Clock)
    judge = {"model": "claude-sonnet-4-5-20250929"}
    (tmp_path / "judge.yaml").write_text(json.dumps({"mtbench": {"judgments": {"judge": judge}}}))
    _, text = plan([*overlay, str(tmp_path / "judge.yaml")], capsys)
    lines = text.splitlines()
    found = [
        line for line in lines if re.match("(note: )?claude-sonnet-4-5[^:]* (ends|was) ", line)
    ]
    assert [line[: len(said)] for line in found] == ([said] if said else [])
    assert all("such as claude-sonnet-5-5, as a deviation" in line for line in found)
    assert f"all without judge: add the price of the model to {tmp_path}/prices.yaml" in lines


def test_a_price_needs_no_source_date_or_number_of_gpus(
    overlay: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    numbers = re.sub(r"source: s, verified: v|gpus: 2, |date: .*", "", PRICES)
    (tmp_path / "prices.yaml").write_text(re.sub(r",\s*}", "}", numbers))
    _, text = plan(overlay, capsys)
    assert re.search(r"^gpt-5.5.*; 10/100 USD a million tokens in/out$", text, re.MULTILINE)


def test_an_evaluation_asks_the_judge_about_one_model(
    overlay: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text("{}")
    rows, _ = plan(
        [*overlay, "config/second-judge.yaml"], capsys, "--model", str(tmp_path / "model")
    )
    assert asked(rows) == {"judge": "160"}


def test_a_budget_has_to_cover_what_was_spent_before(
    overlay: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    rows, text = plan(overlay, capsys)
    assert "spent or reserved" not in text, "there is no ledger"
    Ledger(tmp_path / "results" / "store" / LEDGER, None).reserve("x.sqlite", {"a": 20.0})
    line = plan(overlay, capsys)[1].partition("\n\n")[0].splitlines()[-1]
    where = f"{tmp_path}/results so far"
    found = re.fullmatch(
        rf"it counts the 20\.00 spent or reserved in {where}: (.*) to (.*) in all", line
    )
    whole = [20 + float(rows["all"][place]) for place in (1, 2)]  # expected, high
    assert found and [*map(float, found.groups())] == pytest.approx(whole, abs=0.011)
