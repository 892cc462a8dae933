"""What stands around an answer: the beginning of the model's turn and its reasoning before it, the
end of its turn and a stop text after it.
"""

import re
from collections.abc import Iterable, Sequence

TAGS = r"(?:\w+[:_])?(?:think|thinking|thoughts?|reasoning|reflection|scratchpad)"
# Marks whose end has another name: Cohere's, those of OpenThinker and Sky-T1, MedGemma's,
# Gemma 4's, Apertus's.
ENDS = {
    "<|START_THINKING|>": "<|END_THINKING|>",
    "<|begin_of_thought|>": "<|end_of_thought|>",
    "<unused94>": "<unused95>",
    "<|channel>thought": "<channel|>",
    "<|inner_prefix|>": "<|inner_suffix|>",
}
LONGEST_MARK = 100  # characters, with the white space around it
BEGINNINGS = {end: begin for begin, end in ENDS.items()}
OPENED = re.compile(
    rf"[\s\ufeff]*(?P<tag><{TAGS}\s*>|◁think▷|(?-i:\[THINK\]|{'|'.join(map(re.escape, ENDS))}))",
    re.IGNORECASE,
)
LEFT_OPEN = re.compile(rf"(?:{OPENED.pattern})\s*\Z", re.IGNORECASE)
CLOSED = re.compile(
    rf"</{TAGS}\s*>|◁/think▷|(?-i:\[/THINK\]|{'|'.join(map(re.escape, ENDS.values()))})",
    re.IGNORECASE,
)
# What some models put around the answer: Cohere's and OpenThinker's marks, Hunyuan's tag and that
# of ERNIE and Granite.
MARKED = re.compile(r"\s*<\|(?:START_(?P<name>RESPONSE|TEXT)|begin_of_solution)\|>")
TAGGED = re.compile(
    r"\s*<(?P<tag>answer|response)>(?P<inside>(?:(?!</?(?P=tag)>).)*)</(?P=tag)>\s*", re.DOTALL
)
# Messages of Harmony, the format of gpt-oss; where special tokens are skipped, the names remain.
HEADER = re.compile(
    r"[\s\ufeff]*(?:<\|start\|>assistant\s*)?<\|channel\|>\s*(?P<channel>\w+)[^<]*"
    r"(?:<\|constrain\|>[^<]*)?<\|message\|>"
)
END = re.compile(r"<\|(?:end|return|call)\|>")
LAST_END = re.compile(r"<\|(?:end|return)\|>(?:\s*\Z|<\|start\|>)")
# Tokens that end a turn; a server that does not skip special tokens leaves them behind. GLM's turn
# ends where another one begins.
TURN_ENDS = (
    "<|im_end|> <|eot_id|> <|eom_id|> <|eot|> <|eom|> <|EOT|> <|endoftext|> <|end_of_text|>"
    " <end_of_turn> <turn|> <|end|> <|return|> <|assistant_end|> <|END_OF_TURN_TOKEN|>"
    " <|end_of_turn|> <|endofturn|> [|endofturn|] <|role_end|> <|user|> <|observation|>"
    " <｜end▁of▁sentence｜> <seed:eos> <eos> </s>"
).split()
# The beginning of a text and of a model's turn; `<s>` alone may be HTML.
TEXT_BEGIN = r"<bos>|<\|begin_of_text\|>|<\|startoftext\|>|<｜begin▁of▁sentence｜>"
TURN_BEGIN = "|".join(
    re.escape(mark)
    for mark in (
        "<|im_start|>assistant<|im_sep|> <|im_start|>assistant <|assistant|> [|assistant|]"
        " <|start_header_id|>assistant<|end_header_id|> <|header_start|>assistant<|header_end|>"
        " <start_of_turn>model <|turn>model <|start_of_role|>assistant<|end_of_role|>"
        " <|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|> <|im_assistant|>assistant<|im_middle|>"
        " <|assistant_start|> <|start|>assistant<|message|> <seed:bos>assistant <｜Assistant｜>"
    ).split()
)
BEGUN = re.compile(
    rf"[\s\ufeff]*(?:(?:(?:{TEXT_BEGIN}|<s>)\s*)?(?:{TURN_BEGIN})|{TEXT_BEGIN})"
    r"(?:\b|(?<=\W))(?! )\s*"
)
SKIPPED = re.compile(r"\s*analysis(?P<reasoning>\S.*?)assistantfinal(?P<answer>.*)", re.DOTALL)


def ends_reasoning(tokens: Iterable[str]) -> bool:
    """Whether any of these tokens ends a reasoning block, so that what stands before it may turn
    out to be no answer.
    """
    return any(token == "<|channel|>" or CLOSED.fullmatch(token) for token in tokens)


