"""The averaged weights: a ramp for short runs, float32, and buffers that cannot be averaged."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

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


def test_moves_with_optimizer_steps_only() -> None:
    """Two batches make a step here: it moves with the second, 9/11, and with the fourth, 3/4 of what is left."""
    callback, model, trainer = AveragedWeights(0.9998), weight(0.0), SimpleNamespace(global_step=5)
    module: Any = SimpleNamespace(model=model)
    callback.on_fit_start(trainer, module)  # type: ignore[arg-type]
    callback.on_train_start(trainer, module)  # type: ignore[arg-type]
    assert callback.model is not None
    assert not callback.model.training
    assert not any(parameter.requires_grad for parameter in callback.model.parameters())
    module.model, moved = weight(1.0), []
    for trainer.global_step in (5, 6, 6, 7):
        callback.on_train_batch_end(trainer, module, None, None, 0)  # type: ignore[arg-type]
        moved.append(callback.model.weight.item())
    assert moved == pytest.approx([0, 9 / 11, 9 / 11, 9 / 11 / 4 + 3 / 4])
    assert model.weight.item() == 0  # the average is a copy


def test_the_ramp_goes_on_after_a_restart() -> None:
    """The eighth update after seven: (1 + 8) / (10 + 8) = 1/2 stays."""
    callback = AveragedWeights(0.9998)
    callback.load_state_dict({"updates": 7, "weights": weight(4.0).state_dict()})
    callback.on_fit_start(SimpleNamespace(), SimpleNamespace(model=weight(0.0)))  # type: ignore[arg-type]
    assert callback.model is not None
    assert callback.model.weight.item() == 4
    callback.update(weight(0.0))
    assert callback.model.weight.item() == 2
    assert callback.state_dict()["updates"] == 8
