"""The settings of a language model and of a server that serves one, as recipes hold them."""

from typing import Literal

from typing_extensions import TypedDict


class ModelSettings(TypedDict):
    """A language model behind an API."""

    provider: Literal["openai", "anthropic", "simulator"]
    api: Literal["chat", "completions", "messages"]
    model: str
    revision: str | None
    base_url_env: str | None  # name of the environment variable
    api_key_env: str | None  # name of the environment variable, never the key
    prompt_form: str | None  # for completions; %s stands for the prompt
    stop: list[str]
    temperature: float
    max_tokens: int
    timeout_s: float
    reported_as: str | None  # id that the server answers under, if it is not `model`
    json_schema: bool  # whether the server holds answers to a JSON schema
    batch: bool  # whether MODE=batch goes through the provider's batch API


class ServerSettings(TypedDict):
    """A server of a language model that the workflow starts and ends."""

    program: Literal["vllm", "transformers"]
    executable: str  # path
    dtype: str
    quantization: str | None
    tensor_parallel_size: int  # GPUs; 0 for a CPU
    max_model_len: int  # tokens of prompt and answer together
    start_timeout_s: int
