"""The settings that all trainings share, as their recipes hold them."""

from typing import NotRequired

from typing_extensions import TypedDict


class Lora(TypedDict):
    """A LoRA adapter."""

    r: int
    alpha: int
    dropout: float
    targets: list[str]  # names of layers


class TrainingSettings(TypedDict):
    """A QLoRA training."""

    lora: Lora
    epochs: float
    learning_rate: float
    batch_size: int  # rows per step, over all processes
    micro_batch_size: int  # rows of max_length tokens that a forward pass has room for
    max_length: int  # tokens
    schedule: str  # transformers' name
    warmup_steps: int
    optimizer: str  # transformers' name
    weight_decay: float
    max_grad_norm: float
    validation_share: float
    validation_seed: int
    eval_steps: int
    max_eval_samples: NotRequired[int]  # validation rows that evaluations while training use
    load_best_model_at_end: bool
    gradient_checkpointing: bool
    cache_dequantized: bool  # keep the dequantised weights in memory
    threads: int  # CPU
    seed: int
