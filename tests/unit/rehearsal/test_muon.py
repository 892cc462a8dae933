"""Muon: orthogonal directions, in float32, and the steps of torch's own where that agrees."""

import pytest
import torch

from bezoar.rehearsal.muon import Muon, orthogonalized


@pytest.mark.parametrize("shape", [(8, 24), (24, 8), (16, 16)])
def test_a_direction_has_singular_values_near_one_and_the_vectors_of_its_matrix(
    shape: tuple[int, int],
) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(shape) * 1e-3
    direction = orthogonalized(matrix)
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    assert direction.dtype == torch.float32
    assert torch.allclose(torch.linalg.svdvals(direction), torch.ones(min(shape)), atol=0.35)
    core = left.T @ direction @ right.T
    assert (core - torch.diag(core.diagonal())).abs().max() < 1e-4


def test_ten_steps_are_those_of_torch_up_to_its_bfloat16() -> None:
    torch.manual_seed(0)
    start, gradients = torch.randn(32, 64), torch.randn(10, 32, 64)
    ends = []
    for make in (
        lambda weight: Muon([weight], lr=0.01),
        lambda weight: torch.optim.Muon([weight], lr=0.01, adjust_lr_fn="match_rms_adamw"),
    ):
        weight = torch.nn.Parameter(start.clone())
        optimizer = make(weight)
        for gradient in gradients:
            weight.grad = gradient.clone()
            optimizer.step()
        ends.append(weight.detach())
    moved = (ends[1] - start).norm()
    assert (ends[0] - ends[1]).norm() < 0.02 * moved


def test_a_matrix_without_a_gradient_stays() -> None:
    weight = torch.nn.Parameter(torch.ones(4, 4))
    Muon([weight], lr=0.1).step()
    assert torch.equal(weight, torch.ones(4, 4))
