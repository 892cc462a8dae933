"""The settings of a language model, and the request that they make of a prompt.

`ModelSettings` is what a recipe holds, `ModelSpec` the same once it is checked, with a value for
every setting.
"""

import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict

from bezoar.errors import UserError

Messages = list[dict[str, str]]
Request = dict[str, Any]
PROVIDERS = ("openai", "anthropic", "simulator")
APIS = ("chat", "completions", "messages")
# What follows the name in a snapshot of a model: -001, -0613, -240715, -20250929, -2024-08-06,
# -08-2024, @commit. One digit or two are a version, and so another model.
SNAPSHOT = re.compile(r"-(\d{3,4}|\d{6}|\d{8}|\d{4}-\d{2}-\d{2}|\d{2}-\d{2,4})|@\S+", re.ASCII)
SEEDS = ("attempt", "request", None)
OWN_PARAMETERS = frozenset(
    "model messages prompt system stop stop_sequences stream n max_tokens temperature seed"
    " response_format".split()
)


class ModelSettings(TypedDict):
    """A language model behind an API."""

    provider: Literal["openai", "anthropic", "simulator"]
    api: Literal["chat", "completions", "messages"]
    model: str  # the name that the server knows it by
    revision: str | None  # commit or snapshot of the weights
    base_url_env: str | None  # name of the environment variable
    api_key_env: str | None  # name of the environment variable, never the key
    prompt_form: str | None  # for completions; %s stands for the prompt
    stop: list[str]
    temperature: float | None  # null leaves it out of the request
    max_tokens: int | None  # null leaves it out
    timeout_s: float
    reported_as: str | None  # id that the server answers under, if it is not `model`
    json_schema: bool  # whether the server holds answers to a JSON schema
    use_batch_api: bool  # whether MODE=batch goes through the provider's batch API
    max_tokens_name: NotRequired[str]  # the parameter's name, such as max_completion_tokens
    seed: NotRequired[Literal["attempt", "request"] | None]  # drawn from the request, if not given
    extra: NotRequired[dict[str, Any] | None]  # parameters such as {top_p: 0.9}
    api_version: NotRequired[str | None]  # `anthropic-version`, or Azure's `api-version`
    effort: NotRequired[str | None]  # how much a reasoning model reasons; null leaves it out
    context: NotRequired[int | None]  # tokens of prompt and answer together; null: no limit


class ServerSettings(TypedDict):
    """A server of a language model that the workflow starts and ends."""

    program: Literal["vllm", "transformers", "llama.cpp", "xllamacpp"]
    executable: str  # path, or a name on PATH; for xllamacpp a Python that has it
    lock: NotRequired[str | None]  # sha256 of the lock of the server's environment
    weights: NotRequired[str]  # their file, unless the server finds them by the model's name
    requantize: NotRequired[Literal["Q8_0"]]  # the type that quantised weights are given anew
    dtype: str
    quantization: str | None
    tensor_parallel_size: int  # GPUs; 0 for a CPU
    max_model_len: int  # tokens of prompt and answer together
    start_timeout_s: int
    options: NotRequired[dict[str, Any]]  # further ones of its command line, by name


def server_count(options: Mapping[str, Any], name: str) -> int:
    """Return a server's option that is a count, 1 if it is not given; raise `UserError` if it is
    none.
    """
    found = options.get(name, 1)
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise UserError(f"serve.options.{name}: expected 1 or more, found {found!r}")
    return found


