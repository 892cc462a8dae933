"""Promises of reading a response: how an answer ended decides its state, and nothing that a server
sends is a traceback.
"""

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bezoar.llm.faults import Blame, Fault
from bezoar.llm.language_model import STATES
from bezoar.llm.protocol import Unreadable, read, read_text
from bezoar.llm.transport import Response, Transport, decoded

USAGE = {"prompt_tokens": 20, "completion_tokens": 10, "total_tokens": 30}


def chat(content: object = "Fine.", finish: object = "stop", **message: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"content": content, **message}, "finish_reason": finish}
    return {"model": "m", "choices": [choice], "usage": USAGE}


def claude(content: object, reason: object = "end_turn") -> dict[str, Any]:
    usage = {"input_tokens": 20, "output_tokens": 10}
    return {"model": "m", "content": content, "stop_reason": reason, "usage": usage}


def text_parts(*texts: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text} for text in texts]


@pytest.mark.parametrize(
    ("finish", "state"),
    [
        ("stop", "answered"),
        ("STOP", "answered"),
        ("eos", "answered"),
        ("length", "truncated"),
        ("max_tokens", "truncated"),
        ("content_filter", "refused"),
        ("content_filter: SAFETY", "refused"),
        ("tool_calls", "unparsable"),
        ("function_call", "unparsable"),
        ("something new", "unparsable"),
    ],
)
def test_only_known_good_ends_are_answers(finish: str, state: str) -> None:
    assert read(chat(finish=finish), "chat")["state"] == state


@pytest.mark.parametrize(
    ("reason", "state"),
    [
        ("end_turn", "answered"),
        ("stop_sequence", "answered"),
        ("max_tokens", "truncated"),
        ("model_context_window_exceeded", "truncated"),
        ("refusal", "refused"),
        ("tool_use", "unparsable"),
        ("pause_turn", "unparsable"),
    ],
)
def test_only_known_good_ends_of_anthropics_are_answers(reason: str, state: str) -> None:
    assert read(claude(text_parts("Fine."), reason), "messages")["state"] == state


@pytest.mark.parametrize(
    ("text", "stop", "left"),
    [
        ("Yes.### User: and", ["### System", "### User"], "Yes."),
        ("Yes.<|prompt|>", ["<|endoftext|>", "<|prompt|>"], "Yes."),
        ("Yes.<|im_end|>\n<|im_start|>user", ["<|im_start|>"], "Yes."),
        ("a END b STOP c", ["STOP", "END"], "a"),
        ("<think>END?</think>\n\nYes.\n\nAnd", ["END", "\n\n"], "Yes."),
        ("<|im_start|>assistant\nYes.<|im_start|>", ["<|im_start|>"], "Yes."),
        ("Yes.", ["", "no"], "Yes."),
    ],
)
def test_a_stop_text_ends_an_answer_whatever_the_server_does_with_it(
    text: str, stop: list[str], left: str
) -> None:
    for body, api in ((chat(text), "chat"), (claude(text_parts(text)), "messages")):
        answer = read_text(json.dumps(body), api, stop)
        assert (answer["state"], answer["text"]) == ("answered", left)


def test_an_answer_that_a_stop_text_ends_has_not_run_into_a_limit() -> None:
    assert read(chat("Yes.END and on", "length"), "chat", ["END"])["state"] == "answered"
    assert read(chat("Yes, and", "length"), "chat", ["END"])["state"] == "truncated"
    assert read(chat("END", "length"), "chat", ["END"])["state"] == "unparsable"
    assert read(chat("<think>END", "length"), "chat", ["END"])["state"] == "truncated"
    assert read(chat("No.END", "content_filter"), "chat", ["END"])["state"] == "refused"


@pytest.mark.parametrize("finish", ["error", "abort", "network_error", None, ""])
def test_an_answer_that_was_broken_off_is_asked_again(finish: str | None) -> None:
    for body, api in ((chat(finish=finish), "chat"), (claude(text_parts("x"), finish), "messages")):
        with pytest.raises(Fault) as raised:
            read(body, api)
        assert raised.value.blame is Blame.PASSING


def test_a_filter_may_leave_nothing_of_an_answer() -> None:
    """Azure's form: a choice without a message."""
    body = {"model": "m", "choices": [{"index": 0, "finish_reason": "content_filter"}]}
    assert read(body, "chat")["state"] == "refused"


def test_a_refusal_in_a_field_or_a_part_of_its_own_is_refused() -> None:
    assert read(chat(None, refusal="I cannot."), "chat")["state"] == "refused"
    assert read(chat([{"type": "refusal", "refusal": "No."}]), "chat")["state"] == "refused"


