"""The moving average of the weights: its ramp by hand, integer buffers, and when it moves."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from alignrank.training.averaging import AveragedWeights


class Net(nn.Module):
    """A weight, a buffer with digits after the point and one that counts."""

    def __init__(self, value: float, steps: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([float(value)]))
        self.register_buffer("mean", torch.tensor([-float(value)]))
        self.register_buffer("steps", torch.tensor(steps))


def begun(decay: float, model: nn.Module) -> AveragedWeights:
    averaged, trainer, module = AveragedWeights(decay), SimpleNamespace(global_step=0), SimpleNamespace(model=model)
    averaged.on_fit_start(trainer, module)  # type: ignore[arg-type]
    averaged.on_train_start(trainer, module)  # type: ignore[arg-type]
    return averaged


def state(averaged: AveragedWeights) -> dict[str, Any]:
    return {name: value.item() for name, value in averaged.state_dict()["weights"].items()}


def test_ramp_by_hand() -> None:
    """From 0 towards 1 with a decay of 1/4: of the first update (1 + 1)/(10 + 1) = 2/11 is smaller and stays, 9/11 is
    new; of the second 3/12 is just the decay; of the third 4/13 is larger, and 1/4 stays.

    a1 = 9/11. a2 = a1/4 + 3/4 = 42/44. a3 = a2/4 + 3/4 = 174/176.
    """
    averaged = begun(0.25, Net(0, 0))
    for expected in (9 / 11, 42 / 44, 174 / 176):
        averaged.update(Net(1, 0))
        assert state(averaged) == {"weight": pytest.approx(expected), "mean": pytest.approx(-expected), "steps": 0}


def test_the_ramp_goes_on_after_a_restart() -> None:
    """The eighth update after seven: (1 + 8)/(10 + 8) = 1/2 stays."""
    averaged = AveragedWeights(0.9998)
    averaged.load_state_dict({"updates": 7, "weights": Net(4, 3).state_dict()})
    averaged.on_fit_start(SimpleNamespace(), SimpleNamespace(model=Net(0, 0)))  # type: ignore[arg-type]
    assert state(averaged) == {"weight": 4, "mean": -4, "steps": 3}
    averaged.update(Net(0, 5))
    assert state(averaged) == {"weight": 2, "mean": -2, "steps": 5}
    assert averaged.state_dict()["updates"] == 8


def test_whole_numbers_are_copied() -> None:
    """A count of batches is that of the network, not something between the two."""
    averaged = begun(0.9998, Net(0, 100))
    averaged.update(Net(0, 7))
    assert state(averaged)["steps"] == 7


def test_moves_with_optimizer_steps_only() -> None:
    """Two batches are accumulated for a step here: it moves after the second and the fourth, 9/11, then 3/4 of the way.

    The average is a copy: the network is not changed by it, and has the gradients.
    """
    model = Net(0, 0)
    averaged = begun(0.9998, model)
    assert averaged.model is not None
    assert not any(weight.requires_grad for weight in averaged.model.parameters())
    assert not averaged.model.training
    moved = []
    for step in (0, 1, 1, 2):
        trainer, module = SimpleNamespace(global_step=step), SimpleNamespace(model=Net(1, 0))
        averaged.on_train_batch_end(trainer, module, None, None, 0)  # type: ignore[arg-type]
        moved.append(state(averaged)["weight"])
    assert moved == pytest.approx([0, 9 / 11, 9 / 11, 9 / 11 / 4 + 3 / 4])
    assert model.weight.item() == 0
    assert model.weight.requires_grad


def test_half_precision_is_averaged_in_full() -> None:
    """9/11 of the way from 0 to 1, float32 although the network is bfloat16, where 9/11 is 0.81640625."""
    averaged = begun(0.9998, Net(0, 0))
    averaged.update(Net(1, 0).to(torch.bfloat16))
    assert state(averaged)["weight"] == pytest.approx(9 / 11, abs=1e-6)
