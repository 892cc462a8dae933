"""The Muon optimiser in float32 (Jordan et al., 2024, https://kellerjordan.github.io/posts/muon/).

`torch.optim.Muon` forms the products of its iteration in bfloat16 whatever the weights are. On a
processor without bfloat16 units they are emulated, and a step of the rehearsal's base took 2.1 s in
place of 0.28.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch

# Of the quintic that brings singular values near 1.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalized(matrix: torch.Tensor, iterations: int = 5) -> torch.Tensor:
    """Return U V^T of the singular value decomposition of `matrix`, (rows, columns), roughly.

    Newton-Schulz iteration; it leaves singular values between about 0.7 and 1.2.
    """
    a, b, c = COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(iterations):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x


class Muon(torch.optim.Optimizer):
    """Nesterov momentum whose direction is orthogonalised, with decoupled weight decay.

    For matrices of hidden layers only. A step is 0.2 sqrt(larger side) times `lr`, which matches
    the size of AdamW's (Liu et al., arXiv 2502.16982), so both can share a schedule.
    """

    def __init__(
        self,
        params: Iterable[torch.Tensor],
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every matrix that has a gradient."""
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is not None:
                    self._update(matrix, matrix.grad, group)

    def _update(self, matrix: torch.Tensor, gradient: torch.Tensor, group: dict[str, Any]) -> None:
        state, momentum = self.state[matrix], group["momentum"]
        if "mean" not in state:
            state["mean"] = torch.zeros_like(matrix)
        state["mean"].lerp_(gradient, 1 - momentum)
        direction = orthogonalized(gradient.lerp(state["mean"], momentum))
        matrix.mul_(1 - group["lr"] * group["weight_decay"])
        matrix.add_(direction, alpha=-group["lr"] * 0.2 * math.sqrt(max(matrix.shape)))
