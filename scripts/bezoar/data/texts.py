"""Texts as sequences of words: what near-duplicates, n-gram overlap and the description of the data
count.
"""

import re
from collections.abc import Sequence
from itertools import pairwise

WORD = re.compile(r"[^\W_]+")


def words_of(text: str) -> list[str]:
    """Return the lower-case word tokens, in any script (rouge-score's own keep a-z and 0-9 only);
    case and punctuation are gone.
    """
    lower = text.lower()
    if len(lower) == len(text):
        return WORD.findall(lower)
    return [
        word.lower() for word in WORD.findall(text)
    ]  # a letter that grows by lowering must not become two words


def word_spans(text: str) -> list[tuple[int, int]]:
    """Return where each of `words_of(text)` stands in `text`, as offsets of characters."""
    return [match.span() for match in WORD.finditer(text)]


def features(words: Sequence[str]) -> list[str]:
    """Return the words and the pairs of neighbours, the set whose Jaccard similarity
    near-duplicates are measured by.
    """
    return [*words, *(f"{first} {second}" for first, second in pairwise(words))]


def jaccard(first: frozenset[str], second: frozenset[str]) -> float:
    """Return the share of common elements, 0 to 1; of two empty sets it is 1."""
    shared = len(first & second)
    union = len(first) + len(second) - shared
    return shared / union if union else 1.0
