"""Measure how much of what was seeded the duplicate and contamination searches find: recall and
precision by kind and length, as a table for docs/.

Usage: measure_search.py [--texts 4000] [--seed 0] [--output docs/search.md]

Texts are drawn from 20,000 invented words by Zipf's law. A quarter of them is seeded again,
changed in one way: exact, re-cased, re-punctuated, or with one word changed; the rest are decoys,
half of them beginning with words of another text, a third of the shorter. For contamination the
seeded texts are questions of an evaluation in the middle of longer responses. Recall is
the share of seeded texts that were found, precision the share of what was found that was seeded.
The searches run with the paper's configuration.
"""

import argparse
import itertools
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench_page import PYTHON
from bezoar import program
from bezoar.data.contamination import Items, matches
from bezoar.data.duplicates import Classes, duplicates
from bezoar.files import whole_file
from bezoar.workflow.configuration import resolved

VOCABULARY = 20_000
LENGTHS = ((4, 8), (9, 15), (16, 40), (41, 120))  # words
CHANGES = ("exact", "re-cased", "re-punctuated", "one word changed")


def sampler(rng: random.Random) -> Iterator[str]:
    """Yield words by Zipf's law, without end."""
    words = [
        f"{first}{second}{third}"
        for first, second, third in itertools.product(
            "bdfgklmnprst", "aeiou", ("l", "n", "r", "st", "va", "mi")
        )
    ]
    words = [a + b for a in words for b in words][:VOCABULARY]
    weights = list(itertools.accumulate(1 / rank for rank in range(1, VOCABULARY + 1)))
    while True:
        yield from rng.choices(words, cum_weights=weights, k=10_000)


def sentence(words: list[str]) -> str:
    """Return words as a sentence."""
    return f"{' '.join(words).capitalize()}."


def change(text: str, kind: str, rng: random.Random, word: str) -> str:
    """Return a text changed in one way; `word` is what may be put in."""
    if kind == "re-cased":
        return "".join(rng.choice((letter.upper(), letter.lower())) for letter in text)
    if kind == "re-punctuated":
        return " ".join(
            f"{rng.choice(('', '(', '«'))}{part.strip('.')}{rng.choice((',', '!', ' -', ''))}"
            for part in text.split()
        )
    if kind == "one word changed":
        parts = text.split()
        parts[rng.randrange(len(parts))] = word
        return " ".join(parts)
    return text


