"""Promises about the data: what counts as a duplicate, what the evaluation shares with them, the
funnel, task families, cards, removal.
"""

import json
import random
import unicodedata
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import describe_data
import find_contamination
import find_duplicates
import list_evaluation_items
import measure_search
import remove_rows
import write_data_card
from bezoar.data import contamination, duplicates, task_families
from bezoar.data.texts import features, jaccard, word_spans, words_of
from bezoar.errors import UserError
from bezoar.files import write_json, write_jsonl
from bezoar.readers import read_json, read_jsonl
from bezoar.report.rows import marks
from bezoar.workflow.configuration import resolved

ROOT = Path(__file__).parents[3]
NEAR = {"jaccard": 0.7, "permutations": 128, "bands": 32, "seed": 0}
SHARED = {"ngram": 8, "min_words": 5, "contaminated_share": 0.5, "seed": 0}
TABLE = task_families.load(ROOT / "config" / "task_families.yaml")
NASTY = [
    "",
    "   ",
    "\t\\n\\t",
    "…!?",
    "İİİ SİS ǰ ŉ",
    "שלום עולם\u200f טוב",
    "e\u0301te\u0301",
    "x" * 1_000_000,
    "👩‍👩‍👧 a b",
    "a\u2028b\x00c",
    "ﬁ ß ẞ",
]


@given(st.text())
def test_words_and_their_places_agree_in_any_script(text: str) -> None:
    spans, words = word_spans(text), words_of(text)
    assert len(spans) == len(words)
    for (start, end), word in zip(spans, words, strict=True):
        assert 0 <= start < end <= len(text)
        assert word in words_of(text[start:end])


MARKED = st.text(
    st.one_of(
        st.characters(),
        *(
            st.characters(min_codepoint=first, max_codepoint=last)
            for first, last in [
                (0xC0, 0x24F),  # Latin with accents
                (0x300, 0x36F),  # accents
                (0x900, 0xDFF),  # Indian scripts
                (0x0E00, 0x0EFF),  # Thai and Lao
                (0x1000, 0x109F),  # Myanmar
                (0x1100, 0x11FF),  # parts of Hangul syllables
                (0x1780, 0x17FF),  # Khmer
                (0x3040, 0x30FF),  # kana
                (0x4E00, 0x4E80),  # Han
                (0xAC00, 0xAD00),  # Hangul syllables
                (0xFB00, 0xFB4F),  # ligatures
                (0xFF00, 0xFFEF),  # full and half width
            ]
        ),
    ),
    max_size=20,
)


@settings(max_examples=300, deadline=None)
@given(MARKED)
def test_no_form_of_unicode_hides_a_word(text: str) -> None:
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        assert words_of(unicodedata.normalize(form, text)) == words_of(text)


@pytest.mark.parametrize(
    ("hidden", "plain"),
    [
        ("ｆｕｌｌ　ｗｉｄｔｈ １２", "full width 12"),
        ("oﬃce ﬁne", "office fine"),
        ("con\u200bta\u00admi\u2060na\ufefftion", "contamination"),
        ("\u202eabc\u202c d\u200de", "abc de"),
        ("con\u034fta\ufe0fmi\u3164na\U000e0101tion", "contamination"),
        ("STRASSE", "straße"),
        ("ΣΊΣΥΦΟΣ", "σίσυφος"),
        ("ﾊﾟﾝ", "パン"),
        ("हिन्दी", "हिन्दी"),
        ("don\u02bct", "don't"),
    ],
)
def test_what_looks_the_same_is_the_same_words(hidden: str, plain: str) -> None:
    assert words_of(hidden) == words_of(plain)
    assert words_of(hidden)


def test_of_scripts_without_spaces_each_letter_is_a_word() -> None:
    assert words_of("我们AI时代2号") == ["我", "们", "ai", "时", "代", "2", "号"]
    assert (
        words_of("がっこう。")
        == words_of(unicodedata.normalize("NFD", "がっこう"))
        == list("がっこう")
    )
    assert words_of("น้ำ") == words_of(unicodedata.normalize("NFKD", "น้ำ"))
    assert len(words_of("นํ้าใจ")) > 2
    question = "请说明为什么水在零度以下会结冰，并举出三个生活中的例子。"
    (found,) = contamination.matches(
        items_of(question), [{"instruction": f"问题：{question}", "response": ""}], "s", SHARED
    )
    assert found["share"] == 1.0


