"""The slow tokenizer: golden vectors, and where the fast one, rebuilt from the same file as
transformers rebuilds it, parts from it.
"""

import errno
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from families import tokenizer

from bezoar.errors import UserError
from bezoar.training.tokenizer import encode, load_tokenizer

# text: ids of the slow tokenizer of the tests' tiny base, which is trained from a fixed corpus by
# the pinned SentencePiece
GOLDEN = {
    "the cat is red": [1, 301, 269, 304, 263],
    "a  b": [1, 321, 375, 351],
    "red\n\nblue": [1, 263, 14, 14, 306, 310],
    "### Response:yes": [1, 375, 39, 39, 39, 276, 62, 398, 328],
    "é": [1, 375, 199, 173],
    " red": [1, 375, 263],
}


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


def test_the_fast_tokenizer_differs_where_a_space_begins_and_adds_no_bos(fast: object) -> None:
    """If a new transformers mends these, the slow one can go."""
    differing = [text for text, ids in GOLDEN.items() if fast(text)["input_ids"] != ids[1:]]
    assert differing == [" red"]
    assert all(fast(text)["input_ids"][0] != 1 for text in GOLDEN)


MARKUP = ("<p><s>10</s> 8</p>", "<unk> stands for <pad>", "</s>", "red</s>blue <0x0A>")


@pytest.mark.parametrize("text", MARKUP)
def test_markup_in_a_text_is_text_and_comes_back(tiny_base: Path, text: str) -> None:
    slow = load_tokenizer(tiny_base)
    ids = encode(slow, text)
    assert ids[0] == 1 and min(ids[1:]) > 3, "BOS at the head, and no other special token"
    assert slow.decode(ids, skip_special_tokens=True) == text


def test_a_templates_own_special_tokens_are_read_and_a_rows_are_not(tiny_base: Path) -> None:
    loaded = load_tokenizer(tiny_base)
    plain = encode(loaded, [("</s>red ", True), ("blue", False), ("</s>", True)])
    assert plain.count(2) == 2 and plain[0] == 1
    marked = encode(loaded, [("</s>red ", True), ("blue</s>", False), ("</s>", True)])
    assert marked.count(2) == 2 and marked[-1] == 2
    assert encode(loaded, [("<s>red", True)]).count(1) == 1, "no second BOS"
    whole = encode(loaded, [("red ", True), ("blue", False)])
    assert whole == encode(loaded, "red blue"), "pieces are encoded as the text they form"


def test_added_tokens_and_the_end_are_those_of_the_files_beside_tokenizer_model(
    tiny_base: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_base, model)
    (model / "added_tokens.json").write_text('{"<|im_end|>": 400, "<|im_start|>": 401}')
    config = {"eos_token": "<|im_end|>", "bos_token": {"content": "<s>"}, "add_bos_token": False}
    (model / "tokenizer_config.json").write_text(json.dumps(config))
    loaded = load_tokenizer(model)
    assert loaded.eos_token_id == 400 and encode(loaded, "red") == [263]
    framed = encode(loaded, [("<|im_start|>", True), ("red<|im_end|>", False)])
    assert framed[0] == 401 and 400 not in framed


def test_ids_without_a_piece_before_an_added_token_are_no_text(
    tiny_base: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_base, model)
    (model / "added_tokens.json").write_text('{"<|im_end|>": 410, "<|im_start|>": 405}')
    (model / "tokenizer_config.json").write_text('{"eos_token": "<|im_end|>"}')
    loaded = load_tokenizer(model)
    assert (loaded.eos_token_id, encode(loaded, [("<|im_start|>", True)])[-1]) == (410, 405)
    assert loaded.decode([263, 402, 404, 263, 411, 410], skip_special_tokens=True) == "red red"


def test_an_added_token_is_skipped_in_a_text_where_its_file_calls_it_special(
    tiny_base: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_base, model)
    config = {
        "added_tokens_decoder": {
            "400": {"content": "<|start|>", "special": True},
            "401": {"content": "<tool>", "special": False},
            "402": {"content": "<x>"},
            "403": {"content": "<y>"},
        },
        "additional_special_tokens": ["<x>", "<nowhere>"],
        "extra_special_tokens": {"image_token": "<y>"},
    }
    (model / "tokenizer_config.json").write_text(json.dumps(config))
    loaded = load_tokenizer(model)
    ids = [400, 263, 401, 402, 403]
    assert loaded.decode(ids, skip_special_tokens=True) == "red<tool>"
    assert (loaded.decode(ids), loaded.image_token) == ("<|start|> red<tool><x><y>", "<y>")
    assert sorted(loaded.get_vocab().values()) == list(range(404))
    assert not {400, 401, 402, 403} & set(encode(loaded, "<|start|> <tool> <x> <y>"))


@pytest.mark.parametrize("content", ["", "{", "[]", '{"model": 1}'])
def test_a_tokenizer_that_cannot_be_read_is_one_line(tmp_path: Path, content: str) -> None:
    with pytest.raises(UserError, match="no tokenizer; expected"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(content.encode())
    with pytest.raises(UserError, match=r"tokenizer\.model: expected a SentencePiece model"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(UserError, match="no tokenizer that can be read") as error:
        load_tokenizer(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer.model"])
def test_a_disk_that_fails_is_not_the_tokenizers_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def failing(*_: Any, **__: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    (tmp_path / name).write_text("{}")
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", failing)
    monkeypatch.setattr("sentencepiece.SentencePieceProcessor", failing)
    with pytest.raises(OSError, match="Input/output error"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("added_tokens.json", '{"<x>": "many"}'),
        ("added_tokens.json", '{"<x>": null}'),
        ("tokenizer_config.json", '{"added_tokens_decoder": ["<x>"]}'),
        ("tokenizer_config.json", '{"extra_special_tokens": 7}'),
        ("tokenizer_config.json", "[]"),
        ("special_tokens_map.json", "{"),
    ],
)
def test_files_beside_tokenizer_model_that_make_no_sense_are_one_line(
    name: str, content: str, tiny_base: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_base, model)
    (model / name).write_text(content)
    with pytest.raises(UserError, match=str(model)) as error:
        load_tokenizer(model)
    assert "\n" not in str(error.value)


def test_an_end_that_its_file_lists_as_text_is_still_no_text_in_a_row(tmp_path: Path) -> None:
    tokenizer(tmp_path)
    described = json.loads((tmp_path / "tokenizer.json").read_text())
    for token in described["added_tokens"]:
        token["special"] = False
    (tmp_path / "tokenizer.json").write_text(json.dumps(described))
    loaded = load_tokenizer(tmp_path)
    assert loaded.eos_token == "<|endoftext|>"
    assert loaded.eos_token_id not in encode(loaded, "red <|endoftext|> blue")
    framed = encode(loaded, [("red", True), ("blue", False), ("<|endoftext|>", True)])
    assert framed[-1] == loaded.eos_token_id


def test_a_tokenizer_without_an_end_is_one_line(tmp_path: Path) -> None:
    tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "PreTrainedTokenizerFast"}'
    )
    with pytest.raises(UserError, match="the tokenizer has no EOS token"):
        load_tokenizer(tmp_path)
