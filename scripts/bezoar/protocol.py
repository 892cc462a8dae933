"""The two protocols of language-model servers: one call through an official client, read into one form of answer."""

from collections.abc import Callable
from typing import Any


async def call(client: Any, request: dict[str, Any]) -> dict[str, Any]:
    """Make one call through the official SDK; `stop` and the attempt go along where the protocol has a place for them."""
    common: dict[str, Any] = {"model": request["model"], "max_tokens": request["max_tokens"]}
    stop, messages, seed = request["stop"] or None, request["messages"], request["attempt"]
    if request["api"] == "messages":
        system = "\n\n".join(message["content"] for message in messages if message["role"] == "system")
        extra: dict[str, Any] = {"system": system} if system else {}
        extra |= {"stop_sequences": stop} if stop else {}
        said = await client.messages.create(
            **common, **extra, messages=[m for m in messages if m["role"] != "system"],
            extra_body={"temperature": request["temperature"]},  # a field of the protocol that the SDK has no argument for
        )  # fmt: skip
        return read(read_message, said)
    common["temperature"] = request["temperature"]
    if request["api"] == "completions":
        prompt = (request["prompt_form"] or "%s").replace("%s", "\n\n".join(m["content"] for m in messages))
        return read(read_choice, await client.completions.create(**common, prompt=prompt, stop=stop, seed=seed))
    return read(read_choice, await client.chat.completions.create(**common, messages=messages, stop=stop, seed=seed))


def read(reader: Callable[[Any], dict[str, Any]], said: Any) -> dict[str, Any]:
    """Return what a server said as an answer; raise `ValueError` if it is not of the protocol (HTML, no choices, a missing field).

    Half a surrogate pair, which a model can emit in the middle of a character, becomes U+FFFD: it cannot be written as UTF-8.
    """
    try:
        answer = reader(said)
    except (AttributeError, IndexError, KeyError, TypeError):
        raise ValueError(f"not an answer of this protocol: {str(said)[:100]}") from None
    answer["text"] = answer["text"].encode("utf-16", "surrogatepass").decode("utf-16", "replace").strip()
    if answer["state"] == "answered" and not answer["text"]:
        answer["state"] = "empty"
    return answer


def read_message(said: Any) -> dict[str, Any]:
    """Return an answer in Anthropic's protocol."""
    text = "".join(block.text for block in said.content if block.type == "text")
    state = {"max_tokens": "truncated", "refusal": "refused"}.get(said.stop_reason, "answered")
    usage = {"input": said.usage.input_tokens, "output": said.usage.output_tokens}
    return {"state": state, "text": text, "usage": usage, "model": said.model, "finish": said.stop_reason or ""}


def read_choice(said: Any) -> dict[str, Any]:
    """Return an answer in OpenAI's protocol, chat or completions."""
    choice, reason = said.choices[0], said.choices[0].finish_reason
    text, refusal = (choice.message.content, choice.message.refusal) if hasattr(choice, "message") else (choice.text, None)
    state = "refused" if refusal or reason == "content_filter" else "truncated" if reason == "length" else "answered"
    usage = {"input": said.usage.prompt_tokens, "output": said.usage.completion_tokens} if said.usage else {}
    return {"state": state, "text": text or "", "usage": usage, "model": said.model, "finish": reason or ""}