def test_decomposed_text_is_found_and_quoted_as_the_row_writes_it() -> None:
    plain = "Écris un résumé détaillé de l'élection présidentielle à Orléans"
    row = {"instruction": unicodedata.normalize("NFD", f"Oh: {plain}!"), "response": ""}
    (found,) = contamination.matches(items_of(plain), [row], "s", SHARED)
    assert found["share"] == 1.0
    assert found["match"] == unicodedata.normalize("NFD", plain)
    classes = classes_of(a=[plain], b=[unicodedata.normalize("NFD", plain), plain.upper()])
    assert len(classes.texts) == 1


def classes_of(**sets: list[str]) -> duplicates.Classes:
    classes = duplicates.Classes()
    for name, texts in sets.items():
        for number, text in enumerate(texts, start=1):
            classes.add(name, number, text)
    return classes


def test_a_duplicate_is_named_with_the_row_and_set_it_repeats() -> None:
    first = "Which of the old towns on the river was founded by traders from the north?"
    changed = first.replace("traders", "farmers")
    found = list(
        duplicates.duplicates(
            classes_of(a=[first, "Name a tree.", changed], b=["NAME a tree!", first]), NEAR
        )
    )
    assert (
        found
        == [
            {"set": "a", "row": 1, "kind": "exact", "of_set": "b", "of_row": 2, "jaccard": 1.0},
            {"set": "b", "row": 2, "kind": "exact", "of_set": "a", "of_row": 1, "jaccard": 1.0},
            {"set": "a", "row": 2, "kind": "exact", "of_set": "b", "of_row": 1, "jaccard": 1.0},
            {"set": "b", "row": 1, "kind": "exact", "of_set": "a", "of_row": 2, "jaccard": 1.0},
            {"set": "a", "row": 3, "kind": "near", "of_set": "a", "of_row": 1, "jaccard": 0.8},
            {"set": "a", "row": 3, "kind": "near", "of_set": "b", "of_row": 2, "jaccard": 0.8},
            {"set": "b", "row": 2, "kind": "near", "of_set": "a", "of_row": 3, "jaccard": 0.8},
        ][:6]
    )
    counted = duplicates.summary({"a": 3, "b": 2}, found)
    assert counted["exact"] == {"a": {"a": 0, "b": 2}, "b": {"a": 2, "b": 0}}
    assert counted["near"] == {"a": {"a": 1, "b": 1}, "b": {"a": 0, "b": 0}}


@pytest.mark.parametrize("hashes", [{}, {"permutations": 100, "bands": 25}])
def test_no_pair_is_called_near_that_is_not_and_few_that_are_escape(hashes: dict[str, int]) -> None:
    """Against every pair compared: precision is exact, recall is that of the hashing."""
    rng = random.Random(1)
    texts = {" ".join(rng.choices("abcdefghij", k=8))}
    while len(texts) < 400:
        words = rng.choice(sorted(texts)).split()
        words[rng.randrange(len(words))] = rng.choice("abcdefghijklmnop")
        texts.add(" ".join(words))
    ordered = sorted(texts)
    parts = [frozenset(features(text.split())) for text in ordered]
    near = {
        (i, j): s
        for i in range(len(ordered))
        for j in range(i)
        if (s := jaccard(parts[i], parts[j])) >= 0.7
    }
    listed = list(duplicates.near_pairs(ordered, NEAR | hashes))
    found = {(i, j): s for i, j, s in listed}
    assert len(listed) == len(found)
    assert found.items() <= near.items()
    assert len(near) > 200
    assert len(found) >= 0.99 * len(near)


def test_few_texts_have_no_pair_and_bands_must_divide_the_permutations() -> None:
    assert not any(list(duplicates.near_pairs(texts, NEAR)) for texts in ([], ["a b"], ["a", "b"]))
    with pytest.raises(UserError, match="30 bands do not divide 128 permutations"):
        list(duplicates.near_pairs(["a", "b"], NEAR | {"bands": 30}))


