"""The page of rows: what is on it, and that nothing a model wrote becomes markup."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

import build_explorer
from bezoar.report import rows
from browser import CHROMIUM, chromium

TEMPLATE = Path(rows.__file__).parent / "explorer/page.html.j2"
HOSTILE = (
    "</script><script>document.title = 'run'</script>",
    "<img src=x onerror=\"document.title = 'run'\">",
    "<!-- <script> ]]> &lt; \u2028 \u2029 \u202eright to left",
    "long " * 5000,
)


def write(path: Path, lines: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def rated(texts: tuple[str, ...]) -> list[dict[str, Any]]:
    """Rows of a scheme, each with a verdict of its own."""
    return [
        {
            "instruction": text,
            "response": text,
            "gpt4_status": ["Accept", "Reject"][i % 2],
            "gpt4_rating": i,
            "gpt4_reason": text,
        }
        for i, text in enumerate(texts)
    ]


def html(sections: list[rows.Section]) -> str:
    return rows.page(TEMPLATE, "rehearsal", sections)


def test_a_row_has_its_verdict_and_what_was_found_in_it(tmp_path: Path) -> None:
    duplicates = write(
        tmp_path / "duplicates.jsonl",
        [
            {
                "set": "lamini",
                "row": 2,
                "kind": "near",
                "of_set": "evol",
                "of_row": 1,
                "jaccard": 0.9,
            }
        ],
    )
    contamination = write(
        tmp_path / "contamination.jsonl",
        [
            {
                "set": "evol",
                "row": 1,
                "match": "the same words",
                "items": [["arc_easy", 7, "choice"], ["arc_easy", 7, "gold"]],
                "contaminated": True,
            }
        ],
    )
    found = rows.marks(duplicates, contamination)
    evol = rows.generated(write(tmp_path / "evol.jsonl", rated(("one", "two"))), found)
    first, second = evol["rows"]
    assert (
        first["facets"] == ["Accept", "0", ["contaminated", "near duplicate"]]
        and first["id"] == "1"
    )
    found_there = "near duplicate of lamini 2\ncontaminated by arc_easy 7: the same words"
    assert first["texts"][-1] == ("found", found_there)
    assert first["links"] == ["lamini:2"] and second["links"] == []
    assert second["facets"] == ["Reject", "1", "none"]
    assert second["texts"] == [("prompt", "two"), ("response", "two"), ("reason", "two")]


def test_answers_whose_ratings_differ_most_come_first(tmp_path: Path) -> None:
    for model, scores in {"base": (3, 2.5), "sft": (4, -1)}.items():
        write(
            tmp_path / model / "answers.jsonl",
            [
                {
                    "question_id": 81,
                    "choices": [
                        {"turns": [f"{model} one", " " if model == "sft" else f"{model} two"]}
                    ],
                }
            ],
        )
        write(
            tmp_path / model / "judgments.jsonl",
            [
                {
                    "question_id": 81,
                    "turn": turn,
                    "category": "math",
                    "score": score,
                    "judgment": f"on {model}",
                }
                for turn, score in enumerate(scores, 1)
            ],
        )
    parts = [
        {"part": "question", "turn": 1, "text": "Why?"},
        {"part": "question", "turn": 2, "text": "And then?"},
        {"part": "gold", "turn": 1, "text": "Because."},
        {"part": "gold", "turn": 2, "text": "Then this."},
    ]
    section = rows.chat(
        [
            (tmp_path / model / "answers.jsonl", tmp_path / model / "judgments.jsonl")
            for model in ("base", "sft")
        ],
        {("mt_bench", 81): parts},
    )
    first, second = section["rows"]
    assert first["id"] == "81-1" and first["facets"] == ["math", "1", "1", "none"]
    assert first["texts"] == [
        ("question, turn 1", "Why?"),
        ("reference", "Because."),
        ("base: rated 3", "base one"),
        ("judge of base", "on base"),
        ("sft: rated 4", "sft one"),
        ("judge of sft", "on sft"),
    ]
    assert section["scores"] == ["base", "sft"] and first["scores"] == [3, 4]
    assert second["facets"] == ["math", "2", "0", ["sft"]] and second["scores"] == [2.5, None]
    assert ("sft: rated none", rows.NO_TEXT) in second["texts"]
    assert second["texts"][:3] == [
        ("question, turn 1", "Why?"),
        ("question, turn 2", "And then?"),
        ("reference", "Then this."),
    ]


def test_only_items_on_which_models_differ_are_listed(tmp_path: Path) -> None:
    likelihoods = {"base": [-3.0, -9.1], "sft": [-8.0, -9.0]}  # a character: -1 > -1.01, -2.7 < -1
    samples = [
        write(
            tmp_path / f"{model}.samples.jsonl",
            [
                {"task": "t", "doc_id": i, "acc_norm": float(i < right)}
                | {"loglikelihoods": found, "target": "1"}
                for i in range(3)
            ],
        )
        for (model, found), right in zip(likelihoods.items(), (1, 2), strict=True)
    ]
    parts = [
        {"part": "question", "text": "Why"},
        {"part": "question", "text": "1"},
        {"part": "choice", "text": "So."},
        {"part": "gold", "text": "It is so."},
        {"part": "question", "text": "Then why?"},
    ]
    section = rows.changed_items(samples, {("t", 1): parts}, {"t": "acc_norm"})
    (row,) = section["rows"]
    assert (
        row["id"] == "t-1" and row["facets"] == ["t", "sft"] and section["note"] == "1 of 3 items."
    )
    assert row["texts"] == [
        ("question", "Then why?"),
        ("wrong answer", "So."),
        ("right answer", "It is so."),
        ("base", "wrong: So."),
        ("sft", "right: It is so."),
    ]
    assert section["scores"] == ["base", "sft"] and row["scores"] == [0, 1]


def test_items_are_compared_by_the_metric_that_the_table_took(tmp_path: Path) -> None:
    empty, score = write(tmp_path / "empty.jsonl", []), "exact_match,strict-match"
    samples = [
        write(
            tmp_path / f"{model}.samples.jsonl",
            [{"task": "gsm8k", "doc_id": 0, "target": "1", score: value}],
        )
        for model, value in (("base", 0.0), ("sft", 1.0))
    ]
    (tmp_path / "lm_eval.json").write_text(json.dumps({"metric": {"gsm8k": score}}))
    (tmp_path / "held_out.json").write_text(json.dumps({"rows": [], "margins": []}))
    files = {
        **{"rows": write(tmp_path / "evol.jsonl", rated(("one",))), "lm-eval": "lm_eval.json"},
        **dict.fromkeys(("duplicates", "contamination", "items", "pairs"), empty),
        **{"answers": write(tmp_path / "base/answers.jsonl", []), "judgments": empty},
        **{"held-out": "held_out.json", "template": TEMPLATE, "output": "rows.html"},
        "receipt": "r.json",
    }
    build_explorer.main(
        [
            *(word for name, path in files.items() for word in (f"--{name}", str(tmp_path / path))),
            *("--samples", *map(str, samples), "--code", "x"),
            *("--recipe", '{"scale": "rehearsal", "seed": 0}'),
        ]
    )
    page = (tmp_path / "rows.html").read_text(encoding="utf-8")
    (data,) = re.findall(r'id="data-items">(.*?)</script>', page)
    assert json.loads(data)["note"] == "1 of 1 items."


def test_no_choice_is_named_that_does_not_agree_with_the_score() -> None:
    parts = [{"part": "choice", "text": "no"}, {"part": "gold", "text": "yes"}]
    row = {"acc": 1.0, "f1": 1.0, "loglikelihoods": [-2.0, -1.0], "target": "1"}
    assert rows.chosen(parts, row, "acc") == "yes"
    for other in ({"acc": 0.0}, {"acc": 0.5}, {"target": "0"}, {"target": "yes"}):
        assert rows.chosen(parts, row | other, "acc") == ""
    assert rows.chosen(parts, row, "f1") == rows.chosen(parts[:1], row, "acc") == ""


def test_a_dropped_item_has_its_rule_and_what_it_is_too_much_like(tmp_path: Path) -> None:
    found = [
        {"rule": "near_duplicate", "text": "Count legs.", "like": "Count the legs."},
        {"rule": "too_short", "text": "Go."},
    ]
    section = rows.dropped(write(tmp_path / "lamini.dropped.jsonl", found))
    assert section["id"] == "lamini-dropped" and section["facets"] == ["rule"]
    first, second = section["rows"]
    assert first["facets"] == ["near duplicate"]
    assert first["texts"] == [("item", "Count legs."), ("too much like", "Count the legs.")]
    assert second["texts"] == [("item", "Go.")]


def test_pairs_that_dpo_moved_most_come_first(tmp_path: Path) -> None:
    pairs = write(
        tmp_path / "pairs.jsonl",
        [{"prompt": f"p{i}", "chosen": f"c{i}", "rejected": f"r{i}"} for i in (1, 2, 3)],
    )
    held_out = tmp_path / "held_out.json"
    held_out.write_text(json.dumps({"rows": [3, 1], "margins": [[-1.0, -0.5], [-0.25, 2.0]]}))
    first, second = rows.preferred(pairs, held_out)["rows"]
    assert first["id"] == "1" and first["facets"] == ["wrong", "right"]
    assert first["texts"] == [
        ("margins", "reference -0.25, policy +2.00, change +2.25"),
        ("prompt", "p1"),
        ("chosen", "c1"),
        ("rejected", "r1"),
    ]
    assert second["id"] == "3" and second["facets"] == ["wrong", "wrong"]


def test_what_a_model_wrote_cannot_end_the_data(tmp_path: Path) -> None:
    section = rows.generated(write(tmp_path / "evol.jsonl", rated(HOSTILE)), {})
    page = html([section])
    (data,) = re.findall(r'<script type="application/json" id="data-evol">(.*?)</script>', page)
    assert json.loads(data) == json.loads(json.dumps(section))
    assert page.count("<script") == 2 and "<img" not in page and "\u2028" not in page


def shown(folder: Path, sections: list[rows.Section], place: str, script: str = "") -> str:
    """Return what Chromium makes of the page at an address of it, after a script of the test's: its
    title and its main part.
    """
    path = folder / "rows.html"
    done = "document.documentElement.dataset.done = 'yes'"
    listed = "if (!document.getElementById('rows')) return; clearInterval(waiting)"
    wait = f"const waiting = setInterval(() => {{ {listed}; {script}; {done} }}, 100)"
    after = f"<script>{{ {wait} }}</script></body>"
    path.write_text(html(sections).replace("</body>", after), encoding="utf-8")
    flags = ("--virtual-time-budget=5000", "--dump-dom")
    seen = chromium(folder, f"{path.as_uri()}#{place}", *flags, marker='data-done="yes"')
    return seen.rpartition("<main>")[2] + seen.partition("</title>")[0]


def test_a_browser_shows_a_linked_row_among_ten_thousand_as_text(tmp_path: Path) -> None:
    if not CHROMIUM:
        pytest.skip("needs chromium")
    texts = (*HOSTILE, *(f"row {i}" for i in range(10_000 - len(HOSTILE))))
    evol = rows.generated(write(tmp_path / "evol.jsonl", rated(texts)), {})
    first = shown(tmp_path, [evol], "evol:1")
    assert "&lt;/script&gt;&lt;script&gt;" in first and "<title>Rows: rehearsal" in first
    assert "<img" not in first and "10,000 of 10,000 rows, page 1 of 200" in first
    linked = shown(tmp_path, [evol], "evol:9000")
    assert "page 180 of 200" in linked and 'class="chosen"' in linked
    assert re.search(r'<article id="evol:9000" class="chosen">', linked)


@pytest.mark.parametrize(
    ("asked", "ids"),
    [
        ("verdict=Reject", [2, 4]),
        ("verdict=Reject&rating=3", [4]),
        ("found=near+duplicate", [1]),
        ("query=THREE", [3]),
        ("order=b+over+a", [3, 1]),
        ("order=b%20over%20a&verdict=Accept", [3, 1]),
        ("query=t?&verdict=Accept", []),
        ("page=7", [1, 2, 3, 4]),
        ("order=nobody+over+a", [1, 2, 3, 4]),
    ],
)
def test_an_address_filters_and_orders(tmp_path: Path, asked: str, ids: list[int]) -> None:
    if not CHROMIUM:
        pytest.skip("needs chromium")
    found = {("evol", 1): [("near duplicate", "of 2", "evol:2"), ("contaminated", "by t 1", "")]}
    path = write(tmp_path / "evol.jsonl", rated(("one", "two", "three", "four")))
    evol = rows.generated(path, found)
    evol["scores"] = ["a", "b"]
    for row, scores in zip(evol["rows"], ([1, 2], [2, 1], [0, 3], [None, 9]), strict=True):
        row["scores"] = scores
    page = shown(tmp_path, [evol], f"evol?{asked}")
    assert re.findall(r'<article id="evol:(\d+)"', page) == [str(number) for number in ids]
    assert f"{len(ids)} of 4 rows" in page


def test_a_row_links_its_duplicates_and_the_two_compared_come_first(tmp_path: Path) -> None:
    if not CHROMIUM:
        pytest.skip("needs chromium")
    found = {("evol", 1): [("near duplicate", "of 2", place) for place in ("evol:2", "seeds:1")]}
    evol = rows.generated(write(tmp_path / "evol.jsonl", rated(("one", "two"))), found)
    evol["scores"] = ["a", "b", "c"]
    evol["rows"][0] |= {
        "scores": [1, 3, 2],
        "texts": [("question", "?"), ("a: rated 1", "x"), ("b", "y"), ("judge of c", "z")],
    }
    page = shown(tmp_path, [evol], "evol?order=c+over+a")
    assert re.findall(r"<dt>(.*?)</dt>", page) == ["question", "judge of c", "a: rated 1", "b"]
    assert re.findall(r'href="(#(?:evol|seeds):[^"]*)"', page) == ["#evol:1", "#evol:2"]


def test_a_choice_stands_in_the_address(tmp_path: Path) -> None:
    if not CHROMIUM:
        pytest.skip("needs chromium")
    texts = tuple(f"row {i}" for i in range(120))
    evol = rows.generated(write(tmp_path / "evol.jsonl", rated(texts)), {})
    choose = """
      const [verdict] = document.querySelectorAll("select");
      verdict.value = "Reject";
      verdict.dispatchEvent(new Event("change"));
      document.querySelectorAll(".pages button")[1].click();
      document.title = location.hash + " " + document.activeElement.textContent;
    """
    page = shown(tmp_path, [evol], "evol:1", choose)
    assert "<title>#evol?verdict=Reject&amp;page=2 Previous" in page
    assert "60 of 120 rows, page 2 of 2" in page
    again = shown(tmp_path, [evol], "evol?verdict=Reject&page=2")
    assert "60 of 120 rows, page 2 of 2" in again
    assert "of 120 rows" in shown(tmp_path, [evol], "evol:50%")
