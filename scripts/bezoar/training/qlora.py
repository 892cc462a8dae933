"""What SFT and DPO share: the 4-bit model, its adapter, the order of rows, guards against training
that changes nothing, and lineage.
"""

import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bezoar import precision, progress
from bezoar.errors import UserError, shortage
from bezoar.files import sha256_file, write_json
from bezoar.provenance.resumption import keep_if_same
from bezoar.readers import column, read_json, read_json_object
from bezoar.training.sharing import first_process, processes, share_rows
from bezoar.training.trainer_setup import last_checkpoint
from bezoar.training.weights import load_adapter, load_causal_lm

ADAPTER_FILES = (
    "adapter_model.safetensors",
    "adapter_config.json",
    "lineage.json",
    "metrics.jsonl",
)


def deterministic(seed: int, threads: int) -> None:
    """Seed every generator and fix the number of threads, which decides the order of sums and so
    their last bits.
    """
    import torch
    from transformers import set_seed

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(threads)
    set_seed(seed)


def load_4bit(directory: Path, cache_dequantized: bool = False) -> Any:
    """Return the model in NF4 with double quantisation, frozen; it computes in
    `bezoar.precision.compute_dtype`. Its own dropout is off: the adapter's alone is in a recipe.

    `cache_dequantized` keeps the dequantised weights in memory (2 bytes per weight, 4 on a CPU)
    instead of unpacking them at every pass. On CPU an eval-mode forward would repack the weights
    for a fast kernel, after which every later gradient is silently None; switching
    `support_avx512bf16_for_cpu` off right after loading keeps the packed path from being taken.
    """
    import torch
    from bitsandbytes.nn import Linear4bit
    from transformers import BitsAndBytesConfig
    from transformers.pytorch_utils import Conv1D

    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=precision.compute_dtype(),
    )
    device = (
        {"": int(os.environ.get("LOCAL_RANK", "0"))} if torch.cuda.is_available() else {"": "cpu"}
    )
    model = load_causal_lm(
        directory,
        precision.compute_dtype(),
        dropout=False,
        quantization_config=config,
        device_map=device,
        attn_implementation="sdpa",
    )
    if any(getattr(module, "source_cls", None) is Conv1D for module in model.modules()):
        raise UserError(
            f"{directory}: {model.config.model_type} has Conv1D layers, whose transposed weights"
            " cannot be merged again; train a model with linear layers"
        )
    layers = [module for module in model.modules() if isinstance(module, Linear4bit)]
    if not layers:
        raise UserError(
            f"{directory}: no linear layer to quantise to 4 bits; train a model that has some"
        )
    require_shapes(directory, model)
    for layer in layers:
        layer.support_avx512bf16_for_cpu = False
        if cache_dequantized:
            keep_dequantized(layer)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    model.config.use_cache = False
    return model


def require_shapes(directory: Path, model: Any) -> None:
    """Raise `UserError` unless every 4-bit weight has the shape that config.json gives its layer:
    transformers compares those of other weights alone.
    """
    from bitsandbytes.nn import Linear4bit

    for name, module in model.named_modules():
        if isinstance(module, Linear4bit):
            weight: Any = module.weight
            found = tuple(weight.quant_state.shape)
            expected = (module.out_features, module.in_features)
            if found != expected:
                raise UserError(
                    f"{directory}: mismatched weights, the first {name} of {found}; config.json"
                    f" describes {expected}"
                )


def keep_dequantized(layer: Any) -> None:
    """Let a frozen 4-bit layer multiply by its dequantised weights, kept beside it: the same
    product as without.
    """
    from bitsandbytes.functional import dequantize_4bit
    from torch.nn.functional import linear

    weight = dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    layer.forward = lambda x: linear(x.to(weight.dtype), weight, layer.bias).to(x.dtype)


# Of adapter_config.json: what makes another adapter of the same r, alpha and layers.
OTHER_KINDS = (
    "use_rslora use_dora rank_pattern alpha_pattern modules_to_save bias layers_to_transform"
    " trainable_token_indices"
).split()