def test_nasty_texts_are_compared_as_they_are() -> None:
    found = list(duplicates.duplicates(classes_of(a=[*NASTY, "שלום, עולם טוב!", "…!?"]), NEAR))
    assert sorted((line["row"], line["of_row"], line["kind"]) for line in found) == [
        (2, 1, "exact"),
        (12, 6, "exact"),
        (13, 4, "exact"),
    ]


def items_of(*texts: str, part: str = "question") -> contamination.Items:
    return contamination.Items(
        [{"task": "t", "item": i, "part": part, "text": text} for i, text in enumerate(texts)],
        SHARED,
    )


def search(items: contamination.Items, *responses: str) -> list[dict[str, Any]]:
    rows = [{"instruction": "Say something.", "response": response} for response in responses]
    return list(contamination.matches(items, rows, "s", SHARED))


def test_a_match_is_told_with_its_text_its_share_and_all_who_hold_it() -> None:
    question = "The quick brown fox jumps over the lazy dog near the old mill by the river."
    items = items_of(question, question.upper())
    found = search(
        items,
        "Nothing.",
        f"As they say: the QUICK brown fox, jumps over the lazy dog -- and so on. {'Word. ' * 30}",
    )
    assert found == [
        {
            "set": "s",
            "row": 2,
            "words": 9,
            "share": 0.5625,
            "match": "the QUICK brown fox, jumps over the lazy dog",
            "items": [["t", 0, "question"], ["t", 1, "question"]],
            "contaminated": True,
        }
    ]
    assert search(items, "the quick brown fox jumps over the") == [], (
        "seven words are no n-gram of eight"
    )
    assert search(items, "fox jumps over the lazy dog near the")[0]["contaminated"], (
        "half of the words"
    )
    assert not search(items_of(f"{question} Twice."), "fox jumps over the lazy dog near the")[0][
        "contaminated"
    ], "less than half"


def test_short_texts_are_looked_for_whole_and_the_shortest_not_at_all() -> None:
    items = items_of("Opposite of calm is stormy.", "Yes it is so.", "A cat sat on the mat")
    assert items.unchecked == 1
    found = search(
        items,
        "yes it is so",
        "the opposite of calm is stormy",
        "a cat sat on the",
        "and a cat sat on the mat",
    )
    assert [(line["row"], line["words"], line["share"]) for line in found] == [
        (2, 5, 1.0),
        (4, 6, 1.0),
    ]


def test_a_wrong_answer_in_a_row_gives_nothing_away() -> None:
    text = "It was built by monks in the year of the flood."
    assert [
        search(items_of(text, part=part), text)[0]["contaminated"]
        for part in ("question", "gold", "choice")
    ] == [True, True, False]


@pytest.mark.parametrize("part", ["prompt", "chosen", "rejected"])
def test_a_preference_pair_is_searched_in_all_its_texts(part: str) -> None:
    text = "one two three four five six seven eight nine ten"
    pair = {"prompt": "Say something.", "chosen": "Yes.", "rejected": "No."}
    found = contamination.matches(items_of(text), [pair, {**pair, part: text}], "pairs", SHARED)
    assert [(line["set"], line["row"], line["contaminated"]) for line in found] == [
        ("pairs", 2, True)
    ]


def test_an_n_gram_does_not_go_from_the_instruction_into_the_response() -> None:
    rows = [{"instruction": "one two three four five", "response": "six seven eight nine ten"}]
    assert (
        list(
            contamination.matches(
                items_of("one two three four five six seven eight nine ten"), rows, "s", SHARED
            )
        )
        == []
    )


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from("abc"), max_size=14), min_size=1, max_size=6),
    st.lists(st.lists(st.sampled_from("abcd"), max_size=25), max_size=4),
)
def test_every_shared_n_gram_is_found(items: list[list[str]], rows: list[list[str]]) -> None:
    """Against a search of strings by hand: which (row, text) share an n-gram, and how many words of
    the text are covered.
    """
    recipe = {**SHARED, "ngram": 4, "min_words": 2}
    texts = [" ".join(words) for words in dict.fromkeys(map(tuple, items)) if len(words) >= 2]
    built = contamination.Items(
        [
            {"task": "t", "item": i, "part": "question", "text": text}
            for i, text in enumerate(texts)
        ],
        recipe,
    )
    expected = {}
    for number, row in enumerate(rows, start=1):
        for i, text in enumerate(texts):
            words = text.split()
            n = min(4, len(words))
            places = [
                k
                for k in range(len(words) - n + 1)
                if any(row[j : j + n] == words[k : k + n] for j in range(len(row) - n + 1))
            ]
            if places:
                expected[number, i] = round(
                    len({k + d for k in places for d in range(n)}) / len(words), 4
                )
    found = contamination.matches(
        built, [{"instruction": "", "response": " ".join(row)} for row in rows], "s", recipe
    )
    assert {(line["row"], line["items"][0][1]): line["share"] for line in found} == expected


