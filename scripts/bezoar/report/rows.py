"""The rows behind the numbers, as sections of the page that shows them (`build_explorer.py`).

A section is {id, title, note, facets, scores, rows}; a row {id, facets, texts, scores}. `facets`
are the values to filter by, as many as the section names, each a text or a list of them; `texts`
are pairs of a label and a text; `scores` are the numbers, or None, of the models that the section
names, by whose differences the rows can be ordered; `links`, if a row has any, are the addresses of
other rows.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from statistics import fmean
from typing import Any

from bezoar.readers import column, numbered, read_json, read_jsonl
from bezoar.report import templates
from bezoar.training.template import training_text

Section = dict[str, Any]
Marks = dict[tuple[str, int], list[tuple[str, str, str]]]
Parts = dict[tuple[str, int], list[dict[str, Any]]]
NO_TEXT = "(an answer without text)"


def marks(duplicates: Path, contamination: Path) -> Marks:
    """Return (set, row from 1) -> what the searches of the data found there: its kind, what it is,
    and the address of the other row, or nothing.
    """
    found: Marks = {}
    for line in read_jsonl(duplicates):
        for name, other in (("", "of_"), ("of_", "")):
            kind = f"{line['kind']} duplicate"
            text = f"{kind} of {line[f'{other}set']} {line[f'{other}row']}"
            there = f"{line[f'{other}set']}:{line[f'{other}row']}"
            key = line[f"{name}set"], line[f"{name}row"]
            found.setdefault(key, []).append((kind, text, there))
    for line in read_jsonl(contamination):
        kind, by = ("contaminated", "by") if line["contaminated"] else ("overlap", "with")
        telling = [owner for owner in line["items"] if kind == "overlap" or owner[2] != "choice"]
        items = sorted({f"{task} {item}" for task, item, _ in telling})
        text = f"{kind} {by} {', '.join(items)}: {line['match']}"
        found.setdefault((line["set"], line["row"]), []).append((kind, text, ""))
    return found


def generated(path: Path, found: Marks) -> Section:
    """Return a scheme's rated rows, each with its verdict and what was found in it."""
    scheme, rows = path.stem, []
    for number, (where, row) in enumerate(numbered(path, read_jsonl(path)), 1):
        prompt, system, response = training_text(row, where)
        noted = found.get((scheme, number), [])
        texts = [("system", system), ("prompt", prompt), ("response", response)]
        texts.append(("reason", row.get("gpt4_reason") or ""))
        texts.append(("found", "\n".join(dict.fromkeys(text for _, text, _ in noted))))
        verdict = column(row, "gpt4_status", str, where)
        rows.append(
            {
                "id": str(number),
                "facets": [
                    verdict,
                    facet(row.get("gpt4_rating")),
                    sorted({kind for kind, _, _ in noted}) or "none",
                ],
                "texts": [pair for pair in texts if pair[1]],
                "links": list(dict.fromkeys(there for *_, there in noted if there)),
            }
        )
    return {
        "id": scheme,
        "title": f"Generated: {scheme}",
        "note": "Every row that was rated.",
        "facets": ["verdict", "rating", "found"],
        "scores": [],
        "rows": rows,
    }


def dropped(path: Path) -> Section:
    """Return the items of a scheme that a rule dropped before the rating, each with the text that
    it is too much like, where the rule compares two.
    """
    scheme = path.name.partition(".")[0]
    rows = [
        {
            "id": str(number),
            "facets": [column(row, "rule", str, where).replace("_", " ")],
            "texts": [
                (label, row[name])
                for name, label in (("text", "item"), ("like", "too much like"))
                if name in row
            ],
        }
        for number, (where, row) in enumerate(numbered(path, read_jsonl(path)), 1)
    ]
    return {
        "id": f"{scheme}-dropped",
        "title": f"Dropped by a rule: {scheme}",
        "note": "Items that were never rated. What has no text (an item left unfinished, a request"
        " without an answer) is counted in the report's funnel alone.",
        "facets": ["rule"],
        "scores": [],
        "rows": rows,
    }


