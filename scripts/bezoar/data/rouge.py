"""Near-duplicates by ROUGE-L, searched exactly."""

from array import array
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import chain
from typing import Any

import numpy as np
from rapidfuzz.distance import LCSseq

ROOM, TIMES = 1024, 4  # texts that a search has room for, and by how much it grows
BITS = 256  # of a bitmap
MOST_WORDS = 2**16 - 1  # that are filed; what is longer counts as so long, and the LCS decides
BYTES_ADDED = np.uint32(0x01010101)  # times four bytes: their sum, in the highest


class _Letters(dict[str, str]):
    """Word -> one character, so that rapidfuzz compares plain strings; a new word gets the next."""

    def __missing__(self, word: str) -> str:
        self[word] = letter = chr(1 + len(self))
        return letter


class Kept:
    """The instructions kept so far, searched exactly for near-duplicates by ROUGE-L (F measure over
    words, Lin 2004): 2 * LCS / (m + n) > limit.

    An LCS is at most the number of shared words, o, which must exceed limit * (m + n) / 2. Two
    texts that share so many words share one among the first m - o + 1 of the one and the first
    n - o + 1 of the other, in any fixed order of words (prefix filter, Chaudhuri et al. 2006). So a
    text is filed under its first words, as many as the shortest partner leaves, each with its
    length and the longest partner for which the word is still among the first. Rare words come
    first in that order, so that the lists under them are short; it is drawn up anew whenever the
    texts have become four times as many, and a new word is rare. Before an LCS is computed, a
    bitmap of 256 bits that each word toggles must differ in no more bits than words can be unshared
    (Sandes et al. 2020). All texts of the lists are put to these tests at once.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.texts: list[str] = []
        self.sizes = np.zeros(ROOM, np.int32)  # words of each text
        self.bits = np.zeros((ROOM, BITS // 64), np.uint64)
        # letter -> of each text under it its place, words, and words of its longest partner
        self.filed: dict[str, array[int]] = defaultdict(lambda: array("Q"))
        self._letters = _Letters()
        self._longest: dict[int, list[int]] = {}  # words of a text -> `_prefix`, by place
        self._words: list[str] | None = None
        self._last: tuple[str, dict[str, int], Any]

    def _read(self, words: list[str]) -> tuple[str, dict[str, int], Any]:
        """Return a text, its first letters, each with the words of its longest partner, and its
        bitmap; who asks whether it is near and then keeps it has it read once.
        """
        if words != self._words:
            text = "".join(map(self._letters.__getitem__, words))
            self._words, self._last = list(words), (text, self._prefix(text), _bitmap(text))
        return self._last

    def _prefix(self, text: str) -> dict[str, int]:
        least = int(self.limit * len(text) / (2 - self.limit) - 1e-9) + 1
        first = sorted(text, reverse=True)[: max(0, len(text) - least + 1)]
        # as the letter at j, from 0, it is among the first while o <= m - j
        longest = self._longest.get(len(text))
        if longest is None:
            limit = max(self.limit, 1e-9)  # at 0, one shared word is enough
            longest = self._longest[len(text)] = [
                min(MOST_WORDS, int(2 * (len(text) - j) / limit - len(text) + 1e-6))
                for j in range(len(first))
            ]
        return dict(zip(reversed(first), reversed(longest), strict=True))

    def _alike(self, text: str, prefix: dict[str, int], bits: Any) -> Iterator[tuple[int, int]]:
        """Yield the places of the texts that may be near, each with the LCS at which it is."""
        lists = [(self.filed[letter], prefix[letter]) for letter in prefix if letter in self.filed]
        if not lists:
            return
        filed = np.concatenate([np.frombuffer(found, np.uint64) for found, _ in lists])
        longest, sizes = filed.view(np.uint16)[::4], filed.view(np.uint16)[1::4]
        most = np.repeat([most for _, most in lists], [len(found) for found, _ in lists])
        fit = (longest >= min(len(text), MOST_WORDS)) & (sizes <= most)
        places = (filed.compress(fit) >> np.uint64(32)).astype(np.intp)
        counts = np.bitwise_count(self.bits.take(places, axis=0) ^ bits).view(np.uint32)[:, 0]
        unlike = counts * BYTES_ADDED >> 24  # 256, of which 0 is left, lets the LCS decide
        both = self.sizes.take(places) + len(text)
        near = places.compress(unlike <= both * (1 - self.limit) + 1e-6)
        for place in sorted(set(near.tolist())):
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

    def _file(self, place: int, prefix: dict[str, int], bits: Any) -> None:
        entry = place << 32 | min(len(self.texts[place]), MOST_WORDS) << 16
        for letter, longest in prefix.items():
            self.filed[letter].append(entry | longest)
        self.sizes[place], self.bits[place] = len(self.texts[place]), bits

    def _grow(self) -> None:
        """Make more room, and give the letters anew, the last to the rarest words."""
        counts = Counter(chain.from_iterable(self.texts))
        order = {letter: chr(1 + rank) for rank, (letter, _) in enumerate(counts.most_common())}
        for letter in self._letters.values():  # words of texts that were not kept
            order.setdefault(letter, chr(1 + len(order)))
        for word, letter in self._letters.items():
            self._letters[word] = order[letter]
        table = str.maketrans(order)
        self.texts = [text.translate(table) for text in self.texts]
        self.sizes = np.zeros(TIMES * len(self.sizes), np.int32)
        self.bits = np.zeros((len(self.sizes), BITS // 64), np.uint64)
        self.filed.clear()
        self._words = None  # its letters were the old ones
        for place, text in enumerate(self.texts):
            self._file(place, self._prefix(text), _bitmap(text))


def _bitmap(text: str) -> Any:
    """Return 256 bits as numbers of 64; each letter toggles one of them."""
    letters = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    return np.packbits(np.bincount(letters % BITS, minlength=BITS) & 1).view(np.uint64)
