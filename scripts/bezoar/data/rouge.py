"""Near-duplicates by ROUGE-L, searched exactly."""

from array import array
from collections import Counter
from collections.abc import Iterator
from itertools import chain
from typing import Any

import numpy as np
from rapidfuzz.distance import LCSseq

ROOM = 1024  # texts that a search has room for before it grows
WORDS = 4  # of 64 bits in a bitmap
BYTES_ADDED = np.uint32(0x01010101)  # times four bytes: their sum, in the highest


class Kept:
    """The instructions kept so far, searched exactly for near-duplicates by ROUGE-L (F measure over
    words, Lin 2004): 2 * LCS / (m + n) > limit.

    An LCS is at most the number of shared words, which must exceed limit * m / (2 - limit) whatever
    the other's length. Two texts that share so many words share one among the first m - o + 1 of
    each in any fixed order of words (prefix filter, Chaudhuri et al. 2006), so only texts filed
    under one of those are compared. Rare words come first in that order, so that the lists under
    them are short; it is drawn up anew whenever the texts have doubled, and a new word is rare.
    Before an LCS is computed, a bitmap of 256 bits that each word toggles must differ in no more
    bits than words can be unshared (Sandes et al. 2020); all texts of the lists are put to this
    test at once.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.texts: list[str] = []
        self.sizes = np.zeros(ROOM, np.int32)  # words of each text
        self.bits = np.zeros((ROOM, WORDS), np.uint64)
        self.filed: dict[str, array[int]] = {}  # letter -> texts
        # word -> one character, so that rapidfuzz compares plain strings
        self._letters: dict[str, str] = {}
        self._words: list[str] | None = None
        self._last: tuple[str, set[str], Any]

    def _encode(self, words: list[str]) -> str:
        return "".join(
            self._letters.setdefault(word, chr(1 + len(self._letters))) for word in words
        )

    def _read(self, words: list[str]) -> tuple[str, set[str], Any]:
        """Return a text, the letters that it is filed under and its bitmap; who asks whether it is
        near and then keeps it has it read once.
        """
        if words != self._words:
            text = self._encode(words)
            self._words, self._last = list(words), (text, self._prefix(text), _bitmap(text))
        return self._last

    def _prefix(self, text: str) -> set[str]:
        least = int(self.limit * len(text) / (2 - self.limit) - 1e-9) + 1
        return set(sorted(text, reverse=True)[: max(0, len(text) - least + 1)])

    def _alike(self, text: str, prefix: set[str], bits: Any) -> Iterator[tuple[int, int]]:
        """Yield the places of the texts that may be near, each with the LCS at which it is."""
        lists = [self.filed[letter] for letter in prefix if letter in self.filed]
        if not lists:
            return
        places = np.concatenate([np.frombuffer(found, np.uint32) for found in lists])
        counts = np.bitwise_count(self.bits[places] ^ bits).view(np.uint32)[:, 0]
        unlike = counts * BYTES_ADDED >> 24  # 256, of which 0 is left, lets the LCS decide
        both = self.sizes[places] + len(text)
        for place in np.unique(places[unlike <= both * (1 - self.limit) + 1e-6]).tolist():
            yield place, int(self.limit * (self.sizes[place] + len(text)) / 2) + 1

    def near(self, words: list[str]) -> int | None:
        """Return the place, from 0, of the first kept text with ROUGE-L above the limit."""
        text, prefix, bits = self._read(words)
        for place, least in self._alike(text, prefix, bits):
            other = self.texts[place]
            similarity = LCSseq.similarity(text, other, score_cutoff=least)
            if 2 * similarity > self.limit * (len(text) + len(other)):
                return place
        return None

    def add(self, words: list[str]) -> None:
        """Keep a text."""
        text, prefix, bits = self._read(words)
        self.texts.append(text)
        if len(self.texts) > len(self.sizes):
            self._grow()
        else:
            self._file(len(self.texts) - 1, prefix, bits)

    def _file(self, place: int, prefix: set[str], bits: Any) -> None:
        for letter in prefix:
            self.filed.setdefault(letter, array("I")).append(place)
        self.sizes[place], self.bits[place] = len(self.texts[place]), bits

    def _grow(self) -> None:
        """Double the room, and give the letters anew, the last to the rarest words."""
        counts = Counter(chain.from_iterable(self.texts))
        order = {letter: chr(1 + rank) for rank, (letter, _) in enumerate(counts.most_common())}
        for letter in self._letters.values():  # words of texts that were not kept
            order.setdefault(letter, chr(1 + len(order)))
        self._letters = {word: order[letter] for word, letter in self._letters.items()}
        table = str.maketrans(order)
        self.texts = [text.translate(table) for text in self.texts]
        self.sizes = np.zeros(2 * len(self.sizes), np.int32)
        self.bits = np.zeros((len(self.sizes), WORDS), np.uint64)
        self.filed.clear()
        self._words = None  # its letters were the old ones
        for place, text in enumerate(self.texts):
            self._file(place, self._prefix(text), _bitmap(text))


def _bitmap(text: str) -> Any:
    """Return 256 bits as numbers of 64; each letter toggles one of them."""
    bits = 0
    for letter in text:
        bits ^= 1 << (ord(letter) % (64 * WORDS))
    return np.frombuffer(bits.to_bytes(8 * WORDS, "little"), np.uint64)