def model_of(settings: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return whose model a request or a model's settings name: provider, API and model."""
    return settings["provider"], settings["api"], settings["model"]


@dataclass(frozen=True)
class ModelSpec:
    """The settings of one language model. The seed is `request` (drawn from the whole request, so
    that rows do not share one stream of random numbers), `attempt` (the number of the re-ask, as
    answers that were stored earlier have it) or None (left out).
    """

    provider: str
    api: str
    model: str
    revision: str | None
    base_url_env: str | None
    api_key_env: str | None
    prompt_form: str | None
    stop: list[str]
    temperature: float | None
    max_tokens: int | None
    timeout_s: float
    reported_as: str | None = None
    json_schema: bool = False
    use_batch_api: bool = False
    max_tokens_name: str = "max_tokens"
    seed: str | None = "request"
    extra: dict[str, Any] = field(default_factory=dict)
    api_version: str | None = None
    effort: str | None = None
    context: int | None = None

    @classmethod
    def of(cls, values: "Mapping[str, Any] | ModelSpec") -> "ModelSpec":
        """Read settings; raise `UserError` naming one that is missing, unknown or wrong."""
        if isinstance(values, ModelSpec):
            return values
        if not isinstance(values, Mapping):
            raise UserError(f"model: expected settings by name, found {values!r}")
        name = f"settings of model {values.get('model', '?')}"
        known = {entry.name: entry for entry in fields(cls)}
        for unknown in values.keys() - known.keys():
            hint = ", it is now called `use_batch_api`" if unknown == "batch" else ""
            raise UserError(f"{name}: no setting is called `{unknown}`{hint}; remove or correct it")
        for entry in known.values():
            required = entry.default is MISSING and entry.default_factory is MISSING
            if required and entry.name not in values:
                raise UserError(f"{name}: `{entry.name}` is missing; add it")
        made = cls(**{**values, "extra": {} if (extra := values.get("extra")) is None else extra})
        for problem in made._problems():
            raise UserError(f"{name}: {problem}")
        return made

    def _problems(self) -> list[str]:
        """Return what is wrong with the values, one phrase each."""
        optional = (
            "revision base_url_env api_key_env prompt_form reported_as api_version effort".split()
        )
        texts = ["model", "max_tokens_name"]
        texts += [name for name in optional if getattr(self, name) is not None]
        found = [
            f"`{name}`: expected a text, found {getattr(self, name)!r}"
            for name in texts
            if not isinstance(getattr(self, name), str) or not getattr(self, name)
        ]
        for name, allowed in (("provider", PROVIDERS), ("api", APIS), ("seed", SEEDS)):
            if getattr(self, name) not in allowed:
                words = ", ".join(str(word or "null") for word in allowed)
                found.append(f"`{name}`: expected one of {words}, found {getattr(self, name)!r}")
        if not isinstance(self.stop, list) or not all(isinstance(text, str) for text in self.stop):
            found.append(f"`stop`: expected a list of texts, found {self.stop!r}")
        if self.temperature is not None and not (_number(self.temperature) >= 0):
            found.append(f"`temperature`: expected 0 or more, or null, found {self.temperature!r}")
        for name in ("max_tokens", "context"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or not _number(value) >= 1):
                found.append(f"`{name}`: expected 1 or more, or null, found {value!r}")
        if isinstance(self.prompt_form, str) and "%s" not in self.prompt_form:
            found.append(
                f"`prompt_form`: expected %s where the prompt goes, found {self.prompt_form!r}"
            )
        if self.api == "completions":
            for name, given in (("effort", self.effort), ("json_schema", self.json_schema is True)):
                if given:
                    found.append(f"`{name}`: this API has no place for it; remove it")
        if _number(self.max_tokens) >= _number(self.context):
            found.append(
                f"`max_tokens`: {self.max_tokens} leave no room for a prompt in the `context` of"
                f" {self.context}; lower it"
            )
        if self.max_tokens is None and self.api == "messages":
            found.append("`max_tokens`: this API needs it; give a number")
        if not _number(self.timeout_s) > 0:
            found.append(f"`timeout_s`: expected seconds, found {self.timeout_s!r}")
        for name in ("json_schema", "use_batch_api"):
            if not isinstance(getattr(self, name), bool):
                found.append(f"`{name}`: expected true or false, found {getattr(self, name)!r}")
        if not isinstance(self.extra, dict):
            found.append(f"`extra`: expected parameters by name, found {self.extra!r}")
        else:
            found += [
                f"`extra`: `{name}` is set by a setting or by the client itself; remove it"
                for name in sorted(self._sent() & self.extra.keys())
            ]
        return found

    def _sent(self) -> set[str]:
        """Return the names of parameters that the client writes itself, whatever `extra` says."""
        sent = {*OWN_PARAMETERS, self.max_tokens_name}
        if self.effort is not None:
            sent.add("output_config" if self.api == "messages" else "reasoning_effort")
        return sent


def _number(value: object) -> float:
    """Return a value if it is a number, else NaN, which no comparison holds for."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) else float("nan")


def request_of(
    settings: "ModelSpec | Mapping[str, Any]",
    messages: Messages,
    attempt: int = 0,
    schema: dict[str, Any] | None = None,
) -> Request:
    """Return the canonical request: what decides the answer, and nothing else (no address, no key,
    no time).

    Settings that were added later are part of it only where they are used, so that answers which
    were stored before keep their keys.
    """
    used = ModelSpec.of(settings)
    request: Request = {
        "provider": used.provider,
        "api": used.api,
        "model": used.model,
        "revision": used.revision,
        "messages": messages,
        "prompt_form": used.prompt_form,
        "stop": used.stop,
        "temperature": used.temperature,
        "max_tokens": used.max_tokens,
        "attempt": attempt,
    }
    if schema and used.json_schema:
        request["schema"] = schema
    if used.max_tokens_name != "max_tokens":
        request["max_tokens_name"] = used.max_tokens_name
    if used.seed != "attempt":
        request["seed"] = used.seed
    if used.extra:
        request["extra"] = used.extra
    if used.api_version is not None:
        request["api_version"] = used.api_version
    if used.effort is not None:
        request["effort"] = used.effort
    return request


def same_model(asked: str, reported: str) -> bool:
    """Say whether a server's model id means the model asked for: itself, a snapshot of it with a
    date or the number of a build, or a commit of it.
    """
    ending = reported.removeprefix(asked)
    return reported.startswith(asked) and (not ending or SNAPSHOT.fullmatch(ending) is not None)
