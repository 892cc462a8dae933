"""Promises of MODE=batch: half the price, every row collected, nothing handed in twice, through
both official batch APIs.
"""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from simulated import MESSAGES, SCRIPTS, SETTINGS, Simulated, names, questions, simulated

from bezoar.errors import UserError
from bezoar.llm import batch_run, budget
from bezoar.llm.answer_store import key_of
from bezoar.llm.budget import Ledger
from bezoar.llm.client import LLMClient
from bezoar.llm.connection import Connection
from bezoar.llm.settings import ModelSpec, request_of

BOTH = pytest.mark.parametrize("settings", [SETTINGS, MESSAGES], ids=["openai", "anthropic"])


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_run, "POLL_S", 0.05)


def accounted(folder: Path) -> float:
    """What the ledger says was spent or is reserved, in USD."""
    ledger = Ledger(folder / "budget.db", None)
    total = ledger.total()
    ledger.close()
    return total


def use(server: Simulated, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in server.environment(folder).items():
        monkeypatch.setenv(name, value)


def batches(server: Simulated, settings: dict[str, Any]) -> int:
    """How many batches the provider has seen."""

    async def count() -> int:
        connection = Connection(ModelSpec.of(settings), None)
        async with connection.client() as client:
            listing = (
                client.messages.batches.list()
                if settings["api"] == "messages"
                else client.batches.list()
            )
            return len([batch async for batch in listing])

    return asyncio.run(count())


@BOTH
def test_answers_are_those_of_single_calls_at_half_the_price(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    with simulated(tmp_path, batch_s="0.2") as server:
        use(server, tmp_path, monkeypatch)
        with LLMClient.of(settings, tmp_path / "b.sqlite", 4, None, "batch") as client:
            answers = client.ask(questions(30), names(30))
        half = server.meter()["usd"]
        assert client.usd == pytest.approx(half) and batches(server, settings) == 1
        with LLMClient.of(settings, tmp_path / "o.sqlite", 4, None, "online") as client:
            assert client.ask(questions(30), names(30)) == answers
        assert server.meter()["usd"] == pytest.approx(3 * half)
    with LLMClient.of(settings, tmp_path / "b.sqlite", 4, None, "replay") as client:
        assert client.ask(questions(30), names(30)) == answers


@BOTH
def test_requests_that_failed_or_expired_are_handed_in_again_and_nothing_is_paid_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    with simulated(
        tmp_path, faults={"share": 0.4, "kinds": ["500", "stall", "refusal", "length"]}
    ) as server:
        use(server, tmp_path, monkeypatch)
        with LLMClient.of(settings, tmp_path / "b.sqlite", 4, None, "batch") as client:
            states = [answer.state for answer in client.ask(questions(60), names(60))]
        assert batches(server, settings) == 2
        assert set(states) == {"answered", "refused", "truncated"}
        assert (server.meter()["answers"], server.meter()["most"]) == (60, 1)
        assert accounted(tmp_path) == pytest.approx(server.meter()["usd"]), (
            "nothing stays reserved for what was not charged"
        )


@BOTH
def test_a_request_the_provider_cannot_take_fails_alone_and_for_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    prompts = [*questions(3), [{"role": "user", "content": 7}]]  # no text: a bad request
    monkeypatch.setattr(budget, "most_tokens_in", lambda request: 10)
    with simulated(tmp_path) as server:
        use(server, tmp_path, monkeypatch)
        with LLMClient.of(settings, tmp_path / "b.sqlite", 4, None, "batch") as client:
            answers = client.ask(prompts, names(4))  # type: ignore[arg-type]
        assert [answer.state for answer in answers] == ["answered"] * 3 + ["provider_error"]
        assert "bad request" in answers[3].error and batches(server, settings) == 1
    with LLMClient.of(settings, tmp_path / "b.sqlite", 4, None, "replay") as client:
        assert client.ask(prompts, names(4)) == answers  # type: ignore[arg-type]


PROGRAM = """
import os, sys; from pathlib import Path
from simulated import MESSAGES, SETTINGS, names, questions; from bezoar.llm import batch_run
from bezoar.llm.client import LLMClient
settings = {"SETTINGS": SETTINGS, "MESSAGES": MESSAGES}[sys.argv[1]]
batch_run.POLL_S = 0.05
with LLMClient.of(settings, Path(sys.argv[2]), 4, None, "batch") as client:
    if sys.argv[3] == "unnamed":
        client.model.store.batch_named = lambda number, name: os.kill(os.getpid(), 9)
    client.ask(questions(20), names(20))
"""


@BOTH
@pytest.mark.parametrize("moment", ["waiting", "unnamed"])
def test_after_a_kill_the_batch_is_found_again_not_handed_in_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], moment: str
) -> None:
    """Killed while it waits, or between handing in and writing down the provider's id: the worst
    moment.
    """
    with simulated(tmp_path, batch_s="3" if moment == "waiting" else "0.3") as server:
        use(server, tmp_path, monkeypatch)
        paths = os.pathsep.join([str(Path(__file__).parents[1]), str(SCRIPTS)])
        command = [
            sys.executable,
            "-c",
            PROGRAM,
            "SETTINGS" if settings is SETTINGS else "MESSAGES",
            str(tmp_path / "b.sqlite"),
            moment,
        ]
        child = subprocess.Popen(
            command, env=os.environ | {"PYTHONPATH": paths}, stdout=subprocess.PIPE, text=True
        )
        if moment == "waiting":
            assert child.stdout and "in_progress" in child.stdout.readline()
            child.kill()
        assert child.wait(timeout=20) == -signal.SIGKILL
        with LLMClient.of(settings, tmp_path / "b.sqlite", 4, None, "batch") as client:
            assert {answer.state for answer in client.ask(questions(20), names(20))} == {"answered"}
        assert batches(server, settings) == 1
        assert (server.meter()["answers"], server.meter()["most"]) == (20, 1)
        assert accounted(tmp_path) == pytest.approx(server.meter()["usd"])


