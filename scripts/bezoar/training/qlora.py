"""What SFT and DPO share: the 4-bit model, its adapter, the order of rows, guards against training
nothing, checkpoints and lineage.
"""

import os
import random
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bezoar import precision, progress
from bezoar.errors import UserError, shortage
from bezoar.files import sha256_file, write_json
from bezoar.provenance.resumption import keep_if_same
from bezoar.readers import column, read_json, read_json_object
from bezoar.training.sharing import share_rows
from bezoar.training.weights import load_adapter, load_causal_lm

ADAPTER_FILES = (
    "adapter_model.safetensors",
    "adapter_config.json",
    "lineage.json",
    "metrics.jsonl",
)
WINDOW = 8  # global batches whose rows are sorted by length together
COMPLETE = "complete"  # an empty file, written last into a checkpoint


def processes() -> int:
    """Return how many processes train together, as `accelerate launch` says; raise `UserError` if
    the workflow asked for another number.
    """
    started = int(os.environ.get("WORLD_SIZE", "1"))
    asked = int(os.environ.get("BEZOAR_PROCESSES", started))
    if started != asked:
        raise UserError(
            f"launch.processes: {asked} processes were asked for and {started} started; name a file"
            " of profiles/accelerate/ under launch.accelerate"
        )
    return started


def wait_for_everyone() -> None:
    """Return once every process that trains has come here."""
    import torch

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()


def first_process() -> bool:
    """Say whether this process is the one that writes."""
    return os.environ.get("RANK", "0") == "0"


def deterministic(seed: int, threads: int) -> None:
    """Seed every generator and fix the number of threads: the order of a sum decides its last
    bits.
    """
    import torch
    from transformers import set_seed

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(threads)
    set_seed(seed)


def load_4bit(directory: Path, cache_dequantized: bool = False) -> Any:
    """Return the model in NF4 with double quantisation, frozen; it computes in
    `bezoar.precision.compute_dtype`.

    `cache_dequantized` keeps the dequantised weights in memory (2 bytes a weight more, 4 on a CPU)
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
            f"{directory}: no layer could be quantised to 4 bits; dimensions must be multiples"
            " of 64"
        )
    for layer in layers:
        layer.support_avx512bf16_for_cpu = False
        if cache_dequantized:
            keep_dequantized(layer)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    model.config.use_cache = False
    return model


def keep_dequantized(layer: Any) -> None:
    """Let a frozen 4-bit layer multiply by its dequantised weights, kept beside it: the product
    that it would form anyway.
    """
    from bitsandbytes.functional import dequantize_4bit
    from torch.nn.functional import linear

    weight = dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    layer.forward = lambda x: linear(x.to(weight.dtype), weight, layer.bias).to(x.dtype)


def attach_adapter(model: Any, lora: dict[str, Any], parent: Path | None) -> Any:
    """Return `model` with a trainable LoRA adapter in float32: a fresh one, or `parent` to go on
    from.
    """
    from peft import LoraConfig, get_peft_model

    if parent is not None:
        require_same_lora(parent, lora)
        return load_adapter(model, parent, trainable=True)
    names = [f".{name}" for name, _ in model.named_modules()]
    for target in lora["targets"]:
        if not any(name.endswith(f".{target}") for name in names):
            raise UserError(
                f"lora.targets: the model has no layer {target}; it has"
                f" {', '.join(linear_layers(model))}"
            )
    config = LoraConfig(
        r=lora["r"],
        lora_alpha=lora["alpha"],
        lora_dropout=lora["dropout"],
        target_modules=sorted(lora["targets"]),
        bias="none",
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)


def require_same_lora(parent: Path, lora: dict[str, Any]) -> None:
    """Raise `UserError` if an adapter has another shape than the recipe: going on from it would
    train with its settings, not with those that the receipt states.
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


