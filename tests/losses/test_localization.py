"""Box losses: hand-worked values and gradients, and what every one of them promises."""

from __future__ import annotations

from collections.abc import Callable
from math import log

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from alignrank.losses import ciou_loss, distribution_focal_loss, giou_loss

BoxLoss = Callable[..., Tensor]
BOX_LOSSES = [giou_loss, ciou_loss]


def test_box_losses_worked() -> None:
    """(0,0,2,2) and (1,1,3,3): IoU 1/7, enclosing 9 of which 2 empty, centre gap^2 2 of diagonal^2 18, equal shapes."""
    boxes, targets = torch.tensor([[0.0, 0.0, 2.0, 2.0]]), torch.tensor([[1.0, 1.0, 3.0, 3.0]])
    assert giou_loss(boxes, targets).item() == pytest.approx(1 - 1 / 7 + 2 / 9)
    assert ciou_loss(boxes, targets).item() == pytest.approx(1 - 1 / 7 + 2 / 18)


def test_giou_gradient_worked() -> None:
    """Unit squares side by side with a gap: box (0,0,1,1), target (2,0,3,1), GIoU = -(3 - 2)/3.

    Moving the box's right side by d: union 2 + d, enclosing 3: GIoU = -(1 - d)/3, so the loss falls by 1/3 per pixel.
    Its left side by d: union 2 - d, enclosing 3 - d: GIoU = -1/(3 - d), the loss rises by 1/9.
    """
    box = torch.tensor([[0.0, 0.0, 1.0, 1.0]], dtype=torch.float64, requires_grad=True)
    giou_loss(box, torch.tensor([[2.0, 0.0, 3.0, 1.0]], dtype=torch.float64)).sum().backward()
    assert box.grad is not None
    assert box.grad[0, 2].item() == pytest.approx(-1 / 3, abs=1e-6)
    assert box.grad[0, 0].item() == pytest.approx(1 / 9, abs=1e-6)


def test_ciou_alpha_is_a_constant_of_the_gradient() -> None:
    """Same centre, target of another shape: loss = 1 - IoU + alpha * v; the gradient leaves alpha out.

    Expected from the same formula with alpha as a number, by central differences.
    """
    target = torch.tensor([[0.0, 0.0, 4.0, 2.0]], dtype=torch.float64)
    start = torch.tensor([[1.0, -1.0, 3.0, 3.0]], dtype=torch.float64)

    def shape_term(box: Tensor) -> tuple[float, float]:
        left, top, right, bottom = box[0].tolist()
        from math import atan2, pi

        v = 4 / pi**2 * (atan2(4, 2) - atan2(right - left, bottom - top)) ** 2
        inter = (min(right, 4) - max(left, 0)) * (min(bottom, 2) - max(top, 0))
        iou = inter / ((right - left) * (bottom - top) + 8 - inter)
        gap2 = ((left + right - 4) ** 2 + (top + bottom - 2) ** 2) / 4
        diagonal2 = (max(right, 4) - min(left, 0)) ** 2 + (max(bottom, 2) - min(top, 0)) ** 2
        return v, 1 - iou + gap2 / diagonal2

    v, rest = shape_term(start)
    alpha = v / (rest + v)  # the centres coincide: rest is 1 - IoU
    assert ciou_loss(start, target).item() == pytest.approx(rest + alpha * v, abs=1e-6)
    box = start.clone().requires_grad_()
    ciou_loss(box, target).sum().backward()
    assert box.grad is not None
    step = 1e-6
    for corner in range(4):
        shift = torch.zeros_like(start)
        shift[0, corner] = step
        (v_up, up), (v_down, down) = shape_term(start + shift), shape_term(start - shift)
        expected = (up - down + alpha * (v_up - v_down)) / (2 * step)
        assert box.grad[0, corner].item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("loss", BOX_LOSSES)
def test_box_losses_promises(loss: BoxLoss) -> None:
    """No rows, dtypes, detached targets, minimum 0 at the target, finite gradients where a box has no area."""
    boxes = torch.zeros(0, 4, requires_grad=True)
    value = loss(boxes, torch.zeros(0, 4))
    assert value.shape == (0,)
    value.sum().backward()
    assert boxes.grad is not None

    target = torch.tensor([[10.0, 10.0, 20.0, 30.0]])
    assert loss(target, target).item() == pytest.approx(0, abs=1e-6)
    assert loss(target.double(), target.double()).dtype == torch.float64
    assert loss(target.half(), target.half()).dtype == torch.float32
    assert loss(target.bfloat16(), target.bfloat16()).dtype == torch.float32

    moved, with_gradient = (target + 3).requires_grad_(), target.clone().requires_grad_()
    loss(moved, with_gradient).sum().backward()
    assert with_gradient.grad is None
    assert moved.grad is not None
    assert moved.grad.abs().max() > 0

    flat = torch.tensor([[15.0, 15.0, 15.0, 15.0]], requires_grad=True)
    loss(flat, target).sum().backward()
    assert flat.grad is not None
    assert flat.grad.isfinite().all()