def facet(value: Any) -> str:
    """Return a rating or another value to filter by as text."""
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def is_rating(score: float | None) -> bool:
    """Tell whether a judge gave a rating; FastChat writes -1 where none could be read."""
    return score is not None and score > 0


def item_parts(path: Path) -> Parts:
    """Return (task, item) -> the parts of an evaluation item: part, text, and of MT-Bench turn."""
    parts: Parts = {}
    for part in read_jsonl(path):
        parts.setdefault((part["task"], part["item"]), []).append(part)
    return parts


def asked(parts: list[dict[str, Any]], turn: int) -> list[tuple[str, str]]:
    """Return what an answer to a turn of MT-Bench was given, and the references of that turn."""
    texts = [
        (f"question, turn {part['turn']}", part["text"])
        for part in parts
        if part["part"] == "question" and part["turn"] <= turn
    ]
    given = [p["text"] for p in parts if p["part"] == "gold" and p["turn"] == turn]
    return texts + [("reference", text) for text in dict.fromkeys(given)]


def question(parts: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Return the parts of a harness item to read: of the question, without what another part
    repeats (many tasks hold it whole and in pieces, beside the answer's number), then the answers.
    """
    whole: list[str] = []
    for text in sorted(
        (p["text"] for p in parts if p["part"] == "question"), key=len, reverse=True
    ):
        if not any(text.lower() in longer.lower() for longer in whole):
            whole.append(text)
    bare = [text for text in whole if text.strip().isdigit()]
    shown = [text for text in whole if text not in bare] or whole
    names = {"gold": "right answer", "choice": "wrong answer"}
    answers = [(names[p["part"]], p["text"]) for p in parts if p["part"] in names]
    return [("question", text) for text in shown] + answers


def chosen(parts: list[dict[str, Any]], row: dict[str, Any], metric: str) -> str:
    """Return the answer that a model gave most probability to, by the rule of `metric` (acc_norm:
    per character), or nothing where that does not agree with its target and its score.
    """
    options = [part for part in parts if part["part"] in ("gold", "choice")]
    likelihoods, score = row.get("loglikelihoods", []), row[metric]
    right = [str(i) for i, part in enumerate(options) if part["part"] == "gold"]
    known = len(options) == len(likelihoods) and right == [str(row.get("target"))]
    if not known or score not in (0, 1) or metric not in ("acc", "acc_norm"):
        return ""
    lengths = [len(part["text"]) if metric == "acc_norm" else 1 for part in options]
    best = max(range(len(options)), key=lambda i: likelihoods[i] / lengths[i])
    return options[best]["text"] if (options[best]["part"] == "gold") == (score == 1) else ""


def chat(models: Iterable[tuple[Path, Path]], items: Parts) -> Section:
    """Return the answers of all models by question and turn, largest spread of ratings first; a
    model is its answers and their judgments, in a folder of its name, and its score the mean of its
    ratings.
    """
    turns: dict[tuple[int, int], dict[str, Any]] = {}
    names = []
    for answered, judged in models:
        name = answered.parent.name
        names.append(name)
        answers = {row["question_id"]: row["choices"][0]["turns"] for row in read_jsonl(answered)}
        for row in read_jsonl(judged):
            key = row["question_id"], row["turn"]
            turn = turns.setdefault(key, {"category": row["category"], "models": {}})
            model = turn["models"].setdefault(
                name, {"answer": answers[key[0]][key[1] - 1], "scores": [], "texts": []}
            )
            model["scores"].append(row["score"] if is_rating(row["score"]) else None)
            model["texts"].append(row["judgment"])
    rows = []
    for (question_id, number), turn in turns.items():
        rated = {
            name: [s for s in model["scores"] if s is not None]
            for name, model in turn["models"].items()
        }
        every = [score for scores in rated.values() for score in scores]
        spread = max(every) - min(every) if every else 0
        texts = asked(items.get(("mt_bench", question_id), []), number)
        for name, model in turn["models"].items():
            scores = ", ".join(facet(score) for score in model["scores"])
            texts.append((f"{name}: rated {scores}", model["answer"].strip() or NO_TEXT))
            texts += [(f"judge of {name}", text) for text in model["texts"]]
        empty = [name for name, model in turn["models"].items() if not model["answer"].strip()]
        facets = [turn["category"], str(number), facet(spread), empty or "none"]
        means = [fmean(rated[name]) if rated.get(name) else None for name in names]
        rows.append(
            {"id": f"{question_id}-{number}", "facets": facets, "texts": texts, "scores": means}
        )
    rows.sort(key=lambda row: (-float(row["facets"][2]), row["facets"][3] != "none", row["id"]))
    return {
        "id": "chat",
        "title": "MT-Bench answers",
        "note": "Every answer to a question and turn, those first whose ratings differ most; spread"
        " is the largest rating less the smallest. “Largest lead” shows only the answers of which"
        " the one model's is rated above the other's, those with text first.",
        "facets": ["category", "turn", "spread", "empty answer"],
        "scores": names,
        "rows": rows,
    }


def changed_items(samples: Iterable[Path], items: Parts, metrics: dict[str, str]) -> Section:
    """Return the harness's items that some models have right and others wrong; `metrics` is task ->
    the metric of its table.
    """
    found: dict[tuple[str, int], dict[str, dict[str, Any]]] = {}
    names = []
    for path in samples:
        name = path.name.removesuffix(".samples.jsonl")
        names.append(name)
        for row in read_jsonl(path):
            if metrics.get(row["task"]) in row:
                found.setdefault((row["task"], row["doc_id"]), {})[name] = row
    rows = []
    for (task, item), by_model in sorted(found.items()):
        parts = items.get((task, item), [])
        scores = {name: row[metrics[task]] for name, row in by_model.items()}
        if len(set(scores.values())) > 1:
            best = max(scores.values())
            pattern = ", ".join(name for name, score in scores.items() if score == best)
            said = {0.0: "wrong", 1.0: "right"}
            told = []
            for name, score in scores.items():
                choice = chosen(parts, by_model[name], metrics[task])
                told.append(
                    (name, ": ".join(filter(None, [said.get(score, facet(score)), choice])))
                )
            rows.append(
                {
                    "id": f"{task}-{item}",
                    "facets": [task, pattern],
                    "texts": [*question(parts), *told],
                    "scores": [scores.get(name) for name in names],
                }
            )
    return {
        "id": "items",
        "title": "LM Eval Harness: items on which models differ",
        "note": f"{len(rows)} of {len(found)} items.",
        "facets": ["task", "best"],
        "scores": names,
        "rows": rows,
    }


def preferred(pairs: Path, held_out: Path) -> Section:
    """Return the held-out preference pairs with the margins of reference and policy, largest change
    first; a pair is right where its margin is above zero.
    """
    found, numbered_pairs = read_json(held_out), dict(enumerate(read_jsonl(pairs), 1))
    rows = []
    for number, (reference, policy) in zip(found["rows"], found["margins"], strict=True):
        pair = numbered_pairs[number]
        sides = [("wrong", "right")[margin > 0] for margin in (reference, policy)]
        margins = (
            f"reference {reference:+.2f}, policy {policy:+.2f}, change {policy - reference:+.2f}"
        )
        rows.append(
            {
                "id": str(number),
                "facets": sides,
                "texts": [
                    ("margins", margins),
                    *((name, pair[name]) for name in ("prompt", "chosen", "rejected")),
                ],
                "scores": [reference, policy],
            }
        )
    rows.sort(key=lambda row: -abs(row["scores"][1] - row["scores"][0]))
    return {
        "id": "pairs",
        "title": "Held-out preference pairs",
        "note": "Margin: log-probability of the chosen answer less that of the rejected one, in"
        " nats, before DPO (reference) and after it (policy). Pairs that moved most come first.",
        "facets": ["reference", "policy"],
        "scores": ["reference", "policy"],
        "rows": rows,
    }


def embedded(value: Any) -> str:
    """Return a value as JSON for a script element, which nothing in it can end."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for character in "<\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def page(template: Path, scale: str, sections: list[Section]) -> str:
    """Return the page of these sections as HTML."""
    found = templates.environment(template.parent).get_template(template.name)
    parts = [{"id": section["id"], "json": embedded(section)} for section in sections]
    return found.render(scale=scale, sections=parts)
