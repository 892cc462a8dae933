"""What rows of training data share with the texts of evaluation items."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from bezoar import progress
from bezoar.data.texts import word_spans, words_of
from bezoar.training.template import training_text

CHUNK = 20_000  # rows searched at once: about 20 MB of word numbers

BASE = np.uint64(6364136223846793005)  # odd, so that overflow loses no word number (Knuth, MMIX)

UNKNOWN = 0


def hashes(numbers: np.ndarray, length: int) -> np.ndarray:
    """Return a 64-bit polynomial hash of each window of `length` word numbers; shape (n - length +
    1,).
    """
    count = max(0, numbers.size - length + 1)
    total = np.zeros(count, np.uint64)
    for offset in range(length):
        total = total * BASE + numbers[offset : offset + count]
    return total


class Items:
    """All texts of the evaluation, each once, indexed for the search."""

    def __init__(self, rows: Sequence[dict[str, Any]], recipe: Mapping[str, Any]) -> None:
        self.owners: list[list[list[Any]]] = []  # text -> [task, item, part] of all that hold it
        self.numbers: list[np.ndarray] = []  # text -> its words, by number
        self.unchecked = 0
        self.vocabulary: dict[str, int] = {}
        by_words: dict[str, int] = {}
        for row in rows:
            words = words_of(row["text"])
            if len(words) < recipe["min_words"]:
                self.unchecked += 1
                continue
            place = by_words.setdefault(" ".join(words), len(self.owners))
            if place == len(self.owners):
                self.owners.append([])
                self.numbers.append(
                    np.array(
                        [self.vocabulary.setdefault(w, len(self.vocabulary) + 1) for w in words],
                        np.uint64,
                    )
                )
            self.owners[place].append([row["task"], row["item"], row["part"]])
        self.grams: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
        for length in sorted({min(recipe["ngram"], numbers.size) for numbers in self.numbers}):
            self.grams[length] = self._sorted_grams(length, recipe["ngram"])

    def _sorted_grams(self, length: int, ngram: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return (hashes in order, their texts, their places in them) of all n-grams of one
        length.
        """
        chosen = [i for i, numbers in enumerate(self.numbers) if min(ngram, numbers.size) == length]
        found = [hashes(self.numbers[i], length) for i in chosen]
        values = np.concatenate(found)
        texts = np.repeat(np.array(chosen), [part.size for part in found])
        places = np.concatenate([np.arange(part.size) for part in found])
        order = np.argsort(values, kind="stable")
        return values[order], texts[order], places[order]


def search(
    items: Items, parts: Sequence[tuple[int, str]]
) -> Iterator[tuple[int, int, set[int], tuple[int, int]]]:
    """Yield (index of part, text, places of its words that are covered, (first word, words) of the
    longest run in the part).

    `parts` are (row, text). Each window of a part whose hash is one of the items' is compared word
    by word: equal hashes alone are not a match.
    """
    encoded, starts = [], [0]
    for _, content in parts:
        encoded += [items.vocabulary.get(word, UNKNOWN) for word in words_of(content)]
        encoded.append(UNKNOWN)  # no n-gram spans two parts
        starts.append(len(encoded))
    numbers = np.array(encoded, np.uint64)
    bounds = np.array(starts)
    known = np.concatenate([[0], np.cumsum(numbers != UNKNOWN)])
    hits: dict[tuple[int, int], list[tuple[int, int, int]]] = {}
    for length, (values, texts, places) in items.grams.items():
        if numbers.size < length:
            continue
        found = hashes(numbers, length)
        whole = np.flatnonzero(known[length:] - known[:-length] == length)
        left = np.searchsorted(values, found[whole], "left")
        right = np.searchsorted(values, found[whole], "right")
        for k in np.flatnonzero(left < right):
            start = int(whole[k])
            part = int(np.searchsorted(bounds, start, "right")) - 1
            for hit in range(left[k], right[k]):
                text, place = int(texts[hit]), int(places[hit])
                if np.array_equal(
                    items.numbers[text][place : place + length], numbers[start : start + length]
                ):
                    hits.setdefault((part, text), []).append(
                        (place, start - int(bounds[part]), length)
                    )
    for (part, text), found_at in sorted(hits.items()):
        yield (
            part,
            text,
            {place + k for place, _, length in found_at for k in range(length)},
            longest_run(found_at),
        )


def longest_run(found: list[tuple[int, int, int]]) -> tuple[int, int]:
    """Return (first word in the part, words) of the longest run from (place in the text, place in
    the part, length) of shared n-grams.
    """
    best = (0, 0)
    ordered = sorted(found, key=lambda hit: (hit[1] - hit[0], hit[1]))
    start = ordered[0]
    for this, following in [*pairwise(ordered), (ordered[-1], None)]:
        size = this[1] + this[2] - start[1]
        if size > best[1]:
            best = (start[1], size)
        if following and (
            following[1] - following[0] != this[1] - this[0] or following[1] > this[1] + 1
        ):
            start = following
    return best


def matches(
    items: Items, rows: Sequence[dict[str, Any]], name: str, recipe: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """Yield a line for each row and text of the evaluation that share an n-gram."""
    for first in progress.track(range(0, len(rows), CHUNK), f"search {name}", unit="chunks"):
        parts = []
        for number, row in enumerate(rows[first : first + CHUNK], start=first + 1):
            instruction, _, response = training_text(row)
            texts = [instruction, response, *([row["rejected"]] if "chosen" in row else [])]
            parts += [(number, content) for content in texts]
        best: dict[tuple[int, int], tuple[set[int], int, str]] = {}
        spans, spans_of = [], -1
        for part, text, covered, (start, size) in search(items, parts):
            number, whole = parts[part]
            if spans_of != part:
                spans, spans_of = word_spans(whole), part
            before, longest, match = best.get((number, text), (set(), 0, ""))
            if size > longest:
                longest, match = size, whole[spans[start][0] : spans[start + size - 1][1]]
            best[number, text] = (before | covered, longest, match)
        for (number, text), (covered, longest, match) in sorted(best.items()):
            share = len(covered) / items.numbers[text].size
            telling = any(part != "choice" for _, _, part in items.owners[text])
            yield {
                "set": name,
                "row": number,
                "words": longest,
                "share": round(share, 4),
                "match": match,
                "items": items.owners[text],
                "contaminated": telling and share >= recipe["contaminated_share"],
            }


def summary(items: Items, sizes: dict[str, int], found: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the texts checked, and for each set its rows, those that share anything, those
    contaminated, and both by task.
    """
    sets = {}
    for name, size in sizes.items():
        own = [line for line in found if line["set"] == name]
        tasks: dict[str, dict[str, set[int]]] = {}
        for line in own:
            for task, _, part in line["items"]:
                kinds = tasks.setdefault(task, {"overlapping": set(), "contaminated": set()})
                kinds["overlapping"].add(line["row"])
                if line["contaminated"] and part != "choice":
                    kinds["contaminated"].add(line["row"])
        sets[name] = {
            "rows": size,
            "overlapping": len({line["row"] for line in own}),
            "contaminated": len({line["row"] for line in own if line["contaminated"]}),
            "tasks": {
                task: {kind: len(rows) for kind, rows in kinds.items()}
                for task, kinds in sorted(tasks.items())
            },
        }
    checked: dict[str, int] = {}
    for owners in items.owners:
        for task, _, _ in owners:
            checked[task] = checked.get(task, 0) + 1
    return {
        "texts_checked": dict(sorted(checked.items())),
        "texts_too_short": items.unchecked,
        "sets": sets,
    }
