"""Promises of the doctor about language models: what is gone, or ends soon, is said before anything
starts, by the provider itself where its key is there, else from a dated list.
"""

import ast
import os
import re
import threading
import urllib.request
from collections.abc import Iterator
from datetime import date, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from provider_rules import KEY, Providers, openai_error

import doctor
from bezoar.llm import connection
from bezoar.workflow.configuration import resolved

ROOT = Path(__file__).parents[3]
TODAY = date(2026, 11, 26)
JUDGE, RATER = "mtbench.judgments.judge", "filter.rater"


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "TEACHER_API_KEY", "TEACHER_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def providers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Providers]:
    running = Providers()
    addresses = {"openai": f"{running.url}/openai/v1", "anthropic": f"{running.url}/anthropic"}
    monkeypatch.setattr(connection, "ADDRESSES", addresses)
    yield running
    running.stop()


def configured(**models: str) -> dict[str, Any]:
    """The paper's configuration with other models for some roles, by dotted place."""
    config = resolved([])
    for place, model in models.items():
        settings = config
        for name in place.split("."):
            settings = settings[name]
        settings["model"] = model
    return config


def test_the_shipped_configurations_name_no_model_that_is_gone_or_ends_soon() -> None:
    for names in (["config/paper.yaml"], ["config/second-judge.yaml"], ["config/released.yaml"]):
        assert doctor.model_ends(resolved(names), TODAY) == []


@pytest.mark.parametrize(
    ("place", "model", "line"),
    [
        (RATER, "gpt-4-0613", r"^rater: gpt-4-0613 was shut down on 2026-10-23 \(https://dev"),
        (JUDGE, "claude-2.1", r"^judge: claude-2.1 was shut down on 2025-07-21 \(https://plat"),
        (RATER, "gpt-5", r"^note: rater: gpt-5 ends on 2026-12-11, in 15 days \(https://"),
        (JUDGE, "claude-sonnet-4-5", r"^note: judge: claude-sonnet-4-5 ends on 2026-11-30, in 4 d"),
    ],
)
def test_without_a_key_a_dated_list_says_what_is_gone_and_what_ends_soon(
    place: str, model: str, line: str
) -> None:
    found = doctor.model_ends(configured(**{place: model}), TODAY)
    assert len(found) == 1 and re.search(line, found[0]) and "\n" not in found[0]
    assert "as of 2026-" in found[0]


def test_an_end_far_off_is_not_spoken_of() -> None:
    assert doctor.model_ends(configured(**{RATER: "gpt-5.1"}), TODAY) == []


def test_roles_that_share_a_model_share_a_line() -> None:
    config = configured(**{RATER: "gpt-4-0613", "generate.evol.evaluator": "gpt-4-0613"})
    found = doctor.model_ends(config, TODAY)
    assert len(found) == 1 and found[0].startswith("evaluator, rater: gpt-4-0613 was shut down")


