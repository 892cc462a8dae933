"""The slow (SentencePiece) tokenizer of a Llama model, as OpenLLaMA's authors ask.

transformers 5 ignores `use_fast=False`: its `LlamaTokenizer` always rebuilds a fast one from
tokenizer.model. The SentencePiece backend it still ships runs the model file itself, which is what
"slow" meant; what Llama adds to it is below.
"""

from pathlib import Path
from typing import Any

from transformers.tokenization_utils_sentencepiece import SentencePieceBackend

from bezoar.errors import UserError


class SlowLlamaTokenizer(SentencePieceBackend):
    """BOS before every text, EOS never added by itself, bytes for characters outside the
    vocabulary.
    """

    model_input_names = ["input_ids", "attention_mask"]  # noqa: RUF012 - the base class reads it as a class attribute

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """Return the ids of one or two texts with BOS before the first."""
        return [self.bos_token_id, *token_ids_0, *(token_ids_1 or [])]

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """Join pieces to text; byte pieces such as <0x0A> become the characters they encode."""
        return self.sp_model.decode_pieces(tokens)


def load_tokenizer(model: Path) -> Any:
    """Return the tokenizer of a model directory from its tokenizer.model.

    The pad token is the file's own, or unk where it has none (OpenLLaMA): never EOS, whose loss
    must not be masked.
    """
    path = model / "tokenizer.model"
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected a SentencePiece model beside the weights")
    tokenizer = SlowLlamaTokenizer(
        vocab_file=str(path),
        legacy=True,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        padding_side="right",
    )
    pieces = tokenizer.sp_model
    expected = {
        "bos": (pieces.bos_id(), 1),
        "eos": (pieces.eos_id(), 2),
        "unk": (pieces.unk_id(), 0),
    }
    for name, (found, wanted) in expected.items():
        if found != wanted:
            raise UserError(
                f"{path}: expected {name} to have id {wanted} as in Llama, found {found}"
            )
    tokenizer.pad_token = (
        pieces.id_to_piece(pieces.pad_id()) if pieces.pad_id() >= 0 else tokenizer.unk_token
    )
    return tokenizer