@pytest.mark.parametrize("content", ["", " \n\t", None, [], text_parts(" ")])
def test_nothing_in_an_answer_is_not_usable(content: object) -> None:
    answer = read(chat(content), "chat")
    assert (answer["state"], answer["text"]) == ("unparsable", "")


def test_parts_of_a_content_are_joined_and_reasoning_is_kept_apart() -> None:
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": "Compare."}]}
    answer = read(chat([thinking, "The ", *text_parts("second", " one.")]), "chat")
    assert (answer["text"], answer["reasoning"]) == ("The second one.", "Compare.")
    answer = read(
        claude([{"type": "thinking", "thinking": "Hm."}, *text_parts("Yes.")]), "messages"
    )
    assert (answer["text"], answer["reasoning"]) == ("Yes.", "Hm.")
    for name in ("reasoning_content", "reasoning"):
        answer = read(chat("Yes.", **{name: "Hm."}), "chat")
        assert (answer["text"], answer["reasoning"]) == ("Yes.", "Hm.")
    assert "reasoning" not in read(chat("Yes."), "chat")


def test_a_part_without_a_type_is_a_text() -> None:
    assert read(chat([{"text": "The "}, {"text": "second."}]), "chat")["text"] == "The second."


@pytest.mark.parametrize("nothing", ["", " \n\t", "\u200b", "\ufeff \u2060"])
def test_a_text_that_shows_nothing_is_no_answer(nothing: str) -> None:
    assert read(chat(nothing), "chat")["state"] == "unparsable"


def test_reasoning_without_an_end_is_truncated_and_not_usable() -> None:
    answer = read(chat("<think>The user wants"), "chat")
    assert (answer["state"], answer["text"]) == ("truncated", "")
    assert answer["reasoning"] == "The user wants"


@pytest.mark.parametrize(
    ("usage", "known"),
    [
        (USAGE, {"input": 20, "output": 10}),
        (None, {}),
        ({}, {}),
        ([], {}),
        ({**USAGE, "completion_tokens": None}, {"input": 20}),
        ({"prompt_tokens": 20.0, "completion_tokens": "10"}, {"input": 20}),
        ({"prompt_tokens": True, "completion_tokens": -1}, {}),
        ({"prompt_tokens": float("nan"), "completion_tokens": 1e300}, {}),
    ],
)
def test_usage_that_is_no_number_is_unknown(usage: object, known: dict[str, int]) -> None:
    answer = read({**chat(), "usage": usage}, "chat")
    assert (answer["state"], answer["usage"]) == ("answered", known)


@pytest.mark.parametrize(
    ("stated", "known"),
    [
        ((20, 10, 530), {"input": 20, "output": 510}),
        ((20, 0, 530), {"input": 20, "output": 510}),
        ((20, 10, 25), {"input": 20, "output": 10}),
        ((20, 10, None), {"input": 20, "output": 10}),
        ((0, 10, 10), {"output": 10}),
        ((0, 0, 0), {}),
        ((20, 0, 20), {"input": 20}),
        ((None, 10, 530), {"output": 10}),
    ],
)
def test_usage_that_is_stated_too_low_is_mended_from_the_total_or_unknown(
    stated: tuple[int | None, ...], known: dict[str, int]
) -> None:
    usage = dict(zip(USAGE, stated, strict=True))
    assert read({**chat(), "usage": usage}, "chat")["usage"] == known


def test_no_tokens_for_no_text_are_known() -> None:
    usage = {"prompt_tokens": 20, "completion_tokens": 0}
    assert read({**chat(""), "usage": usage}, "chat")["usage"] == {"input": 20, "output": 0}
    assert read({**chat("", reasoning="Hm."), "usage": usage}, "chat")["usage"] == {"input": 20}


def test_tokens_of_a_cache_are_tokens_of_the_prompt() -> None:
    cached = {"cache_creation_input_tokens": 300, "cache_read_input_tokens": 4000}
    body = {**claude(text_parts("x")), "usage": {"input_tokens": 20, "output_tokens": 7, **cached}}
    assert read(body, "messages")["usage"] == {"input": 4320, "output": 7}
    body["usage"] = {"input_tokens": 0, "output_tokens": 0, "cache_read_input_tokens": None}
    assert read(body, "messages")["usage"] == {}