def test_a_task_for_which_the_text_is_a_wrong_choice_is_given_nothing_away(tmp_path: Path) -> None:
    text = "the quick brown fox jumps over the lazy dog near the mill"
    parts = {"easy": "choice", "hard": "gold"}
    items = contamination.Items(
        [{"task": task, "item": 0, "part": part, "text": text} for task, part in parts.items()],
        SHARED,
    )
    found = search(items, text)
    counted = contamination.summary(items, {"s": 1}, found)["sets"]["s"]
    assert counted["contaminated"] == 1 and counted["tasks"] == {
        "easy": {"overlapping": 1, "contaminated": 0},
        "hard": {"overlapping": 1, "contaminated": 1},
    }
    write_jsonl(tmp_path / "duplicates.jsonl", [])
    write_jsonl(tmp_path / "contamination.jsonl", found)
    noted = marks(tmp_path / "duplicates.jsonl", tmp_path / "contamination.jsonl")
    assert [mark for _, mark, _ in noted["s", 1]] == [f"contaminated by hard 0: {text}"]


def test_nasty_rows_are_searched_and_none_of_them_matches_anything() -> None:
    assert search(items_of(*[text for text in NASTY if text.strip()]), *NASTY[:4], "x") == []
    long = "word " * 200_000 + "the quick brown fox jumps over the lazy dog"
    assert search(items_of("the quick brown fox jumps over the lazy dog"), long)[0]["share"] == 1.0


def test_seeded_texts_are_found_as_the_page_in_docs_says() -> None:
    """A fiftieth of the page's size: everything but a changed word is found, and nothing that was
    not seeded.
    """
    config = resolved([])["data"]
    for score, recipe in (
        (measure_search.score_duplicates, config["duplicates"]),
        (measure_search.score_contamination, config["contamination"]),
    ):
        found = score(200, (16, 40), recipe, 3)
        assert found["all"][1:] == (50, 0)
        assert all(found[kind][0] == found[kind][1] > 10 for kind in measure_search.CHANGES[:3])
        assert found["one word changed"][0] >= 0.9 * found["one word changed"][1]
        short = score(200, (6, 8), recipe, 3)
        assert short["one word changed"][0] < short["one word changed"][1], (
            "the page's losses are real"
        )


class Task:
    """What is used of the harness's task object."""

    eval_docs = (
        {
            "question": "Why is it so?",
            "choices": {"text": ["It rains.", "It snows."], "label": ["A", "B"]},
            "answerKey": "B",
        },
        {
            "question": "Say \x00 what.",
            "choices": {"text": ["It rains.", " It thaws. "], "label": ["A", "B"]},
            "answerKey": "A",
        },
    )

    def doc_to_choice(self, doc: dict[str, Any]) -> list[str]:
        return doc["choices"]["text"]

    def doc_to_target(self, doc: dict[str, Any]) -> int:
        return "AB".index(doc["answerKey"])


def test_every_text_of_an_item_is_listed_as_question_right_or_other_answer() -> None:
    rows = list(list_evaluation_items.of_task("t", Task()))
    assert [(row["item"], row["part"], row["text"]) for row in rows if len(row["text"]) > 1] == [
        (0, "question", "Why is it so?"),
        (0, "choice", "It rains."),
        (0, "gold", "It snows."),
        (1, "question", "Say \x00 what."),
        (1, "gold", "It rains."),
        (1, "choice", " It thaws. "),
    ]


