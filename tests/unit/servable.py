"""A copy of a base with a tokenizer that servers of other people load: the pieces of its
SentencePiece model, in a tokenizer.json.
"""

import shutil
from pathlib import Path

from sentencepiece import SentencePieceProcessor
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import Unigram
from transformers import PreTrainedTokenizerFast


def servable(base: Path, folder: Path) -> Path:
    """Copy `base` to `folder`, completed; return `folder`."""
    shutil.copytree(base, folder)
    pieces = SentencePieceProcessor(model_file=str(base / "tokenizer.model"))
    vocabulary = [
        (pieces.id_to_piece(i), pieces.get_score(i)) for i in range(pieces.get_piece_size())
    ]
    tokenizer = Tokenizer(Unigram(vocabulary, unk_id=0, byte_fallback=True))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    fast.chat_template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    fast.save_pretrained(folder)
    return folder