WRONG: list[object] = [
    {**chat(), "choices": []},
    {**chat(), "choices": None},
    {**chat(), "choices": "x"},
    {**chat(), "choices": [None]},
    {**chat(), "model": 7},
    {"choices": [{"finish_reason": "stop"}], "model": "m"},
    {"choices": [{"message": "text", "finish_reason": "stop"}], "model": "m"},
    chat(7),
    chat([7]),
    chat([{"type": "text", "text": 7}]),
    [chat()],
    "text",
    None,
    7,
]


@pytest.mark.parametrize("body", WRONG, ids=[str(i) for i in range(len(WRONG))])
def test_a_response_of_another_form_is_asked_again(body: object) -> None:
    for api in ("chat", "completions", "messages"):
        with pytest.raises(Unreadable):
            read_text(json.dumps(body), api)


@pytest.mark.parametrize(
    "text",
    ["", "<html>busy</html>", '{"id": "1", "choi', "data: {}\n\n", "[" * 100_000, "9" * 9999],
)
def test_a_response_that_is_no_json_is_asked_again(text: str) -> None:
    with pytest.raises(Unreadable):
        read_text(text, "chat")


@pytest.mark.parametrize(
    ("error", "blame"),
    [
        ({"code": 429, "message": "slow"}, Blame.PASSING),
        ({"code": 502, "message": "upstream"}, Blame.PASSING),
        ({"message": "upstream"}, Blame.PASSING),
        ("upstream", Blame.PASSING),
        ({"code": "402", "message": "no credit"}, Blame.ACCOUNT),
        ({"code": "insufficient_quota"}, Blame.ACCOUNT),
        ({"code": 400, "message": "bad"}, Blame.REQUEST),
    ],
)
def test_an_error_with_status_200_is_the_error_that_it_says(error: object, blame: Blame) -> None:
    with pytest.raises(Fault) as raised:
        read({"choices": None, "error": error}, "chat")
    assert raised.value.blame is blame


def test_half_characters_become_the_replacement_character_wherever_they_are() -> None:
    answer = read(chat("cut \ud83d", reasoning="\ud83d"), "chat")
    assert (answer["text"], answer["reasoning"]) == ("cut \ufffd", "\ufffd")
    assert decoded(b"cut \xed\xa0\xbd") == "cut \ufffd"
    assert decoded(b"cut \xf0\x9f\x98") == "cut \ufffd"
    assert decoded("Crème".encode(), "application/json; charset=iso-8859-1") == "Crème"
    assert decoded("Crème".encode("latin-1"), "application/json; charset=iso-8859-1") == "Crème"
    assert decoded(b"\xff", "text/plain; charset=no-such-thing") == "\ufffd"


def test_a_secret_that_a_server_echoes_is_masked_but_a_short_word_is_left_alone() -> None:
    response = Response(
        b"you sent sk-0123456789abcdef, EMPTY", {}, ("sk-0123456789abcdef", "EMPTY")
    )
    assert response.text == "you sent ***, EMPTY"


def test_in_an_error_a_short_key_is_masked_where_it_stands_alone() -> None:
    """`make doctor` advises any text as the key of a local server."""

    async def refuse() -> Any:
        raise ValueError("No parameter 'max_tokens' with key x, sk-x or canary-0123456789x")

    transport = Transport(None, "", ("x", "canary-0123456789"), 1.0)  # type: ignore[arg-type]
    with pytest.raises(Fault, match=r"'max_tokens' with key \*\*\*, sk-\*\*\* or \*\*\*x$"):
        asyncio.run(transport._received(refuse()))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)
PLACES = (
    ["choices"],
    ["choices", 0],
    ["choices", 0, "message"],
    ["choices", 0, "message", "content"],
    ["choices", 0, "message", "refusal"],
    ["choices", 0, "message", "reasoning"],
    ["choices", 0, "finish_reason"],
    ["model"],
    ["usage"],
    ["usage", "prompt_tokens"],
    ["content"],
    ["content", 0],
    ["stop_reason"],
    ["error"],
)


@given(place=st.sampled_from(PLACES), value=JSON, api=st.sampled_from(["chat", "messages"]))
def test_whatever_stands_in_a_response_it_is_an_answer_or_a_fault(
    place: list[Any], value: object, api: str
) -> None:
    body: Any = {**chat(), **claude(text_parts("x"))}
    inner = body
    for step in place[:-1]:
        inner = inner.setdefault(step, {}) if isinstance(inner, dict) else inner[step]
    inner[place[-1]] = value
    try:
        answer = read(body, api)
    except (Fault, Unreadable):
        answer = None
    assert answer is None or answer["state"] in STATES
    assert answer is None or answer["state"] != "answered" or answer["text"]
    json.dumps(answer, ensure_ascii=False).encode()
