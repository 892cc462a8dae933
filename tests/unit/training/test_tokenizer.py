"""The slow tokenizer: golden vectors, and where the fast one, rebuilt from the same file as
transformers rebuilds it, parts from it.
"""

from pathlib import Path

import pytest

from bezoar.training.tokenizer import load_tokenizer

# text: ids of the slow tokenizer of the tests' tiny base, which is trained from a fixed corpus by
# the pinned SentencePiece
GOLDEN = {
    "the cat is red": [1, 301, 269, 304, 263],
    "a  b": [1, 321, 375, 351],
    "red\n\nblue": [1, 263, 14, 14, 306, 310],
    "### Response:yes": [1, 375, 39, 39, 39, 276, 62, 398, 328],
    "é": [1, 375, 199, 173],
    "red</s>": [1, 263, 2],
    " red": [1, 375, 263],
    "</s>a": [1, 2, 321],
    "red </s> blue": [1, 263, 375, 2, 375, 317],
}
PART = (" red", "</s>a", "red </s> blue")  # a space at the beginning, and what stands after an end


@pytest.fixture(scope="module")
def fast(tiny_base: Path) -> object:
    from transformers import LlamaTokenizer
    from transformers.convert_slow_tokenizer import generate_merges

    pieces = load_tokenizer(tiny_base).sp_model
    vocabulary = {pieces.id_to_piece(index): index for index in range(pieces.get_piece_size())}
    merges = generate_merges(
        vocabulary, {piece: pieces.get_score(index) for piece, index in vocabulary.items()}
    )
    return LlamaTokenizer(vocab=vocabulary, merges=merges)


@pytest.mark.parametrize("text", GOLDEN)
def test_the_slow_tokenizer_gives_the_golden_ids(tiny_base: Path, text: str) -> None:
    assert load_tokenizer(tiny_base)(text)["input_ids"] == GOLDEN[text]


def test_the_fast_tokenizer_differs_where_a_space_begins_or_an_end_stands_within_and_adds_no_bos(
    fast: object,
) -> None:
    """If a new transformers mends these, the slow one can go."""
    differing = [text for text, ids in GOLDEN.items() if fast(text)["input_ids"] != ids[1:]]
    assert tuple(differing) == PART
    assert all(fast(text)["input_ids"][0] != 1 for text in GOLDEN)