ROWS = [
    {
        "instruction": f"Tell me about river {i % 7} and town {i}.",
        "source": "s",
        "response": "word " * (i + 1),
        "gpt4_status": status,
        "gpt4_rating": rating,
        "gpt4_reason": "",
    }
    for i, (status, rating) in enumerate(
        [("Accept", 9)] * 12 + [("Reject", 2)] * 6 + [("Unrated", None)] * 2
    )
]
MADE = {
    "entered": 40,
    "malformed": 4,
    "too_short": 3,
    "near_duplicate": 13,
    "kept": 20,
    "asked": 2,
    "states": {},
}
JUDGED = {"entered": 20, "kept": 12, "rater": "r", "accept_rate_by_length_decile": [1.0]}


def test_the_funnel_adds_up_from_asking_to_acceptance() -> None:
    funnel = describe_data.describe(ROWS, MADE, JUDGED)["funnel"]
    steps = ["asked", "entered", "dropped", "eliminated", "generated"]
    assert list(funnel)[: len(steps)] == steps, "no step but those whose counts add up"
    assert funnel["asked"] == 2 and funnel["dropped"]["malformed"] == 4
    left = funnel["entered"]
    for step in ("dropped", "eliminated"):
        left -= sum(funnel[step].values())
    assert left == funnel["generated"]
    assert funnel["generated"] == funnel["accepted"] + funnel["rejected"] + funnel["unrated"] == 20
    evol = describe_data.funnel(
        {"entered": 24, "no_answer": 1, "sorry": 2, "kept": 21, "asked": 24}, ROWS
    )
    assert (evol["dropped"], evol["eliminated"]) == ({"no_answer": 1}, {"sorry": 2})
    assert "asked" not in describe_data.describe(ROWS, None, JUDGED)["funnel"], (
        "released data were not asked for here"
    )


def test_the_description_measures_lengths_diversity_and_the_filter() -> None:
    described = describe_data.describe(ROWS, MADE, JUDGED)
    assert described["words"]["response"] == [1, 3, 5, 7, 9, 11, 12, 14, 16, 18, 20]
    assert described["filter"]["accept_rate"] == 0.6
    assert described["filter"]["accept_rate_by_position_decile"] == [1.0] * 6 + [0.0] * 4
    assert described["filter"]["ratings"] == {"2": 6, "9": 12}
    same = describe_data.diversity(["say it again"] * 50)
    assert (same["opening_entropy_bits"], same["openings"]) == (0.0, {"say it": 50})
    assert same["distinct_1"] == 3 / 150
    other = describe_data.diversity([f"word{i} then{i} thing{i}" for i in range(50)])
    assert other["distinct_2"] == 1.0 and other["opening_entropy_bits"] == pytest.approx(
        5.644, abs=1e-3
    )
    assert other["compression_ratio"] < same["compression_ratio"]


TASKS = [
    "arc_challenge",
    "arc_easy",
    "boolq",
    "hellaswag",
    "openbookqa",
    "piqa",
    "rte",
    "truthfulqa_mc2",
    "wic",
    "winogrande",
]


@pytest.mark.parametrize(
    ("name", "relation", "concerned"),
    [
        ("ai2_arc_ARC_Challenge_multiple_choice", "training_split", ["arc_challenge", "arc_easy"]),
        ("task229_arc_answer_generation_easy", "training_split", ["arc_challenge", "arc_easy"]),
        ("bool_q:1.0.0", "training_split", ["boolq"]),
        ("super_glue/wic:1.0.2", "training_split", ["wic"]),
        ("task1344_glue_entailment_classification", "training_split", ["rte"]),
        ("super_glue_rte_GPT_3_style", "training_split", ["rte"]),
        ("winogrande_winogrande_xl_stand_for", "training_split", ["winogrande"]),
        ("task1389_hellaswag_completion", "training_split", ["hellaswag"]),
        ("qasc", "same_form", ["arc_challenge", "arc_easy", "openbookqa"]),
        ("strategyqa", "same_form", ["boolq"]),
        ("creak", "same_form", ["boolq", "truthfulqa_mc2"]),
        ("aqua", "none", []),
        ("gsm8k", "none", []),
        ("task900_search_for_the_arctic", "unlisted", []),
        ("converters", "unlisted", []),
    ],
)
def test_a_flan_task_has_its_relation_to_the_evaluation(
    name: str, relation: str, concerned: list[str]
) -> None:
    found = task_families.family_of(name, TABLE, TASKS)
    assert (found["relation"], found["evaluation"]) == (relation, concerned)
    assert found["reason"]