def split_reasoning(text: str) -> tuple[str, str, bool]:
    """Return (reasoning, answer, whether the reasoning was closed).

    Leading blocks such as <think>…</think>, Magistral's [THINK]…[/THINK], Kimi's
    ◁think▷…◁/think▷ and those of `ENDS` are reasoning, and so are Harmony's channels other than
    `final`; nothing is left of a text whose block was not closed. So is what precedes a closing tag
    without an opening one: some chat templates put the opening tag into the prompt. A closing tag
    in backticks is spoken of, and ends nothing.
    """
    if HEADER.match(text):
        return _split_channels(text)
    if skipped := SKIPPED.fullmatch(text):
        return skipped["reasoning"].strip(), skipped["answer"], True
    reasons: list[str] = []
    place = 0
    while True:
        if opened := OPENED.match(text, place):
            place = opened.end()
            closed = _closing(opened["tag"]).search(text, place)
            if closed is None:
                reasons.append(text[place:].strip())
                return _joined(reasons), "", False
        else:
            closed = CLOSED.search(text, place)
            if closed is None or _is_spoken_of(text, place, closed):
                return _joined(reasons), _unframed(text[place:], place > 0), True
        reasons.append(text[place : closed.start()].strip())
        place = closed.end()


def opening_in(prompt: str) -> str:
    """Return the mark with which a prompt begins the reasoning of its answer, or an empty text."""
    found = LEFT_OPEN.search(prompt[-LONGEST_MARK:])
    return found["tag"] if found else ""


def without_turn_beginning(answer: str) -> str:
    """Return an answer without the marks that begin the model's turn, where they stand at its
    beginning. One before a space is spoken of.
    """
    begun = BEGUN.match(answer)
    return answer[begun.end() :] if begun else answer


def cut_at(answer: str, stop: Sequence[str]) -> tuple[str, bool]:
    """Return an answer up to the first of the texts that end it, and whether there was one: not
    every server ends there, and some leave the text in.
    """
    places = [place for text in stop if text and (place := answer.find(text)) >= 0]
    return answer[: min(places, default=None)], bool(places)


def without_turn_end(answer: str) -> str:
    """Return an answer without the tokens that end its turn, where they stand at its end. One after
    a space is spoken of, and so is `</s>` where the answer opens an `<s>` of HTML.
    """
    while True:
        text = answer.rstrip()
        end = next((end for end in TURN_ENDS if text.endswith(end)), "")
        rest = text.removesuffix(end)
        if not end or rest.endswith(" ") or (end == "</s>" and "<s>" in rest):
            return answer
        answer = rest


def _split_channels(text: str) -> tuple[str, str, bool]:
    """Return the same of a text of Harmony's messages. What follows the last of them without a
    header is the answer: llama.cpp leaves the header of `final` out.
    """
    reasons: list[str] = []
    place = 0
    while header := HEADER.match(text, place):
        place = header.end()
        if header["channel"] == "final":
            last = LAST_END.search(text, place)
            return _joined(reasons), text[place : last.start() if last else None], True
        end = END.search(text, place)
        reasons.append(text[place : end.start() if end else None].strip())
        place = end.end() if end else len(text)
    answer = text[place:]
    return _joined(reasons), answer, bool(answer.strip())


def _joined(reasons: list[str]) -> str:
    return "\n\n".join(filter(None, reasons))


def _unframed(answer: str, has_reasoned: bool) -> str:
    """Return an answer without what stands around it; a tag counts only after reasoning."""
    whole = without_turn_end(answer)
    if marked := MARKED.match(whole):
        end = f"<|END_{marked['name']}|>" if marked["name"] else "<|end_of_solution|>"
        return whole[marked.end() :].rstrip().removesuffix(end)
    tagged = TAGGED.fullmatch(whole) if has_reasoned else None
    return tagged["inside"] if tagged else answer


def _closing(tag: str) -> re.Pattern[str]:
    """Return the pattern of the closing tag of an opening one."""
    if tag in ENDS:
        return re.compile(re.escape(ENDS[tag]))
    name = re.escape(tag[1:-1].strip())
    return re.compile(rf"{re.escape(tag[0])}/{name}\s*{re.escape(tag[-1])}", re.IGNORECASE)


def _is_spoken_of(text: str, start: int, closed: re.Match[str]) -> bool:
    """Whether a closing tag belongs to the answer: its opening one precedes it there, or it stands
    in backticks.
    """
    opening = BEGINNINGS.get(closed[0], closed[0].replace("/", "", 1)).lower()
    quoted = text.endswith("`", 0, closed.start()) and text.startswith("`", closed.end())
    return quoted or opening in text[start : closed.start()].lower()
