"""The tokenizer of a model directory, as its own files describe it, and texts as token ids.

`tokenizer.json` counts where there is one. A directory with `tokenizer.model` alone, as that of
OpenLLaMA, gets SentencePiece itself, which its authors ask for: transformers 5 ignores
`use_fast=False`, and its `LlamaTokenizer` always rebuilds a fast tokenizer from tokenizer.model.
The SentencePiece backend that it still ships runs the model file; what Llama adds is below.

Special tokens are never read from a row's text: `</s>` in a row is four characters. Only a
template's own text may hold them (see `encode`).
"""

import math
import re
from collections.abc import Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from bezoar.errors import UserError, reason, shortage
from bezoar.readers import read_json_object, read_text
from bezoar.training.template import Piece

PROBES = (  # where tokenizers of one vocabulary are known to differ
    "The quick brown fox jumps over the lazy dog.",
    " leading space",
    "two  spaces and\ta tab",
    "a line\n\nand another\n",
    "1234567890 3.14 1,000",
    "don't stop: it's 'quoted'",
    "naïve café, Füße, 你好 🙂",
    "def f(x):\n    return x**2  # code",
    "",
)

# Keys of tokenizer_config.json: tokens that stand for what is no text. Gemma 3's text models have
# no embedding of theirs.
OTHER_MEDIA = "image_token audio_token video_token boi_token eoi_token".split()
ROLES = "bos eos unk pad".split()

Text = str | Sequence[Piece]


def tokenizer_file(model: Path) -> str:
    """Return the name of the file that decides how the model in a directory splits text; raise
    `UserError` if there is none.
    """
    for name in ("tokenizer.json", "tokenizer.model", "vocab.json"):
        if (model / name).is_file():
            return name
    raise UserError(
        f"{model}: no tokenizer; expected tokenizer.json or tokenizer.model beside the weights"
    )


def load_tokenizer(model: Path) -> Any:
    """Return the tokenizer of a model directory; it has an EOS and a padding token, and reads no
    special token from a text.

    The padding token is the model's own if it has an embedding, otherwise unk, otherwise EOS; it is
    always masked. Raise `UserError` if the files cannot be read or name no EOS.
    """
    slow = tokenizer_file(model) == "tokenizer.model"
    tokenizer = _sentencepiece(model) if slow else _own(model)
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"{model}: the tokenizer has no EOS token, so no answer would end; name it as eos_token"
            " in tokenizer_config.json"
        )
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id >= _embeddings(model):
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    _mark_special(tokenizer)
    tokenizer.split_special_tokens = True
    return tokenizer


def _embeddings(model: Path) -> float:
    """How many embeddings config.json describes; without a number, as many as anything needs."""
    if not (model / "config.json").is_file():
        return math.inf
    config = read_json_object(model / "config.json")
    inner = config.get("text_config")
    found = config.get("vocab_size") or (isinstance(inner, dict) and inner.get("vocab_size"))
    return found if type(found) is int else math.inf


def _mark_special(tokenizer: Any) -> None:
    """Tell a fast tokenizer which tokens are special: a file may name `<|im_end|>` as EOS and list
    it as ordinary text. Other added tokens stay ordinary text.
    """
    from transformers import AddedToken

    for token in tokenizer.added_tokens_decoder.values():
        if not token.special and token.content in tokenizer.all_special_tokens:
            tokenizer.backend_tokenizer.add_special_tokens(
                [AddedToken(token.content, special=True, normalized=False)]
            )


