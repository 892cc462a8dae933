"""bezoar.llm.reasoning: where a model's reasoning ends and its answer begins."""

import time

import pytest

from bezoar.llm.protocol import read
from bezoar.llm.reasoning import split_reasoning, without_turn_end


def answer_in(text: str) -> str:
    """The answer in a chat response with this content."""
    body = {"model": "m", "choices": [{"message": {"content": text}, "finish_reason": "stop"}]}
    return str(read(body, "chat")["text"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>\nRating: 3?\n</think>\n\n[[9]]", ("Rating: 3?", "\n\n[[9]]", True)),
        ("<think></think>Yes", ("", "Yes", True)),
        ("<THINK>a</THINK>Yes", ("a", "Yes", True)),
        ("\n <thinking>a</thinking> Yes", ("a", " Yes", True)),
        ("<think>a</think><think>b</think>Yes", ("a\n\nb", "Yes", True)),
        ("<think>a<think>b</think>c</think>Yes", ("a<think>b\n\nc", "Yes", True)),
        ("a 3, or 4\n</think>Yes", ("a 3, or 4", "Yes", True)),
        ("a</think>\n<think>b</think>Yes", ("a\n\nb", "Yes", True)),
        ("<think>never ended", ("never ended", "", False)),
        ("<think>a</think><think>b", ("a\n\nb", "", False)),
        ("a</think><think>", ("a", "", False)),
        ("<thought>a</think>b", ("a</think>b", "", False)),
        ("Write <think>x</think> in HTML", ("", "Write <think>x</think> in HTML", True)),
        ("Write <Think>x</think> in HTML", ("", "Write <Think>x</think> in HTML", True)),
        ("\ufeff<think >a</think >Yes", ("a", "Yes", True)),
        ("[THINK]a [[4]][/THINK]Yes", ("a [[4]]", "Yes", True)),
        ("[THINK]never ended", ("never ended", "", False)),
        ("a[/THINK]Yes", ("a", "Yes", True)),
        ("[think] is a tag", ("", "[think] is a tag", True)),
        ("\u25c1think\u25b7a\u25c1/think\u25b7Yes", ("a", "Yes", True)),
        ("<seed:think>a</seed:think>Yes", ("a", "Yes", True)),
        ("<longcat_think>a</longcat_think>Yes", ("a", "Yes", True)),
        ("<thoughts>a</thoughts>Yes", ("a", "Yes", True)),
        ("<scratchpad>a</scratchpad>Yes", ("a", "Yes", True)),
        ("<unused94>thought a<unused95>Yes", ("thought a", "Yes", True)),
        ("a<unused95>Yes", ("a", "Yes", True)),
        ("<|begin_of_thought|>a", ("a", "", False)),
        (
            "<|begin_of_thought|>a<|end_of_thought|>\n<|begin_of_solution|>Yes<|end_of_solution|>",
            ("a", "Yes", True),
        ),
        ("<rethink>a</rethink>Yes", ("", "<rethink>a</rethink>Yes", True)),
        ("<think>a</think>\n<answer>\nYes\n</answer>", ("a", "\nYes\n", True)),
        ("<answer>Yes</answer>", ("", "<answer>Yes</answer>", True)),
        ("<think>a</think>\n\n<response>\nYes\n</response>\n", ("a", "\nYes\n", True)),
        ("a</think><response>Yes</response>", ("a", "Yes", True)),
        ("<response>Yes</response>", ("", "<response>Yes</response>", True)),
        ("<think>a</think><response>Yes</answer>", ("a", "<response>Yes</answer>", True)),
        ("<|channel>thought\na [[4]]\n<channel|>Yes", ("a [[4]]", "Yes", True)),
        ("<|channel>thought\n<channel|>Yes", ("", "Yes", True)),
        ("<|channel>thought\nnever ended", ("never ended", "", False)),
        ("<|inner_prefix|>a<|inner_suffix|>Yes", ("a", "Yes", True)),
        ("<|inner_prefix|>never ended", ("never ended", "", False)),
        ("Write <|inner_prefix|> first.", ("", "Write <|inner_prefix|> first.", True)),
        ("<think>a</think><answer>1</answer> or 2", ("a", "<answer>1</answer> or 2", True)),
        ("Close it with `</think>`.", ("", "Close it with `</think>`.", True)),
        ("a</think>Write `</think>`.", ("a", "Write `</think>`.", True)),
        ("Yes", ("", "Yes", True)),
        ("", ("", "", True)),
    ],
)
def test_leading_reasoning_is_separated(text: str, expected: tuple[str, str, bool]) -> None:
    assert split_reasoning(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "<|START_THINKING|>a 3<|END_THINKING|><|START_RESPONSE|>Yes<|END_RESPONSE|>",
            ("a 3", "Yes", True),
        ),
        (
            "<|START_THINKING|>a<|END_THINKING|>\n<|START_TEXT|>Yes<|END_TEXT|>\n",
            ("a", "Yes", True),
        ),
        ("<|START_RESPONSE|>Yes<|END_RESPONSE|>", ("", "Yes", True)),
        ("a<|END_THINKING|><|START_RESPONSE|>Yes", ("a", "Yes", True)),
        ("<|START_THINKING|>never ended", ("never ended", "", False)),
        (
            "It begins with <|START_THINKING|> and ends with <|END_THINKING|>.",
            ("", "It begins with <|START_THINKING|> and ends with <|END_THINKING|>.", True),
        ),
    ],
)
def test_the_marks_of_cohere_are_no_part_of_an_answer(
    text: str, expected: tuple[str, str, bool]
) -> None:
    assert split_reasoning(text) == expected


