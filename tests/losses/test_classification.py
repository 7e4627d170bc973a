"""Classification losses: hand-worked values and gradients, and what every one of them promises."""

from __future__ import annotations

from collections.abc import Callable
from math import log

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from alignrank.losses import giou_aware_focal_loss, quality_focal_loss, sigmoid_focal_loss, varifocal_loss

Loss = Callable[..., Tensor]
LOSSES = [varifocal_loss, quality_focal_loss, sigmoid_focal_loss, giou_aware_focal_loss]


def value_and_gradient(loss: Loss, logit: float, target: float, **options: float) -> tuple[float, float]:
    logits = torch.tensor([[logit]], dtype=torch.float64, requires_grad=True)
    value = loss(logits, torch.tensor([[target]], dtype=torch.float64), **options)
    (gradient,) = torch.autograd.grad(value, logits)
    return value.item(), gradient.item()


def test_varifocal_worked() -> None:
    """Logit 0 is score 1/2, whose cross entropy is ln 2 for any target; logit ln 3 is score 3/4.

    Positive, q = 1/2 at 0: q * ln 2. Not IoU-weighted: ln 2. Its gradient is q (score - q): at ln 3, 1/2 * 1/4.
    Positive, q = 1 at ln 3: 1 * -ln(3/4).
    Negative at 0: alpha s^2 ln 2 = 3/4 * 1/4 * ln 2. At ln 3: 3/4 * 9/16 * -ln(1/4).
    Its gradient, the weight in the graph: alpha (2 s * s(1-s) * -ln(1-s) + s^2 * s); at 0
    3/4 * (2 * 1/2 * 1/4 * ln 2 + 1/8). Detached it would have been 3/4 * 1/8.
    """
    assert value_and_gradient(varifocal_loss, 0, 0.5)[0] == pytest.approx(0.5 * log(2))
    assert value_and_gradient(varifocal_loss, 0, 0.5, iou_weighted=False)[0] == pytest.approx(log(2))
    assert value_and_gradient(varifocal_loss, log(3), 0.5)[1] == pytest.approx(1 / 8)
    assert value_and_gradient(varifocal_loss, log(3), 1)[0] == pytest.approx(-log(3 / 4))
    value, gradient = value_and_gradient(varifocal_loss, 0, 0)
    assert value == pytest.approx(3 / 16 * log(2))
    assert gradient == pytest.approx(3 / 4 * (log(2) / 4 + 1 / 8))
    assert value_and_gradient(varifocal_loss, log(3), 0)[0] == pytest.approx(3 / 4 * 9 / 16 * log(4))
    assert value_and_gradient(varifocal_loss, log(3), 0, alpha=1, gamma=1)[0] == pytest.approx(3 / 4 * log(4))


def test_varifocal_tiny_quality_is_positive() -> None:
    """q = 1e-6 weighs 1e-6: 3/16 ln 2 as a negative, next to nothing as the positive that it is."""
    assert value_and_gradient(varifocal_loss, 0, 1e-6)[0] == pytest.approx(1e-6 * log(2))


def test_quality_focal_worked() -> None:
    """|q - s|^2 * cross entropy. q = 1, s = 1/2: 1/4 ln 2. q = s: 0, gradient 0. q = 0, s = 3/4: 9/16 ln 4.

    Gradient at q = 0, logit 0: d(s^2) * -ln(1-s) + s^2 * s = 2 * 1/2 * 1/4 * ln 2 + 1/8.
    """
    assert value_and_gradient(quality_focal_loss, 0, 1)[0] == pytest.approx(log(2) / 4)
    assert value_and_gradient(quality_focal_loss, 0, 0.5) == (0, 0)
    assert value_and_gradient(quality_focal_loss, log(3), 0)[0] == pytest.approx(9 / 16 * log(4))
    assert value_and_gradient(quality_focal_loss, 0, 0)[1] == pytest.approx(log(2) / 4 + 1 / 8)
    assert value_and_gradient(quality_focal_loss, log(3), 0, beta=1)[0] == pytest.approx(3 / 4 * log(4))


def test_sigmoid_focal_worked() -> None:
    """Positive at score 1/2: 1/4 * (1/2)^2 * ln 2. Negative at score 3/4: 3/4 * (3/4)^2 * ln 4.

    Gradient of the positive at logit 0: the cross entropy's -1/2 times 1/4 * 1/4, and the factor's
    1/4 * -2 * 1/2 * 1/4 times ln 2.
    """
    value, gradient = value_and_gradient(sigmoid_focal_loss, 0, 1)
    assert value == pytest.approx(log(2) / 16)
    assert gradient == pytest.approx(-1 / 32 - log(2) / 16)
    assert value_and_gradient(sigmoid_focal_loss, log(3), 0)[0] == pytest.approx(3 / 4 * 9 / 16 * log(4))
    assert value_and_gradient(sigmoid_focal_loss, log(3), 0, alpha=0.5, gamma=0)[0] == pytest.approx(log(4) / 2)