def attach_adapter(model: Any, lora: dict[str, Any], parent: Path | None) -> Any:
    """Return `model` with a trainable LoRA adapter in float32: a fresh one, or `parent`
    continued.
    """
    from peft import LoraConfig, get_peft_model

    if parent is not None:
        require_same_lora(parent, lora)
    require_targets(model, lora["targets"])
    if parent is not None:
        return load_adapter(model, parent, trainable=True)
    config = LoraConfig(
        r=lora["r"],
        lora_alpha=lora["alpha"],
        lora_dropout=lora["dropout"],
        target_modules=sorted(lora["targets"]),
        bias="none",
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)


def require_targets(model: Any, targets: list[str]) -> None:
    """Raise `UserError` unless there are targets, each a layer of the model that LoRA can adapt; of
    an embedding that is the output layer as well, a merge would move both, and TRL multiplies by
    the output layer's own weight.
    """
    head = model.get_output_embeddings()
    named = {f".{name}": module for name, module in model.named_modules()}
    outer = {
        name.rsplit(".", 1)[-1]: module is head
        for name, module in named.items()
        if module in (model.get_input_embeddings(), head)
    }
    able = linear_layers(model)
    if not targets:
        raise UserError(f"lora.targets: expected some of {', '.join(able)}, found none")
    for target in targets:
        last = target.rsplit(".", 1)[-1]
        found = any(name.endswith(f".{target}") for name in named)
        if not found or last not in {*able, *outer}:
            raise UserError(
                f"lora.targets: the model has no layer {target}; it has {', '.join(able)}"
            )
        if last in outer and model.config.tie_word_embeddings:
            raise UserError(
                f"lora.targets: {target} is the embedding and the output layer at once, and a merge"
                f" would change both; take some of {', '.join(able)}"
            )
        if outer.get(last):
            raise UserError(
                f"lora.targets: {target} is the output layer, whose adapter would not be trained;"
                f" take some of {', '.join(able)}"
            )


def require_same_lora(parent: Path, lora: dict[str, Any]) -> None:
    """Raise `UserError` if an adapter has another shape than the recipe says: continuing it would
    train with its settings, not with those in the receipt.
    """
    held = read_json_object(parent / "adapter_config.json")
    targets = held.get("target_modules")
    if isinstance(targets, list) and all(isinstance(name, str) for name in targets):
        held["target_modules"] = sorted(targets)
    names = {"r": "r", "alpha": "lora_alpha", "dropout": "lora_dropout"}
    wanted = {name: lora[key] for key, name in names.items()}
    for name, value in {**wanted, "target_modules": sorted(lora["targets"])}.items():
        if held.get(name) != value or isinstance(held.get(name), bool):
            raise UserError(
                f"{parent}: has {name} {held.get(name)}, and the recipe's lora says {value}; train"
                " every scheme with one lora"
            )
    for name in OTHER_KINDS:
        if held.get(name) not in (None, False, {}, [], "none"):
            raise UserError(
                f"{parent}: has {name} {held[name]}, which the recipe's lora does not; train every"
                " scheme with one lora"
            )


def linear_layers(model: Any) -> list[str]:
    """Return the last names of the quantised layers: what `lora.targets` can be."""
    from bitsandbytes.nn import Linear4bit

    return sorted(
        {
            name.rsplit(".", 1)[-1]
            for name, module in model.named_modules()
            if isinstance(module, Linear4bit)
        }
    )


def trainable(model: Any) -> dict[str, Any]:
    """Return the trainable parameters by name; raise `UserError` if everything is frozen."""
    found = {
        name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad
    }
    if not found:
        raise UserError(
            "nothing to train: every parameter is frozen; check lora.targets against the model's"
            " layer names"
        )
    return found


def require_sound(model: Any) -> None:
    """Raise `UserError` unless every trainable weight is a finite float32."""
    import torch

    for name, parameter in trainable(model).items():
        if parameter.dtype != torch.float32:
            raise UserError(
                f"{name}: is {parameter.dtype}, expected torch.float32; small steps are lost in"
                " fewer bits"
            )
        if not bool(torch.isfinite(parameter).all()):
            raise UserError(f"{name}: holds a value that is not finite; train its parent again")


def training_order(lengths: Sequence[int], batch: int, epochs: float, seed: int) -> list[int]:
    """Return the indices of the rows in the order of training: a fresh shuffle per epoch, each
    row once. In a global batch, which is random, the longest row is first. Raise `UserError` if
    there would be none.
    """
    draw = random.Random(seed)
    shuffled: list[int] = []
    while len(shuffled) < (count := round(len(lengths) * epochs)):
        shuffled += draw.sample(range(len(lengths)), len(lengths))
    if not count:
        raise UserError(f"epochs {epochs}: no row of {len(lengths)} would be trained on; take more")
    shuffled = shuffled[:count]
    batches = (shuffled[start : start + batch] for start in range(0, count, batch))
    return [index for rows in batches for index in sorted(rows, key=lambda index: -lengths[index])]