def seeded_texts(
    texts: int, lengths: tuple[int, int], seed: int
) -> tuple[list[str], list[tuple[str, str, int]]]:
    """Return (decoys, [(kind, changed text, number of the decoy it copies)])."""
    rng = random.Random(f"{seed} {lengths}")
    stream = sampler(rng)
    decoys: list[list[str]] = []
    for _ in range(texts):
        words = list(itertools.islice(stream, rng.randint(*lengths)))
        if decoys and rng.random() < 0.5:
            other = rng.choice(decoys)
            shared = min(len(other), len(words)) // 3
            words[:shared] = other[:shared]
        decoys.append(words)
    whole = [sentence(words) for words in decoys]
    seeded = []
    for index in rng.sample(range(texts), texts // 4):
        kind = CHANGES[len(seeded) % len(CHANGES)]
        seeded.append((kind, change(whole[index], kind, rng, next(stream)), index))
    return whole, seeded


def score_duplicates(
    texts: int, lengths: tuple[int, int], recipe: dict[str, Any], seed: int
) -> dict[str, tuple[int, int, int]]:
    """Return kind -> (found, seeded, pairs found that were not seeded) of the duplicate search;
    the last under `all`.
    """
    whole, seeded = seeded_texts(texts, lengths, seed)
    classes = Classes()
    for number, text in enumerate([*whole, *(text for _, text, _ in seeded)]):
        classes.add("set", number, text)
    pairs = {
        (line["row"], line["of_row"]) for line in duplicates(classes, {**recipe, "seed": seed})
    }
    wanted = {(texts + place, index): kind for place, (kind, _, index) in enumerate(seeded)}
    found = {kind: sum(wanted[pair] == kind for pair in pairs & wanted.keys()) for kind in CHANGES}
    totals = {kind: sum(kind == other for other in wanted.values()) for kind in CHANGES}
    return {kind: (found[kind], totals[kind], 0) for kind in CHANGES} | {
        "all": (sum(found.values()), len(wanted), len(pairs - wanted.keys()))
    }


def score_contamination(
    texts: int, lengths: tuple[int, int], recipe: dict[str, Any], seed: int
) -> dict[str, tuple[int, int, int]]:
    """Return the same of the contamination search: evaluation questions seeded inside responses,
    among decoys that share thirds of them.
    """
    whole, seeded = seeded_texts(texts, lengths, seed)
    stream = sampler(random.Random(f"{seed} padding"))
    questions = {index for _, _, index in seeded}
    items = Items(
        [
            {"task": "seeded", "item": i, "part": "question", "text": whole[i]}
            for i in sorted(questions)
        ],
        recipe,
    )
    rows = []
    for text in [
        *(text for _, text, _ in seeded),
        *(text for i, text in enumerate(whole) if i not in questions),
    ]:
        around = [" ".join(itertools.islice(stream, 20)) for _ in range(2)]
        rows.append(
            {
                "instruction": sentence(list(itertools.islice(stream, 8))),
                "response": f"{around[0]} {text} {around[1]}",
            }
        )
    pairs = {
        (line["row"] - 1, item)
        for line in matches(items, rows, "set", recipe)
        if line["contaminated"]
        for _, item, _ in line["items"]
    }
    wanted = {(place, index): kind for place, (kind, _, index) in enumerate(seeded)}
    found = {kind: sum(wanted[pair] == kind for pair in pairs & wanted.keys()) for kind in CHANGES}
    totals = {kind: sum(kind == other for other in wanted.values()) for kind in CHANGES}
    return {kind: (found[kind], totals[kind], 0) for kind in CHANGES} | {
        "all": (sum(found.values()), len(wanted), len(pairs - wanted.keys()))
    }


def table(texts: int, seed: int) -> str:
    """Return the page."""
    config = resolved([])["data"]
    lines = [
        "# What the searches find of what was seeded",
        "",
        (
            f"Written by `{PYTHON} scripts/dev/measure_search.py --texts {texts} --seed"
            f" {seed}`; {texts:,} texts and {texts // 4:,} seeded ones a line. Duplicates: Jaccard"
            f" {config['duplicates']['jaccard']}; contamination:"
            f" {config['contamination']['ngram']}-grams, share"
            f" {config['contamination']['contaminated_share']}. Precision counts every kind"
            " together."
        ),
        "",
        "| search | words | "
        + " | ".join(f"recall, {kind}" for kind in CHANGES)
        + " | precision |",
        "|---|---|" + "---|" * (len(CHANGES) + 1),
    ]
    for name, score in (("duplicates", score_duplicates), ("contamination", score_contamination)):
        for lengths in LENGTHS:
            found = score(texts, lengths, config[name], seed)
            cells = [
                f"{found[kind][0]}/{found[kind][1]} = {found[kind][0] / found[kind][1]:.3f}"
                for kind in CHANGES
            ]
            right, _, wrong = found["all"]
            lines.append(
                f"| {name} | {lengths[0]}–{lengths[1]} | {' | '.join(cells)} |"
                f" {right}/{right + wrong} = {right / max(1, right + wrong):.3f} |"
            )
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--texts", type=int, default=4000, help="texts for each line of the table")
    parser.add_argument("--seed", type=int, default=0, help="of all draws")
    parser.add_argument("--output", type=Path, help="page to write; printed if none is named")
    args = parser.parse_args(argv)
    text = table(args.texts, args.seed)
    print(text)
    if args.output:
        with whole_file(args.output) as stream:
            stream.write(text)


if __name__ == "__main__":
    program.run(main)
