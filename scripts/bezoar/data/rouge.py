"""Near-duplicates by ROUGE-L, searched exactly."""

from rapidfuzz.distance import LCSseq


class Kept:
    """The instructions kept so far, searched exactly for near-duplicates by ROUGE-L (F measure over
    words, Lin 2004): 2 * LCS / (m + n) > limit.

    An LCS is at most the number of shared words, which must exceed limit * m / (2 - limit) whatever
    the other's length. Two texts that share so many words share one among the first m - o + 1 of
    each in any fixed order of words (prefix filter, Chaudhuri et al. 2006), so only texts filed
    under one of those are compared. Words first seen last come first in that order: they are rare,
    so the lists under them are short. Before an LCS is computed, a bitmap of 256 bits that each
    word toggles must differ in no more bits than words can be unshared (Sandes et al. 2020).
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.texts: list[str] = []
        self.bits: list[int] = []
        self.filed: dict[str, list[int]] = {}
        self._letters: dict[
            str, str
        ] = {}  # word -> one character, so that rapidfuzz compares plain strings

    def _encode(self, words: list[str]) -> str:
        return "".join(
            self._letters.setdefault(word, chr(1 + len(self._letters))) for word in words
        )

    def _prefix(self, text: str) -> set[str]:
        least = int(self.limit * len(text) / (2 - self.limit) - 1e-9) + 1
        return set(sorted(text, reverse=True)[: max(0, len(text) - least + 1)])

    def near(self, words: list[str]) -> bool:
        """Say whether any kept text has ROUGE-L above the limit."""
        text = self._encode(words)
        bits = _bitmap(text)
        for index in {
            index for letter in self._prefix(text) for index in self.filed.get(letter, ())
        }:
            other = self.texts[index]
            both = len(text) + len(other)
            least = int(self.limit * both / 2) + 1
            if (bits ^ self.bits[index]).bit_count() > both - 2 * least:
                continue
            if 2 * LCSseq.similarity(text, other, score_cutoff=least) > self.limit * both:
                return True
        return False

    def add(self, words: list[str]) -> None:
        """Keep a text."""
        text = self._encode(words)
        for letter in self._prefix(text):
            self.filed.setdefault(letter, []).append(len(self.texts))
        self.texts.append(text)
        self.bits.append(_bitmap(text))


def _bitmap(text: str) -> int:
    """Return 256 bits; each letter toggles one of them."""
    bits = 0
    for letter in text:
        bits ^= 1 << (ord(letter) % 256)
    return bits