def test_every_evaluation_task_has_an_entry_and_one_that_is_not_evaluated_concerns_nobody() -> None:
    named = {
        task
        for entry in TABLE
        if entry["relation"] == "training_split"
        for task in entry["evaluation"]
    }
    assert named >= set(resolved([])["lm_eval"]["tasks"])
    assert task_families.family_of("boolq", TABLE, ["piqa"])["relation"] == "none"


def test_a_family_without_a_reason_is_refused(tmp_path: Path) -> None:
    (tmp_path / "f.yaml").write_text("families: [{match: x, evaluation: [], relation: none}]")
    with pytest.raises(UserError, match=r"f\.yaml: entry 1: expected match, evaluation, relation"):
        task_families.load(tmp_path / "f.yaml")


def flan_rows() -> list[dict[str, Any]]:
    base = {
        "inputs": "i",
        "explained_targets": "e",
        "system_message": "",
        "gpt4_rating": 5,
        "gpt4_reason": "",
    }
    return [
        {**base, "task_name": name, "gpt4_status": status}
        for name, status in [
            ("boolq", "Accept"),
            ("aqua", "Accept"),
            ("wic", "Reject"),
            ("creak", "Accept"),
            ("new", "Accept"),
        ]
    ]


def test_the_audit_counts_accepted_rows_by_relation() -> None:
    found = describe_data.audit(flan_rows(), TABLE, TASKS)
    assert found["accepted_by_relation"] == {
        "training_split": 1,
        "same_form": 1,
        "none": 1,
        "unlisted": 1,
    }
    assert (found["tasks"]["wic"]["rows"], found["tasks"]["wic"]["accepted"]) == (1, 0)


@pytest.mark.parametrize(
    ("remove", "left"),
    [
        ([], [0, 1, 2, 3, 4]),
        (["contaminated"], [0, 2, 3, 4]),
        (["task_family"], [1, 3, 4]),
        (["contaminated", "task_family"], [3, 4]),
    ],
)
def test_only_named_rules_remove_rows_and_each_is_counted(
    remove: list[str], left: list[int]
) -> None:
    rows = flan_rows()
    kept, funnel = remove_rows.clean(rows, {2}, TABLE, {"remove": remove, "tasks": TASKS})
    assert kept == [rows[i] for i in left]
    assert funnel.entered == 5 == sum(funnel.left.values())
    assert funnel.left["contaminated"] == ("contaminated" in remove)


@pytest.mark.parametrize("number", [0, -1, 4])
@pytest.mark.parametrize("contaminated", [True, False])
def test_a_match_in_a_row_that_is_not_there_is_one_line(
    tmp_path: Path, number: int, contaminated: bool
) -> None:
    path = tmp_path / "matches.jsonl"
    match = {"set": "lamini", "row": 3, "contaminated": True}
    write_jsonl(path, [match, {**match, "set": "orca", "row": 9}])
    assert remove_rows.contaminated_rows(path, "lamini", 3) == {3}
    write_jsonl(path, [match, {**match, "row": number, "contaminated": contaminated}])
    line = rf"matches\.jsonl:2: expected a row of lamini from 1 to 3, found {number}; run"
    with pytest.raises(UserError, match=line):
        remove_rows.contaminated_rows(path, "lamini", 3)


def test_a_search_in_no_items_at_all_is_refused(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "lamini.jsonl", ROWS)
    (tmp_path / "items.jsonl").touch()
    given = {name: tmp_path / f"{name}.json" for name in ("matches", "summary", "receipt")}
    with pytest.raises(UserError, match=r"items.jsonl: no items, in which nothing could be found"):
        find_contamination.main(
            [
                *("--rows", str(tmp_path / "lamini.jsonl")),
                *("--items", str(tmp_path / "items.jsonl"), "--code", "c0de"),
                *(part for name, path in given.items() for part in (f"--{name}", str(path))),
                *("--recipe", json.dumps({**SHARED, "seed": 0})),
            ]
        )
    assert not given["summary"].exists()