def test_with_a_key_the_provider_is_asked_once_for_each_model(
    providers: Providers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    assert doctor.model_ends(resolved([]), TODAY) == []
    assert sorted(providers.asked) == [
        "/anthropic/v1/models/claude-sonnet-5-5",
        "/openai/v1/models/gpt-5.5-2026-04-23",
    ]
    assert providers.seen == [], "no answer is asked for"


@pytest.mark.parametrize(
    ("place", "model", "line"),
    [
        (RATER, "gpt-5", r"^note: rater: gpt-5 ends on 2026-12-11, .*the provider's own answer"),
        (RATER, "gpt-4-0613", r"^rater: model gpt-4-0613: 404 .*check `model`"),
        (RATER, "no-such-model", r"^rater: model no-such-model: 404 .*check `model`"),
        (JUDGE, "claude-2.1", r"^judge: claude-2.1 was shut down .*the provider's own answer"),
        (JUDGE, "claude-sonnet-4-5-20250929", "^note: judge: .*own answer"),
        (JUDGE, "no-such-model", r"^judge: model no-such-model: 404 .*check `model`"),
    ],
)
def test_what_the_provider_says_is_one_line(
    providers: Providers, monkeypatch: pytest.MonkeyPatch, place: str, model: str, line: str
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    found = doctor.model_ends(configured(**{place: model}), TODAY)
    assert len(found) == 1 and re.search(line, found[0]) and "\n" not in found[0]


def test_the_providers_answer_counts_more_than_the_list(
    providers: Providers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A retirement can be put off: the list says that this model ended four days ago."""
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    late = date(2026, 12, 4)
    found = doctor.model_ends(configured(**{JUDGE: "claude-sonnet-4-5-20250929"}), late)
    assert len(found) == 1 and found[0].startswith("note: ") and "was to end" in found[0]


def test_a_key_that_is_refused_is_one_line_without_the_key(
    providers: Providers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "canary-of-somebody-else")
    found = doctor.model_ends(resolved([]), TODAY)
    assert len(found) == 1 and "check the key in OPENAI_API_KEY" in found[0]
    assert "canary" not in found[0]


@pytest.mark.parametrize("status", [401, 403])
def test_a_key_that_may_ask_models_and_not_read_of_them_is_a_note_and_the_list_counts(
    providers: Providers, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    def refuse(*_: object) -> dict[str, Any]:
        message = "You have insufficient permissions. Missing scopes: api.model.read."
        raise openai_error(status, "missing_scope", None, message)

    monkeypatch.setattr(providers, "model", refuse)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    found = doctor.model_ends(configured(**{RATER: "gpt-5"}), TODAY)
    asked, listed = (line for line in found if "gpt-5.5" in line), "rater: gpt-5 ends on"
    assert all(line.startswith("note: ") for line in found)
    assert "Missing scopes" in next(asked) and any(listed in line for line in found)


def test_a_provider_that_does_not_answer_is_a_note_and_the_list_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection, "ADDRESSES", {"openai": "http://127.0.0.1:9/v1"})
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    found = doctor.model_ends(resolved([]), TODAY)
    assert len(found) == 1 and found[0].startswith(
        "note: evaluator, rater: gpt-5.5-2026-04-23: its"
    )
    found = doctor.model_ends(configured(**{RATER: "gpt-4-0613"}), TODAY)
    assert "rater: gpt-4-0613 was shut down on 2026-10-23" in "\n".join(found)


@pytest.mark.parametrize("served", ["teacher", "h2oai/h2ogpt-gm-oasst1-en-2048-falcon-40b-v2"])
def test_a_server_of_ones_own_must_serve_the_model(
    monkeypatch: pytest.MonkeyPatch, served: str
) -> None:
    running = Providers(served)
    monkeypatch.setenv("TEACHER_BASE_URL", f"{running.url}/vllm/v1")
    monkeypatch.setenv("TEACHER_API_KEY", KEY)
    found = doctor.model_ends(resolved([]), TODAY)
    running.stop()
    wrong = "teacher: the server in TEACHER_BASE_URL serves teacher and not h2oai/h2ogpt"
    assert [line[: len(wrong)] for line in found] == ([wrong] if served == "teacher" else [])


def test_a_server_on_this_machine_is_not_asked_through_the_users_proxy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []

    class Proxy(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Say nothing."""

        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(403)

        do_HEAD = do_CONNECT = do_GET

    for name in [name for name in os.environ if name.upper().endswith("_PROXY")]:
        monkeypatch.delenv(name)
    config = resolved([])
    running = Providers(config["teacher"]["model"])
    with HTTPServer(("127.0.0.1", 0), Proxy) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setattr(urllib.request, "_opener", None)  # it holds the proxies of its start
        monkeypatch.setenv("TEACHER_BASE_URL", f"{running.url}/vllm/v1")
        monkeypatch.setenv("TEACHER_API_KEY", KEY)
        lines = [line for line in doctor.language_models(config) if line.startswith("teacher")]
        monkeypatch.delenv("NO_PROXY")
        monkeypatch.delenv("no_proxy")
        lines += doctor.model_ends(config, TODAY)
        server.shutdown()
    running.stop()
    assert (lines, asked) == ([], [])


@pytest.mark.parametrize("base", ["", "/v1", "/v1/"])
@pytest.mark.parametrize("key", ["TEACHER_API_KEY", None])
def test_a_server_is_found_by_any_form_of_its_address_and_without_a_key(
    monkeypatch: pytest.MonkeyPatch, base: str, key: str | None
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(doctor, "knock", lambda url, method: asked.append(url) or 200)
    monkeypatch.setenv("TEACHER_BASE_URL", f"http://127.0.0.1:9{base}")
    monkeypatch.setenv("TEACHER_API_KEY", KEY)
    config = resolved([])
    config["teacher"] |= {"api": "messages", "api_key_env": key}
    found = list(doctor.language_models(config))
    assert (asked, [line for line in found if line.startswith("teacher")]) == (
        ["http://127.0.0.1:9/v1/models"],
        [],
    )
    config["teacher"] |= {"base_url_env": None, "api_key_env": None}
    assert "teacher: api_key_env is null" in "\n".join(doctor.language_models(config))


@pytest.mark.parametrize(
    ("address", "models", "said"),
    [
        ("http://h:1/v1", {"http://h:1/v1/models": 401}, None),
        ("http://h:1/", {"http://h:1/v1/models": 401}, "teacher: TEACHER_BASE_URL: http://h:1/"),
        ("http://h:1/v1/chat", {"http://h:1/v1/models": 200}, "note: teacher: TEACHER_BASE_URL: "),
        ("http://h:1/x", {"http://h:1/x/models": 404}, "note: teacher: TEACHER_BASE_URL: "),
        ("http://h:1", {"http://h:1/models": "refused"}, "teacher: no answer from http://h:1; "),
    ],
)
def test_an_address_below_which_no_models_are_is_named(
    monkeypatch: pytest.MonkeyPatch, address: str, models: dict[str, int | str], said: str | None
) -> None:
    monkeypatch.setattr(doctor, "knock", lambda url, method: models.get(url, 404))
    monkeypatch.setenv("TEACHER_BASE_URL", address)
    monkeypatch.setenv("TEACHER_API_KEY", KEY)
    found = [line for line in doctor.language_models(resolved([])) if "teacher: " in line]
    assert [line[: len(said or "")] for line in found] == ([said] if said else [])
    assert [line.endswith("add /v1 to its end") for line in found].count(True) == (
        address == "http://h:1/"
    )


def test_a_replay_needs_no_key_and_no_model_that_is_still_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for part in ("machine", "licences", "unpinned"):
        monkeypatch.setattr(doctor, part, lambda *_: [])
    monkeypatch.setattr(doctor, "unreachable", lambda entries: [])
    overlay = tmp_path / "mine.yaml"
    overlay.write_text("mtbench: {judgments: {judge: {model: claude-2.1}}}")
    command = ["--config", "config/paper.yaml", str(overlay)]
    monkeypatch.setenv("BEZOAR_MODE", "batch")
    with pytest.raises(SystemExit):
        doctor.main(command)
    printed = capsys.readouterr().out
    assert "claude-2.1 was shut down" in printed and "OPENAI_API_KEY is not set" in printed
    monkeypatch.setenv("BEZOAR_MODE", "replay")
    doctor.main(command)
    assert "nothing is missing for the paper scale" in capsys.readouterr().out
    trial = resolved(["config/trial.yaml"])
    trial["serve"]["weights"] = "truthfulqa_csv"
    assert "truthfulqa_csv" not in [entry["id"] for entry in doctor.wanted(trial)]
    monkeypatch.delenv("BEZOAR_MODE")
    assert "truthfulqa_csv" in [entry["id"] for entry in doctor.wanted(trial)]


@pytest.mark.parametrize("entry", ["generate", "released"])
def test_every_server_of_a_shared_generation_is_looked_at(
    monkeypatch: pytest.MonkeyPatch, entry: str
) -> None:
    config = resolved([])
    model = config["teacher"]["model"]
    config = {**config, "entry": entry, "generate": {**config["generate"], "shards": 3}}
    monkeypatch.setenv("TEACHER_API_KEY", KEY)
    main, other = Providers(model), Providers("another")
    for name, url in (("", main.url), ("_1", other.url), ("_4", "http://127.0.0.1:9")):
        monkeypatch.setenv(f"TEACHER_BASE_URL{name}", f"{url}/vllm/v1")
    monkeypatch.setenv("TEACHER_BASE_URL_3", "http://127.0.0.1:9/v1")
    found = [line for line in doctor.language_models(config) if line.startswith("teacher")]
    ends = doctor.model_ends(config, TODAY)
    main.stop()
    other.stop()
    if entry == "released":
        assert found == ends == []
        return
    assert found == [
        "teacher of shard 3: no answer from http://127.0.0.1:9/v1; start the server or correct"
        " TEACHER_BASE_URL_3"
    ]
    wrong = f"teacher of shard 1: the server in TEACHER_BASE_URL_1 serves another and not {model}"
    assert [line[: len(wrong)] for line in ends] == [wrong]


def test_what_is_gone_stops_make_reproduce_and_what_ends_soon_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for part in ("machine", "licences", "language_models", "unpinned"):
        monkeypatch.setattr(doctor, part, lambda *_: [])
    monkeypatch.setattr(doctor, "unreachable", lambda entries: [])
    overlay = tmp_path / "mine.yaml"
    overlay.write_text("mtbench: {judgments: {judge: {model: claude-2.1}}}")
    with pytest.raises(SystemExit) as stop:
        doctor.main(["--config", "config/paper.yaml", str(overlay)])
    printed = capsys.readouterr().out
    assert stop.value.code == 1 and "judge: claude-2.1 was shut down on 2025-07-21" in printed
    ends = {"providers": {"anthropic": {"source": "s", "use": "u", "ends": {}}}, "date": TODAY}
    soon = date.fromordinal(date.today().toordinal() + 9).isoformat()
    ends["providers"]["anthropic"]["ends"]["claude-sonnet-5-5"] = soon  # type: ignore[index]
    monkeypatch.setattr("bezoar.llm.model_ends.read_yaml", lambda path: ends)
    doctor.main(["--config", "config/paper.yaml"])
    printed = capsys.readouterr().out
    assert f"note: judge: claude-sonnet-5-5 ends on {soon}" in printed
    assert "nothing is missing for the paper scale" in printed


def test_the_list_says_what_the_locked_sdks_say() -> None:
    listed = yaml.safe_load((ROOT / "config" / "model_ends.yaml").read_text(encoding="utf-8"))
    ends = {
        model: str(day)
        for provider in listed["providers"].values()
        for model, day in provider["ends"].items()
    }
    theirs = openai_ends() | anthropic_ends()
    assert len(theirs) > 80
    assert {model: ends.get(model) for model in theirs} == theirs
    for provider in listed["providers"].values():
        assert provider["use"] not in ends


def source_of(module: str) -> str:
    spec = find_spec(module)
    assert spec and spec.origin
    return Path(spec.origin).read_text(encoding="utf-8")


def openai_ends() -> dict[str, str]:
    """The ends that the openai SDK's docstring of its models announces."""
    items = source_of("openai.types.shared.chat_model").split("Deprecated values:")[1].split("\n- ")
    found = {}
    for item in items:
        if day := re.search(r"shutdown\s+date:\s+(\d{4}-\d\d-\d\d)", item):
            found |= dict.fromkeys(re.findall(r'"([\w.-]+)"', item), day[1])
    return found


def anthropic_ends() -> dict[str, str]:
    """The ends in the anthropic SDK's table."""
    tree = ast.parse(source_of("anthropic.resources.messages.messages"))
    table = next(
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign)
        and getattr(node.targets[0], "id", "") == "DEPRECATED_MODELS"
    )
    return {
        model: datetime.strptime(re.sub(r"(\d)\w\w,", r"\1,", text), "%B %d, %Y").date().isoformat()
        for model, text in table.items()
    }


def test_beside_a_served_teacher_the_evaluator_needs_a_key_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    config = resolved(["config/paper.yaml", "config/serve-vllm.yaml"])
    lines = list(doctor.language_models(config))
    assert [line for line in lines if line.startswith("teacher: no program .venv-serve/bin/vllm")]
    assert [line for line in lines if line.startswith("evaluator: OPENAI_API_KEY is not set")]
    assert not [line for line in lines if line.startswith("evaluator: no program")]


def test_a_budget_or_a_mode_that_no_job_could_keep_is_said_before_the_first(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    prices = tmp_path / "prices.yaml"

    def lines(budget: str, mode: str = "", **changed: Any) -> list[str]:
        monkeypatch.setenv("BEZOAR_BUDGET_USD", budget)
        monkeypatch.setenv("BEZOAR_MODE", mode)
        config = configured(**{JUDGE: "mine"})
        config["mtbench"]["judgments"]["judge"] |= changed
        return [line for line in doctor.language_models(config) if "BEZOAR_" in line]

    assert lines("") == []
    no_price = "judge: BEZOAR_BUDGET_USD: {} has no price for mine; add it, or unset"
    assert [line.startswith(no_price.format("config/prices.yaml")) for line in lines("25")] == [
        True
    ]
    prices.write_text(
        Path("config/prices.yaml")
        .read_text()
        .replace("models:", "models:\n  mine: {input: 1.0, output: 1.0, batch_share: 1.0}")
    )
    monkeypatch.setenv("BEZOAR_PRICES", str(prices))
    assert lines("25") == []
    assert ["may cost anything" in line for line in lines("25", max_tokens=None)] == [True]
    prices.write_text("models: {}")
    assert no_price.format(prices) in "\n".join(lines("25"))
    assert lines("a lot")[0].startswith("BEZOAR_BUDGET_USD: expected an amount in dollars")
    assert lines("", "Batch") == [
        "BEZOAR_MODE: expected one of online, batch, replay, found 'Batch'"
    ]
