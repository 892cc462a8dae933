"""The protocols of language-model servers: a request in the terms of an official client, and a
response read into one form of answer.
"""

import json
from collections.abc import Callable
from typing import Any

ENDPOINTS = {
    "chat": "/v1/chat/completions",
    "completions": "/v1/completions",
    "messages": "/v1/messages",
}


def arguments(request: dict[str, Any]) -> dict[str, Any]:
    """Return the body of one call; `stop`, the attempt and a JSON schema go along where the
    protocol has a place for them.
    """
    common: dict[str, Any] = {
        "model": request["model"],
        "max_tokens": request["max_tokens"],
        "temperature": request["temperature"],
    }
    stop, messages, schema = request["stop"], request["messages"], request.get("schema")
    if request["api"] == "messages":
        system = "\n\n".join(
            message["content"] for message in messages if message["role"] == "system"
        )
        return {
            **common,
            "messages": [m for m in messages if m["role"] != "system"],
            **({"system": system} if system else {}),
            **({"stop_sequences": stop} if stop else {}),
            **(
                {"output_config": {"format": {"type": "json_schema", "schema": schema}}}
                if schema
                else {}
            ),
        }
    common |= {"seed": request["attempt"], **({"stop": stop} if stop else {})}
    if request["api"] == "completions":
        return {
            **common,
            "prompt": (
                (request["prompt_form"] or "%s").replace(
                    "%s", "\n\n".join(m["content"] for m in messages)
                )
            ),
        }
    form = {
        "type": "json_schema",
        "json_schema": {"name": "answer", "strict": True, "schema": schema},
    }
    return {**common, "messages": messages, **({"response_format": form} if schema else {})}


async def call(client: Any, request: dict[str, Any]) -> tuple[str, Any]:
    """Make one call through the official SDK; return the response's text as it came, and its
    headers.
    """
    body = arguments(request)
    if request["api"] == "messages":
        extra = {
            "temperature": body.pop("temperature")
        }  # a field of the protocol that the SDK has no argument for
        said = await client.messages.with_raw_response.create(**body, extra_body=extra)
        return await said.text(), said.headers
    place = client.completions if request["api"] == "completions" else client.chat.completions
    said = await place.with_raw_response.create(**body)
    return said.text, said.headers


def read_text(text: str, api: str) -> dict[str, Any]:
    """Return the answer in a response's text; raise `ValueError` if that is not of the protocol
    (HTML, no choices, a missing field).
    """
    return read(json.loads(text), api)


def read(said: Any, api: str) -> dict[str, Any]:
    """Return the answer in a response's JSON: state, text, usage, model and finish reason; raise
    `ValueError` if it is not of the protocol.

    Half a surrogate pair, which a model can emit in the middle of a character, becomes U+FFFD: it
    cannot be written as UTF-8.
    """
    reader: Callable[[Any], dict[str, Any]] = read_message if api == "messages" else read_choice
    try:
        answer = reader(said)
        answer["text"] = (
            answer["text"].encode("utf-16", "surrogatepass").decode("utf-16", "replace").strip()
        )
    except (AttributeError, IndexError, KeyError, TypeError):
        raise ValueError(f"not an answer of this protocol: {str(said)[:100]}") from None
    if answer["state"] == "answered" and not answer["text"]:
        answer["state"] = "unparsable"
    return answer


def read_message(said: dict[str, Any]) -> dict[str, Any]:
    """Return an answer in Anthropic's protocol."""
    text = "".join(block["text"] for block in said["content"] if block["type"] == "text")
    state = {"max_tokens": "truncated", "refusal": "refused"}.get(said["stop_reason"], "answered")
    usage = {"input": said["usage"]["input_tokens"], "output": said["usage"]["output_tokens"]}
    return {
        "state": state,
        "text": text,
        "usage": usage,
        "model": said["model"],
        "finish": said["stop_reason"] or "",
    }


def read_choice(said: dict[str, Any]) -> dict[str, Any]:
    """Return an answer in OpenAI's protocol, chat or completions."""
    choice = said["choices"][0]
    message, reason = choice.get("message"), choice["finish_reason"]
    text, refusal = (
        (message.get("content"), message.get("refusal"))
        if message is not None
        else (choice["text"], None)
    )
    state = (
        "refused"
        if refusal or reason == "content_filter"
        else "truncated"
        if reason == "length"
        else "answered"
    )
    usage = (
        {"input": said["usage"]["prompt_tokens"], "output": said["usage"]["completion_tokens"]}
        if said.get("usage")
        else {}
    )
    return {
        "state": state,
        "text": text or "",
        "usage": usage,
        "model": said["model"],
        "finish": reason or "",
    }
