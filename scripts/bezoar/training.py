"""What SFT and DPO share: the 4-bit model, its adapter, guards against training nothing, curves and lineage."""

import os
import time
from pathlib import Path
from typing import Any

from bezoar.errors import UserError
from bezoar.files import read_json, sha256_file, write_json

ADAPTER_FILES = ("adapter_model.safetensors", "adapter_config.json", "lineage.json", "metrics.jsonl")


def deterministic(seed: int, threads: int) -> None:
    """Seed every generator and fix the number of threads: the order of a sum decides its last bits."""
    import torch
    from transformers import set_seed

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(threads)
    set_seed(seed)


def load_4bit(directory: Path) -> Any:
    """Return the model in NF4 with double quantisation, computing in bfloat16, frozen.

    On CPU an eval-mode forward would repack the weights for a fast kernel, after which every later gradient is silently None;
    switching `support_avx512bf16_for_cpu` off right after loading keeps the packed path from being taken.
    """
    import torch
    from bitsandbytes.nn import Linear4bit
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    if not (directory / "config.json").is_file():
        raise UserError(f"{directory}/config.json: no such file; expected a model directory")
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.bfloat16)
    device = {"": 0} if torch.cuda.is_available() else {"": "cpu"}
    model = AutoModelForCausalLM.from_pretrained(
        directory, quantization_config=config, device_map=device, dtype=torch.bfloat16, local_files_only=True
    )
    layers = [module for module in model.modules() if isinstance(module, Linear4bit)]
    if not layers:
        raise UserError(f"{directory}: no layer could be quantised to 4 bits; dimensions must be multiples of 64")
    for layer in layers:
        layer.support_avx512bf16_for_cpu = False
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    model.config.use_cache = False
    return model


def attach_adapter(model: Any, lora: dict[str, Any], parent: Path | None) -> Any:
    """Return `model` with a trainable LoRA adapter in float32: a fresh one, or `parent` to go on from."""
    from peft import LoraConfig, PeftModel, get_peft_model

    if parent is not None:
        return PeftModel.from_pretrained(model, parent, is_trainable=True)
    config = LoraConfig(
        r=lora["r"], lora_alpha=lora["alpha"], lora_dropout=lora["dropout"], target_modules=sorted(lora["targets"]),
        bias="none", task_type="CAUSAL_LM",
    )  # fmt: skip
    return get_peft_model(model, config)


def trainable(model: Any) -> dict[str, Any]:
    """Return the trainable parameters by name; raise `UserError` if everything is frozen."""
    found = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if not found:
        raise UserError("nothing to train: every parameter is frozen; check lora.targets against the model's layer names")
    return found


def run(trainer: Any, checkpoints: Path) -> None:
    """Train, from the newest checkpoint if there is one, with the adapter in float32 and our own lines of progress.

    TRL casts adapters over quantised models to bfloat16, but a resumed run loads them in float32: it would end elsewhere than an undisturbed one.
    """
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    for parameter in trainable(trainer.model).values():
        parameter.data = parameter.data.float()
    trainer.train(resume_from_checkpoint=last_checkpoint(checkpoints))


def watch(every: int = 20) -> Any:
    """Return a Trainer callback that prints progress, and stops on a zero gradient or a NaN."""
    import math

    from transformers import TrainerCallback

    class Watch(TrainerCallback):
        def __init__(self) -> None:
            self.started = time.perf_counter()

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
            skip = ("runtime", "per_second", "total_flos", "epoch", "num_tokens")
            row: dict[str, Any] = {}
            for key, value in (logs or {}).items():
                if isinstance(value, (int, float)) and not any(word in key for word in skip):
                    if not math.isfinite(value):
                        raise UserError(f"step {state.global_step}: {key} is {value}; lower the learning rate")
                    row[key] = round(value, 6)
            if row.get("grad_norm") == 0:
                raise UserError(f"step {state.global_step}: the gradient norm is zero; nothing is being trained")
            if "eval_loss" in row:
                print(f"step {state.global_step}/{state.max_steps}  validation loss {row['eval_loss']:.4f}", flush=True)
            if state.global_step % every == 0 and "loss" in row:
                rate = state.global_step / (time.perf_counter() - self.started)
                left = (state.max_steps - state.global_step) / rate if rate else 0
                print(f"step {state.global_step}/{state.max_steps}  loss {row['loss']:.4f}  {left:.0f} s left", flush=True)

    return Watch()


def trainer_arguments(recipe: dict[str, Any], checkpoints: Path) -> dict[str, Any]:
    """Return the arguments that TRL's SFTConfig and DPOConfig share, from one stage's recipe."""
    import torch

    if recipe["batch_size"] % recipe["micro_batch_size"]:
        raise UserError(f"batch_size {recipe['batch_size']}: expected a multiple of micro_batch_size {recipe['micro_batch_size']}")
    cuda = torch.cuda.is_available()
    return {
        "output_dir": str(checkpoints),
        "per_device_train_batch_size": recipe["micro_batch_size"],
        "per_device_eval_batch_size": recipe["micro_batch_size"],
        "gradient_accumulation_steps": recipe["batch_size"] // recipe["micro_batch_size"],
        "num_train_epochs": recipe["epochs"],
        "learning_rate": recipe["learning_rate"],
        "lr_scheduler_type": recipe["schedule"],
        "warmup_steps": recipe["warmup_steps"],
        "optim": recipe["optimizer"] if cuda or not recipe["optimizer"].startswith("paged") else "adamw_torch",
        "weight_decay": recipe["weight_decay"],
        "max_grad_norm": recipe["max_grad_norm"],
        "eval_strategy": "steps",
        "eval_steps": recipe["eval_steps"],
        "save_strategy": "steps",
        "save_steps": recipe["eval_steps"],
        "save_total_limit": 2,
        "load_best_model_at_end": recipe["keep_best"],
        "metric_for_best_model": "eval_loss",
        "greater_is_better": False,
        "logging_steps": 1,  # a mean over more steps would start anew after a resume
        "bf16": True,
        "gradient_checkpointing": recipe["gradient_checkpointing"],
        "seed": recipe["seed"],
        "data_seed": recipe["seed"],
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_num_workers": 0,
        "use_cpu": not cuda,
    }


def last_checkpoint(checkpoints: Path) -> str | None:
    """Return the newest complete checkpoint of an interrupted run, or None."""
    found = [path for path in checkpoints.glob("checkpoint-*") if (path / "trainer_state.json").is_file()]
    return str(max(found, key=lambda path: int(path.name.split("-")[1]))) if found else None


def require_moved(before: dict[str, Any], model: Any) -> float:
    """Return the largest change of an adapter weight; raise `UserError` if nothing moved."""
    change = max(float((parameter.detach().cpu() - before[name]).abs().max()) for name, parameter in trainable(model).items())
    if change == 0:
        raise UserError("the adapter did not move: training changed nothing")
    return change


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
    recorded, found = read_json(adapter / "lineage.json")["base"], sha256_file(base / "model.safetensors")
    if recorded != found:
        raise UserError(f"{adapter}: trained on a base with sha256 {recorded[:12]}…, but {base} has {found[:12]}…; retrain or use its base")
