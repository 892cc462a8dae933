"""One contender of bench_training.py in a process of its own: it trains and prints its numbers as a
line of JSON.

Usage: bench_training_run.py '{"way": "ours", "method": "sft", "base": …, "data": …, "recipe": {…},
"settings": {…}, "out": …, "started": 1.0}'

Every way is timed by the same callback, from the first step to the end of the last, and its tokens
are counted in the batches that it trains on. `settings` are what a peer gets beside the
recipe that all share. LLaMA-Factory runs in its own environment.
"""

import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench_page import peak_mib

Spec = dict[str, Any]
STEP = {
    "seconds": 0.0,
    "cpu_s": 0.0,
    "reference_s": 0.0,
    "reference_cpu_s": 0.0,
    "evaluation_s": 0.0,
    "begun": 0.0,
    "peak_mib": 0.0,
    "tokens": 0,
    "supervised": 0,
    "pairs": 0,
    "places": 0,  # tokens that went through the model, padding included
    "steps": 0,
    "first_s": 0.0,  # until the first step's end, and its tokens: kernels are loaded in it
    "first_tokens": 0,
}


def peak() -> float:
    """Return the most memory taken so far, in MiB: the GPU's if there is one, else the
    process's.
    """
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return peak_mib()


def watch_trainers() -> None:
    """Make every transformers Trainer of this process count its tokens and time its steps in
    `STEP`.
    """
    import torch
    import transformers
    from transformers.trainer import DEFAULT_CALLBACKS

    original = transformers.Trainer.training_step

    def count(embedding: Any, inputs: tuple[Any, ...], output: Any) -> None:
        if torch.is_grad_enabled():  # a reference pass is none of training
            STEP["places"] += inputs[0].numel()

    def training_step(
        self: Any, model: Any, inputs: dict[str, Any], *more: Any, **named: Any
    ) -> Any:
        ids, mask, answers = (
            inputs["input_ids"],
            inputs.get("attention_mask"),
            inputs.get("completion_mask"),
        )
        STEP["pairs"] += 0 if answers is None else len(ids) // 2
        STEP["tokens"] += ids.numel() if mask is None else int((mask != 0).sum())
        if answers is not None:
            STEP["supervised"] += int(answers.sum())
        else:  # no label of a row's first token is predicted
            labels = inputs["labels"] if mask is None else inputs["labels"][:, 1:]
            STEP["supervised"] += int((labels != -100).sum())
        embedding = self.accelerator.unwrap_model(model).get_input_embeddings()
        counting = embedding.register_forward_hook(count)
        try:
            return original(self, model, inputs, *more, **named)
        finally:
            counting.remove()

    class Clock(transformers.TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            args.eval_on_start = False  # the time is that of the steps
            STEP["begun"], STEP["cpu_s"] = time.time(), -time.process_time()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            STEP["seconds"], STEP["steps"], STEP["peak_mib"] = (
                time.time() - STEP["begun"],
                state.global_step,
                peak(),
            )
            if state.global_step == 1:
                STEP["first_s"], STEP["first_tokens"] = STEP["seconds"], STEP["tokens"]
            if state.global_step >= state.max_steps:
                STEP["cpu_s"] += time.process_time()

        def on_evaluate(
            self,
            args: Any,
            state: Any,
            control: Any,
            metrics: dict[str, float] | None = None,
            **_: Any,
        ) -> None:
            STEP["evaluation_s"] += (metrics or {}).get("eval_runtime", 0.0)

    transformers.Trainer.training_step = training_step
    DEFAULT_CALLBACKS.append(Clock)


def timed(owner: Any, name: str) -> None:
    """Add the seconds spent in a function to the reference's."""
    original = getattr(owner, name)

    def run(*arguments: Any, **named: Any) -> Any:
        started, used = time.time(), time.process_time()
        found = original(*arguments, **named)
        STEP["reference_s"], STEP["reference_cpu_s"] = (
            STEP["reference_s"] + time.time() - started,
            STEP["reference_cpu_s"] + time.process_time() - used,
        )
        return found

    setattr(owner, name, run)


def leave_out(what: list[str]) -> None:
    """Switch off parts of ours that are not settings of the recipe."""
    import transformers

    from bezoar.training import output_layer, padding_free, shared_prompts, trainer_setup

    arguments, load = (
        trainer_setup.trainer_arguments,
        transformers.AutoModelForCausalLM.from_pretrained,
    )
    if "padding-free" in what:
        padding_free.prepare = lambda model: False
    if "evaluation" in what:
        trainer_setup.trainer_arguments = lambda recipe, work: (
            arguments(recipe, work) | {"per_device_eval_batch_size": recipe["micro_batch_size"]}
        )
    if "shared" in what:
        shared_prompts.share = lambda model: False
    if "head" in what:
        output_layer.lighten = lambda model: False
    if "sdpa" in what:
        transformers.AutoModelForCausalLM.from_pretrained = lambda *a, **named: load(
            *a, **named | {"attn_implementation": "eager"}
        )


def ours(spec: Spec) -> None:
    """Train as the stages do: train_sft.py, or score_reference.py's output and train_dpo.py."""
    import train_dpo
    import train_sft
    from bezoar.files import sha256_file
    from bezoar.readers import read_jsonl
    from bezoar.training import preference_pairs
    from bezoar.training.sharing import keep_to_one_gpu
    from bezoar.training.template import Template
    from bezoar.training.tokenizer import load_tokenizer

    keep_to_one_gpu()
    leave_out(spec.get("without", []))
    base, recipe, out = Path(spec["base"]), spec["recipe"], Path(spec["out"])
    out.mkdir(parents=True)
    tokenizer, template, data = (
        load_tokenizer(base),
        Template(Path(spec["template"])),
        read_jsonl(Path(spec["data"])),
    )
    if spec["method"] == "sft":
        rows, _ = train_sft.tokenize(data, template, tokenizer, recipe["max_length"])
        train_sft.train(rows, len(data), base, None, tokenizer, recipe, out / "work", out, {})
        return
    rows, _ = preference_pairs.tokenize(data, template, tokenizer, recipe)
    stored = preference_pairs.read_reference(
        Path(spec["reference"]), rows, sha256_file(base / "model.safetensors")
    )
    for pair, (chosen, rejected) in zip(rows, stored, strict=True):
        pair |= {"ref_chosen_logps": chosen, "ref_rejected_logps": rejected}
    recipe |= {"lora": recipe["lora"] | {"dropout": 0.0}}  # TRL's default, which the peers keep
    train_dpo.train(rows, len(data), base, tokenizer, recipe, out / "work", out, {})


def reference(spec: Spec) -> None:
    """Score the pairs as the stage before DPO does."""
    import score_reference
    from bezoar.readers import read_jsonl
    from bezoar.training import preference_pairs

    leave_out(spec.get("without", []))
    timed(preference_pairs, "score")
    recipe = {
        key: spec["recipe"][key]
        for key in ("max_prompt_length", "max_length", "cache_dequantized", "threads", "seed")
    }
    score_reference.main(
        [
            "--pairs",
            spec["data"],
            "--base",
            spec["base"],
            "--template",
            spec["template"],
            "--recipe",
            json.dumps(recipe | {"batch_size": spec["recipe"]["reference_batch_size"]}),
            "--code",
            "bench",
            "--reference",
            spec["reference"],
            "--receipt",
            spec["reference"] + ".receipt.json",
        ]
    )
    # The peers score the pairs that they train on, the stage those held out as well.
    scored, trained = (len(read_jsonl(Path(spec[key]))) for key in ("reference", "training"))
    for key in ("reference_s", "reference_cpu_s"):
        STEP[key] *= trained / scored


def shared(spec: Spec, rows: int) -> dict[str, Any]:
    """Return what every Trainer gets: global batch, steps, learning rate, seed, the precision in
    which this machine is fastest; `settings` come last. `batch` as the rows of a pass means all.
    """
    from bezoar import precision

    recipe, settings, dtype = spec["recipe"], spec["settings"], precision.compute_dtype()
    if "model_init_kwargs" in settings:
        settings["model_init_kwargs"]["dtype"] = precision.name(dtype)
    batch = math.ceil(rows / spec["steps"])
    if settings.get("per_device_train_batch_size") == "batch":
        settings["per_device_train_batch_size"] = batch
    micro = settings.get("per_device_train_batch_size", 8)  # transformers' default
    return {
        "output_dir": spec["out"],
        "num_train_epochs": 1,
        "learning_rate": recipe["learning_rate"],
        "lr_scheduler_type": recipe["schedule"],
        "warmup_steps": recipe["warmup_steps"],
        "gradient_accumulation_steps": max(1, batch // micro),
        "seed": recipe["seed"],
        "report_to": "none",
        "disable_tqdm": True,
        "bf16": precision.name(dtype) == "bfloat16",
        "per_device_train_batch_size": micro,
    } | settings


def trl(spec: Spec) -> None:
    """Train as TRL's documentation does: the trainer loads the base in 4 bits and makes the
    adapter.
    """
    import bitsandbytes
    import torch
    import trl as library
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import BitsAndBytesConfig

    from bezoar import precision
    from bezoar.readers import read_jsonl
    from bezoar.training import preference_pairs
    from bezoar.training.tokenizer import load_tokenizer

    # Not a setting of TRL's: without it, its reference pass on a CPU leaves later gradients zero.
    if not spec.get("repack", True):
        bitsandbytes.nn.modules.has_avx512bf16 = lambda: False
    recipe, rows = spec["recipe"], read_jsonl(Path(spec["training"]))
    lora = LoraConfig(
        r=recipe["lora"]["r"],
        lora_alpha=recipe["lora"]["alpha"],
        lora_dropout=recipe["lora"]["dropout"],
        target_modules=recipe["lora"]["targets"],
        task_type="CAUSAL_LM",
    )
    bits = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=precision.compute_dtype(),
    )
    more = {"max_length": recipe["max_length"], "use_cpu": not torch.cuda.is_available()}
    tokenizer = load_tokenizer(Path(spec["base"]))
    tokenizer.split_special_tokens = False  # TRL writes EOS as text
    named: dict[str, Any] = {
        "processing_class": tokenizer,
        "peft_config": lora,
        "quantization_config": bits,
    }
    if spec["method"] == "sft":
        data = Dataset.from_list([{"input_ids": row["input_ids"]} for row in rows])
        packed = (
            len(library.pack_dataset(data, recipe["max_length"]))
            if spec["settings"].get("packing")
            else len(rows)
        )
        config: Any = library.SFTConfig(**shared(spec, packed), **more)
        trainer: Any = library.SFTTrainer(
            model=spec["base"], args=config, train_dataset=data, **named
        )
    else:
        timed(library.DPOTrainer, "_precompute_ref_logps")
        data = Dataset.from_list(
            [
                {key: row[key] for key in ("prompt", "chosen", "rejected")}
                | {"length": preference_pairs.length(row)}
                for row in rows
            ]
        )
        config = library.DPOConfig(**shared(spec, len(rows)), **more, beta=recipe["beta"])
        trainer = library.DPOTrainer(model=spec["base"], args=config, train_dataset=data, **named)
    # Not a setting of TRL's, which casts the adapter to bfloat16 where that is emulated, too.
    if spec["settings"] and precision.compute_dtype() == torch.float32:
        for parameter in trainer.model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
    trainer.train()
    trainer.save_model(spec["out"])


def factory(spec: Spec) -> None:
    """Train SFT as LLaMA-Factory does from its settings file, on the same tokens."""
    import importlib.machinery
    import types

    from datasets import Dataset, DatasetDict

    # It imports torchaudio for any training; the index has only CUDA's build, which does not load
    # beside the CPU's torch, and text needs none.
    sys.modules["torchaudio"] = types.ModuleType("torchaudio")
    sys.modules["torchaudio"].__spec__ = importlib.machinery.ModuleSpec("torchaudio", None)
    from llamafactory.train.tuner import run_exp

    from bezoar.readers import read_jsonl

    rows = read_jsonl(Path(spec["training"]))
    data = Dataset.from_list(
        [
            {
                "input_ids": row["input_ids"],
                "attention_mask": [1] * len(row["input_ids"]),
                "labels": row["input_ids"],
            }
            for row in rows
        ]
    )
    DatasetDict({"train": data}).save_to_disk(spec["out"] + "-data")
    recipe = spec["recipe"]
    run_exp(
        {
            "stage": "sft",
            "do_train": True,
            "model_name_or_path": in_precision(spec),
            "template": "empty",
            "tokenized_path": spec["out"] + "-data",
            "dataset": "as tokens there",
            "finetuning_type": "lora",
            "lora_rank": recipe["lora"]["r"],
            "lora_alpha": recipe["lora"]["alpha"],
            "lora_dropout": recipe["lora"]["dropout"],
            "lora_target": ",".join(recipe["lora"]["targets"]),
            "cutoff_len": recipe["max_length"],
            "quantization_method": "bnb",
            "quantization_bit": 4,
            "quantization_type": "nf4",
            "double_quantization": True,
            "use_cpu": True,
            "save_strategy": "no",
            **shared(spec, len(rows)),
        }
    )


def in_precision(spec: Spec) -> str:
    """Return the directory of a base whose weights are stored in the precision of this machine:
    LLaMA-Factory computes in that of the weights.
    """
    from transformers import AutoModelForCausalLM

    from bezoar import precision
    from bezoar.training.tokenizer import load_tokenizer

    place = spec["out"] + "-base"
    model = AutoModelForCausalLM.from_pretrained(spec["base"], dtype=precision.compute_dtype())
    model.save_pretrained(place)
    load_tokenizer(Path(spec["base"])).save_pretrained(place)
    return place


def judge(spec: Spec) -> None:
    """Print the loss of the base and of each adapter on the held-out rows: nats per token, or DPO's
    loss.
    """
    import torch
    from peft import PeftModel
    from trl.trainer import add_fused_lm_head

    from bezoar import precision
    from bezoar.readers import read_jsonl
    from bezoar.training import preference_pairs, qlora
    from bezoar.training.tokenizer import load_tokenizer

    model, rows = (
        qlora.load_4bit(Path(spec["base"]), cache_dequantized=True).eval(),
        read_jsonl(Path(spec["validation"])),
    )
    add_fused_lm_head(model)
    pad = load_tokenizer(Path(spec["base"])).pad_token_id
    if spec["method"] == "dpo":
        before = preference_pairs.score(model, rows, pad, 16)

    def loss() -> float:
        if spec["method"] == "dpo":
            scores = preference_pairs.score(model, rows, pad, 16)
            margins = [
                chosen - rejected - c + r
                for (chosen, rejected), (c, r) in zip(scores, before, strict=True)
            ]
            return float(
                -torch.nn.functional.logsigmoid(
                    spec["recipe"]["beta"] * torch.tensor(margins)
                ).mean()
            )
        total, count = 0.0, 0
        for start in range(0, len(rows), 16):
            ids = [torch.tensor(row["input_ids"]) for row in rows[start : start + 16]]
            batch = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=pad).to(
                model.device
            )
            mask = torch.nn.utils.rnn.pad_sequence(
                [torch.ones_like(row) for row in ids], batch_first=True
            ).to(model.device)
            with torch.no_grad(), precision.autocast(model.device):
                out = model(
                    input_ids=batch,
                    attention_mask=mask,
                    labels=batch.masked_fill(mask == 0, -100),
                    use_cache=False,
                    fused_lm_head=True,
                )
            total, count = (
                total - float(out.log_probs.float().sum()),
                count + int(mask[:, 1:].sum()),
            )
        return total / count

    losses = {"": loss()}
    for name in spec["adapters"]:
        model = PeftModel.from_pretrained(model, name).eval()
        losses[name] = loss()
        model = model.unload()
    print(json.dumps(losses))


def main() -> None:
    """Run what the first argument describes."""
    spec = json.loads(sys.argv[1])
    ways: dict[str, Callable[[Spec], None]] = {
        "ours": ours,
        "reference": reference,
        "trl": trl,
        "factory": factory,
    }
    if spec["way"] == "judge":
        judge(spec)
        return
    watch_trainers()
    ways[spec["way"]](spec)
    if spec["way"] == "reference":
        STEP["begun"], STEP["peak_mib"] = time.time(), peak()
    print(json.dumps(STEP | {"startup_s": STEP["begun"] - spec["started"] - STEP["reference_s"]}))


if __name__ == "__main__":
    main()
