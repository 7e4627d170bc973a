"""The averaged weights: a ramp for short runs, float32, and buffers that cannot be averaged."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from alignrank.training.averaging import AveragedWeights


def averaged(model: nn.Module, decay: float) -> AveragedWeights:
    callback = AveragedWeights(decay)
    callback.model = copy.deepcopy(model)
    return callback


def weight(value: float) -> nn.Linear:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, value)
    return model


def test_the_ramp_worked() -> None:
    """From 0 towards 1, decay (1 + n) / (10 + n): 2/11, then 3/12, then 4/13, as long as that is below the decay."""
    callback, expected = averaged(weight(0.0), 0.9998), 0.0
    for decay in (2 / 11, 3 / 12, 4 / 13):
        callback.update(weight(1.0))
        expected = decay * expected + (1 - decay)
        assert callback.model is not None
        assert callback.model.weight.item() == pytest.approx(expected, abs=1e-6)
    assert callback.updates == 3


def test_the_decay_ends_the_ramp() -> None:
    """With a decay of .2 the first update has 2/11, which is less, the second .2 instead of 3/12."""
    callback = averaged(weight(0.0), 0.2)
    callback.update(weight(1.0))
    callback.update(weight(1.0))
    assert callback.model is not None
    assert callback.model.weight.item() == pytest.approx(0.2 * 9 / 11 + 0.8, abs=1e-6)


def test_integer_buffers_are_copied() -> None:
    """A batch norm's count of batches is no average; its running mean is."""
    model = nn.BatchNorm1d(2)
    callback = averaged(model, 0.5)
    model.num_batches_tracked.fill_(7)
    model.running_mean.fill_(1.0)
    callback.update(model)
    found = callback.model
    assert found is not None
    assert found.num_batches_tracked.item() == 7
    assert found.running_mean.tolist() == pytest.approx([9 / 11, 9 / 11])
    assert found.num_batches_tracked is not model.num_batches_tracked


def test_the_average_is_float32_whatever_the_model_is() -> None:
    callback = averaged(weight(0.0), 0.5)
    callback.update(weight(1.0).to(torch.bfloat16))
    assert callback.model is not None
    assert callback.model.weight.dtype == torch.float32
    assert callback.model.weight.item() == pytest.approx(9 / 11, abs=1e-6)