@pytest.mark.parametrize(
    ("program", "arguments"),
    [
        (find_duplicates, "--rows {a} {b} --pairs {o} --summary {s}"),
        (find_duplicates, "--rows {a} --seeds {a} {b} --pairs {o} --summary {s}"),
        (find_contamination, "--rows {a} {b} --items {i} --matches {o} --summary {s}"),
        (describe_data, "--rows {a} {b} --judged {j} {j} --families {f} --description {o}"),
    ],
)
def test_sets_of_one_name_are_refused_and_so_are_sets_without_rows(
    tmp_path: Path, program: Any, arguments: str
) -> None:
    rows = [{**row, "gpt4_status": "Accept", "gpt4_rating": 9} for row in ROWS]
    item = {"task": "arc_easy", "item": 0, "part": "gold", "text": "the quick brown fox jumps over"}
    for name, content in {"a": rows, "b": rows, "c": []}.items():
        write_jsonl(tmp_path / name / "lamini.jsonl", content)
        write_jsonl(tmp_path / name / "other.jsonl", content)
    write_jsonl(tmp_path / "items.jsonl", [item])
    write_json(tmp_path / "judged.json", {**JUDGED, "entered": 21, "kept": 13})
    recipe = {**NEAR, **SHARED, "tasks": TASKS, "seed": 0}
    recipe = {name: recipe[name] for name in program.Recipe.__annotations__}

    def run(first: str, second: str) -> None:
        paths = {
            "a": tmp_path / first,
            "b": tmp_path / second,
            "o": tmp_path / "out.json",
            "s": tmp_path / "summary.json",
            "i": tmp_path / "items.jsonl",
            "j": tmp_path / "judged.json",
            "f": ROOT / "config" / "task_families.yaml",
        }
        program.main(
            [
                *(word.format(**paths) for word in arguments.split()),
                *("--recipe", json.dumps(recipe), "--code", "c0de"),
                *("--receipt", str(tmp_path / "receipt.json")),
            ]
        )

    line = r"b/lamini\.jsonl: .*/a/lamini\.jsonl is called lamini, too; .*; rename one"
    with pytest.raises(UserError, match=line):
        run("a/lamini.jsonl", "b/lamini.jsonl")
    with pytest.raises(UserError, match=r"c/other\.jsonl: no rows; "):
        run("a/lamini.jsonl", "c/other.jsonl")
    assert not list(tmp_path.glob("*out*")) and not list(tmp_path.glob("receipt*"))
    run("a/lamini.jsonl", "b/other.jsonl")
    assert (tmp_path / "out.json").is_file()


@pytest.mark.parametrize(("name", "made", "judged"), [("made", 1, 2), ("judged", 2, 1)])
def test_counts_that_are_not_one_file_for_each_set_are_one_line(
    tmp_path: Path, name: str, made: int, judged: int
) -> None:
    for stem in ("lamini", "evol"):
        write_jsonl(tmp_path / f"{stem}.jsonl", ROWS)
    write_json(tmp_path / "counts.json", JUDGED)
    counts = str(tmp_path / "counts.json")
    with pytest.raises(UserError, match=f"--{name}: expected one file for each of --rows, 2, foun"):
        describe_data.main(
            [
                *("--rows", str(tmp_path / "lamini.jsonl"), str(tmp_path / "evol.jsonl")),
                *("--made", *[counts] * made, "--judged", *[counts] * judged),
                *("--families", str(ROOT / "config" / "task_families.yaml")),
                *("--description", str(tmp_path / "out.json"), "--code", "c0de"),
                *("--recipe", json.dumps({"tasks": TASKS, "seed": 0})),
                *("--receipt", str(tmp_path / "receipt.json")),
            ]
        )
    assert not (tmp_path / "out.json").exists()


