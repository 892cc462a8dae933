"""The protocols of language-model servers: the body of a request, and a response read into one form
of answer.

How an answer ended decides its state. Only known good ends are `answered`. An end that the server
itself calls an error, and one that it does not name, are transient: the request is sent again. Any
other end, such as a tool call, is `unparsable`: not what was asked for.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from bezoar.llm.answer_store import key_of
from bezoar.llm.faults import Fault, codes_of, error_of, message_of, whole_characters
from bezoar.llm.reasoning import cut_at, split_reasoning, without_turn_beginning, without_turn_end
from bezoar.llm.settings import Request
from bezoar.readers import parse_response

ENDPOINTS = {
    "chat": "/v1/chat/completions",
    "completions": "/v1/completions",
    "messages": "/v1/messages",
}
# Finish reasons of both protocols and of servers that speak OpenAI's, in lower case.
ANSWERED = frozenset("stop end_turn stop_sequence eos eos_token".split())
TRUNCATED = frozenset(
    "length max_tokens max_output_tokens model_length model_context_window_exceeded".split()
)
REFUSED = frozenset(
    "content_filter refusal safety sensitive recitation prohibited_content blocklist spii".split()
)
BROKEN_OFF = frozenset(
    "error abort aborted cancelled network_error insufficient_system_resource overloaded"
    " timeout server_error".split()
)


class Unreadable(ValueError):
    """A response that is not of the protocol: HTML, no choices, a missing or wrong field."""


def arguments(request: Request) -> dict[str, Any]:
    """Return the body of one call; `stop`, the seed, a JSON schema and the effort go along where
    the protocol has a place for them.
    """
    body: dict[str, Any] = {"model": request["model"], **request.get("extra", {})}
    effort = request.get("effort")
    if request["max_tokens"] is not None:
        body[request.get("max_tokens_name", "max_tokens")] = request["max_tokens"]
    if request["temperature"] is not None:
        body["temperature"] = request["temperature"]
    stop, messages, schema = request["stop"], request["messages"], request.get("schema")
    if request["api"] == "messages":
        system = [m["content"] for m in messages if m["role"] == "system"]
        body["messages"] = [m for m in messages if m["role"] != "system"]
        if system:
            body["system"] = "\n\n".join(system)
        if stop:
            body["stop_sequences"] = stop
        output = {"effort": effort} if effort else {}
        if schema:
            output["format"] = {"type": "json_schema", "schema": schema}
        if output:
            body["output_config"] = {**body.get("output_config", {}), **output}
        return body
    seed = seed_of(request)
    if seed is not None:
        body["seed"] = seed
    if stop:
        body["stop"] = stop
    if request["api"] == "completions":
        whole = "\n\n".join(m["content"] for m in messages)
        body["prompt"] = (request["prompt_form"] or "%s").replace("%s", whole)
        return body
    body["messages"] = messages
    if effort:
        body["reasoning_effort"] = effort
    if schema:
        form = {"name": "answer", "strict": True, "schema": schema}
        body["response_format"] = {"type": "json_schema", "json_schema": form}
    return body


def seed_of(request: Request) -> int | None:
    """Return the seed that goes along: the attempt, a number of 31 bits that depends on the whole
    request, or none.
    """
    kind = request.get("seed", "attempt")
    if kind == "request":
        return int(key_of(request)[:8], 16) >> 1
    attempt: int = request["attempt"]
    return attempt if kind == "attempt" else None


def read_text(text: str, api: str, stop: Sequence[str] = ()) -> dict[str, Any]:
    """Return the answer in a response's text; see `read`."""
    try:
        body = parse_response(text)
    except ValueError as error:
        raise Unreadable(f"not JSON: {error}; {text[:60]!r}") from None
    return read(body, api, stop)


def read(body: object, api: str, stop: Sequence[str] = ()) -> dict[str, Any]:
    """Return the answer in a response's JSON: state, text, usage, model and finish reason, and the
    reasoning before it, if there was any. What follows one of the request's `stop` texts is no part
    of it, and an answer that is cut there has not run into a limit.

    Raises `Fault` for an error in place of an answer and for an answer that broke off, and
    `Unreadable` if the response is not of the protocol. The model is empty if the server names
    none, which is no sign of another one. Half a surrogate pair becomes U+FFFD. Usage that is
    missing, no whole number or wrongly 0 is left out: unknown.
    """
    try:
        if isinstance(body, dict) and body.get("error") and not body.get("choices"):
            raise _fault_of(body)
        answer = read_message(body) if api == "messages" else read_choice(body)
    except (AttributeError, IndexError, KeyError, TypeError):
        raise Unreadable(f"not an answer of this protocol: {str(body)[:100]}") from None
    turn = without_turn_beginning(answer["text"])
    reasoning, whole, closed = split_reasoning(turn)
    reasons = [part.strip() for part in (answer.pop("reasoning"), reasoning) if part.strip()]
    # the space between reasoning and an answer is no stop text
    text, stopped = cut_at(whole if whole == turn else whole.lstrip(), stop)
    answer["text"] = whole_characters(without_turn_end(text)).strip()
    answer["model"] = whole_characters(answer["model"])
    answer["finish"] = whole_characters(answer["finish"])
    if reasons:
        answer["reasoning"] = whole_characters("\n\n".join(reasons))
    if stopped and answer["state"] == "truncated":
        answer["state"] = "answered"
    if not closed and answer["state"] == "answered":
        answer["state"] = "truncated"
    if answer["state"] == "answered" and not is_visible(answer["text"]):
        answer["state"] = "unparsable"
    return answer


