"""Load causal language models and adapters from local directories, with every weight in its place:
a partly random model never computes anything.
"""

import math
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bezoar.errors import UserError, reason, shortage
from bezoar.readers import read_json_object, shown
from bezoar.training.tokenizer import OTHER_MEDIA, load_tokenizer, tokenizer_file

# What a weight may be stored in, by safetensors' and by torch's names.
PLAIN = set("F64 F32 F16 BF16 float64 float32 float16 bfloat16".split())
LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
MOST_TOKENS = 10**12  # of a context; a config that says more makes no sense
# Of adapter_config.json: what makes an adapter act on some tokens or rows alone. No merge holds it.
CONDITIONAL = ("alora_invocation_tokens", "arrow_config")
# Of buffers, such as positions and masks; masks in old pickles are bytes.
WHOLE = set("I64 I32 I16 BOOL int64 int32 int16 bool uint8".split())
PICKLED = "pytorch_model"  # the beginning of a file name


def load_causal_lm(directory: Path, dtype: Any, dropout: bool = True, **options: Any) -> Any:
    """Return the model of a directory in `dtype` (torch's), with `options` for transformers;
    without `dropout` it has none in training, whatever its config.json says.

    Raise `UserError` if the directory is not a complete model: a tensor missing, unexpected or of
    another shape, weights that are quantised or belong to an adapter, a value that is not finite in
    `dtype`, or a token without an embedding.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    _require_plain(directory)
    stored = sorted(directory.glob("*.safetensors"))
    for path in stored:
        require_finite(path, tensors(path), dtype)
    # Without `trust_remote_code` transformers asks at the terminal.
    local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        if not dropout:
            config = AutoConfig.from_pretrained(directory, **local)
            options["config"] = _without_dropout(config)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            directory, dtype=dtype, output_loading_info=True, **local, **options
        )
    except Exception as error:  # each architecture's code, and huggingface_hub, raise their own
        if shortage(error):
            raise
        raise UserError(
            f"{directory}: no model that transformers can load ({reason(error)}); expected a causal"
            " language model's config.json and the weights that fit it"
        ) from None
    model, info = loaded
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        if found := info.get(kind):
            first = min(str(item[0] if isinstance(item, tuple) else item) for item in found)
            raise UserError(
                f"{directory}: {len(found)} {kind.removesuffix('_keys').replace('_', ' ')} weights,"
                f" the first {first}; expected exactly those that config.json describes"
            )
    if untied := set(model.get_expanded_tied_weights_keys(all_submodels=True)) - set(
        model.all_tied_weights_keys
    ):
        raise UserError(
            f"{directory}: config.json ties {min(untied)} to other weights, and the file holds its"
            " own values of it; set tie_word_embeddings: false if those are right"
        )
    if not stored:
        require_finite(directory, model.state_dict().items(), dtype)
    _require_embeddings(directory, model)
    return model


def _without_dropout(config: Any) -> Any:
    """A model's configuration with every rate of dropout zero, by whatever name: `hidden_dropout`,
    `resid_pdrop`, `layerdrop`.
    """
    for part in (config, config.get_text_config()):
        for name, value in vars(part).items():
            if "drop" in name and isinstance(value, float):
                setattr(part, name, 0.0)
    return config


def load_adapter(model: Any, directory: Path, trainable: bool = False) -> Any:
    """Return `model` with the adapter of a directory on it; raise `UserError` unless every weight
    of it comes from there and is finite, and it acts on every token.
    """
    from peft import PeftModel
    from peft.utils import get_peft_model_state_dict

    path = directory / "adapter_model.safetensors"
    for name in (path, directory / "adapter_config.json"):
        if not name.is_file():
            raise UserError(f"{name}: no such file; expected an adapter directory")
    settings = read_json_object(directory / "adapter_config.json")
    if conditional := [name for name in CONDITIONAL if settings.get(name) is not None]:
        raise UserError(
            f"{directory}: adapter_config.json sets {conditional[0]}, and such an adapter acts on"
            " some tokens alone; expected one that acts on all"
        )
    _require_kinds(path)
    held = dict(tensors(path))
    require_finite(path, held.items(), None)
    stored = {name: tuple(tensor.shape) for name, tensor in held.items()}
    try:
        adapted = PeftModel.from_pretrained(model, directory, is_trainable=trainable)
    except Exception as error:  # each kind of adapter raises its own
        if shortage(error):
            raise
        raise UserError(
            f"{directory}: no adapter of this model ({reason(error)}); train it on this base"
        ) from None
    wanted = {
        name: tuple(tensor.shape)
        for name, tensor in get_peft_model_state_dict(adapted, save_embedding_layers=False).items()
    }
    if stored != wanted:
        differing = sorted(
            name for name in {*stored, *wanted} if stored.get(name) != wanted.get(name)
        )
        raise UserError(
            f"{path}: {len(differing)} weights do not fit the model, the first {differing[0]};"
            " train the adapter on this base"
        )
    return adapted


def positions(model: Any) -> int | None:
    """Return the longest sequence that a model was made for, in tokens; None where its config names
    none.

    It is `max_position_embeddings`, or the original context times the scaling factor of the rotary
    embedding, whichever is longer: some configs give the one, some the other.
    """
    config = model.config.get_text_config()
    found = getattr(config, "max_position_embeddings", None)
    if not isinstance(found, int) or found <= 0:
        return None
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None)
    rope = rope if isinstance(rope, dict) else {}
    longest = found
    for part in (rope, *rope.values()):
        if isinstance(part, dict):
            original = part.get("original_max_position_embeddings", found)
            stretched = _number(original) * _number(part.get("factor"))
            longest = max(longest, int(stretched)) if stretched < MOST_TOKENS else longest
    return longest


def _number(value: Any) -> float:
    """A value if it is a number, else 0."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) else 0.0


