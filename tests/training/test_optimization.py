"""Rates over time, and which parameter learns at which rate and decays: by hand on a small module and on detectors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_forms import tiny_form
from torch import nn

from alignrank.errors import InputError
from alignrank.training.optimizer import frozen_modules, parameter_groups, schedule
from alignrank.weights.recipe import build_detector
from alignrank.weights.settings import TrainConfig

# 12 epochs of 10 steps.
TOTAL = 120


def settings(**options: Any) -> TrainConfig:
    """12 epochs without warm-up, lr 0.1, weight decay 0.01, where `options` do not say otherwise."""
    return TrainConfig(**{"epochs": 12, "warmup_epochs": 0.0, "lr": 0.1, "weight_decay": 0.01, **options})


def test_steps_worked() -> None:
    """Milestones 8 and 11: the rate falls with the first step of the ninth epoch, number 80, and of the twelfth."""
    factor = schedule(settings(schedule="step", milestones=[8, 11]), TOTAL)
    assert [factor(step) for step in (0, 79)] == [1, 1]
    assert [factor(step) for step in (80, 109)] == pytest.approx([0.1, 0.1])
    assert [factor(step) for step in (110, 119)] == pytest.approx([0.01, 0.01])


def test_steps_by_epoch() -> None:
    """The same with 7 steps an epoch, and milestones in any order."""
    factor = schedule(settings(schedule="step", milestones=[11, 8]), 7 * 12)
    rates = [[factor(7 * epoch + step) for step in range(7)] for epoch in range(12)]
    expected = [1.0] * 8 + [0.1] * 3 + [0.01]
    assert rates == [pytest.approx([rate] * 7) for rate in expected]


def test_steps_after_warmup() -> None:
    """Half an epoch of warm-up, 5 steps: sixths of the rate, then all of it. final_lr has no say."""
    factor = schedule(settings(schedule="step", milestones=[1], warmup_epochs=0.5, final_lr=0.5), TOTAL)
    assert [factor(step) for step in range(6)] == pytest.approx([1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1])
    assert [factor(step) for step in (9, 10, 119)] == pytest.approx([1, 0.1, 0.1])


def test_milestones_that_are_never_reached() -> None:
    for milestones in ([], [12], [40]):
        factor = schedule(settings(schedule="step", milestones=milestones), TOTAL)
        assert {factor(step) for step in range(TOTAL)} == {1.0}


@pytest.mark.parametrize(
    ("shape", "quarter", "middle", "end"),
    [("linear", 0.75, 0.5, 0.0), ("cosine", (1 + 0.5**0.5) / 2, 0.5, 0.0), ("constant", 1.0, 1.0, 1.0)],
)
def test_smooth_schedules(shape: str, quarter: float, middle: float, end: float) -> None:
    """From 1 to final_lr = .2: .2 + .8 * what remains, without warm-up and after one of 2 epochs, 20 steps."""
    for warmup_epochs, first in [(0, 0), (2, 20)]:
        factor = schedule(settings(schedule=shape, final_lr=0.2, warmup_epochs=warmup_epochs), TOTAL)
        left = TOTAL - first
        found = [factor(first + left * part // 4) for part in (0, 1, 2, 4)]
        assert found == pytest.approx([0.2 + 0.8 * remains for remains in (1, quarter, middle, end)])
        assert [factor(step) for step in range(first)] == pytest.approx([(step + 1) / 21 for step in range(first)])


def test_default_schedule() -> None:
    """100 epochs, linear: 3 of warm-up, then from 1 to a hundredth, always downwards."""
    factor = schedule(TrainConfig(), 1000)
    rates = [factor(step) for step in range(1001)]
    assert rates[:30] == pytest.approx([(step + 1) / 31 for step in range(30)])
    assert rates[30] == 1
    assert rates[1000] == pytest.approx(0.01)
    assert rates[30:] == sorted(set(rates[30:]), reverse=True)


def test_warmup_is_half_of_the_training_at_most() -> None:
    """3 epochs of warm-up in a training of 1, 10 steps: 5 of them."""
    factor = schedule(settings(epochs=1, warmup_epochs=3), 10)
    assert [factor(step) for step in range(6)] == pytest.approx([1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1])


class Offsets(nn.Linear):
    """A layer that learns at a twentieth."""

    lr_factor = 0.05


class Net(nn.Module):
    """One of everything, with biases."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.ModuleDict(
            {
                "body": nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)),
                "pooling": nn.Conv2d(4, 4, 1),
            }
        )
        self.neck = nn.Sequential(nn.Conv2d(4, 4, 1), nn.GroupNorm(1, 4))
        self.offsets = Offsets(4, 2)
        self.scale = nn.Parameter(torch.ones(5))


