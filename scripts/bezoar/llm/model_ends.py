"""When a provider's model ends: what the provider itself says, and a dated list for where it cannot
be asked.

OpenAI: `GET /v1/models/<id>` has `shutdown_date`, YYYY-MM-DD or null. Anthropic: the same path has
`lifecycle` (active, deprecated, retired) and `retires_at`, an RFC 3339 time or null, which is a
plan until `lifecycle` says retired. A server of one's own has only the list, `GET /v1/models`.
"""

from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

from bezoar.errors import UserError
from bezoar.llm.connection import Connection
from bezoar.llm.faults import Blame, Fault
from bezoar.llm.settings import ModelSpec, same_model
from bezoar.readers import read_yaml

LIST = Path(__file__).parents[3] / "config" / "model_ends.yaml"
TIMEOUT_S = 10.0
SOON_DAYS = 60  # the shortest notice that a provider gives of a released model's end


@dataclass(frozen=True)
class ModelEnd:
    """What is known of a model's end: `day` is None if none is announced, `retired` what the
    provider says itself, None if it leaves that to the day.
    """

    day: date | None
    source: str
    retired: bool | None = None

    def gone(self, today: date) -> bool:
        """Whether the model can no longer be asked."""
        by_day = self.day is not None and self.day <= today
        return by_day if self.retired is None else self.retired

    def soon(self, today: date) -> bool:
        """Whether it ends within `SOON_DAYS`, or is overdue."""
        return self.day is not None and (self.day - today).days <= SOON_DAYS


def listed_end(settings: ModelSpec) -> ModelEnd | None:
    """Return what the dated list says of a model, or None if it does not name it."""
    entries = read_yaml(LIST)
    provider = entries["providers"].get(settings.provider)
    if provider is None or settings.model not in provider["ends"]:
        return None
    day = date.fromisoformat(str(provider["ends"][settings.model]))
    return ModelEnd(day, f"{provider['source']}, as of {entries['date']}")


def substitute(settings: ModelSpec) -> str:
    """Return a model of the same provider that no end is announced for."""
    provider = read_yaml(LIST)["providers"].get(settings.provider)
    return str(provider["use"]) if provider else "another one"


def warning(settings: ModelSpec, end: ModelEnd | None, today: date) -> str:
    """Return that a model is gone, or as a note that it ends soon, and what to do; else nothing."""
    if end is None or not (end.gone(today) or end.soon(today)):
        return ""
    use = f"name another one in the config, such as {substitute(settings)}, as a deviation"
    if end.gone(today):
        day = f" on {end.day}" if end.day else ""
        return f"{settings.model} was shut down{day} ({end.source}); {use}"
    assert end.day is not None
    days = (end.day - today).days
    when = f"ends on {end.day}, in {days} days" if days > 0 else f"was to end on {end.day}"
    return f"note: {settings.model} {when} ({end.source}); be done before, or {use}"


async def asked_end(settings: ModelSpec) -> ModelEnd:
    """Ask a provider when its model ends.

    Raises `Fault` if it does not answer, or not to this key; `UserError` with one line if it does
    not know the model, does not know the key, or the key is not there.
    """
    body = await _get(settings, f"/v1/models/{settings.model}")
    try:
        if settings.provider == "anthropic":
            when, retired = body.get("retires_at"), body["lifecycle"] == "retired"
            day = date.fromisoformat(when[:10]) if when else None
            return ModelEnd(day, "the provider's own answer", retired)
        when = body.get("shutdown_date")
        return ModelEnd(date.fromisoformat(when) if when else None, "the provider's own answer")
    except (AttributeError, KeyError, TypeError, ValueError):
        raise Fault(f"not a description of a model: {str(body)[:80]}") from None


async def not_served(settings: ModelSpec) -> str:
    """Ask a server of one's own what it serves; return a line if the model is not among that.

    Raises `Fault` if it does not answer in the protocol, and `UserError` as `asked_end` does.
    """
    body = await _get(settings, "/v1/models")
    try:
        names = [str(row["id"]) for row in body["data"]]
    except (KeyError, TypeError):
        raise Fault(f"not a list of models: {str(body)[:80]}") from None
    if any(same_model(wanted, name) for name in names for wanted in _names(settings)):
        return ""
    listed = ", ".join(names[:5]) or "nothing"
    return (
        f"the server in {settings.base_url_env} serves {listed} and not {settings.model}; correct"
        " `model`, or serve it under that name"
    )


def _names(settings: ModelSpec) -> list[str]:
    return [settings.model, *([settings.reported_as] if settings.reported_as else [])]


async def _get(settings: ModelSpec, path: str) -> Any:
    """Return the JSON at a path of a model's server."""
    connection = Connection(replace(settings, timeout_s=TIMEOUT_S), None)
    async with connection.client() as sdk_client:
        try:
            return (await connection.transport(sdk_client).get(path)).json()
        except Fault as fault:
            # A key may be allowed to ask a model, and not to read of one.
            closed = fault.status == 403 or "missing scopes" in str(fault).lower()
            nameless = settings.base_url_env and fault.status == 404
            if fault.blame is Blame.PASSING or closed or nameless:
                raise
            raise UserError(connection.hint(fault)) from None