def test_giou_aware_focal_worked() -> None:
    """alpha |t - s|^2 * cross entropy where positive, (1 - alpha) s^2 * cross entropy where not.

    t = 1, s = 1/2: 1/4 * 1/4 ln 2. t = 1/2, s = 3/4: 1/4 * 1/16 * 1/2 (ln 4/3 + ln 4). t = s: 0, gradient 0.
    t = 0, s = 3/4: 3/4 * 9/16 ln 4. t = 1e-6 is positive: at s = 1/2 it weighs 1/4, where 0 would weigh 3/4.
    Gradient of t = 1 at logit 0, the factor in the graph: 1/4 * (2 * -1/2 * 1/4 * ln 2 + 1/4 * -1/2).
    """
    value, gradient = value_and_gradient(giou_aware_focal_loss, 0, 1)
    assert value == pytest.approx(log(2) / 16)
    assert gradient == pytest.approx((-log(2) / 4 - 1 / 8) / 4)
    assert value_and_gradient(giou_aware_focal_loss, log(3), 0.5)[0] == pytest.approx(log(16 / 3) / 128)
    assert value_and_gradient(giou_aware_focal_loss, 0, 0.5) == (0, 0)
    assert value_and_gradient(giou_aware_focal_loss, log(3), 0)[0] == pytest.approx(27 / 64 * log(4))
    assert value_and_gradient(giou_aware_focal_loss, 0, 1e-6)[0] == pytest.approx(log(2) / 16, rel=1e-5)
    value, _ = value_and_gradient(giou_aware_focal_loss, log(3), 0, alpha=0.4, gamma=1)
    assert value == pytest.approx(0.6 * 3 / 4 * log(4), rel=1e-12)


def test_giou_aware_focal_of_perfect_boxes_is_focal() -> None:
    """Targets of 0 and 1."""
    logits, target = torch.randn(6, 4, dtype=torch.float64), (torch.rand(6, 4, dtype=torch.float64) > 0.7).double()
    options = {"alpha": 0.3, "gamma": 1.5, "reduction": "none"}
    assert_close(giou_aware_focal_loss(logits, target, **options), sigmoid_focal_loss(logits, target, **options))


@pytest.mark.parametrize("loss", LOSSES)
def test_sum_is_the_sum_of_none(loss: Loss) -> None:
    logits, target = torch.randn(6, 4), torch.rand(6, 4).round()
    elementwise = loss(logits, target, reduction="none")
    assert elementwise.shape == (6, 4)
    assert (elementwise > 0).all()
    assert_close(loss(logits, target), elementwise.sum())


@pytest.mark.parametrize("loss", LOSSES)
def test_unknown_reduction_is_an_error(loss: Loss) -> None:
    with pytest.raises(ValueError, match="'mean'"):
        loss(torch.zeros(1, 1), torch.zeros(1, 1), reduction="mean")


@pytest.mark.parametrize("loss", LOSSES)
def test_no_rows_give_zero_with_a_gradient_path(loss: Loss) -> None:
    logits = torch.zeros(0, 3, requires_grad=True)
    value = loss(logits, torch.zeros(0, 3))
    value.backward()
    assert value.item() == 0
    assert logits.grad is not None
    assert logits.grad.shape == (0, 3)
    assert loss(logits, torch.zeros(0, 3), reduction="none").shape == (0, 3)


@pytest.mark.parametrize("loss", LOSSES)
def test_dtype(loss: Loss) -> None:
    logits, target = torch.randn(4, 3), torch.rand(4, 3)
    assert loss(logits.double(), target.double()).dtype == torch.float64
    for low in (torch.float16, torch.bfloat16):
        value = loss(logits.to(low), target.to(low))
        assert value.dtype == torch.float32
        assert_close(value, loss(logits.to(low).float(), target.to(low).float()))


@pytest.mark.parametrize("loss", LOSSES)
def test_targets_are_detached(loss: Loss) -> None:
    logits = torch.randn(4, 3, requires_grad=True)
    target = torch.rand(4, 3, requires_grad=True)
    loss(logits, target).backward()
    assert target.grad is None
    assert logits.grad is not None
    assert logits.grad.abs().min() > 0


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("target", [0.0, 1.0])
def test_extreme_logits_are_finite(loss: Loss, target: float) -> None:
    """At the wrong extreme the loss grows like the logit; at the right one it vanishes."""
    logits = torch.tensor([[-60.0, 60.0]], requires_grad=True)
    value = loss(logits, torch.full((1, 2), target), reduction="none")
    value.sum().backward()
    wrong, right = (0, 1) if target == 1 else (1, 0)
    assert value[0, wrong].item() > 10
    assert value[0, right].item() < 1e-6
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("loss", LOSSES)
def test_gradcheck(loss: Loss) -> None:
    logits = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    target = torch.rand(5, 3, dtype=torch.float64) * (torch.rand(5, 3) > 0.5)
    assert torch.autograd.gradcheck(lambda x: loss(x, target, reduction="none"), logits)
