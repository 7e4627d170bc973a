"""The base detector's loss on made-up predictions, worked by hand."""

from __future__ import annotations

from math import log

import pytest
import torch

from alignrank.contracts import LossTerms, Predictions, Targets
from alignrank.detectors.yolo import YoloConfig
from alignrank.detectors.yolo_criterion import YoloCriterion, padded

SCORES = (0.2, 0.4, 0.8, 0.9)  # of class 1
SIDES = (16.0, 8.0, 12.0, 2.0)  # of the squares predicted, all about the middle of the 16 x 16 image
OTHER = 0.1  # score of class 0


def made_up(order: tuple[int, ...] = (0, 1, 2, 3)) -> Predictions:
    """Four points of stride 8; distances distributed 1/5, 2/5, 1/5, 1/5 over four bins."""
    points = torch.tensor([[4.0, 4.0], [12.0, 4.0], [4.0, 12.0], [12.0, 12.0]])
    logits = torch.tensor([[[OTHER, SCORES[i]] for i in order]]).logit().requires_grad_()
    boxes = torch.tensor([[[8 - SIDES[i] / 2] * 2 + [8 + SIDES[i] / 2] * 2 for i in order]]).requires_grad_()
    distribution = torch.tensor([0, log(2), 0, 0]).expand(1, 4, 4, 4).clone().requires_grad_()
    return Predictions(logits, boxes, points, torch.full((4, 1), 8.0), distribution)


def terms(predictions: Predictions, targets: list[Targets], *, kind: str = "bce", dual: bool = False) -> LossTerms:
    config = {
        "num_classes": 2,
        "head": {"bins": 4, "dual": dual},
        "loss": {"classification": kind},
        "assign": {"topk": 2, "alpha": 1.0, "beta": 1.0},
    }
    return YoloCriterion(YoloConfig.parse(config, where="test"))(predictions, targets)


WHOLE = Targets(torch.tensor([[0.0, 0.0, 16.0, 16.0]]), torch.tensor([1]))


def bce(score: float, target: float) -> float:
    return -target * log(score) - (1 - target) * log(1 - score)


def test_box_and_distribution_worked() -> None:
    """One object, the whole image. Same centre and shape: CIoU is IoU, 1, 1/4, 9/16, 1/64.

    Metric score * IoU: .2, .1, .45, .014; the best two are points 0 and 2, with targets .2/.45 and 1 (scaled so that
    the best metric gives the best IoU of the two, 1). Weights w0 = 4/9, w2 = 1, normaliser 13/9.
    box: 7.5 (w0 * 0 + w2 * 7/16) / (13/9). dfl: all sides are half a stride or one and a half away, between bins of
    shares 1/5 and 2/5: 1.5 * (ln 5 + ln 5/2) / 2, whatever the weights.
    """
    predictions = made_up()
    loss = terms(predictions, [WHOLE])
    assert loss.parts["box"].item() == pytest.approx(7.5 * (7 / 16) / (13 / 9), rel=1e-5)
    assert loss.parts["dfl"].item() == pytest.approx(1.5 * (log(5) + log(5 / 2)) / 2, rel=1e-5)
    loss.total.backward()
    assert predictions.distribution is not None
    assert predictions.distribution.grad is not None
    taught = predictions.distribution.grad.abs().sum((0, 2, 3)) > 0
    assert taught.tolist() == [True, False, True, False]


@pytest.mark.parametrize("kind", ["bce", "vfl", "qfl", "focal"])
def test_classification_worked(kind: str) -> None:
    """The case above: points 0 and 2 are positives of class 1 with overlaps 1 and 9/16; all other entries negative.

    bce: cross entropy with the targets 4/9 and 1, over their sum. vfl and qfl: quality is the overlap, over the
    sum of qualities. focal: 1 where positive, over the number of positives.
    """
    negatives = [OTHER] * 4 + [SCORES[1], SCORES[3]]
    if kind == "bce":
        total = bce(SCORES[0], 4 / 9) + bce(SCORES[2], 1) + sum(bce(s, 0) for s in negatives)
        expected = total / (13 / 9)
    elif kind == "vfl":
        total = bce(SCORES[0], 1) + 9 / 16 * bce(SCORES[2], 9 / 16) + sum(0.75 * s**2 * bce(s, 0) for s in negatives)
        expected = total / (25 / 16)
    elif kind == "qfl":
        total = 0.8**2 * bce(SCORES[0], 1) + (9 / 16 - 0.8) ** 2 * bce(SCORES[2], 9 / 16)
        expected = (total + sum(s**2 * bce(s, 0) for s in negatives)) / (25 / 16)
    else:
        total = 0.25 * (0.8**2 * bce(SCORES[0], 1) + 0.2**2 * bce(SCORES[2], 1))
        expected = (total + sum(0.75 * s**2 * bce(s, 0) for s in negatives)) / 2
    assert terms(made_up(), [WHOLE], kind=kind).parts["cls"].item() == pytest.approx(0.5 * expected, rel=1e-5)


def test_dual_heads() -> None:
    """One-to-one takes the best point alone (2, target its own IoU 9/16), one-to-many the two of the configuration."""
    main = made_up()
    main.auxiliary["one_to_many"] = made_up((3, 2, 1, 0))
    loss = terms(main, [WHOLE], dual=True)
    assert set(loss.parts) == {"o2o_box", "o2o_cls", "o2o_dfl", "box", "cls", "dfl"}
    # One positive of weight 9/16, below the least normaliser 1.
    assert loss.parts["o2o_box"].item() == pytest.approx(7.5 * 7 / 16 * 9 / 16, rel=1e-5)
    assert loss.parts["box"].item() == pytest.approx(7.5 * (7 / 16) / (13 / 9), rel=1e-5)
    # In evaluation the other head is not there.
    main.auxiliary.clear()
    assert set(terms(main, [WHOLE], dual=True).parts) == {"o2o_box", "o2o_cls", "o2o_dfl"}


def test_padded_worked() -> None:
    two = Targets(torch.tensor([[1.0, 2, 3, 4], [5, 6, 7, 8]]), torch.tensor([4, 5]))
    labels, boxes, mask = padded([Targets.empty(), two, WHOLE])
    assert mask.tolist() == [[False, False], [True, True], [True, False]]
    assert labels[mask].tolist() == [4, 5, 1]
    assert boxes[mask].tolist() == [*two.boxes.tolist(), *WHOLE.boxes.tolist()]
    assert padded([Targets.empty()])[1].shape == (1, 0, 4)