# (part of the rate, decays) by name.
RATES = {
    "backbone.body.0.weight": (1, True),
    "backbone.body.0.bias": (1, False),
    "backbone.body.1.weight": (1, False),
    "backbone.body.1.bias": (1, False),
    "backbone.pooling.weight": (1, True),
    "backbone.pooling.bias": (1, False),
    "neck.0.weight": (1, True),
    "neck.0.bias": (1, False),
    "neck.1.weight": (1, False),
    "neck.1.bias": (1, False),
    "offsets.weight": (0.05, True),
    "offsets.bias": (0.05, False),
    "scale": (1, False),
}


def rates(model: nn.Module, train: TrainConfig) -> dict[str, tuple[float, float]]:
    """(rate, weight decay) of every parameter that an optimizer has, each once."""
    groups = parameter_groups(model, train)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = [(names[id(p)], (group["lr"], group["weight_decay"])) for group in groups for p in group["params"]]
    assert len(dict(found)) == len(found)
    return dict(found)


def expected(factors: dict[str, tuple[float, bool]]) -> dict[str, Any]:
    """At lr 0.1 and weight decay 0.01."""
    return {name: pytest.approx((0.1 * factor, 0.01 * decays)) for name, (factor, decays) in factors.items()}


def test_groups_worked() -> None:
    """Weights decay; biases, norms and scales do not; offsets learn at a twentieth, with their bias."""
    assert rates(Net(), settings()) == expected(RATES)


def test_bias_rate() -> None:
    """bias_lr = 2 doubles the biases of convolutions, on top of a layer's own factor, and leaves norms as they are."""
    convolutions = ("backbone.body.0.bias", "backbone.pooling.bias", "neck.0.bias", "offsets.bias")
    doubled = {
        name: (factor * 2 if name in convolutions else factor, decays) for name, (factor, decays) in RATES.items()
    }
    assert rates(Net(), settings(bias_lr=2.0)) == expected(doubled)
    assert doubled["offsets.bias"] == (0.1, False)


def test_backbone_rate() -> None:
    """A tenth for what timm gives (`body`), not for what is ours (`pooling`); a bias has both factors."""
    slow = {name: (factor * 0.1 if ".body." in name else factor, decays) for name, (factor, decays) in RATES.items()}
    assert rates(Net(), settings(backbone_lr=0.1)) == expected(slow)
    both = rates(Net(), settings(backbone_lr=0.1, bias_lr=3.0))
    assert both["backbone.body.0.bias"] == pytest.approx((0.1 * 0.1 * 3, 0))


def test_frozen_parts_have_no_rate() -> None:
    """Neither those of `train.freeze`, which are changed here, nor those that were without gradient before."""
    model = Net()
    model.scale.requires_grad_(False)
    found = rates(model, settings(freeze=["backbone.body", "neck.1"]))
    frozen = ("backbone.body.", "neck.1.", "scale")
    assert set(found) == {name for name in RATES if not name.startswith(frozen)}
    learns = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert learns == set(found)


def test_unknown_part() -> None:
    with pytest.raises(
        InputError, match=r"train\.freeze: the model has no part 'bakbone'; its parts are backbone, neck"
    ):
        frozen_modules(Net(), ["neck", "bakbone"])
    model = Net()
    assert frozen_modules(model, ["neck.0", "offsets"]) == [model.neck[0], model.offsets]


def test_optimizer_follows_both() -> None:
    """Rates of an epoch's first step in SGD: group and schedule multiply, 0.1 * 2 for a bias, a tenth from epoch 8."""
    train = settings(schedule="step", milestones=[8, 11], bias_lr=2.0)
    model = nn.Conv2d(3, 4, 3)
    optimizer = torch.optim.SGD(parameter_groups(model, train), lr=train.lr)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule(train, TOTAL))
    seen = []
    for step in range(TOTAL):
        if step % 10 == 0:
            seen.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    assert seen == [pytest.approx([0.1 * f, 0.2 * f]) for f in [1.0] * 8 + [0.1] * 3 + [0.01]]


@pytest.mark.parametrize(("name", "options"), [("vfnet-r50", {}), ("alignrank-n", {"head.refine": True})])
def test_of_a_detector(name: str, options: dict[str, Any]) -> None:
    """All its parameters, each once; kernels and matrices decay, norms and biases do not; sampling offsets are slow."""
    model = build_detector(name, 3, **tiny_form(name), **options).model
    found = rates(model, settings(bias_lr=2.0))
    assert set(found) == {key for key, _ in model.named_parameters()}
    slow = set()
    for part, layer in model.named_modules():
        factor = getattr(layer, "lr_factor", 1.0)
        if isinstance(layer, nn.Conv2d | nn.Linear | nn.BatchNorm2d | nn.GroupNorm | nn.LayerNorm):
            decay, bias = (0.01, 0.2) if isinstance(layer, nn.Conv2d | nn.Linear) else (0, 0.1)
            assert found[f"{part}.weight"] == pytest.approx((0.1 * factor, decay))
            assert found.get(f"{part}.bias", (bias * factor, 0)) == pytest.approx((bias * factor, 0))
        slow |= {part} if factor < 1 else set()
    assert all(part.endswith("offsets") for part in slow)
    assert bool(slow) == (name == "alignrank-n")
