"""The precision of every product with a model's weights, decided in one place.

QLoRA, DPO and its reference, the probes of a merge, and both benchmarks ask here; the rehearsal's
base is pretrained on the CPU.
Weights are stored as the configuration says (`base: dtype`); this is about what is computed.

On a CPU it is float32. Only some processors have bfloat16 units; elsewhere a bfloat16 product is
emulated, and its backward pass takes tens of times as long as float32's (docs/benchmarks.md has
both, measured). On a GPU it is bfloat16 where the GPU computes in it (compute capability 8.0 and
later), and float32 elsewhere, because float16 would need its loss scaled.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any


def compute_dtype() -> Any:
    """Return the `torch.dtype` in which this machine trains: bfloat16 or float32."""
    import torch

    native = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if native else torch.float32


def evaluation_dtype(setting: str) -> Any:
    """Return the `torch.dtype` in which a model is evaluated: `setting` (torch's name) on a GPU.

    On a CPU it is float32, which holds every float16 and bfloat16 weight exactly.
    """
    import torch

    dtype: Any = getattr(torch, setting)
    return dtype if torch.cuda.is_available() else torch.float32


def autocast(device: Any) -> AbstractContextManager[Any]:
    """Return the context in which a forward pass on `device` computes in `compute_dtype`."""
    import torch

    dtype = compute_dtype()
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)


def name(dtype: Any) -> str:
    """Return the name that receipts and configurations use, such as `float32`."""
    return str(dtype).removeprefix("torch.")


def overflow(what: str, instead: str = "bfloat16 or float32 (`dtype`)") -> str:
    """Return the line for numbers that a model of finite weights makes no numbers, and what to take
    instead.
    """
    return f"{what} is not a number: the model overflows in this precision; take {instead}"