def test_the_stages_write_their_files_and_the_card_repeats_their_numbers(tmp_path: Path) -> None:
    """From rows to card on the command line: front matter that the hub reads, every count from the
    tables.
    """
    rows = [*ROWS, {**ROWS[0], "response": "The quick brown fox jumps over the lazy dog."}]
    write_jsonl(tmp_path / "lamini.jsonl", rows)
    write_jsonl(tmp_path / "seeds.jsonl", [{"instruction": rows[3]["instruction"], "context": ""}])
    write_jsonl(
        tmp_path / "items.jsonl",
        [
            {
                "task": "arc_easy",
                "item": 0,
                "part": "gold",
                "text": "the quick brown fox jumps over the lazy dog",
            }
        ],
    )
    write_json(tmp_path / "made.json", {**MADE, "entered": 41, "kept": 21})
    write_json(tmp_path / "judged.json", {**JUDGED, "entered": 21, "kept": 13})
    common = ["--code", "c0de", "--receipt", str(tmp_path / "receipt.json")]

    def run(program: Any, recipe: dict[str, Any], **paths: str) -> None:
        given = [
            part
            for name, names in paths.items()
            for part in (f"--{name}", *(str(tmp_path / one) for one in names.split()))
        ]
        program.main([*given, "--recipe", json.dumps({**recipe, "seed": 0}), *common])

    run(
        find_duplicates,
        NEAR,
        rows="lamini.jsonl",
        seeds="seeds.jsonl",
        pairs="p.jsonl",
        summary="duplicates.json",
    )
    run(
        find_contamination,
        SHARED,
        rows="lamini.jsonl",
        items="items.jsonl",
        matches="m.jsonl",
        summary="contamination.json",
    )
    (tmp_path / "families.yaml").write_text((ROOT / "config" / "task_families.yaml").read_text())
    run(
        describe_data,
        {"tasks": TASKS},
        rows="lamini.jsonl",
        made="made.json",
        judged="judged.json",
        families="families.yaml",
        description="description.json",
    )
    run(
        remove_rows,
        {"tasks": TASKS, "remove": ["contaminated"]},
        rows="lamini.jsonl",
        matches="m.jsonl",
        families="families.yaml",
        kept="clean.jsonl",
        counts="clean.json",
    )
    assert read_json(tmp_path / "duplicates.json")["exact"]["lamini"] == {
        "lamini": 1,
        "seeds: seeds": 1,
    }
    assert [line["row"] for line in read_jsonl(tmp_path / "m.jsonl")] == [21]
    assert read_jsonl(tmp_path / "clean.jsonl") == ROWS
    write_json(
        tmp_path / "generate.json",
        {"stage": "generate_lamini", "code": "f" * 64, "outputs": {"rows": {"x": "a" * 64}}},
    )
    recipe = {
        "scheme": "lamini",
        "scale": "rehearsal",
        "title": "T",
        "licence": "cc-by-nc-4.0",
        "teacher": "falcon",
        "rater": "gpt",
        "target": "x",
        "config": ["config/rehearsal.yaml"],
        "remove": [],
        "sources": [{"what": "175 seed tasks", "origin": "https://x", "licence": "CC BY-NC 4.0"}],
    }
    run(
        write_data_card,
        recipe,
        rows="lamini.jsonl",
        receipts="generate.json",
        tables="description.json duplicates.json contamination.json",
        card="README.md",
    )
    _, front, body = (tmp_path / "README.md").read_text().split("---\n", 2)
    matter = yaml.safe_load(front)
    assert matter["license"] == "cc-by-nc-4.0"
    assert matter["configs"][0]["data_files"][0]["path"] == "lamini.jsonl"
    assert "21 rows, of which 13 were accepted" in body
    near = read_json(tmp_path / "duplicates.json")["near"]["lamini"]["seeds: seeds"]
    for line in (
        "| 175 seed tasks | https://x | CC BY-NC 4.0 |",
        "| dropped: near_duplicate | 13 |",
        f"| seeds: seeds | 1 | {near} |",
        "| arc_easy | 1 | 1 |",
        "1 rows are contaminated",
        f"| generate_lamini | {'a' * 16} | {'f' * 16} |",
    ):
        assert line in body
    assert all(f"| `{column}` |" in body for column in rows[0])
    assert "snakemake --configfile config/rehearsal.yaml -- x\n" in body
    assert "`gpt4_status` = Accept. " not in body and "the strictest licence among" in body
    silent = [*recipe["sources"], {"what": "y", "origin": "a local file", "licence": "not stated"}]
    others = recipe | {"sources": silent, "remove": ["contaminated", "task_family"]}
    opening = "\n".join(write_data_card.origin(others, 21, 13))
    assert "Accept, without those that are removed as contaminated and task family." in opening
    assert "strictest" not in opening and "the parts that state no licence" in opening
