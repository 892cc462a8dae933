"""Answers follow the template that the configuration names, end where it says, and are the same
every time; anybody's model can be asked.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from trained import killed_before_the_receipt

import answer_mtbench
import import_base
from bezoar.errors import UserError
from bezoar.evaluation.parts import Parts
from bezoar.files import write_jsonl
from bezoar.llm.reasoning import ends_reasoning
from bezoar.readers import read_json, read_jsonl
from bezoar.training.tokenizer import beginning, load_tokenizer
from bezoar.workflow import sources

ROOT = Path(__file__).parents[3]
RECIPE = {
    "temperatures": {"math": 0.0},
    "default_temperature": 0.7,
    "top_k": 0,
    "max_new_tokens": 6,
    "stop": [],
    "batch_size": 4,
    "dtype": "float32",
    "threads": 1,
    "seed": 0,
}
JINJA = "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"


def answer(
    place: Path,
    model: Path,
    template: str = str(ROOT / "prompts/chat_template.json"),
    **changes: object,
) -> list[dict]:
    asked = [
        {"question_id": 81 + i, "category": c, "turns": ["red cat", "blue dog"]}
        for i, c in enumerate(["math", "writing", "other"])
    ]
    write_jsonl(place / "questions.jsonl", asked)
    answer_mtbench.main(
        [
            "--model",
            str(model),
            "--name",
            "m",
            "--questions",
            str(place / "questions.jsonl"),
            "--template",
            template,
            "--answers",
            str(place / "answers.jsonl"),
            "--recipe",
            json.dumps(RECIPE | changes),
            "--code",
            "x",
            "--receipt",
            str(place / "receipt.json"),
        ]
    )
    return read_jsonl(place / "answers.jsonl")


@pytest.fixture
def chatty(tiny_base: Path, tmp_path: Path) -> Path:
    """The tiny base with a chat template of its own and a fast tokenizer, as other families of
    models come.
    """
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import PreTrainedTokenizerFast

    folder = tmp_path / "chatty"
    shutil.copytree(tiny_base, folder)
    (folder / "tokenizer.model").unlink()
    words = ["<unk>", "<s>", "</s>", "red", "cat", "blue", "dog", "user", "assistant", "<", ">"]
    made = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    made.pre_tokenizer = Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )
    fast.chat_template = JINJA
    fast.save_pretrained(folder)
    return folder


def test_answers_have_fastchats_form_and_come_out_the_same_again(
    tiny_base: Path, tmp_path: Path
) -> None:
    rows = answer(tmp_path, tiny_base)
    assert [row["question_id"] for row in rows] == [81, 82, 83] and all(
        len(row["choices"]) == 1 for row in rows
    )
    assert all(
        len(row["choices"][0]["turns"]) == 2 and set(row["stops"]) <= {"eos", "length"}
        for row in rows
    )
    assert read_json(tmp_path / "receipt.json")["facts"]["endings"] == {
        ending: count
        for ending in ("eos", "length")
        if (count := sum(row["stops"].count(ending) for row in rows))
    }
    assert answer(tmp_path, tiny_base) == rows
    assert answer(tmp_path, tiny_base, seed=1)[0] == rows[0], "temperature 0 knows no seed"


def test_an_answer_is_drawn_from_the_likeliest_tokens(tiny_base: Path, tmp_path: Path) -> None:
    greedy = answer(tmp_path, tiny_base, default_temperature=0.0)
    assert answer(tmp_path, tiny_base, default_temperature=2.0) != greedy
    assert answer(tmp_path, tiny_base, default_temperature=2.0, top_k=1) == greedy


def test_each_question_has_its_categorys_temperature(tiny_base: Path, tmp_path: Path) -> None:
    """The greedy one is as it is alone, beside others of its batch that are drawn."""

    def turns(**changes: object) -> list[list[str]]:
        return [row["choices"][0]["turns"] for row in answer(tmp_path, tiny_base, **changes)]

    math, writing, other = turns(temperatures={"math": 0.0, "writing": 5.0})
    greedy = turns(temperatures={}, default_temperature=0.0)
    assert math == greedy[0] and writing != greedy[1] and len(other) == 2
    cold = turns(temperatures={"math": 1e-6, "writing": 5.0})
    assert cold == [math, writing, other], "a draw of one row is no other row's"


def test_a_stop_text_ends_an_answer_and_is_recorded(tiny_base: Path, tmp_path: Path) -> None:
    response = answer(tmp_path, tiny_base)[0]["choices"][0]["turns"][0]
    stop = response[len(response) // 2 :]
    row = answer(tmp_path, tiny_base, stop=[stop])[0]
    assert (
        row["choices"][0]["turns"][0] == response[: response.index(stop)].strip()
        and row["stops"][0] == "stop"
    )
    assert answer_mtbench.cut("a ### b ## c", "eos", ["##", "###"]) == ("a", "stop")


def test_what_a_stop_text_cuts_off_is_not_generated_and_changes_no_answer(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of a batch end apart, greedy and drawn ones, and go on beside those that have ended."""
    real, completed, ends = answer_mtbench.generate, 0, True

    def generate(*given: object, complete: Callable[[str], bool], **named: object) -> object:
        def counted(text: str) -> bool:
            nonlocal completed
            completed += complete(text)
            return complete(text)

        return real(*given, complete=counted if ends else None, **named)

    monkeypatch.setattr(answer_mtbench, "generate", generate)
    settings = {"max_new_tokens": 30, "default_temperature": 1.5, "stop": ["a", "e"]}
    found = answer(tmp_path, tiny_base, **settings)
    assert completed and {ending for row in found for ending in row["stops"]} >= {"stop"}
    ends = False
    (tmp_path / "answers.jsonl").unlink()
    assert answer(tmp_path, tiny_base, **settings) == found