def require_positions(name: str, model: Any, lengths: Iterable[int]) -> None:
    """Raise `UserError` if a sequence is longer than the model's context; `name` says what they
    are.
    """
    limit = positions(model)
    if limit is not None and (longest := max(lengths, default=0)) > limit:
        raise UserError(
            f"{name}: the longest has {longest} tokens and the model was made for {limit}; lower"
            " max_length, or take a model with a longer context"
        )


def tensors(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield (name, tensor) of a safetensors file; raise `UserError` if it is broken."""
    with _opened(path) as stored:
        for name in stored.keys():  # noqa: SIM118 - no mapping
            yield name, stored.get_tensor(name)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open a safetensors file; a fault of its content, on opening or reading it, is a
    `UserError`.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as stored:
            yield stored
    except (OSError, SafetensorError) as error:
        if shortage(error):
            raise
        raise UserError(
            f"{path}: not a whole safetensors file ({reason(error)}); fetch or make it again"
        ) from None


def _require_plain(directory: Path) -> None:
    """Raise `UserError` for a directory without config.json, with an adapter, or with weights in
    fewer than 16 bits.
    """
    if not (directory / "config.json").is_file():
        raise UserError(f"{directory}/config.json: no such file; expected a model directory")
    config = read_json_object(directory / "config.json")
    if (directory / "generation_config.json").is_file():
        read_json_object(directory / "generation_config.json")  # transformers passes over a bad one
    if (method := config.get("quantization_config")) is not None:
        kind = method.get("quant_method", "unknown") if isinstance(method, dict) else "unknown"
        raise UserError(
            f"{directory}: its weights are quantised ({kind}); expected them in 16 or 32 bits"
        )
    if adapters := sorted(path.name for path in directory.glob("adapter_*")):
        raise UserError(
            f"{directory}: {adapters[0]} lies beside the weights, so it is unclear whether the"
            " adapter is merged; merge it, or move it away"
        )
    stored = sorted(directory.glob("*.safetensors"))
    pickled = [] if stored else sorted(directory.glob(f"{PICKLED}*.bin"))
    _require_one_place(directory, "model.safetensors" if stored else f"{PICKLED}.bin")
    count = sum(map(_require_kinds, stored or pickled))
    layers = max((config[name] for name in LAYERS if type(config.get(name)) is int), default=0)
    if count and layers > count:  # they would all be built before the first is missed
        raise UserError(
            f"{directory}: config.json describes {layers} layers, and the weights are {count};"
            " they are not of one model"
        )


def _require_kinds(path: Path) -> int:
    """Return how many tensors a file holds; raise `UserError` for one in fewer than 16 bits, or a
    weight in an integer type, which transformers would take for its values.
    """
    header = _header(path)
    for name, kind in header:
        if kind not in PLAIN and (kind not in WHOLE or name.endswith("weight")):
            raise UserError(
                f"{path}: {name} is stored as {kind}; expected floating-point weights in 16 or 32"
                " bits"
            )
    return len(header)


def _require_one_place(directory: Path, single: str) -> None:
    """Raise `UserError` if it is unclear which file a weight comes from: transformers passes over
    an index beside a `single` file, and of a weight in two files takes either.
    """
    index = directory / f"{single}.index.json"
    if not index.is_file():
        return
    listed = read_json_object(index, "weight_map")["weight_map"]
    if not isinstance(listed, dict) or not all(isinstance(name, str) for name in listed.values()):
        raise UserError(f"{index}: expected the file of each weight; fetch it again")
    if (directory / single).is_file() and set(listed.values()) != {single}:
        raise UserError(
            f"{directory}: {single} lies beside {index.name}, which names other files, so it is"
            " unclear which weights count; move one of them away"
        )
    holder: dict[str, str] = {}
    for file in sorted(set(listed.values())):
        if not (directory / file).is_file():
            raise UserError(f"{directory / file}: no such file; {index.name} names it, fetch it")
        for name, _ in _header(directory / file):
            if name in holder:
                raise UserError(
                    f"{directory}: {name} is in {holder[name]} and in {file}, so it is unclear"
                    " which counts; fetch both again"
                )
            holder[name] = file


def _header(path: Path) -> list[tuple[str, str]]:
    """(name, name of its type) of every tensor in a file of weights."""
    if path.suffix == ".bin":
        return _pickled_header(path)
    with _opened(path) as stored:
        return [(name, stored.get_slice(name).get_dtype()) for name in stored.keys()]  # noqa: SIM118


def _pickled_header(path: Path) -> list[tuple[str, str]]:
    """(name, torch's name of its type) of every tensor in a pickle; nothing of one that torch
    cannot read, which transformers refuses.
    """
    import torch

    try:
        found = torch.load(path, "cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # a pickle may raise anything
        if shortage(error):
            raise
        return []
    return [
        (name, str(tensor.dtype).removeprefix("torch."))
        for name, tensor in (found.items() if isinstance(found, dict) else ())
        if isinstance(name, str) and isinstance(tensor, torch.Tensor)
    ]


def require_finite(where: Path, named: Iterable[tuple[str, Any]], dtype: Any) -> None:
    """Raise `UserError` naming the first floating-point tensor with a value that is not finite, or
    not in `dtype`; None is the tensor's own.
    """
    import torch

    for name, tensor in named:
        if not tensor.is_floating_point() or not tensor.numel():
            continue
        # Both propagate NaN; `isfinite` and `abs` would write tensors of the same size.
        lowest, highest = float(tensor.amin()), float(tensor.amax())
        if not (math.isfinite(lowest) and math.isfinite(highest)):
            raise UserError(f"{where}: {name} holds a value that is not finite")
        target, largest = dtype or tensor.dtype, max(-lowest, highest)
        if largest > torch.finfo(target).max:
            raise UserError(
                f"{where}: {name} holds {largest:.4g}, beyond the range of {target}; choose"
                " bfloat16 or float32"
            )


def _require_embeddings(directory: Path, model: Any) -> None:
    """Raise `UserError` if a token of the tokenizer, or one that ends an answer, has no
    embedding.
    """
    rows = model.get_input_embeddings().weight.shape[0]
    named = _ends(model)
    if odd := [end for end in named if not isinstance(end, int) or isinstance(end, bool)]:
        raise UserError(
            f"{directory}: eos_token_id: expected whole numbers in generation_config.json or"
            f" config.json, found {shown(odd[0])}"
        )
    for end in sorted(named):
        if not 0 <= end < rows:
            raise UserError(
                f"{directory}: token {end} ends an answer, and the model has {rows} embeddings"
            )
    try:
        tokenizer_file(directory)
    except UserError:
        return  # a caller that needs one raises the error
    tokenizer = load_tokenizer(directory)
    padding = str(tokenizer.init_kwargs.get("pad_token"))
    used = {tokenizer.bos_token, tokenizer.eos_token, tokenizer.unk_token}
    other = {getattr(tokenizer, name, None) for name in OTHER_MEDIA} - used
    if padding not in used and padding not in str(tokenizer.chat_template):
        other.add(padding)  # one beyond the embeddings is never used, see `load_tokenizer`
    vocabulary = {token: i for token, i in tokenizer.get_vocab().items() if token not in other}
    token = max(vocabulary, key=vocabulary.__getitem__)
    if vocabulary[token] >= rows:
        raise UserError(
            f"{directory}: the tokenizer gives {token!r} id {vocabulary[token]}, and the model has"
            f" {rows} embeddings; they are not of one model"
        )


def ends(model: Any) -> set[int]:
    """Return the ids that end an answer, by generation_config.json or, without one, config.json."""
    return set(_ends(model))


def _ends(model: Any) -> list[Any]:
    """What the files name as ends, whatever it is."""
    found = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    if found is None:
        found = getattr(model.config.get_text_config(), "eos_token_id", None)
    return [] if found is None else list(found) if isinstance(found, (list, tuple)) else [found]