def test_giou_gradcheck() -> None:
    boxes = torch.tensor([[0.0, 0.0, 3.0, 4.0], [5.0, 5.0, 9.0, 6.0]], dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([[1.0, 1.5, 5.0, 6.0], [0.0, 1.0, 2.0, 2.0]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: giou_loss(x, targets), boxes)


def test_distribution_focal_worked() -> None:
    """Logits (0, ln 2, 0, 0): probabilities 1/5, 2/5, 1/5, 1/5. Target 1.25 is 3/4 of bin 1 and 1/4 of bin 2.

    Loss 3/4 * -ln(2/5) + 1/4 * -ln(1/5); gradient probability - share: (1/5, 2/5 - 3/4, 1/5 - 1/4, 1/5).
    """
    logits = torch.tensor([[0, log(2), 0, 0]], dtype=torch.float64, requires_grad=True)
    loss = distribution_focal_loss(logits, torch.tensor([1.25], dtype=torch.float64))
    loss.backward()
    assert loss.item() == pytest.approx(0.75 * log(5 / 2) + 0.25 * log(5))
    assert_close(logits.grad, torch.tensor([[0.2, 0.4 - 0.75, 0.2 - 0.25, 0.2]], dtype=torch.float64))


def test_distribution_focal_target_on_a_bin() -> None:
    """Target 1 exactly is plain cross entropy with bin 1: -ln(2/5)."""
    loss = distribution_focal_loss(torch.tensor([[0, log(2), 0, 0]]), torch.tensor([1.0]))
    assert loss.item() == pytest.approx(log(5 / 2))


def test_distribution_focal_clamps_its_target() -> None:
    """Four bins: targets above 2.99 count as 2.99, i.e. 1/100 of bin 2 and 99/100 of bin 3; below 0 as 0."""
    logits = torch.tensor([[0, log(2), 0, log(4)]], dtype=torch.float64)  # probabilities 1/8, 2/8, 1/8, 4/8
    high = distribution_focal_loss(logits, torch.tensor([7.0], dtype=torch.float64))
    low = distribution_focal_loss(logits, torch.tensor([-1.0], dtype=torch.float64))
    assert high.item() == pytest.approx(0.01 * log(8) + 0.99 * log(2))
    assert low.item() == pytest.approx(log(8))


def test_distribution_focal_is_least_at_the_target() -> None:
    """The minimum over distributions is the target's own two shares, where the gradient is 0."""
    logits = torch.tensor([[-40.0, log(3), 0.0, -40.0]], dtype=torch.float64, requires_grad=True)
    distribution_focal_loss(logits, torch.tensor([1.25], dtype=torch.float64)).backward()
    assert logits.grad is not None
    assert logits.grad.abs().max() < 1e-12


def test_distribution_focal_promises() -> None:
    """Reduction, no rows, dtypes, detached target, gradcheck."""
    logits, target = torch.randn(6, 5), torch.rand(6) * 5
    rows = distribution_focal_loss(logits, target, reduction="none")
    assert rows.shape == (6,)
    assert_close(distribution_focal_loss(logits, target), rows.sum())
    with pytest.raises(ValueError, match="'mean'"):
        distribution_focal_loss(logits, target, reduction="mean")  # type: ignore[arg-type]

    none = torch.zeros(0, 5, requires_grad=True)
    value = distribution_focal_loss(none, torch.zeros(0))
    value.backward()
    assert value.item() == 0
    assert none.grad is not None

    assert distribution_focal_loss(logits.double(), target.double()).dtype == torch.float64
    assert distribution_focal_loss(logits.half(), target.half()).dtype == torch.float32

    with_gradient = target.clone().requires_grad_()
    distribution_focal_loss(logits.clone().requires_grad_(), with_gradient).backward()
    assert with_gradient.grad is None
    assert torch.autograd.gradcheck(
        lambda x: distribution_focal_loss(x, target.double(), reduction="none"), logits.double().requires_grad_()
    )