@BOTH
def test_a_cancelled_batch_gives_what_was_answered_and_the_rest_is_asked_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    with simulated(tmp_path, batch_s="60") as server:
        use(server, tmp_path, monkeypatch)
        with LLMClient.of(settings, tmp_path / "b.sqlite", 4, None, "batch") as client:
            monkeypatch.setattr(batch_run, "POLL_S", 3600)
            started = time.monotonic()

            async def impatient() -> None:
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(client.model.send(_requests(settings), set()), 2)

            asyncio.run(impatient())
            assert time.monotonic() - started < 10
            cancelled, unsure = client.model.cancel()
            assert (len(cancelled), unsure) == (1, [])
        with LLMClient.of(settings, tmp_path / "b.sqlite", 4, None, "online") as client:
            assert {answer.state for answer in client.ask(questions(20), names(20))} == {"answered"}
            assert client.sent == 10, "half had been answered when it was cancelled"
        assert (server.meter()["answers"], server.meter()["most"]) == (20, 1)
        assert accounted(tmp_path) == pytest.approx(server.meter()["usd"])


def _requests(settings: dict[str, Any]) -> dict[str, Any]:
    requests = [request_of(settings, prompt) for prompt in questions(20)]
    return {key_of(request): request for request in requests}


@BOTH
def test_a_batch_stops_at_the_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    with simulated(tmp_path) as server:
        use(server, tmp_path, monkeypatch)
        monkeypatch.setenv("BEZOAR_BUDGET_USD", "1")
        with (
            LLMClient.of(settings, tmp_path / "b.sqlite", 4, None, "batch") as client,
            pytest.raises(UserError, match="BUDGET_USD=1 is used up"),
        ):
            client.ask(questions(200), names(200))
        assert 0.5 < server.meter()["usd"] <= 1


def test_a_model_without_a_batch_api_is_asked_online(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with simulated(tmp_path) as server:
        use(server, tmp_path, monkeypatch)
        with LLMClient.of(
            {**SETTINGS, "use_batch_api": False}, tmp_path / "b.sqlite", 4, None, "batch"
        ) as client:
            assert {answer.state for answer in client.ask(questions(5), names(5))} == {"answered"}
        assert batches(server, SETTINGS) == 0