def _own(model: Path) -> Any:
    """The tokenizer that transformers loads from the directory's files."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(model, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # tokenizers raises the bare class for a file it cannot parse
        if shortage(error):
            raise
        raise UserError(
            f"{model}: no tokenizer that can be read ({reason(error)}); expected tokenizer.json or"
            " tokenizer.model, with tokenizer_config.json, beside the weights"
        ) from None


@cache
def _llama_tokenizer() -> Any:
    """The class of `tokenizer.model`'s tokenizers, made when one is needed: transformers takes a
    second to import.
    """
    from transformers.tokenization_utils_sentencepiece import SentencePieceBackend

    class SlowLlamaTokenizer(SentencePieceBackend):
        """BOS before every text, EOS never added by itself, byte pieces for characters outside
        the vocabulary.
        """

        model_input_names = ["input_ids", "attention_mask"]  # noqa: RUF012 - the base class reads it as a class attribute
        adds_bos = True

        def build_inputs_with_special_tokens(
            self, token_ids_0: list[int], token_ids_1: list[int] | None = None
        ) -> list[int]:
            """Return the ids of one or two texts with BOS before the first."""
            start = [self.bos_token_id] if self.adds_bos else []
            return [*start, *token_ids_0, *(token_ids_1 or [])]

        def _convert_id_to_token(self, index: int) -> str:
            """Return the piece of an id; an embedding may have rows without one, which are no
            text.
            """
            known = 0 <= index < self.sp_model.get_piece_size()
            return self.sp_model.id_to_piece(index) if known else ""

        def convert_tokens_to_string(self, tokens: list[str]) -> str:
            """Join pieces to text; byte pieces such as <0x0A> become the characters they encode."""
            return self.sp_model.decode_pieces(tokens)

    return SlowLlamaTokenizer


def _sentencepiece(model: Path) -> Any:
    """SentencePiece's own tokenizer, with the special and added tokens that the files beside
    tokenizer.model name.
    """
    import sentencepiece
    from transformers import AddedToken

    path = model / "tokenizer.model"
    try:
        pieces = sentencepiece.SentencePieceProcessor(model_file=str(path))
    except (OSError, RuntimeError) as error:
        if shortage(error):
            raise
        raise UserError(f"{path}: expected a SentencePiece model ({reason(error)})") from None
    try:
        config, added, skipped = _described(model)
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f"{model}: its tokenizer_config.json, special_tokens_map.json or added_tokens.json is"
            f" not of the form that transformers writes ({reason(error)})"
        ) from None
    named = {
        name: token
        for name in (*(f"{role}_token" for role in ROLES), *OTHER_MEDIA)
        if (token := _content(config.get(name)))
        and (token in added or pieces.id_to_piece(pieces.piece_to_id(token)) == token)
    }
    for role in ROLES:
        if f"{role}_token" not in named and (index := getattr(pieces, f"{role}_id")()) >= 0:
            named[f"{role}_token"] = pieces.id_to_piece(index)
    tokenizer = _llama_tokenizer()(
        vocab_file=str(path),
        legacy=True,
        padding_side="right",
        **dict.fromkeys((f"{role}_token" for role in ROLES), None) | named,
        extra_special_tokens=[token for token in skipped if token in added],
        added_tokens_decoder={
            index: AddedToken(token, special=True, normalized=False)
            for token, index in sorted(added.items(), key=lambda item: item[1])
        },
    )
    tokenizer.adds_bos = "bos_token" in named and config.get("add_bos_token", True) is not False
    tokenizer.chat_template = config.get("chat_template")
    return tokenizer


def _content(token: Any) -> str:
    """The text of a token as tokenizer_config.json writes it: a string or an object."""
    token = token.get("content") if isinstance(token, dict) else token
    return token if isinstance(token, str) else ""


def _described(model: Path) -> tuple[dict[str, Any], dict[str, int], list[str]]:
    """(settings, added token -> id, those of them that are no part of a decoded text) from the
    files beside tokenizer.model; all may be empty.
    """

    def held(name: str) -> dict[str, Any]:
        return read_json_object(model / name) if (model / name).is_file() else {}

    config = held("special_tokens_map.json") | held("tokenizer_config.json")
    added = {token: int(index) for token, index in held("added_tokens.json").items()}
    entries = config.get("added_tokens_decoder") or {}
    added |= {_content(token): int(index) for index, token in entries.items()}
    skipped = [_content(token) for token in entries.values() if _is_special(token)]
    for key in ("additional_special_tokens", "extra_special_tokens"):
        more = config.get(key) or []
        if isinstance(more, dict):  # by name, such as image_token
            config = more | config
            more = list(more.values())
        skipped += map(_content, more)
    if (model / "chat_template.jinja").is_file():
        config["chat_template"] = read_text(model / "chat_template.jinja")
    return config, added, skipped


def _is_special(token: Any) -> bool:
    """Whether tokenizer_config.json calls an added token special."""
    return isinstance(token, dict) and token.get("special") is True


@lru_cache(maxsize=8)
def beginning(tokenizer: Any) -> tuple[int, ...]:
    """Return the ids that the tokenizer puts before every text: BOS, or nothing."""
    alone = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = tokenizer("a")["input_ids"]
    start = next(
        (at for at in range(len(whole)) if whole[at : at + len(alone)] == alone), len(whole)
    )
    return tuple(whole[:start])


@lru_cache(maxsize=8)
def _special(tokenizer: Any) -> re.Pattern[str]:
    """A pattern that finds the special tokens in a text, the longest first."""
    added = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    names = sorted({*tokenizer.all_special_tokens, *added}, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, names)) or r"(?!)")


def holds_special(tokenizer: Any, text: str) -> bool:
    """Return whether a text contains the letters of a special token."""
    return _special(tokenizer).search(text) is not None


def encode(tokenizer: Any, text: Text, add_beginning: bool = True) -> list[int]:
    """Return the ids of a text, or of pieces of one, after BOS where the tokenizer adds one; never
    EOS.

    Pieces are encoded as the one text that they form. Special tokens are read in a template's own
    pieces and nowhere else. A template that writes BOS itself gets no second one.
    """
    pieces = [(text, False)] if isinstance(text, str) else list(text)
    start = list(beginning(tokenizer)) if add_beginning else []
    ids = _ids(tokenizer, pieces)
    return ids if start and ids[: len(start)] == start else start + ids


def _ids(tokenizer: Any, pieces: Sequence[Piece]) -> list[int]:
    whole = "".join(piece for piece, _ in pieces)
    if not any(own and holds_special(tokenizer, piece) for piece, own in pieces):
        return _text_ids(tokenizer, whole)
    if not any(holds_special(tokenizer, piece) for piece, own in pieces if not own):
        return list(
            tokenizer(whole, add_special_tokens=False, split_special_tokens=False)["input_ids"]
        )
    ids: list[int] = []
    held = ""  # text since the last special token of the template
    for piece, own in pieces:
        if not own:
            held += piece
            continue
        at = 0
        for match in _special(tokenizer).finditer(piece):
            ids += _text_ids(tokenizer, held + piece[at : match.start()])
            ids.append(tokenizer.convert_tokens_to_ids(match.group()))
            held, at = "", match.end()
        held += piece[at:]
    return ids + _text_ids(tokenizer, held)


def _text_ids(tokenizer: Any, text: str) -> list[int]:
    if not text:
        return []
    return list(tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])


def common(a: Sequence[int], b: Sequence[int]) -> int:
    """Return the length of the common beginning."""
    return next(
        (place for place, (x, y) in enumerate(zip(a, b, strict=False)) if x != y),
        min(len(a), len(b)),
    )
