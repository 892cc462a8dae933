"""Texts as sequences of words, for near-duplicates, n-gram overlap and the description of the data.

Words are compared in one form: Unicode's NFKC with case folded, so that composed and decomposed
letters, full-width forms and ligatures are the same word, and without invisible characters
(soft hyphens, zero-width spaces and joiners, marks of direction, variation selectors). Of scripts
that put no space between words, each letter is one.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import pairwise

WORD = re.compile(r"[^\W_]+")
# Thai and Lao, Myanmar, Khmer, kana, Han (Unicode 17.0, UAX 29, section 4: scripts without spaces).
UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003347f"
)
UNSPACED_LETTER = re.compile(rf"[{UNSPACED}]")
ANY_WORD = re.compile(rf"(?=\w)[{UNSPACED}]|[^\W_{UNSPACED}]+")
APOSTROPHE = "\u02bc"  # a letter to Unicode, and typed in place of the sign
JOINING_JAMO = range(0x1160, 0x1200)  # vowels and finals of decomposed Hangul
# Not of category Cf, and ignored by Unicode all the same (Default_Ignorable_Code_Point): the
# grapheme joiner, Hangul fillers, Khmer and Mongolian marks, variation selectors.
IGNORED = frozenset(
    chr(code)
    for codes in (
        (0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x180F, 0x3164, 0xFFA0),
        range(0x180B, 0x180E),
        range(0xFE00, 0xFE10),
        range(0xE0100, 0xE01F0),
    )
    for code in codes
)


def words_of(text: str) -> list[str]:
    """Return the words in any script, in the form in which they are compared (rouge-score
    keeps only a-z and 0-9), without case and punctuation.
    """
    if text.isascii():
        return WORD.findall(text.lower())
    if _is_simple(text):
        return ANY_WORD.findall(text.translate(_FOLDED))
    return [word for word, _, _ in _words(text)]


def word_spans(text: str) -> list[tuple[int, int]]:
    """Return where each of `words_of(text)` is in `text`, as offsets of characters. If a
    character becomes several words ("½" is 1 and 2), each gets its offsets.
    """
    if text.isascii() or _is_simple(text):
        return [match.span() for match in ANY_WORD.finditer(text.translate(_FOLDED))]
    return [(start, end) for _, start, end in _words(text)]


@cache
def _is_hidden(char: str) -> bool:
    """Whether a character does not show."""
    return char in IGNORED or unicodedata.category(char) == "Cf"


def _compared(text: str) -> str:
    """Return a text in NFKC, case folded (Unicode 3.13, toNFKC_Casefold without its removals)."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return folded.replace(APOSTROPHE, "'")


@cache
def _joins(char: str) -> bool:
    """Whether a character belongs to the letter before it: a mark, or a part of a syllable."""
    first = unicodedata.normalize("NFKC", char)[0]  # half-width marks and vowels become full ones
    return unicodedata.category(first).startswith("M") or ord(first) in JOINING_JAMO


@cache
def _is_simple_char(char: str) -> bool:
    """Whether a character is compared on its own, as one character."""
    return not _is_hidden(char) and not _joins(char) and len(_compared(char)) == 1


class _Folding(dict[int, str]):
    """Maps a simple character to the form in which it is compared, for `str.translate`."""

    def __missing__(self, code: int) -> str:
        self[code] = _compared(chr(code))
        return self[code]


_FOLDED = _Folding()


def _is_simple(text: str) -> bool:
    return all(map(_is_simple_char, set(text)))


def _letters(text: str) -> Iterator[tuple[str, int, int]]:
    """Yield (form in which it is compared, start, end) of each letter with its marks; invisible
    characters belong to none.
    """
    letter, start, end = "", 0, 0
    for place, char in enumerate(text):
        if _is_hidden(char):
            continue
        if letter and _joins(char):
            letter, end = letter + char, place + 1
            continue
        if letter:
            yield _compared(letter), start, end
        letter, start, end = char, place, place + 1
    if letter:
        yield _compared(letter), start, end


def _words(text: str) -> Iterator[tuple[str, int, int]]:
    """Yield (word, start, end), letter by letter."""
    word, first, last = "", 0, 0
    for form, start, end in _letters(text):
        for char in form:
            alone = UNSPACED_LETTER.match(word) or UNSPACED_LETTER.match(char)
            if word and alone and char.isalnum():
                yield word, first, last
                word = ""
            if char.isalnum() or (word and unicodedata.category(char).startswith("M")):
                first, last = (first if word else start), end
                word += char
            elif word:
                yield word, first, last
                word = ""
    if word:
        yield word, first, last


def features(words: Sequence[str]) -> list[str]:
    """Return the words and the pairs of neighbouring words: the set whose Jaccard similarity
    decides whether texts are near-duplicates.
    """
    return [*words, *map(" ".join, pairwise(words))]


def jaccard(first: frozenset[str], second: frozenset[str]) -> float:
    """Return the share of common elements, 0 to 1; of two empty sets it is 1."""
    shared = len(first & second)
    union = len(first) + len(second) - shared
    return shared / union if union else 1.0
