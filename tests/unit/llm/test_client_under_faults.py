"""Promises of the client against the simulator as a hostile provider: nothing lost, nothing paid
twice, no budget exceeded, no key shown.
"""

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from simulated import KEY, SCRIPTS, SETTINGS, names, questions, simulated

from bezoar.errors import UserError
from bezoar.files import canonical, sha256_text
from bezoar.llm import limits
from bezoar.llm.answer_store import Store
from bezoar.llm.budget import Ledger, Price
from bezoar.llm.client import LLMClient
from bezoar.llm.language_model import STATES
from bezoar.llm.protocol import arguments
from bezoar.llm.settings import request_of
from bezoar.rehearsal.fake_provider import PASSING, Faults

ROWS = 2_000
PATIENT = {**SETTINGS, "timeout_s": 3.0}  # a busy machine answers 64 at once in a second or two
KILLS = int(os.environ.get("BEZOAR_KILLS", "3"))  # the more, the longer the test takes
STATE_OF = {
    "empty": "unparsable",
    "refusal": "refused",
    "length": "truncated",
    "wrong_model": "provider_error",
}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "FIRST_PAUSE_S", 0.02)


def use(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


def fault_of(faults: Faults, prompt: list[dict[str, str]]) -> str:
    return faults.of(sha256_text(canonical(arguments(request_of(SETTINGS, prompt)))), 0)


@pytest.mark.timeout(180)
def test_two_thousand_rows_under_mixed_faults_end_in_one_state_each_and_are_paid_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults, prompts = Faults(share=0.1, stall_s=6.0), questions(ROWS)
    met = Counter(fault_of(faults, prompt) for prompt in prompts)
    assert set(met) == {"", *PASSING, *STATE_OF}, "every kind of fault befalls some row"
    with simulated(tmp_path, faults={"share": 0.1, "stall_s": 6.0}) as server:
        use(monkeypatch, server.environment(tmp_path))
        with LLMClient.of(PATIENT, tmp_path / "s.sqlite", 64, None) as client:
            answers = client.ask(prompts, names(ROWS))
        meter = server.meter()
        with LLMClient.of(PATIENT, tmp_path / "s.sqlite", 64, None, "replay") as again:
            assert again.ask(prompts, names(ROWS)) == answers
        assert again.sent == 0 and server.meter() == meter
    assert [answer.state for answer in answers] == [
        STATE_OF.get(fault_of(faults, prompt), "answered") for prompt in prompts
    ]
    assert sum(client.counts().values()) == ROWS and set(client.counts()) <= set(STATES)
    assert (meter["answers"], meter["requests"], meter["most"]) == (ROWS, ROWS, 1)
    assert meter["lost"] == met["stall"] + met["truncated_body"] + met["invalid_json"], (
        "generated, but never delivered whole"
    )
    assert client.usd == pytest.approx(meter["usd"])
    assert len(list(Store(tmp_path / "s.sqlite").rows())) == ROWS


PROGRAM = """
import sys; from pathlib import Path
from simulated import SETTINGS, names, questions; from bezoar.llm import exchange, limits
from bezoar.llm.client import LLMClient
from bezoar.files import write_jsonl
limits.FIRST_PAUSE_S, exchange.TICK_S = 0.02, 0.05
with LLMClient.of(SETTINGS, Path(sys.argv[1]), 8, None) as client:
    answers = client.ask(questions(int(sys.argv[3])), names(int(sys.argv[3])))
write_jsonl(Path(sys.argv[2]), [{"text": answer.text, "state": answer.state} for answer in answers])
"""


def start(
    folder: Path,
    environment: dict[str, str],
    count: int,
    store: str = "s.sqlite",
    rows: str = "rows.jsonl",
) -> subprocess.Popen[str]:
    paths = os.pathsep.join([str(Path(__file__).parents[1]), str(SCRIPTS)])
    command = [sys.executable, "-c", PROGRAM, str(folder / store), str(folder / rows), str(count)]
    return subprocess.Popen(
        command,
        env=os.environ | environment | {"PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def content(path: Path) -> list[tuple[Any, ...]]:
    """A store without its times."""
    store = Store(path)
    rows = [
        (key, request, answer, response, sha256, usd)
        for key, request, answer, response, sha256, _, _, usd, _ in store.rows()
    ]
    store.close()
    return rows


@pytest.mark.timeout(240)
def test_kills_at_random_moments_leave_the_same_store_and_outputs(tmp_path: Path) -> None:
    """Each run is killed after a random number of stored answers or a random time, so some die
    starting and some writing.
    """
    count, rng = 900, random.Random(20)
    with simulated(tmp_path, faults={"share": 0.1, "stall_s": 1.5, "turns": 1}) as server:
        environment = server.environment(tmp_path)
        kills = 0
        for kill in range(KILLS):
            child = start(tmp_path, environment, count)
            stored, wanted = 0, kill * count // (KILLS + 4) + rng.randrange(1, 40)
            deadline = time.monotonic() + 20
            while stored < wanted and child.poll() is None and time.monotonic() < deadline:
                time.sleep(rng.random() * 0.1)
                stored = _stored(tmp_path / "s.sqlite")
            child.send_signal(signal.SIGKILL)
            kills += child.wait() == -signal.SIGKILL
        assert kills == KILLS
        assert not (tmp_path / "rows.jsonl").exists()
        child = start(tmp_path, environment, count)
        assert child.wait() == 0, child.communicate()[0]
    lasting = {
        fault
        for fault in STATE_OF
        if any(fault_of(Faults(share=0.1), prompt) == fault for prompt in questions(count))
    }
    assert lasting == set(STATE_OF)
    with simulated(
        tmp_path, faults={"share": 0.1, "kinds": [*PASSING, *STATE_OF], "turns": 0}
    ) as undisturbed:
        child = start(
            tmp_path, undisturbed.environment(tmp_path), count, "whole.sqlite", "whole.jsonl"
        )
        assert child.wait() == 0, child.communicate()[0]
    assert content(tmp_path / "s.sqlite") == content(tmp_path / "whole.sqlite")
    assert (tmp_path / "rows.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def _stored(path: Path) -> int:
    try:
        with sqlite3.connect(path) as connection:
            return connection.execute("SELECT count(*) FROM answers").fetchone()[0]
    except sqlite3.Error:
        return 0


@pytest.mark.timeout(120)
def test_the_budget_is_never_exceeded_at_concurrency_64_and_the_run_goes_on_from_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Upper bounds of 64 calls exceed the whole budget several times; what the answers really cost
    decides how far it goes.
    """
    prompts, budget = questions(600), 10.0
    faults = {"share": 0.1, "stall_s": 2.0, "kinds": PASSING}  # others are asked again in each run
    with simulated(tmp_path, faults=faults) as server:
        use(monkeypatch, server.environment(tmp_path))
        monkeypatch.setenv("BEZOAR_BUDGET_USD", str(budget))
        with (
            LLMClient.of(SETTINGS, tmp_path / "s.sqlite", 64, None) as client,
            pytest.raises(UserError, match=r"BUDGET_USD=10 is used up") as raised,
        ):
            client.ask(prompts, names(600))
        meter = server.meter()
        spent = meter["usd"] + meter["lost_usd"]
        assert 0.5 * budget < spent <= budget
        assert f"{meter['answers']} of 600 rows are done and stored" in str(raised.value)
        with (
            LLMClient.of(SETTINGS, tmp_path / "s.sqlite", 64, None) as client,
            pytest.raises(UserError, match="is used up"),
        ):
            client.ask(prompts, names(600))
        assert server.meter()["usd"] + server.meter()["lost_usd"] <= budget
        monkeypatch.setenv("BEZOAR_BUDGET_USD", "100")
        with LLMClient.of(SETTINGS, tmp_path / "s.sqlite", 64, None) as client:
            assert len(client.ask(prompts, names(600))) == 600
        assert server.meter()["most"] == 1
        assert server.meter()["usd"] + server.meter()["lost_usd"] <= 100


@pytest.mark.timeout(120)
def test_jobs_that_run_side_by_side_share_one_budget(tmp_path: Path) -> None:
    with simulated(tmp_path) as server:
        environment = server.environment(tmp_path) | {"BEZOAR_BUDGET_USD": "4"}
        children = [
            start(tmp_path, environment, 400, f"{i}.sqlite", f"{i}.jsonl") for i in range(3)
        ]
        outputs = [child.communicate()[0] for child in children]
        assert all("UserError: BEZOAR_BUDGET_USD=4 is used up" in text for text in outputs), outputs
        assert 2 < server.meter()["usd"] <= 4


def test_a_killed_runs_reservations_are_settled_where_an_answer_was_stored_and_kept_where_none_was(
    tmp_path: Path,
) -> None:
    ledger = Ledger(tmp_path / "budget.db", 10.0)
    assert ledger.reserve("a", {"x": 4.0, "y": 4.0, "z": 4.0}) == {"x", "y"}
    assert ledger.unsettled("a") == {"x": 4.0, "y": 4.0}
    ledger.settle("a", {"x": 1.0})
    assert ledger.total() == 5.0
    assert ledger.reserve("b", {"z": 5.5}) == set()
    assert ledger.reserve("b", {"z": 5.0}) == {"z"}
    assert (ledger.unsettled("a"), ledger.unsettled("b")) == ({"y": 4.0}, {"z": 5.0})
    ledger.close()


def test_a_model_without_a_price_cannot_be_held_to_a_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BEZOAR_BUDGET_USD", "1")
    with (
        pytest.raises(UserError, match=r"no price for unheard-of"),
        LLMClient.of({**SETTINGS, "model": "unheard-of"}, tmp_path / "s.sqlite", 1, None),
    ):
        pass
    monkeypatch.setenv("BEZOAR_BUDGET_USD", "ten")
    with (
        pytest.raises(UserError, match="BUDGET_USD: expected an amount"),
        LLMClient.of(SETTINGS, tmp_path / "s.sqlite", 1, None),
    ):
        pass


def test_an_upper_bound_holds_for_any_text() -> None:
    price = Price(3.0, 15.0, 0.5)
    assert price.of(1_000_000, 1_000_000) == 18.0
    assert price.of(1_000_000, 0, "batch") == 1.5


@pytest.mark.timeout(60)
def test_limits_in_the_headers_are_kept_so_that_hardly_any_call_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for settings, variable in (
        (SETTINGS, "openai"),
        (
            {**SETTINGS, "provider": "anthropic", "api": "messages", "base_url_env": "PEER_ROOT"},
            "x",
        ),
    ):
        with simulated(
            tmp_path, rate={"requests": 40, "tokens": 100_000, "window_s": 0.5}
        ) as server:
            use(monkeypatch, server.environment(tmp_path))
            started = time.monotonic()
            with LLMClient.of(settings, tmp_path / f"{variable}.sqlite", 16, None) as client:
                assert {answer.state for answer in client.ask(questions(200), names(200))} == {
                    "answered"
                }
            assert time.monotonic() - started > 1.8, "200 requests at 40 a half second"
            assert client.sent <= 200 + 16, "only the first wave cannot know"


def test_token_limits_are_kept_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with simulated(tmp_path, rate={"requests": 1000, "tokens": 600, "window_s": 0.4}) as server:
        use(monkeypatch, server.environment(tmp_path))
        with LLMClient.of(SETTINGS, tmp_path / "s.sqlite", 8, None) as client:
            assert {answer.state for answer in client.ask(questions(150), names(150))} == {
                "answered"
            }
        assert client.sent <= 150 + 8


@pytest.mark.timeout(60)
def test_the_key_appears_in_no_file_log_process_list_or_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The simulator, like OpenAI, quotes a wrong key in its refusal."""
    with simulated(tmp_path, faults={"share": 0.3, "stall_s": 1.2}) as server:
        child = start(tmp_path, server.environment(tmp_path), 300)
        seen = 0
        while child.poll() is None:
            lines = [_read(path) for path in Path("/proc").glob("[0-9]*/cmdline")]
            assert not any(KEY.encode() in line for line in lines)
            seen += any(b"s.sqlite" in line for line in lines)
            time.sleep(0.05)
        assert seen, "the process list was read while it ran"
        assert child.returncode == 0
        output = child.communicate()[0]
        wrong = "canary-wrong-77aa"
        use(monkeypatch, {**server.environment(tmp_path), "PEER_KEY": wrong})
        with (
            LLMClient.of(SETTINGS, tmp_path / "t.sqlite", 4, None) as client,
            pytest.raises(UserError, match="check the key in PEER_KEY") as raised,
        ):
            client.ask(questions(9), names(9))
    assert KEY not in output
    assert wrong not in str(raised.value) and "***" in str(raised.value)
    for path in tmp_path.iterdir():
        assert KEY.encode() not in path.read_bytes() and wrong.encode() not in path.read_bytes()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # it ended meanwhile
        return b""


def test_an_unknown_model_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with simulated(tmp_path, "--models", "n") as server:
        use(monkeypatch, server.environment(tmp_path))
        with (
            LLMClient.of(SETTINGS, tmp_path / "s.sqlite", 4, None) as client,
            pytest.raises(UserError, match=r"model m: .*404.*does not exist.*check `model`"),
        ):
            client.ask(questions(9), names(9))


def test_an_answer_under_another_models_id_is_noticed_and_can_be_accepted_without_paying_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with simulated(tmp_path, faults={"share": 1.0, "kinds": ["wrong_model"]}) as server:
        use(monkeypatch, server.environment(tmp_path))
        with LLMClient.of(SETTINGS, tmp_path / "s.sqlite", 4, None) as client:
            first = client.ask(questions(2), names(2))
        assert [answer.state for answer in first] == ["provider_error"] * 2
        assert "asked for m, another-model answered" in first[0].error
        with LLMClient.of(
            {**SETTINGS, "reported_as": "another-model"}, tmp_path / "s.sqlite", 4, None
        ) as client:
            assert [answer.state for answer in client.ask(questions(2), names(2))] == [
                "answered"
            ] * 2
        assert client.sent == 0


def test_a_full_disk_is_one_line_and_what_was_stored_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited = (
        f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))\n{PROGRAM}"
    )
    monkeypatch.setitem(globals(), "PROGRAM", limited)
    with simulated(tmp_path) as server:
        child = start(tmp_path, server.environment(tmp_path), 800)
        output = child.communicate()[0]
        assert "UserError" in output.splitlines()[-1] and "free space and run again" in output, (
            output[-500:]
        )
        kept = _stored(tmp_path / "s.sqlite")
        assert 0 < kept < 800
        use(monkeypatch, server.environment(tmp_path))
        patient = {**SETTINGS, "timeout_s": 60}  # a slow machine sends nothing twice
        with LLMClient.of(patient, tmp_path / "s.sqlite", 16, None) as client:
            assert len(client.ask(questions(800), names(800))) == 800
        assert client.sent <= 800 - kept


SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "required": ["status"],
    "properties": {"status": {"enum": ["Accept", "Reject"]}},
}


@pytest.mark.parametrize("api", ["chat", "messages"])
def test_a_server_with_json_schemas_is_held_to_one_and_another_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, api: str
) -> None:
    def parse(text: str) -> Any:
        return json.loads(text)["status"] if text.startswith("{") else None

    settings = (
        SETTINGS
        if api == "chat"
        else {**SETTINGS, "provider": "anthropic", "api": "messages", "base_url_env": "PEER_ROOT"}
    )
    with simulated(tmp_path) as server:
        use(monkeypatch, server.environment(tmp_path))
        with LLMClient.of(
            {**settings, "json_schema": True}, tmp_path / "s.sqlite", 4, None
        ) as client:
            assert [
                parsed for parsed, _ in client.ask_until(questions(3), names(3), parse, 3, SCHEMA)
            ] == ["Reject"] * 3
        assert client.sent == 3
        with LLMClient.of(settings, tmp_path / "s.sqlite", 4, None) as client:
            results = client.ask_until(questions(3), names(3), parse, 3, SCHEMA)
        assert [(parsed, answer.state) for parsed, answer in results] == [(None, "unparsable")] * 3
        assert (client.sent, client.counts()) == (9, {"unparsable": 3})