def length_grouped_order(lengths: Sequence[int], batch: int, epochs: float, seed: int) -> list[int]:
    """Return the indices of the rows in the order of training: a fresh shuffle an epoch, each row
    in it once.

    Of each `WINDOW` global batches of that, rows of like length go together, which leaves little
    padding, and the batches so formed are shuffled. In a batch the longest row is first; a last
    batch that is not full stays last.
    """
    draw = random.Random(seed)
    shuffled: list[int] = []
    while len(shuffled) < (count := round(len(lengths) * epochs)):
        shuffled += draw.sample(range(len(lengths)), len(lengths))
    shuffled = shuffled[:count]
    order: list[int] = []
    for start in range(0, len(shuffled), WINDOW * batch):
        window = sorted(shuffled[start : start + WINDOW * batch], key=lambda index: -lengths[index])
        rest = len(window) % batch
        batches = [window[cut : cut + batch] for cut in range(rest, len(window), batch)]
        draw.shuffle(batches)
        order += [index for rows in (*batches, window[:rest]) for index in rows]
    return order


def weights_of(model: Any) -> dict[str, Any]:
    """Return a copy of every trainable weight by name, in float32 on the CPU."""
    return {
        name: parameter.detach().float().cpu().clone()
        for name, parameter in trainable(model).items()
    }


def run(trainer: Any, checkpoints: Path, begun_with: dict[str, Any], start: dict[str, Any]) -> None:
    """Train, from the newest checkpoint of a run that was begun with the same if there is one, else
    from the weights `start` (see `weights_of`), with our own lines of progress.

    `begun_with` is everything that decides the result (`bezoar.provenance.resumption`); of several
    processes only the first one's counts.

    TRL rounds adapters over quantised models to bfloat16 when a trainer is made. An adapter that is
    carried from scheme to scheme would lose digits each time, an adapter that no step changed would
    look changed, and a resumed run, which loads float32, would end elsewhere than an undisturbed
    one. So the weights are put back as they were.
    """
    from safetensors import SafetensorError
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    for name, parameter in trainable(trainer.model).items():
        parameter.data = start[name].to(parameter.device, copy=True)
    require_sound(trainer.model)
    share_rows(trainer, processes(), int(os.environ.get("RANK", "0")))
    if first_process():
        keep_if_same(checkpoints, begun_with)
    trainer.accelerator.wait_for_everyone()
    try:
        trainer.train(resume_from_checkpoint=last_checkpoint(checkpoints))
    except (OSError, RuntimeError, SafetensorError) as error:
        if (lacking := shortage(error)) == "disk":
            raise UserError(
                f"{checkpoints}: the disk is full; free some space and run again, training goes on"
                " from its last checkpoint"
            ) from None
        if lacking:
            raise UserError(
                "out of memory; lower micro_batch_size, or set gradient_checkpointing: true, and"
                " run again"
            ) from None
        raise


def progress_callback() -> Any:
    """Return a Trainer callback that reports progress, stops on a zero gradient or a NaN, and marks
    each checkpoint once it is whole on disk.
    """
    import math

    from transformers import TrainerCallback

    class Watch(TrainerCallback):
        def __init__(self) -> None:
            self.shown = ExitStack()

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            steps = progress.task("train", state.max_steps, "steps", first=state.global_step)
            print(f"{progress.MARK}{self.shown.enter_context(steps).line()}", flush=True)

        def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.shown.close()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            progress.reached(state.global_step)
            if (
                state.global_step == state.max_steps
            ):  # the last step competes for the best checkpoint too
                control.should_evaluate = control.should_save = True

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            wait_for_everyone()  # each process writes the state of its own generators
            if state.is_world_process_zero:
                mark_complete(Path(args.output_dir) / f"checkpoint-{state.global_step}")

        def on_log(
            self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any
        ) -> None:
            skip = ("runtime", "per_second", "total_flos", "epoch", "num_tokens")
            row: dict[str, Any] = {}
            for key, value in (logs or {}).items():
                if isinstance(value, (int, float)) and not any(word in key for word in skip):
                    if not math.isfinite(value):
                        raise UserError(
                            f"step {state.global_step}: {key} is {value}; lower the learning rate"
                        )
                    row[key] = round(value, 6)
            if row.get("grad_norm") == 0:
                raise UserError(
                    f"step {state.global_step}: the gradient norm is zero; nothing is being trained"
                )
            if "eval_loss" in row:
                print(
                    f"step {state.global_step}/{state.max_steps}  validation loss"
                    f" {row['eval_loss']:.4f}",
                    flush=True,
                )
            if "loss" in row:
                progress.note(f"loss {row['loss']:.2f}")

    return Watch()