def is_visible(text: str) -> bool:
    """Whether a text shows anything: a zero-width space is nothing."""
    return any(not char.isspace() and unicodedata.category(char) != "Cf" for char in text)


def read_message(body: Any) -> dict[str, Any]:
    """Return an answer in Anthropic's protocol."""
    content = body["content"] if body["content"] is not None else []
    text, reasoning, refused = _joined(content)
    return {
        "state": "refused" if refused else _state(body["stop_reason"]),
        "text": text,
        "reasoning": reasoning,
        "usage": _known(_usage_of_message(body.get("usage")), text or reasoning),
        "model": _text(body.get("model")),
        "finish": _text(body["stop_reason"]),
    }


def read_choice(body: Any) -> dict[str, Any]:
    """Return an answer in OpenAI's protocol, chat or completions."""
    choice = body["choices"][0]
    message, reason = choice.get("message"), choice["finish_reason"]
    state = _state(reason)
    if message is None:  # a filter may leave nothing of an answer
        text = _text(choice["text"] if state != "refused" else choice.get("text"))
        reasoning, refused = "", False
    else:
        content = message.get("content")
        text, reasoning, refused = _joined(content if content is not None else "")
        apart = message.get("reasoning_content") or message.get("reasoning")
        reasoning = apart if isinstance(apart, str) else reasoning
        refused = refused or bool(message.get("refusal"))
    return {
        "state": "refused" if refused else state,
        "text": text,
        "reasoning": reasoning,
        "usage": _known(_usage_of_choice(body.get("usage")), text or reasoning),
        "model": _text(body.get("model")),
        "finish": _text(reason),
    }


def _state(reason: object) -> str:
    """Return the state that a finish reason means; raise `Fault` if the answer was broken off."""
    word = reason.lower() if isinstance(reason, str) else ""
    word = word.partition(":")[0].strip()  # Gemini adds the kind: "content_filter: SAFETY"
    if not word:
        raise Fault("the answer came without a finish reason")
    if word in BROKEN_OFF:
        raise Fault(f"the answer was broken off (finish reason {word})")
    for state, words in (("answered", ANSWERED), ("truncated", TRUNCATED), ("refused", REFUSED)):
        if word in words:
            return state
    return "unparsable"


def _joined(content: str | list[Any]) -> tuple[str, str, bool]:
    """Return (text, reasoning, whether it is a refusal) of a content: a text, or a list of parts;
    parts of other kinds, such as calls of tools, are passed over.
    """
    if isinstance(content, str):
        return content, "", False
    if not isinstance(content, list):
        raise TypeError(content)
    texts, reasons, refused = [], [], False
    for part in content:
        kind = "text" if isinstance(part, str) else part.get("type", "text")
        if kind in ("text", "output_text"):
            texts.append(_text(part if isinstance(part, str) else part.get("text")))
        elif kind in ("thinking", "reasoning"):
            inner = part.get("thinking") or part.get("reasoning") or part.get("text") or ""
            reasons.append(inner if isinstance(inner, str) else _joined(inner)[0])
        refused = refused or kind == "refusal"
    return "".join(texts), "\n\n".join(reasons), refused


def _text(value: object) -> str:
    """Return a text; null is an empty one, anything else a `TypeError`."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise TypeError(value)
    return value


def _usage_of_message(usage: object) -> dict[str, int | None]:
    """Return the tokens in and out that Anthropic's protocol states; what a cache took or gave is
    not among its `input_tokens`.
    """
    tokens_in = _count(usage, "input_tokens")
    if tokens_in is not None:
        cached = ("cache_creation_input_tokens", "cache_read_input_tokens")
        tokens_in += sum(_count(usage, name) or 0 for name in cached)
    return {"input": tokens_in, "output": _count(usage, "output_tokens")}


def _usage_of_choice(usage: object) -> dict[str, int | None]:
    """Return the tokens in and out that OpenAI's protocol states; some servers leave reasoning out
    of `completion_tokens`, and the total has it.
    """
    tokens_in, tokens_out = _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")
    total = _count(usage, "total_tokens") or 0
    if tokens_in and tokens_out is not None:
        tokens_out = max(tokens_out, total - tokens_in)
    return {"input": tokens_in, "output": tokens_out}


def _known(usage: Mapping[str, int | None], text: str) -> dict[str, int]:
    """Return what is known of a usage. No prompt takes 0 tokens, and no text does: a server that
    says so does not count.
    """
    stated = {name: count for name, count in usage.items() if count is not None}
    wrong = {"input"} | ({"output"} if text else set())
    return {name: count for name, count in stated.items() if count or name not in wrong}


def _count(usage: object, name: str) -> int | None:
    """Return a whole number of tokens that a response states, or None."""
    count = usage.get(name) if isinstance(usage, Mapping) else None
    if isinstance(count, float) and count.is_integer():
        count = int(count)
    whole = isinstance(count, int) and not isinstance(count, bool) and 0 <= count < 10**9
    return count if whole else None


def _fault_of(body: Mapping[str, Any]) -> Fault:
    """Return the error that some gateways send with status 200; its code may be a status."""
    details = error_of(body)
    statuses = [int(code) for code in codes_of(details) if re.fullmatch("[45][0-9]{2}", code)]
    status = max(statuses, default=None)
    return Fault(message_of(details, "an error in place of an answer"), status, details)
