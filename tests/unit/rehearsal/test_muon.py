"""Muon: orthogonal directions, in float32, and the steps of torch's own where that agrees."""

import pytest
import torch
from tiny import PRETRAIN

import pretrain_base
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


@pytest.mark.parametrize("tied", [True, False])
def test_the_base_has_it_in_its_hidden_layers_alone(tied: bool) -> None:
    model = pretrain_base.build(PRETRAIN | {"tie_word_embeddings": tied}, 3)
    names = {id(weight): name for name, weight in model.named_parameters()}
    muon, adamw = (
        [[names[id(weight)] for weight in group["params"]] for group in optimizer.param_groups]
        for optimizer in pretrain_base.optimizers_of(model, 0.1)
    )
    assert muon and all(name.startswith("model.layers.") for group in muon for name in group)
    assert adamw[0] == ["model.embed_tokens.weight", *([] if tied else ["lm_head.weight"])]
    assert sum(map(len, [*muon, *adamw])) == len(names)