def weights_of(model: Any) -> dict[str, Any]:
    """Return a copy of every trainable weight by name, in float32 on the CPU."""
    return {
        name: parameter.detach().float().cpu().clone()
        for name, parameter in trainable(model).items()
    }


def run(
    trainer: Any,
    checkpoints: Path,
    begun_with: dict[str, Any],
    start: dict[str, Any],
    passes: list[list[list[int]]] | None = None,
) -> None:
    """Train from the newest checkpoint of a run that was begun with the same, if there is one,
    otherwise from the weights `start` (see `weights_of`), and print progress; `passes` as for
    `share_rows`.

    `begun_with` is everything that decides the result (`bezoar.provenance.resumption`); of several
    processes only the first one's counts.

    TRL rounds adapters over quantised models to bfloat16 when a trainer is made. An adapter that is
    carried from scheme to scheme would lose digits each time, an adapter that no step changed would
    look changed, and a resumed run, which loads float32, would end elsewhere than an undisturbed
    one. So the weights are restored.
    """
    from safetensors import SafetensorError
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    for name, parameter in trainable(trainer.model).items():
        parameter.data = start[name].to(parameter.device, copy=True)
    require_sound(trainer.model)
    share_rows(trainer, processes(), int(os.environ.get("RANK", "0")), passes)
    if first_process():
        keep_if_same(checkpoints, begun_with)
    trainer.accelerator.wait_for_everyone()
    resumed = last_checkpoint(checkpoints)
    if resumed:
        trainer.args.eval_on_start = False  # the checkpoint's log has it
        progress.resumed(Path(resumed).name)
    try:
        trainer.train(resume_from_checkpoint=resumed)
    except (OSError, RuntimeError, SafetensorError) as error:
        lacking = shortage(error)
        if lacking == "disk":
            raise UserError(
                f"{checkpoints}: the disk is full; free some space and run again, training"
                " continues from its last checkpoint"
            ) from None
        if lacking == "memory":
            raise UserError(
                "out of memory; lower micro_batch_size, or set gradient_checkpointing: true, and"
                " run again"
            ) from None
        raise


def require_moved(before: dict[str, Any], model: Any) -> float:
    """Return the largest change of an adapter weight; raise `UserError` if nothing moved."""
    change = max(
        float((parameter.detach().cpu() - before[name]).abs().max())
        for name, parameter in trainable(model).items()
    )
    if change == 0:
        raise UserError(
            "the adapter did not move: training changed nothing; a single step that warms up has a"
            " learning rate of 0: lower warmup_steps, or train on more rows"
        )
    return change


def save_adapter(model: Any, directory: Path) -> None:
    """Write adapter_model.safetensors and adapter_config.json; peft keeps sets, whose order changes
    from process to process.
    """
    model.save_pretrained(directory, save_embedding_layers=False)
    (directory / "README.md").unlink(missing_ok=True)
    config = read_json(directory / "adapter_config.json")
    write_json(
        directory / "adapter_config.json",
        {
            key: sorted(value) if isinstance(value, list) else value
            for key, value in sorted(config.items())
        },
    )


def write_lineage(adapter: Path, base: Path, parent: Path | None) -> None:
    """Record by sha256 which base, and which adapter before it, an adapter was trained on."""
    write_json(
        adapter / "lineage.json",
        {
            "base": sha256_file(base / "model.safetensors"),
            "parent_adapter": sha256_file(parent / "adapter_model.safetensors") if parent else None,
        },
    )


def check_lineage(adapter: Path, base: Path) -> None:
    """Raise `UserError` unless `adapter` says that it was trained on exactly this `base`."""
    path = adapter / "lineage.json"
    recorded = column(read_json_object(path), "base", str, str(path))
    found = sha256_file(base / "model.safetensors")
    if recorded != found:
        raise UserError(
            f"{adapter}: trained on a base with sha256 {recorded[:12]}…, but {base} has"
            f" {found[:12]}…; retrain or use its base"
        )