def trainer_arguments(recipe: Mapping[str, Any], checkpoints: Path) -> dict[str, Any]:
    """Return the arguments that TRL's SFTConfig and DPOConfig share, from one stage's recipe.

    The rows come in the order of `length_grouped_order`, all epochs in one. The global batch is
    `batch_size` whatever the number of processes.
    """
    import torch

    together = recipe["micro_batch_size"] * processes()
    if recipe["batch_size"] % together:
        raise UserError(
            f"batch_size {recipe['batch_size']}: expected a multiple of micro_batch_size x"
            f" processes, {together}"
        )
    cuda = torch.cuda.is_available()
    return {
        "output_dir": str(checkpoints),
        "per_device_train_batch_size": recipe["micro_batch_size"],
        "per_device_eval_batch_size": 4 * recipe["micro_batch_size"],  # no gradient to keep
        "gradient_accumulation_steps": recipe["batch_size"] // together,
        "num_train_epochs": 1,
        "train_sampling_strategy": "sequential",
        "learning_rate": recipe["learning_rate"],
        "lr_scheduler_type": recipe["schedule"],
        "warmup_steps": recipe["warmup_steps"],
        "optim": (
            recipe["optimizer"]
            if cuda or not recipe["optimizer"].startswith("paged")
            else "adamw_torch"
        ),
        "weight_decay": recipe["weight_decay"],
        "max_grad_norm": recipe["max_grad_norm"],
        "eval_strategy": "steps",
        "eval_steps": recipe["eval_steps"],
        "save_strategy": "steps",
        "save_steps": recipe["eval_steps"],
        "save_total_limit": 2,
        "load_best_model_at_end": recipe["load_best_model_at_end"],
        "metric_for_best_model": "eval_loss",
        "greater_is_better": False,
        "logging_steps": 1,  # a mean over more steps would start anew after a resume
        "bf16": precision.compute_dtype() == torch.bfloat16,
        "gradient_checkpointing": recipe["gradient_checkpointing"],
        "seed": recipe["seed"],
        "data_seed": recipe["seed"],
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_num_workers": 0,
        "use_cpu": not cuda,
        "ddp_find_unused_parameters": False,
    }


def mark_complete(checkpoint: Path) -> None:
    """Bring a checkpoint to the disk and say that it is whole: one without the mark does not
    count.
    """
    for path in sorted(checkpoint.iterdir()):
        with open(path, "rb") as stream:
            os.fsync(stream.fileno())
    (checkpoint / COMPLETE).touch()


def last_checkpoint(checkpoints: Path) -> str | None:
    """Return the newest whole checkpoint of an interrupted run, or None; half-written ones are
    removed.
    """
    found = []
    for path in checkpoints.glob("checkpoint-*"):
        if (path / COMPLETE).is_file():
            found.append(path)
        elif first_process():
            shutil.rmtree(path, ignore_errors=True)
    return str(max(found, key=lambda path: int(path.name.split("-")[1]))) if found else None


def require_moved(before: dict[str, Any], model: Any) -> float:
    """Return the largest change of an adapter weight; raise `UserError` if nothing moved."""
    change = max(
        float((parameter.detach().cpu() - before[name]).abs().max())
        for name, parameter in trainable(model).items()
    )
    if change == 0:
        raise UserError("the adapter did not move: training changed nothing")
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
