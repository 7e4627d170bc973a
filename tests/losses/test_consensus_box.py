"""The loss of the mean box of an object's candidates: hand-worked, its gradients, and where it is zero."""

from __future__ import annotations

from math import log
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from alignrank.losses import consensus_box_loss

DIRECTIONS: list[Any] = ["scores", "boxes", "both"]


def double(*values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def square(side: float) -> list[float]:
    """About (8, 8)."""
    return [8 - side / 2] * 2 + [8 + side / 2] * 2


# Scores 1/2 and 1/4 of object 4, whose box is the square of side 16; an entry of no object between them.
LOGITS = double(0, 7, -log(3))
BOXES = double(square(16), square(1), square(10))
TARGETS = double(square(16), square(2), square(16))
NUMBER = torch.tensor([4, -1, 4])


def gradients(value: Tensor, *inputs: Tensor) -> list[Tensor]:
    found = torch.autograd.grad(value, inputs, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for g, x in zip(found, inputs, strict=True)]


@pytest.mark.parametrize("to", DIRECTIONS)
def test_worked(to: Any) -> None:
    """P = 2/3 and 1/3: the mean is the square of side 14, IoU 14^2 / 16^2. Same centre and shape: CIoU is IoU.

    d loss / d side = -2 14 / 256. d side / dz_i = P_i (side_i - 14) (1 - s_i): 2/3 2 1/2 and 1/3 (-4) 3/4.
    A coordinate of the mean changes its area by 14 and the loss by 14 / 256, that of a candidate P_i as much.
    """
    logits, boxes = LOGITS.clone().requires_grad_(), BOXES.clone().requires_grad_()
    value, count = consensus_box_loss(logits, boxes, TARGETS, NUMBER, to=to)
    assert count == 1
    assert value.item() == pytest.approx(1 - 14**2 / 16**2)
    to_scores, to_boxes = gradients(value, logits, boxes)
    slope = 0 if to == "boxes" else 28 / 256
    assert to_scores.tolist() == pytest.approx([-slope * 2 / 3, 0, slope])
    inward = 0 if to == "scores" else 14 / 256
    for box, share in zip(to_boxes, (2 / 3, 0, 1 / 3), strict=True):
        assert box.tolist() == pytest.approx([share * inward] * 2 + [-share * inward] * 2, abs=1e-9)


def test_temperature_worked() -> None:
    """tau = 1/2 squares the scores: P = 4/5, 1/5; side 16 4/5 + 10/5."""
    value, _ = consensus_box_loss(LOGITS, BOXES, TARGETS, NUMBER, tau=0.5)
    assert value.item() == pytest.approx(1 - 14.8**2 / 16**2)


def test_mean_over_objects() -> None:
    """A set of one counts, with its own box; it has no gradient to its score."""
    logits = torch.cat([LOGITS, double(1)]).requires_grad_()
    boxes = torch.cat([BOXES, double(square(8))]).requires_grad_()
    targets = torch.cat([TARGETS, double(square(16))])
    value, count = consensus_box_loss(logits, boxes, targets, torch.cat([NUMBER, torch.tensor([0])]))
    assert count == 2
    assert value.item() == pytest.approx((1 - 14**2 / 16**2 + 1 - 1 / 4) / 2)
    to_scores, to_boxes = gradients(value, logits, boxes)
    assert to_scores[3] == 0
    assert to_boxes[3].abs().min() > 0


def random_squares(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Candidates, squares like their objects, so that CIoU's aspect term, whose weight is a constant, has no slope."""
    generator = torch.Generator().manual_seed(seed)
    number = torch.tensor([0, 2, 2, 5, 5, 5, 5, -1])[torch.randperm(8, generator=generator)]
    corner = torch.rand(8, 2, generator=generator, dtype=torch.float64) * 3
    side = 9 + torch.rand(8, 1, generator=generator, dtype=torch.float64)
    targets = double([1.0, 1.0, 11.0, 11.0]).expand(8, 4) + number[:, None] / 10
    logits = torch.randn(8, generator=generator, dtype=torch.float64)
    return logits, torch.cat([corner, corner + side], 1), targets, number


@pytest.mark.parametrize("seed", [0, 1])
def test_gradient_is_the_slope(seed: int) -> None:
    logits, boxes, targets, number = random_squares(seed)

    def loss(z: Tensor, b: Tensor) -> Tensor:
        return consensus_box_loss(z, b, targets, number, tau=0.7)[0]

    assert torch.autograd.gradcheck(loss, (logits.requires_grad_(), boxes.requires_grad_()))


def test_directions_add_up() -> None:
    """The gradient to both is the two others'; values are equal."""
    logits, boxes, targets, number = random_squares(2)
    logits.requires_grad_()
    boxes.requires_grad_()
    found = {to: consensus_box_loss(logits, boxes, targets, number, to=to)[0] for to in DIRECTIONS}
    pulls = {to: gradients(value, logits, boxes) for to, value in found.items()}
    assert found["scores"] == found["boxes"] == found["both"]
    assert torch.equal(pulls["both"][0], pulls["scores"][0])
    assert torch.equal(pulls["both"][1], pulls["boxes"][1])
    assert pulls["both"][0].abs().max() > 0
    assert pulls["scores"][1].abs().max() == pulls["boxes"][0].abs().max() == 0


def test_order_and_numbers_are_free() -> None:
    logits, boxes, targets, number = random_squares(3)
    value, count = consensus_box_loss(logits, boxes, targets, number)
    order = torch.randperm(8)
    renumbered = torch.where(number >= 0, 100 - number, -1)[order]
    other, other_count = consensus_box_loss(logits[order], boxes[order], targets[order], renumbered)
    assert other_count == count == 3
    assert_close(other, value, rtol=1e-12, atol=1e-12)


def test_scores_learn_who_is_right() -> None:
    """The one candidate that fits gets a higher score by a step against the gradient, the others lower ones."""
    logits = torch.zeros(3, requires_grad=True)
    boxes, targets = torch.tensor([square(16), square(9), square(8)]), torch.tensor([square(16)] * 3)
    value, _ = consensus_box_loss(logits, boxes, targets, torch.zeros(3, dtype=torch.int64), to="scores")
    (pull,) = gradients(value, logits)
    assert pull[0] < 0
    assert (pull[1:] > 0).all()


@pytest.mark.parametrize("to", DIRECTIONS)
@pytest.mark.parametrize("entries", [0, 3])
def test_no_objects(entries: int, to: Any) -> None:
    logits, boxes = torch.randn(entries, requires_grad=True), torch.rand(entries, 4, requires_grad=True)
    number = torch.full((entries,), -1)
    value, count = consensus_box_loss(logits, boxes, torch.zeros(entries, 4), number, to=to)
    assert (value.item(), count) == (0, 0)
    assert all(torch.equal(g, torch.zeros_like(g)) for g in gradients(value, logits, boxes))


def test_extreme_scores_are_finite() -> None:
    """Scores of 0 in float32: shares are of their logarithms."""
    logits = torch.tensor([-200.0, -201.0], requires_grad=True)
    boxes, targets = torch.tensor([square(16), square(10)]), torch.tensor([square(16)] * 2)
    value, _ = consensus_box_loss(logits, boxes, targets, torch.zeros(2, dtype=torch.int64))
    (pull,) = gradients(value, logits)
    assert value.isfinite()
    assert pull.isfinite().all()
    assert pull[0] < 0 < pull[1]


def test_low_precision_computes_in_float32() -> None:
    logits, boxes, targets, number = random_squares(4)
    targets = targets.float()
    low, low_boxes = logits.bfloat16(), boxes.bfloat16()
    value, _ = consensus_box_loss(low, low_boxes, targets, number)
    assert value.dtype == torch.float32
    assert torch.equal(value, consensus_box_loss(low.float(), low_boxes.float(), targets, number)[0])


def test_unknown_direction_is_an_error() -> None:
    with pytest.raises(ValueError, match="'logits'"):
        consensus_box_loss(LOGITS, BOXES, TARGETS, NUMBER, to="logits")  # type: ignore[arg-type]
