"""Find exact and near duplicates among the instructions: within a scheme, across schemes, and
against the seeds.

Usage: find_duplicates.py --rows …/filter/lamini.jsonl … \\
           --seeds alpaca_seeds.jsonl dolly.jsonl --recipe '{"jaccard": 0.7, …}' --code … \\
           --pairs …/data/duplicates.jsonl --summary …/data/duplicates.json --receipt …

Exact: the same words in the same order; case and punctuation do not count. Near: Jaccard similarity
of words and neighbouring pairs of at least `jaccard`. MinHash and LSH (rensa) propose pairs, each
of which is then measured, so that precision is exact and only recall is not: a pair at similarity s
is proposed with probability 1 - (1 - s^r)^b, of b bands and r = permutations / b (Broder 1997;
Leskovec et al., ch. 3). Most proposals share words by chance: those that their sketches put more
than six standard deviations below `jaccard` are not measured. One changed word in nine or more
leaves a similarity of at least 0.7: 14 of 20 parts.

Pairs hold one line for each row and each set in which it has a duplicate: set, row (line number),
kind, of_set, of_row, jaccard. Within its own set a row is a duplicate of an earlier row only. The
summary counts such rows: {kind: {set: {of_set: rows}}}.

Recipe: jaccard (0-1), permutations (int), bands (int, divides permutations), seed.
"""

import argparse
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from rensa import RMinHash, RMinHashLSH

from bezoar import program
from bezoar.data.texts import features, jaccard, words_of
from bezoar.errors import UserError
from bezoar.files import read_jsonl, write_json, write_jsonl
from bezoar.provenance.receipt import Receipt, add_stage_arguments
from bezoar.training.template import training_text

CHUNK = 20_000  # rows sketched at once: about 100 MB of words


def near_pairs(texts: Sequence[str], recipe: dict[str, Any]) -> Iterator[tuple[int, int, float]]:
    """Yield (i, j, similarity) with j < i for the pairs of texts (words joined by spaces, all
    different) that LSH proposes and that hold.
    """

    @lru_cache(maxsize=50_000)  # rows of one template are compared again and again; about 300 MB
    def parts(i: int) -> frozenset[str]:
        return frozenset(features(texts[i].split()))

    doubtful = (
        recipe["jaccard"]
        - 6 * (recipe["jaccard"] * (1 - recipe["jaccard"]) / recipe["permutations"]) ** 0.5
    )
    every: list[RMinHash] = []  # 0.6 GB a million rows
    index = RMinHashLSH(
        threshold=recipe["jaccard"], num_perm=recipe["permutations"], num_bands=recipe["bands"]
    )
    for start in range(0, len(texts), CHUNK):
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
    """Rows of all sets, gathered by their words: one class a distinct text."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.rows: list[dict[str, list[int]]] = []  # class -> set -> row numbers, ascending
        self._by_text: dict[str, int] = {}

    def add(self, name: str, row: int, text: str) -> None:
        """Take in row `row` of set `name`; a text without words counts as it stands."""
        key = " ".join(words_of(text)) or text.strip()
        number = self._by_text.setdefault(key, len(self.texts))
        if number == len(self.texts):
            self.texts.append(key)
            self.rows.append({})
        self.rows[number].setdefault(name, []).append(row)


def duplicates(classes: Classes, recipe: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a line for each row and set in which it has a duplicate: an exact one if there is,
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


def instruction_of(row: dict[str, Any], name: str) -> str:
    """Return the instruction of a row or seed task, with Dolly's context; raise `UserError` if it
    has none.
    """
    try:
        text, context = training_text({"response": "", **row})[0], row.get("context") or ""
        return f"{text}\n\n{context}" if context else text
    except KeyError as column:
        raise UserError(
            f"{name}: no column {column}; expected rows of a scheme or seed tasks"
        ) from None


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rows", type=Path, nargs="+", required=True, help="rows of each scheme, JSONL"
    )
    parser.add_argument("--seeds", type=Path, nargs="*", default=[], help="seed tasks, JSONL")
    parser.add_argument("--pairs", type=Path, required=True, help="duplicates to write, JSONL")
    parser.add_argument("--summary", type=Path, required=True, help="counts to write, JSON")
    add_stage_arguments(parser)
    args = parser.parse_args(argv)
    with Receipt(
        args.receipt,
        stage="data_duplicates",
        recipe=args.recipe,
        code=args.code,
        inputs={"rows": args.rows, "seeds": args.seeds},
        outputs={"pairs": args.pairs, "summary": args.summary},
    ) as receipt:
        classes, sizes = Classes(), {}
        for path in [*args.rows, *args.seeds]:
            name = path.stem if path in args.rows else f"seeds: {path.stem}"
            rows = read_jsonl(path)
            sizes[name] = len(rows)
            for number, row in enumerate(rows, start=1):
                classes.add(name, number, instruction_of(row, f"{path}:{number}"))
        pairs = list(duplicates(classes, args.recipe))
        write_jsonl(args.pairs, pairs)
        table = summary(sizes, pairs)
        write_json(args.summary, table)
        receipt.facts |= {"distinct": len(classes.texts), **table}
        print(
            f"{sum(sizes.values())} rows, {len(classes.texts)} distinct; {len(pairs)} duplicates",
            flush=True,
        )


if __name__ == "__main__":
    program.run(main)
