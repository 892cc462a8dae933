"""Promises about the providers of today: every model that a shipped configuration names is taken
with the settings it has there, and what they no longer take ends in one line.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from batch_peer import BatchPeer, good, good_message, lines
from peer import SETTINGS
from provider_rules import KEY, Providers

from bezoar.errors import UserError
from bezoar.llm import batch_run, connection
from bezoar.llm.answer_store import Store
from bezoar.llm.client import LLMClient
from bezoar.llm.connection import Connection
from bezoar.llm.language_model import Answer
from bezoar.llm.settings import ModelSpec
from bezoar.workflow.configuration import resolved
from bezoar.workflow.layout import models_asked

ROOT = Path(__file__).parents[3]
CONFIGS = [
    ["config/paper.yaml"],
    ["config/released.yaml"],
    ["config/paper.yaml", "config/second-judge.yaml"],
]


@pytest.fixture
def providers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Providers]:
    running = Providers()
    addresses = {"openai": f"{running.url}/openai/v1", "anthropic": f"{running.url}/anthropic"}
    monkeypatch.setattr(connection, "ADDRESSES", addresses)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    monkeypatch.chdir(ROOT)
    yield running
    running.stop()


def commercial(names: list[str]) -> dict[str, dict[str, Any]]:
    """Settings by role of the models that a provider has, not one's own server."""
    found = dict(models_asked(resolved(names)))
    return {role: settings for role, settings in found.items() if not settings["base_url_env"]}


def ask(folder: Path, settings: dict[str, Any]) -> Answer:
    with LLMClient.of(settings, folder / "s.sqlite", 1, None, "online") as client:
        return client.ask([[{"role": "user", "content": "Fine?"}]], ["a"])[0]


SENT = {
    "OPENAI_CUSTOM_HEADERS": "X-Gateway: canary-gateway",
    "ANTHROPIC_CUSTOM_HEADERS": "X-Gateway: canary-gateway",
    "OPENAI_ORG_ID": "canary-org",
    "OPENAI_PROJECT_ID": "canary-project",
}


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
@pytest.mark.parametrize("base_url_env", [None, "TEACHER_BASE_URL"])
def test_a_gateways_secret_goes_to_no_server_and_an_account_to_its_own_only(
    monkeypatch: pytest.MonkeyPatch, provider: str, base_url_env: str | None
) -> None:
    for name, value in {**SENT, "TEACHER_BASE_URL": "http://localhost:1/v1", "K": KEY}.items():
        monkeypatch.setenv(name, value)
    api = "chat" if provider == "openai" else "messages"
    place = {"provider": provider, "api": api, "base_url_env": base_url_env, "api_key_env": "K"}
    client = Connection(ModelSpec.of({**SETTINGS, **place}), None).client()
    headers = str(client.default_headers)
    assert "canary-gateway" not in headers
    own = provider == "openai" and base_url_env is None
    assert ("canary-org" in headers, "canary-project" in headers) == (own, own)
    assert {name: os.environ[name] for name in SENT} == SENT


@pytest.mark.parametrize("names", CONFIGS)
def test_every_model_of_a_shipped_configuration_is_taken_as_it_is_set(
    tmp_path: Path, providers: Providers, names: list[str]
) -> None:
    roles = commercial(names)
    assert "judge" in roles
    for role, settings in roles.items():
        answer = ask(tmp_path / role, settings)
        assert (answer.state, answer.model) == ("answered", settings["model"]), role


@pytest.mark.parametrize("names", CONFIGS)
def test_a_batch_holds_what_the_provider_takes_online(
    tmp_path: Path, providers: Providers, monkeypatch: pytest.MonkeyPatch, names: list[str]
) -> None:
    peer = BatchPeer()
    monkeypatch.setattr(
        connection, "ADDRESSES", {"openai": f"{peer.url}/v1", "anthropic": peer.url}
    )
    monkeypatch.setattr(batch_run, "POLL_S", 0.01)
    batched = {role: s for role, s in commercial(names).items() if s["use_batch_api"]}
    assert "judge" in batched
    for role, settings in batched.items():
        line = good_message if settings["provider"] == "anthropic" else good
        peer.results = lambda keys, _, line=line: (lines(*map(line, keys)), None)
        with LLMClient.of(settings, tmp_path / f"{role}.sqlite", 1, None, "batch") as client:
            client.ask([[{"role": "user", "content": "Fine?"}]], ["a"])
        (body, headers), peer.handed_in = peer.handed_in[0], []
        takes = getattr(providers, settings["provider"])
        assert takes("", body, SimpleNamespace(headers=headers))["model"] == settings["model"]
    peer.stop()