ANALYSIS = "<|channel|>analysis<|message|>a [[3]]<|end|>"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"{ANALYSIS}<|start|>assistant<|channel|>final<|message|>Yes", ("a [[3]]", "Yes", True)),
        (
            f"{ANALYSIS}<|start|>assistant<|channel|>final<|message|>Yes<|return|>",
            ("a [[3]]", "Yes", True),
        ),
        (
            f"<|start|>assistant{ANALYSIS}{ANALYSIS}"
            "<|channel|>final <|constrain|>json<|message|>{}",
            ("a [[3]]\n\na [[3]]", "{}", True),
        ),
        (f"{ANALYSIS}Yes", ("a [[3]]", "Yes", True)),
        ("<|channel|>final json<|message|>{}<|end|>\n", ("", "{}", True)),
        (
            "<|channel|>final<|message|>It ends with <|end|>, always.<|return|>",
            ("", "It ends with <|end|>, always.", True),
        ),
        (
            "<|channel|>commentary to=functions.f <|constrain|>json<|message|>{}<|call|>",
            ("{}", "", False),
        ),
        ("<|channel|>analysis<|message|>never ended", ("never ended", "", False)),
        (ANALYSIS, ("a [[3]]", "", False)),
        ("analysisUser says hello.assistantfinalHello!", ("User says hello.", "Hello!", True)),
        ("analysis of assistantfinal", ("", "analysis of assistantfinal", True)),
        ("Write <|channel|> first.", ("", "Write <|channel|> first.", True)),
    ],
)
def test_only_the_final_channel_of_harmony_is_an_answer(
    text: str, expected: tuple[str, str, bool]
) -> None:
    assert split_reasoning(text) == expected


@pytest.mark.parametrize(
    "part",
    [
        *("</think>", "<think></think>", "<think>", " <thought>a</thought>", "[THINK]"),
        *("<|START_THINKING|>", "<|channel|>a<|message|>", "<|channel|>a<|message|><|end|>"),
        *("analysisx", "a_", "<|channel>thought", "<|inner_prefix|>a<|inner_suffix|>"),
    ],
)
def test_many_tags_take_no_longer_than_reading_them(part: str) -> None:
    started = time.perf_counter()
    assert "<" not in split_reasoning(part * 20_000)[1]
    assert time.perf_counter() - started < 2


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("Yes.<|im_end|>", "Yes."),
        ("Yes.\n<|im_end|>\n<|endoftext|>\n", "Yes."),
        ("Yes.</s></s>", "Yes."),
        ("Yes.<end_of_turn>\n", "Yes."),
        ("Yes.<|eot|>", "Yes."),
        ("Yes.\n<|user|>", "Yes."),
        ("Yes.[|endofturn|]\n", "Yes."),
        *((f"Yes.{end}", "Yes.") for end in ("<|end_of_turn|>", "<|endofturn|>", "<|role_end|>")),
        *((f"Yes.{end}", "Yes.") for end in ("<|EOT|>", "<seed:eos>", "<|observation|>")),
        ("<|eot_id|>", ""),
        ("Strike it: <s>no</s>", "Strike it: <s>no</s>"),
        ("Its turn ends with <|im_end|>", "Its turn ends with <|im_end|>"),
        ("`<|im_end|>`", "`<|im_end|>`"),
        ("<|im_end|> ends it.", "<|im_end|> ends it."),
        ("Yes. ", "Yes. "),
    ],
)
def test_a_token_that_ends_the_turn_is_no_part_of_an_answer(text: str, left: str) -> None:
    assert without_turn_end(text).rstrip("\n") == left
    assert answer_in(text) == left.strip()


BEGINNINGS = [
    *("<|im_start|>assistant\n", "<|im_start|>assistant<|im_sep|>", "<s><|assistant|>\n"),
    "<|begin_of_text|><|start_header_id|>assistant<|end_header_id|>\n\n",
    *("<|header_start|>assistant<|header_end|>\n\n", "<bos><start_of_turn>model\n"),
    *("<|turn>model\n", "[|assistant|]", "<｜Assistant｜>", "<seed:bos>assistant\n"),
    "<|start_of_role|>assistant<|end_of_role|>",
    "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
    "<|im_assistant|>assistant<|im_middle|>",
    *("<|start|>assistant<|message|>", "<|assistant_start|>", "<|begin_of_text|>", "\n<bos>"),
]


@pytest.mark.parametrize(
    ("text", "left"),
    [
        *((f"{begun}Yes.", "Yes.") for begun in BEGINNINGS),
        *((f"{begun}<think>a</think>Yes.", "Yes.") for begun in BEGINNINGS),
        ("<|im_start|>assistant\n<|im_start|>user", "<|im_start|>user"),
        ("<|im_start|>assistants\nmeet", "<|im_start|>assistants\nmeet"),
        ("<|im_start|>user\nHi", "<|im_start|>user\nHi"),
        ("<|assistant|> begins it.", "<|assistant|> begins it."),
        ("<s>no</s>, yes", "<s>no</s>, yes"),
        ("It is <|im_start|>assistant", "It is <|im_start|>assistant"),
    ],
)
def test_marks_that_begin_the_turn_are_no_part_of_an_answer(text: str, left: str) -> None:
    assert answer_in(text) == left


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("<think>a</think><answer>Yes.</answer><|im_end|>", "Yes."),
        ("<|START_RESPONSE|>Yes.<|END_RESPONSE|><|END_OF_TURN_TOKEN|>", "Yes."),
    ],
)
def test_a_frame_before_the_end_of_the_turn_is_no_part_of_an_answer(text: str, left: str) -> None:
    assert answer_in(text) == left