def test_a_model_that_ends_reasoning_by_a_mark_is_not_ended_at_a_stop_text(tmp_path: Path) -> None:
    """What stands before the mark may be no answer, even if nothing has opened it."""
    assert ends_reasoning(["a", "</think>"]) and ends_reasoning(["<|channel|>", "b"])
    assert not ends_reasoning(["a", "<think>", "</s>"])
    question = {"question_id": 81, "category": "math", "turns": ["red cat", "blue dog"]}
    template = answer_mtbench.Template(ROOT / "prompts/chat_template.json")
    asked: list[dict[str, object]] = []

    def ask(pieces: list, **named: object) -> list[tuple[str, str]]:
        asked.append(named)
        return [("Blue.", "eos") for _ in pieces]

    for number, ends in enumerate((True, False)):
        parts = Parts(tmp_path / f"answers-{number}.jsonl", {})
        recipe = {**RECIPE, "stop": ["###"]}
        answer_mtbench.answer(ask, template, [question], recipe, parts, ends_at_stop=ends)
    assert ["complete" in named for named in asked] == [True, True, False, False]


@pytest.mark.parametrize(
    ("text", "ending", "answered"),
    [
        ("<think>A ### heading?</think>\n\nBlue.", "eos", ("Blue.", "eos")),
        ("It is blue.\n</think>\nBlue. ### Red", "eos", ("Blue.", "stop")),
        ("<think>Is it ### blue", "length", ("", "reasoning")),
        ("<think>Is it blue", "eos", ("", "reasoning")),
        (" Say `<think>` first. ", "length", ("Say `<think>` first.", "length")),
    ],
)
def test_reasoning_is_no_part_of_an_answer_and_one_without_an_end_leaves_none(
    text: str, ending: str, answered: tuple[str, str]
) -> None:
    assert answer_mtbench.cut(text, ending, ["###"]) == answered


@pytest.mark.parametrize(
    ("beginning", "text", "answered"),
    [
        ("<think>\n", "Which?\n</think>\n\nBlue.", ("Blue.", "eos")),
        ("<think>\n", "<think>\nWhich?\n</think>\nBlue.", ("Blue.", "eos")),
        ("<think>\n", "Is it blue", ("", "reasoning")),
        ("<|inner_prefix|>", "Which?<|inner_suffix|>Blue.", ("Blue.", "eos")),
        ("<think>\n\n</think>\n\n", "Blue.", ("Blue.", "eos")),
        ("Open it with <think> here:", "Blue.", ("Blue.", "eos")),
    ],
)
def test_reasoning_that_the_template_begins_is_no_part_of_an_answer(
    beginning: str, text: str, answered: tuple[str, str], tmp_path: Path
) -> None:
    class Begun(answer_mtbench.Template):
        def pieces(self, *turns: str) -> list:
            return [*super().pieces(*turns), (beginning, True)]

    question = {"question_id": 81, "category": "math", "turns": ["red cat", "<think>"]}
    template = Begun(ROOT / "prompts/chat_template.json")
    parts = Parts(tmp_path / "answers.jsonl", {})

    def ask(pieces: list, **_: object) -> list[tuple[str, str]]:
        return [(text, "eos") for _ in pieces]

    found = answer_mtbench.answer(ask, template, [question], RECIPE, parts)
    assert found == {81: [answered] * 2}


def test_the_second_turn_and_the_judge_see_an_answer_without_its_reasoning(tmp_path: Path) -> None:
    prompts: list[str] = []

    def ask(pieces: list, **_: object) -> list[tuple[str, str]]:
        prompts.extend("".join(text for text, _ in prompt) for prompt in pieces)
        return [("<think>Which red?</think>Blue.", "eos") for _ in pieces]

    question = {"question_id": 81, "category": "math", "turns": ["red cat", "blue dog"]}
    template = answer_mtbench.Template(ROOT / "prompts/chat_template.json")
    parts = Parts(tmp_path / "answers.jsonl", {})
    found = answer_mtbench.answer(ask, template, [question], RECIPE, parts)
    assert found == {81: [("Blue.", "eos")] * 2}
    assert "Blue." in prompts[1] and "Which red?" not in prompts[1]


