"""Promises of a model's settings: what they put into a request, and that keys of stored answers
stay what they were.
"""

from pathlib import Path
from typing import Any

import pytest
import yaml
from peer import SETTINGS

from bezoar.errors import UserError
from bezoar.llm.answer_store import key_of
from bezoar.llm.protocol import arguments
from bezoar.llm.settings import SEEDS, ModelSettings, ModelSpec, request_of, same_model

PROMPT = [{"role": "user", "content": "a"}]
NEW = {
    "max_tokens_name": "max_completion_tokens",
    "seed": None,
    "extra": {"reasoning_effort": "low"},
    "api_version": "2023-06-01",
    "effort": "low",
}
OLD = {**SETTINGS, "seed": "attempt"}  # as every request was before seeds were drawn from requests


def body(**changes: Any) -> dict[str, Any]:
    return arguments(request_of({**SETTINGS, **changes}, PROMPT, 3))


def test_keys_of_answers_that_were_stored_before_a_setting_existed_stay_the_same() -> None:
    """`known` was computed by the client as it was before the settings in `NEW` existed."""
    known = "f30213915c58ff64b190c917cc6b1ff0564a1aeef982915d22c78bbd597263ab"
    assert key_of(request_of(OLD, PROMPT)) == known
    defaults = {"max_tokens_name": "max_tokens", "extra": {}, "api_version": None, "effort": None}
    assert key_of(request_of({**OLD, **defaults}, PROMPT)) == known


@pytest.mark.parametrize("name", NEW)
def test_a_setting_that_is_used_is_part_of_the_key(name: str) -> None:
    used = request_of({**SETTINGS, name: NEW[name]}, PROMPT)
    assert key_of(used) != key_of(request_of(SETTINGS, PROMPT))


def test_the_kind_of_seed_is_part_of_the_key() -> None:
    keys = {key_of(request_of({**SETTINGS, "seed": seed}, PROMPT)) for seed in SEEDS}
    assert len(keys) == 3 and key_of(request_of(SETTINGS, PROMPT)) in keys


def test_parameters_that_a_model_refuses_are_left_out_or_renamed() -> None:
    assert body(seed="attempt") == {
        "model": "m",
        "max_tokens": 9,
        "temperature": 0.5,
        "seed": 3,
        "messages": PROMPT,
    }
    assert body(max_tokens=None, temperature=None, seed=None) == {"model": "m", "messages": PROMPT}
    renamed = body(max_tokens_name="max_completion_tokens", extra={"reasoning_effort": "low"})
    assert (renamed["max_completion_tokens"], renamed["reasoning_effort"]) == (9, "low")
    assert "max_tokens" not in renamed
    assert "temperature" not in body(api="messages", temperature=None)


def test_a_seed_of_the_request_differs_from_row_to_row_and_stays_what_it_is() -> None:
    def seed(text: str, attempt: int = 0) -> int:
        prompt = [{"role": "user", "content": text}]
        return arguments(request_of(SETTINGS, prompt, attempt))["seed"]

    assert seed("a") == seed("a")
    assert len({seed("a"), seed("b"), seed("a", 1)}) == 3
    assert all(0 <= seed(str(i)) < 2**31 for i in range(50))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch": True}, "no setting is called `batch`, it is now called `use_batch_api`"),
        ({"temprature": 1}, "no setting is called `temprature`"),
        ({"model": ""}, "`model`: expected a text"),
        ({"provider": "opneai"}, "`provider`: expected one of openai, anthropic, simulator"),
        ({"api": "responses"}, "`api`: expected one of"),
        ({"temperature": "hot"}, "`temperature`: expected 0 or more, or null"),
        ({"temperature": float("nan")}, "`temperature`"),
        ({"max_tokens": 0}, "`max_tokens`: expected 1 or more"),
        ({"max_tokens": True}, "`max_tokens`"),
        ({"api": "messages", "max_tokens": None}, "`max_tokens`: this API needs it"),
        ({"timeout_s": None}, "`timeout_s`: expected seconds"),
        ({"stop": "END"}, "`stop`: expected a list of texts"),
        ({"json_schema": "yes"}, "`json_schema`: expected true or false"),
        ({"seed": 7}, "`seed`: expected one of attempt, request, null"),
        ({"extra": {"stream": True}}, "`extra`: `stream` is set by a setting"),
        ({"extra": []}, "`extra`: expected parameters by name"),
        ({"prompt_form": 7}, "`prompt_form`: expected a text"),
    ],
)
def test_a_wrong_setting_is_one_line_that_names_it(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as raised:
        ModelSpec.of({**SETTINGS, **changes})
    assert message in str(raised.value) and "\n" not in str(raised.value)


def test_null_takes_away_the_parameters_of_the_configuration_below() -> None:
    assert ModelSpec.of({**SETTINGS, "extra": None}) == ModelSpec.of({**SETTINGS, "extra": {}})


@pytest.mark.parametrize("name", SETTINGS)
def test_a_missing_setting_is_one_line_that_names_it(name: str) -> None:
    with pytest.raises(UserError, match=f"`{name}` is missing"):
        ModelSpec.of({key: value for key, value in SETTINGS.items() if key != name})


@pytest.mark.parametrize(
    ("asked", "reported", "same"),
    [
        ("m", "m", True),
        ("gpt-4", "gpt-4-0613", True),
        ("gemini-2.0-flash", "gemini-2.0-flash-001", True),
        ("doubao-pro", "doubao-pro-240715", True),
        ("claude-sonnet-4-5", "claude-sonnet-4-5-20250929", True),
        ("gpt-4o", "gpt-4o-2024-08-06", True),
        ("command-r", "command-r-08-2024", True),
        ("gemini-2.5-flash-preview", "gemini-2.5-flash-preview-05-20", True),
        ("org/m", "org/m@0123abc", True),
        ("claude-sonnet-5", "claude-sonnet-5-5", False),
        ("claude-sonnet-4", "claude-sonnet-4-5-20250929", False),
        ("gpt-4", "gpt-4-1", False),
        ("gpt-4", "gpt-4o", False),
        ("m", "m-7-13", False),
        ("m", "m-", False),
        ("m", "other", False),
        ("m.1", "mx1", False),
    ],
)
def test_a_dated_snapshot_is_the_same_model_and_another_version_is_not(
    asked: str, reported: str, same: bool
) -> None:
    assert same_model(asked, reported) is same


def test_the_configurations_schema_knows_every_setting() -> None:
    path = Path(__file__).parents[3] / "config" / "schema.yaml"
    schema = yaml.safe_load(path.read_text(encoding="utf-8"))["$defs"]["model"]
    assert set(schema["properties"]) == set(ModelSpec.__dataclass_fields__)
    assert set(schema["properties"]) == set(ModelSettings.__annotations__)
    assert set(schema["required"]) == {*SETTINGS, "reported_as", "json_schema", "use_batch_api"}
