"""Exact and near duplicates among instructions."""

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rensa import RMinHash

from bezoar import progress
from bezoar.data.texts import features, jaccard, words_of
from bezoar.errors import UserError

CHUNK = 20_000  # rows sketched at once: about 200 MB of words and hashes
PAIRS = 100_000  # pairs whose sketches are compared at once: about 75 MB
DEVIATIONS = 4  # a pair as similar as is asked for is left out in 3 of 100,000 cases


def near_pairs(texts: Sequence[str], recipe: Mapping[str, Any]) -> Iterator[tuple[int, int, float]]:
    """Yield (i, j, similarity) with j < i for the pairs of texts (words joined by spaces, all
    different) that LSH proposes and that hold. Raise `UserError` if the bands do not divide the
    permutations.
    """

    @lru_cache(maxsize=50_000)  # rows of one template are compared many times; about 300 MB
    def parts(i: int) -> frozenset[str]:
        return frozenset(features(texts[i].split()))

    if recipe["permutations"] % recipe["bands"]:
        raise UserError(
            f"data.duplicates: {recipe['bands']} bands do not divide {recipe['permutations']}"
            " permutations; choose others"
        )
    sketches = _sketches(texts, recipe)
    for first, second in proposed(sketches, recipe["bands"], recipe["jaccard"]):
        for j, i in zip(first.tolist(), second.tolist(), strict=True):
            similarity = jaccard(parts(i), parts(j))
            if similarity >= recipe["jaccard"]:
                yield i, j, similarity


def _sketches(texts: Sequence[str], recipe: Mapping[str, Any]) -> NDArray[np.uint16]:
    """Return the MinHash of each text, (texts, permutations): of every hash the lower 16 bits,
    which is 0.26 GB per million texts. Unequal hashes agree in them once in 65,536.
    """
    found = np.empty((len(texts), recipe["permutations"]), np.uint16)
    for start in progress.track(
        range(0, len(texts), CHUNK), f"sketch {len(texts):,} texts", unit="chunks"
    ):
        words = [features(text.split()) for text in texts[start : start + CHUNK]]
        rows = RMinHash.digests_from_token_sets(
            words, num_perm=recipe["permutations"], seed=recipe["seed"]
        )
        found[start : start + CHUNK] = np.array(rows, np.uint32)  # the cast keeps the lower bits
    return found


def _two_bits(sketches: NDArray[np.uint16]) -> NDArray[np.uint64]:
    """Return the two lowest bits of every hash, 64 hashes a word: (2, words, texts)."""
    texts, permutations = sketches.shape
    found = np.zeros((2, -(-permutations // 64), texts), np.uint64)
    for start in range(0, texts, CHUNK):
        part = sketches[start : start + CHUNK]
        for bit in (0, 1):
            packed = np.zeros((len(part), 8 * found.shape[1]), np.uint8)
            packed[:, : -(-permutations // 8)] = np.packbits((part >> bit) & 1 > 0, axis=1)
            found[bit, :, start : start + CHUNK] = packed.view(np.uint64).T
    return found


def proposed(
    sketches: NDArray[np.uint16], bands: int, similarity: float
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield arrays (j, i), j < i, of the pairs of texts whose sketches agree in a whole band, each
    once, but for those that agree over all permutations in `DEVIATIONS` standard deviations less
    than a pair of `similarity` does.

    Of short texts most pairs of a band share no more than frequent words, and their number grows
    with the square of the texts. So the two lowest bits of each hash are compared first, in which
    a pair of similarity s agrees in a share of s + (1 - s) / 4 (b-bit minwise hashing, Li and König
    2010, arXiv 0910.3349).
    """
    texts, permutations = sketches.shape
    rows = permutations // bands
    least, least_of_bits = (
        share - DEVIATIONS * (share * (1 - share) / permutations) ** 0.5
        for share in (similarity, similarity + (1 - similarity) / 4)
    )
    bits = _two_bits(sketches)
    for band in progress.track(range(bands), f"compare {texts:,} texts", unit="bands"):
        keys = np.zeros(texts, np.uint64)
        for column in range(band * rows, (band + 1) * rows):
            keys = keys * np.uint64(0x9E3779B97F4A7C15) + sketches[:, column]  # modulo 2^64
        order = np.argsort(keys, kind="stable")
        keys, low, high = keys.take(order), *bits.take(order, axis=2)
        places = np.arange(texts - 1)
        for apart in count(1):  # texts of equal keys lie together, so those at `places` shrink
            places = places[places + apart < texts]
            places = places[keys.take(places) == keys.take(places + apart)]
            if not places.size:
                break
            for start in range(0, places.size, PAIRS):
                here = places[start : start + PAIRS]
                there = here + apart
                differing = np.zeros(here.size, np.int64)
                for one, two in zip(low, high, strict=True):
                    unequal = one.take(here) ^ one.take(there)
                    unequal |= two.take(here) ^ two.take(there)
                    differing += np.bitwise_count(unequal)
                close = permutations - differing >= least_of_bits * permutations
                first, second = order.take(here[close]), order.take(there[close])
                equal = sketches.take(first, axis=0) == sketches.take(second, axis=0)
                kept = equal.mean(axis=1) >= least
                first, second, equal = first[kept], second[kept], equal[kept]
                agreed = equal.reshape(-1, bands, rows).all(axis=2)
                new = agreed[:, band] & ~agreed[:, :band].any(axis=1)
                yield first[new], second[new]


class Classes:
    """Rows of all sets, grouped by their words: one class per distinct text."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.rows: list[dict[str, list[int]]] = []  # class -> set -> row numbers, ascending
        self._by_text: dict[str, int] = {}

    def add(self, name: str, row: int, text: str) -> None:
        """Add row `row` of set `name`; a text without words is compared as it is."""
        key = " ".join(words_of(text)) or text.strip()
        number = self._by_text.setdefault(key, len(self.texts))
        if number == len(self.texts):
            self.texts.append(key)
            self.rows.append({})
        self.rows[number].setdefault(name, []).append(row)


def duplicates(classes: Classes, recipe: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a line for each row and set in which it has a duplicate: an exact one if there is one,
    otherwise the most similar.
    """
    near: dict[int, list[tuple[float, int]]] = {}
    for i, j, similarity in near_pairs(classes.texts, recipe):
        near.setdefault(i, []).append((similarity, j))
        near.setdefault(j, []).append((similarity, i))
    for number, members in enumerate(classes.rows):
        found = sorted(near.get(number, []), key=lambda pair: (-pair[0], pair[1]))
        for name, rows in members.items():
            for row in rows:
                done = {
                    other: (1.0, there[0], "exact")
                    for other, there in members.items()
                    if other != name or there[0] < row
                }
                for similarity, j in found:
                    for other, there in classes.rows[j].items():
                        if other not in done and (other != name or there[0] < row):
                            done[other] = (similarity, there[0], "near")
                for other, (similarity, there_row, kind) in sorted(done.items()):
                    yield {
                        "set": name,
                        "row": row,
                        "kind": kind,
                        "of_set": other,
                        "of_row": there_row,
                        "jaccard": round(similarity, 4),
                    }


def summary(sizes: dict[str, int], pairs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return {rows: {set: n}, exact and near: {set: {of_set: rows}}}."""
    table: dict[str, Any] = {
        kind: {name: dict.fromkeys(sizes, 0) for name in sizes} for kind in ("exact", "near")
    }
    for pair in pairs:
        table[pair["kind"]][pair["set"]][pair["of_set"]] += 1
    return {"rows": sizes, **table}