def test_a_killed_run_goes_on_to_the_same_answers(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, real, calls = answer(tmp_path, tiny_base), answer_mtbench.generate, 0

    def dies(*arguments: object, **named: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        return real(*arguments, **named)

    monkeypatch.setattr(answer_mtbench, "generate", dies)
    (tmp_path / "answers.jsonl").unlink()
    with pytest.raises(KeyboardInterrupt):
        answer(tmp_path, tiny_base)
    assert not (tmp_path / "answers.jsonl").exists()
    with killed_before_the_receipt():
        answer(tmp_path, tiny_base)
    assert calls == 2 + 1, "of two parts one was kept"
    assert answer(tmp_path, tiny_base) == whole and calls == 2 + 1, "all were kept"
    assert not list(tmp_path.glob(".*parts")), "nothing is left over"


def test_parts_of_another_model_or_setting_do_not_count(tmp_path: Path) -> None:
    Parts(tmp_path / "out", {"seed": 0}).get("a", lambda: [1])
    assert Parts(tmp_path / "out", {"seed": 0}).get("a", lambda: [2]) == [1]
    assert Parts(tmp_path / "out", {"seed": 1}).get("a", lambda: [2]) == [2]


def test_the_models_own_template_is_used_where_the_configuration_says_so(
    chatty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts: list[str] = []
    real = answer_mtbench.generate
    monkeypatch.setattr(
        answer_mtbench,
        "generate",
        lambda model, tokenizer, texts, *rest, **named: (
            prompts.extend("".join(text for text, _ in pieces) for pieces in texts)
            or real(model, tokenizer, texts, *rest, **named)
        ),
    )
    rows = answer(tmp_path, chatty, "tokenizer")
    response = rows[0]["choices"][0]["turns"][0]
    assert prompts[0] == "<s><user>red cat<assistant>"
    assert prompts[3] == f"<s><user>red cat<assistant>{response}<user>blue dog<assistant>"
    assert load_tokenizer(chatty).pad_token == "<unk>" and not beginning(load_tokenizer(chatty))


def test_a_model_without_a_template_of_its_own_is_one_line(tiny_base: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"the model brings no .*chat template; name a template file"
    ):
        answer(tmp_path, tiny_base, "tokenizer")
    assert not (tmp_path / "answers.jsonl").exists()


def test_a_model_of_another_family_is_imported_with_its_own_tokenizer(
    chatty: Path, tmp_path: Path
) -> None:
    def run(*more: str) -> None:
        import_base.main(
            [
                "--snapshot",
                str(chatty),
                "--base",
                str(tmp_path / "in"),
                *more,
                "--recipe",
                '{"dtype": "float16", "tokenizer": "tokenizer.model", "seed": 0}',
                "--code",
                "x",
                "--receipt",
                str(tmp_path / "r.json"),
            ]
        )

    with pytest.raises(UserError, match=r"base.tokenizer names .* the model has tokenizer\.json"):
        run()
    run("--any-tokenizer")
    assert (tmp_path / "in/tokenizer.json").read_bytes() == (chatty / "tokenizer.json").read_bytes()
    assert read_json(tmp_path / "r.json")["outputs"]["base"]


def test_an_extra_model_comes_from_one_place_and_two_revisions_are_two_snapshots() -> None:
    registry = sources.load(ROOT / "config/sources.yaml")
    first, second = (
        {"hub": "Some/Model-3B", "revision": digit * 40, "template": "tokenizer"} for digit in "ab"
    )
    found = sources.with_models({"x": first, "y": second}, registry)
    assert set(found) - set(registry) == {f"some_model_3b_{'a' * 40}", f"some_model_3b_{'b' * 40}"}
    assert found[f"some_model_3b_{'a' * 40}"]["revision"] == "a" * 40
    for wrong in ({}, {"hub": "a/b", "path": "c"}):
        with pytest.raises(
            UserError, match=r"extra_models\.x: expected one of source, hub and path"
        ):
            sources.with_models({"x": wrong}, registry)
    with pytest.raises(
        UserError, match="no source `openbezoar_sff`; the nearest id is `openbezoar_sft`"
    ):
        sources.with_models({"x": {"source": "openbezoar_sff"}}, registry)


def test_the_released_checkpoints_are_all_named() -> None:
    named = yaml.safe_load((ROOT / "config/released-models.yaml").read_text())["extra_models"]
    assert {model["source"] for model in named.values()} == {
        "openbezoar_sft",
        "openbezoar_hh_rlhf_sft",
        "openbezoar_hh_rlhf_dpo",
    }
