"""Weights in llama.cpp's GGUF format as a plain checkpoint: every block of 4 or 8 bits becomes the
numbers that it stands for, so that nothing is lost but what the quantisation had lost before.
"""

import tempfile
from pathlib import Path
from typing import Any

from bezoar.errors import UserError, reason, shortage

SUFFIX = ".gguf"


def dequantized(path: Path) -> tuple[Any, Any]:
    """Return (model in float32, tokenizer) of a GGUF file.

    The model is built from the file's description and gets the file's weights, because transformers
    refuses to save one that it read from GGUF. Raise `UserError` if transformers cannot read the
    file, or if a weight of the architecture is not in it.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import is_gguf_available

    if not path.is_file():
        raise UserError(f"{path}: no such file; expected weights in GGUF format")
    with open(path, "rb") as stream:
        if stream.read(4) != b"GGUF":
            raise UserError(f"{path}: expected a GGUF file; fetch it again")
    if not is_gguf_available():
        raise UserError(f"{path}: reading it needs the package gguf; make environment installs it")
    options = {"gguf_file": path.name, "local_files_only": True, "trust_remote_code": False}
    try:
        with tempfile.TemporaryDirectory() as alone:  # else what lies beside it would be read, too
            (Path(alone) / path.name).symlink_to(path.resolve())
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                alone, dtype=torch.float32, output_loading_info=True, **options
            )
            tokenizer = AutoTokenizer.from_pretrained(alone, **options)
        read, info = loaded
        model = plain(read)
    except Exception as error:  # each architecture's code, and the gguf package, raise their own
        if shortage(error):
            raise
        raise UserError(
            f"{path}: no model that transformers can read ({reason(error)}); its documentation"
            " lists the architectures and quantisations it reads from GGUF"
        ) from None
    if missing := info.get("missing_keys"):
        raise UserError(
            f"{path}: {len(missing)} weights are missing, the first {min(missing)}; fetch it again"
        )
    return model, tokenizer


def plain(read: Any) -> Any:
    """Return a model like one that was read from GGUF, of the same weights, that can be saved; the
    two hold them once.
    """
    import torch

    config = read.config
    config.architectures = [type(read).__name__]
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with torch.device("meta"):
        model = type(read)(config)
    model.load_state_dict(read.state_dict(), assign=True)
    model.tie_weights()
    for name, _ in list(model.named_buffers()):  # no file holds some of them
        where, _, last = name.rpartition(".")
        setattr(model.get_submodule(where), last, read.get_buffer(name))
    if read.generation_config is not None:
        model.generation_config = read.generation_config
    return model
