"""Exact and near duplicates among instructions."""

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from rensa import RMinHash, RMinHashLSH

from bezoar import progress
from bezoar.data.texts import features, jaccard, words_of

CHUNK = 20_000  # rows sketched at once: about 100 MB of words


def near_pairs(texts: Sequence[str], recipe: Mapping[str, Any]) -> Iterator[tuple[int, int, float]]:
    """Yield (i, j, similarity) with j < i for the pairs of texts (words joined by spaces, all
    different) that LSH proposes and that hold.
    """

    @lru_cache(maxsize=50_000)  # rows of one template are compared many times; about 300 MB
    def parts(i: int) -> frozenset[str]:
        return frozenset(features(texts[i].split()))

    doubtful = (
        recipe["jaccard"]
        - 6 * (recipe["jaccard"] * (1 - recipe["jaccard"]) / recipe["permutations"]) ** 0.5
    )
    every: list[RMinHash] = []  # 0.6 GB per million rows
    index = RMinHashLSH(
        threshold=recipe["jaccard"], num_perm=recipe["permutations"], num_bands=recipe["bands"]
    )
    for start in progress.track(
        range(0, len(texts), CHUNK), f"compare {len(texts):,} texts", unit="chunks"
    ):
        sketches = RMinHash.from_token_sets(
            [features(text.split()) for text in texts[start : start + CHUNK]],
            num_perm=recipe["permutations"],
            seed=recipe["seed"],
        )
        index.insert_many(sketches, start)
        every += sketches
        for i, candidates in enumerate(index.query_all(sketches), start=start):
            for j in sorted({j for j in candidates if j < i}):
                if every[i].jaccard(every[j]) < doubtful:
                    continue
                similarity = jaccard(parts(i), parts(j))
                if similarity >= recipe["jaccard"]:
                    yield i, j, similarity


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