def test_the_rater_is_asked_greedily_and_does_not_reason(
    tmp_path: Path, providers: Providers
) -> None:
    ask(tmp_path, commercial(CONFIGS[0])["rater"])
    assert providers.seen == [
        {
            "model": "gpt-5.5-2026-04-23",
            "messages": [{"role": "user", "content": "Fine?"}],
            "max_completion_tokens": 256,
            "temperature": 0.0,
            "reasoning_effort": "none",
        }
    ]


def test_the_judge_is_asked_without_sampling_parameters(
    tmp_path: Path, providers: Providers
) -> None:
    ask(tmp_path, commercial(CONFIGS[0])["judge"])
    assert providers.seen == [
        {
            "model": "claude-sonnet-5-5",
            "messages": [{"role": "user", "content": "Fine?"}],
            "max_tokens": 8192,
            "output_config": {"effort": "low"},
        }
    ]


@pytest.mark.parametrize(
    ("role", "changes", "line"),
    [
        ("judge", {"temperature": 0.0}, r"temperature: Extra inputs.*change `temperature`"),
        ("judge", {"temperature": 1.0}, r"temperature: Extra inputs.*change `temperature`"),
        ("judge", {"temperature": 0.0, "api_version": None}, "change `temperature`"),
        ("judge", {"temperature": 0.0, "api_version": "2023-06-01"}, "change `temperature`"),
        ("judge", {"api_version": "2020-01-01"}, "change `api_version`"),
        ("judge", {"effort": "none"}, "change `effort`"),
        ("judge", {"model": "claude-2.1"}, "check `model`"),
        ("rater", {"max_tokens_name": "max_tokens"}, "change `max_tokens`"),
        ("rater", {"effort": None}, r"temperature.*change `temperature`"),
        ("rater", {"effort": "deep"}, "change `effort`"),
        ("rater", {"model": "gpt-4-0613"}, "check `model`"),
    ],
)
def test_what_a_provider_no_longer_takes_is_one_line_that_names_the_setting(
    tmp_path: Path, providers: Providers, role: str, changes: dict[str, Any], line: str
) -> None:
    settings = commercial(CONFIGS[0])[role]
    with pytest.raises(UserError, match=line) as raised:
        ask(tmp_path, {**settings, **changes})
    assert "\n" not in str(raised.value)
    store = Store(tmp_path / "s.sqlite")
    assert list(store.rows()) == [], "nothing is stored that other settings would change"
    store.close()
    assert ask(tmp_path, settings).state == "answered"


def test_an_older_version_of_the_api_still_takes_a_temperature_where_the_model_does(
    tmp_path: Path, providers: Providers
) -> None:
    changes = {"model": "claude-sonnet-4-5-20250929", "temperature": 0.0, "effort": None}
    settings = {**commercial(CONFIGS[0])["judge"], **changes, "api_version": "2023-06-01"}
    assert ask(tmp_path, settings).state == "answered"
    assert providers.seen[-1]["temperature"] == 0.0


@pytest.mark.parametrize("schema", [None, {"type": "object"}])
def test_effort_has_the_name_of_each_protocol_and_is_part_of_the_key(
    schema: dict[str, Any] | None,
) -> None:
    from bezoar.llm.answer_store import key_of
    from bezoar.llm.protocol import arguments
    from bezoar.llm.settings import request_of

    roles = commercial(CONFIGS[0])
    for role, path in (("rater", ("reasoning_effort",)), ("judge", ("output_config", "effort"))):
        settings = {**roles[role], "json_schema": True, "effort": "high"}
        request = request_of(settings, [{"role": "user", "content": "a"}], schema=schema)
        found: Any = arguments(request)
        for name in path:
            found = found[name]
        assert found == "high"
        other = request_of({**settings, "effort": "low"}, request["messages"], schema=schema)
        assert key_of(request) != key_of(other)
