"""What a tap asks of models and optimizers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from adabatch.noise._models import (
    has_batch_norm,
    held_by,
    is_averaged,
    optimized,
    scales_of,
    trained,
    watched_parameters,
)


def test_modules_without_their_compilers():
    layer = nn.Linear(2, 2)
    assert trained(layer) == [layer]
    assert trained([torch.compile(layer, backend="eager"), layer]) == [layer, layer]
    for wrong in (3, [], [layer, None]):
        with pytest.raises(TypeError, match=r"`model` must be a torch.nn.Module or a list of them, got"):
            trained(wrong)
    assert not is_averaged([layer])


def test_batch_norm_is_found():
    assert not has_batch_norm([nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))])
    assert has_batch_norm([nn.Linear(2, 2), nn.Sequential(nn.Sequential(nn.BatchNorm2d(2)))])


def test_parameters_by_layer_each_once():
    tied = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2, bias=False)), nn.Linear(2, 1))
    tied[1][0].weight = tied[0].weight
    optimizer = torch.optim.SGD([tied[0].weight, tied[2].weight], lr=0.1)
    parameters, names = watched_parameters([tied], [optimizer])
    assert [id(p) for p in parameters] == [id(tied[0].weight), id(tied[2].weight)]
    assert names == ["0", "2"]
    layer = nn.Linear(2, 2)
    assert watched_parameters([layer], [torch.optim.SGD(layer.parameters(), lr=0.1)])[1] == ["model", "model"]
    both = [torch.optim.SGD(each.parameters(), lr=0.1) for each in (tied, layer)]
    assert set(watched_parameters([tied, layer], both)[1]) == {"0.0", "0.2", "1.model"}
    assert held_by([optimizer]) == {id(tied[0].weight), id(tied[2].weight)}


def test_adams_scales():
    layer = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1, betas=(0.9, 0.8), eps=0.1)
    parameters = [*layer.parameters()]
    assert scales_of(parameters, [optimizer]) is None
    for _ in range(2):
        layer(torch.ones(1, 3)).sum().backward()  # of gradient 1, which is added up
        optimizer.step()
    wanted = ((0.8 * 0.2 * 1 + 0.2 * 4) / (1 - 0.8**2)) ** 0.5 + 0.1
    for scale in scales_of(parameters, [optimizer]).values():
        torch.testing.assert_close(scale, torch.full_like(scale, wanted))
    unused = torch.nn.Parameter(torch.zeros(1))
    optimizer.add_param_group({"params": [unused]})
    assert list(scales_of([*parameters, unused], [optimizer])) == [0, 1]
    layer.bias.requires_grad = False
    assert list(scales_of(parameters, [optimizer])) == [0]


def test_optimizers():
    layer = nn.Linear(3, 2)
    sgd, adam = torch.optim.SGD(layer.parameters(), lr=0.1), torch.optim.Adam(layer.parameters())
    assert optimized([sgd, adam], preconditioned=False) == [sgd, adam]
    assert optimized(adam, preconditioned=True) == [adam]
    for wrong in ([], [3], None):
        with pytest.raises(TypeError, match=r"`optimizer` must be a torch.optim.Optimizer or a list of them, got"):
            optimized(wrong, preconditioned=False)
    with pytest.raises(ValueError, match="got True with SGD"):
        optimized([adam, sgd], preconditioned=True)


def test_moments_of_another_kind_are_known_after_the_first_step():
    layer = nn.Linear(3, 2)
    adamax = torch.optim.Adamax(layer.parameters())
    assert optimized(adamax, preconditioned=True) == [adamax]
    assert scales_of([*layer.parameters()], [adamax]) is None
    layer(torch.ones(1, 3)).sum().backward()
    adamax.step()
    for ask in (lambda: scales_of([*layer.parameters()], [adamax]), lambda: optimized(adamax, preconditioned=True)):
        with pytest.raises(ValueError, match=r"where the optimizer keeps no second moments, got True with Adamax"):
            ask()
