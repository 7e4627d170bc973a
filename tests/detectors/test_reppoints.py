"""RepPoints: boxes as moments of nine points, and where its losses come from."""

from __future__ import annotations

import pytest
import torch
from tiny_forms import tiny_form
from torch.testing import assert_close

from alignrank.boxes import aligned_iou
from alignrank.contracts import Predictions, Targets
from alignrank.detectors.reppoints import RepPoints, RepPointsConfig
from alignrank.detectors.reppoints_criterion import RepPointsCriterion
from alignrank.weights.recipe import load_recipe


def network() -> RepPoints:
    model = load_recipe("reppoints-r50", num_classes=3, overrides=tiny_form("reppoints-r50")).build().model
    assert isinstance(model, RepPoints)
    return model


def test_moments_worked() -> None:
    """A regular 3x3 grid of spacing 2 cells: its variance is 9/8 * 8/3 = 3 of nine points, half a side sqrt(3) cells.

    x is spread twice as much as y, so a mix-up of the two would be seen. At stride 8 from the point (40, 24).
    """
    model = network()
    rows, columns = torch.meshgrid(torch.tensor([-2.0, 0, 2]), torch.tensor([-4.0, 0, 4]) + 1, indexing="ij")
    taps = torch.stack([rows, columns], -1).reshape(1, 1, 18)
    (box,) = model.moments(taps, torch.tensor([[40.0, 24.0]]), torch.tensor([[8.0]]))[0]
    half_x, half_y = 12**0.5 * 8, 3**0.5 * 8
    assert box.tolist() == pytest.approx([48 - half_x, 24 - half_y, 48 + half_x, 24 + half_y], rel=1e-5)


def test_points_in_one_place_have_a_gradient() -> None:
    taps = torch.zeros(1, 1, 18, requires_grad=True)
    network().moments(taps, torch.zeros(1, 2), torch.ones(1, 1) * 8).sum().backward()
    assert taps.grad is not None
    assert taps.grad.isfinite().all()


def test_second_boxes_do_not_train_the_first() -> None:
    """But for a tenth, through the places that the second stage reads."""
    model = network().train()
    boxes = model(torch.rand(1, 3, 64, 64)).boxes
    (through,) = torch.autograd.grad(boxes.sum(), model.head.first.bias)
    model.head.second_conv.weight.data.zero_()
    (cut,) = torch.autograd.grad(model(torch.rand(1, 3, 64, 64)).boxes.sum(), model.head.first.bias)
    assert through.abs().max() > 0
    assert cut.abs().max() == 0


def made(first: list[list[float]], second: list[list[float]]) -> Predictions:
    """Two cells of stride 8 at (32, 32) and (200, 200)."""
    points, strides = torch.tensor([[32.0, 32], [200, 200]]), torch.full((2, 1), 8.0)
    boxes, logits = torch.tensor([second]).float().requires_grad_(), torch.zeros(1, 2, 2, requires_grad=True)
    before = Predictions(logits, torch.tensor([first]).float().requires_grad_(), points, strides)
    return Predictions(logits, boxes, points, strides, auxiliary={"first": before})


def test_loss_worked() -> None:
    """One object of 32 px at the first cell. First boxes 8 px off to the right: 2 of 4 sides by 8 / 32 = .25 each,
    smooth L1 .25 - .11 / 2, times .5. Their IoU is 24 / 40 = .6: positive; so the second box, 3.2 px off in one side,
    costs .1^2 / 2 / .11. VFL at logits 0: IoU q = .9 weighs log 2; three negatives .75 * .25 * log 2 each."""
    criterion = RepPointsCriterion(
        RepPointsConfig.parse({"num_classes": 2, "loss": {"classification": "vfl"}}, where="")
    )
    target = Targets(torch.tensor([[16.0, 16, 48, 48]]), torch.tensor([1]))
    far = [190.0, 190, 210, 210]
    terms = criterion(made([[24, 16, 56, 48], far], [[19.2, 16, 48, 48], far]), [target])
    log2 = torch.tensor(2.0).log().item()
    assert terms.parts["first"].item() == pytest.approx(0.5 * 2 * (0.25 - 0.055), rel=1e-4)
    assert terms.parts["box"].item() == pytest.approx(0.1**2 / 2 / 0.11, rel=1e-4)
    assert terms.parts["cls"].item() == pytest.approx((0.9 + 3 * 0.75 * 0.25) * log2, rel=1e-4)
    assert_close(terms.total, torch.stack(list(terms.parts.values())).sum())


def test_second_stage_goes_by_first_boxes() -> None:
    """A first box of IoU .45 is ignored: nothing to learn there, for the class neither. The first stage does learn."""
    config = RepPointsConfig.parse({"num_classes": 2}, where="")
    target = Targets(torch.tensor([[16.0, 16, 48, 48]]), torch.tensor([1]))
    near, other = [28.0, 16.0, 60.0, 48.0], [16.0, 16.0, 48.0, 46.0]
    assert 0.4 < aligned_iou(torch.tensor([near]), target.boxes).item() < 0.5
    # The second cell's first box fits, so that it, not the ignored one, is the best of the object.
    predictions = made([near, other], [[16, 16, 48, 48], [16, 16, 48, 48]])
    terms = RepPointsCriterion(config)(predictions, [target])
    (gradient,) = torch.autograd.grad(terms.parts["cls"], predictions.logits)
    assert gradient[0, 0].abs().max() == 0
    assert gradient[0, 1].abs().max() > 0
    assert terms.parts["box"].item() == 0
    assert terms.parts["first"].item() > 0
