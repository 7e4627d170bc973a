"""The classification losses by name, and what they are divided by: hand-worked."""

from __future__ import annotations

from math import log
from typing import Any

import pytest
import torch

from alignrank.losses import class_loss
from alignrank.losses import normalizer as module
from alignrank.losses.class_loss import LEAST_QUALITY, fit_quality
from alignrank.losses.normalizer import shared_normalizer

# A positive of quality 1/2 at score 1/2, a negative at score 3/4: cross entropies ln 2 and ln 4.
LOGITS, QUALITY = torch.tensor([[0.0, log(3)]]), torch.tensor([[0.5, 0.0]])
NEGATIVE = 3 / 4 * 9 / 16 * log(4)


@pytest.mark.parametrize(
    ("kind", "options", "expected"),
    [
        ("vfl", {}, log(2) / 2 + NEGATIVE),
        ("vfl", {"iou_weighted": False}, log(2) + NEGATIVE),
        ("qfl", {}, 9 / 16 * log(4)),  # the positive's score is its quality
        ("gcl", {}, 3 / 4 * 9 / 16 * log(4)),  # the same, negatives by 1 - alpha
        ("focal", {}, 1 / 4 * 1 / 4 * log(2) + NEGATIVE),  # the quality counts as 1
    ],
)
def test_worked(kind: Any, options: dict[str, bool], expected: float) -> None:
    assert class_loss(kind, LOGITS, QUALITY, **options).item() == pytest.approx(expected)
    twice = class_loss(kind, LOGITS.expand(3, 2, 2), QUALITY.expand(3, 2, 2), **options)
    assert twice.item() == pytest.approx(6 * expected)


@pytest.mark.parametrize("kind", ["vfl", "qfl", "gcl", "focal"])
def test_weights_of_classes_worked(kind: Any) -> None:
    """Four times the positive of class 0; class 1 has negatives only, which its weight does not touch."""
    logits = torch.tensor([[-log(3), log(3)]], requires_grad=True)  # the positive's score is 1/4, its quality 1/2
    quality = torch.tensor([[0.5, 0.0]])
    ce = -0.5 * log(1 / 4) - 0.5 * log(3 / 4)
    positive = {"vfl": ce / 2, "qfl": ce / 16, "gcl": ce / 64, "focal": 1 / 4 * 9 / 16 * log(4)}[kind]
    negative = {"vfl": NEGATIVE, "qfl": 9 / 16 * log(4), "gcl": NEGATIVE, "focal": NEGATIVE}[kind]
    assert class_loss(kind, logits, quality).item() == pytest.approx(positive + negative)
    weighed = class_loss(kind, logits, quality, class_weights=(4.0, 9.0))
    assert weighed.item() == pytest.approx(4 * positive + negative)
    (gradient,) = torch.autograd.grad(weighed, logits)
    (plain,) = torch.autograd.grad(class_loss(kind, logits, quality), logits)
    assert gradient.tolist() == [pytest.approx([4 * plain[0, 0].item(), plain[0, 1].item()])]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [1.0, 0.75, 1 / 3]),  # GIoU 1, 1/2 and -1/3: the last two boxes lie at the ends of a row of three
        ({"power": 2.0}, [1.0, 0.75**2, 1 / 9]),
        ({"overlap": "iou"}, [1.0, 0.5, LEAST_QUALITY]),
    ],
)
def test_quality_of_a_match_worked(options: dict[str, Any], expected: list[float]) -> None:
    boxes = torch.tensor([[0.0, 0, 2, 1], [0, 0, 1, 1], [0, 0, 1, 1]], requires_grad=True)
    gt = torch.tensor([[0.0, 0, 2, 1], [0, 0, 2, 1], [2, 0, 3, 1]])
    found = fit_quality(boxes, gt, **options)
    assert found.tolist() == pytest.approx(expected, rel=1e-5)
    assert not found.requires_grad


def test_rank_and_sort_worked() -> None:
    """The means of `test_rank_sort.py`'s example, 15/28 and .12, times its two positives; all images are one list."""
    logits = torch.tensor([[[0.0], [0.25], [-0.25]], [[1.0], [-3.0], [-9.0]]])
    quality = torch.tensor([[[0.8], [0.4], [0.0]], [[0.0], [0.0], [0.0]]])
    assert class_loss("ranksort", logits, quality).item() == pytest.approx(2 * (15 / 28 + 0.12))


@pytest.mark.parametrize(("count", "expected"), [(0.0, 1.0), (0.25, 1.0), (1.0, 1.0), (7.0, 7.0)])
def test_normalizer_of_one_process(count: float, expected: float) -> None:
    """At least 1, without gradient."""
    divisor = shared_normalizer(torch.tensor(count, requires_grad=True))
    assert divisor.item() == expected
    assert not divisor.requires_grad


def test_normalizer_of_several_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """With 3 more on the other of two processes: (4 + 3) / 2; with none anywhere 1 / 2. Alone, nobody is asked."""
    others, count = [3.0, 0.0], torch.tensor(4)
    monkeypatch.setattr(module.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(module.dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(module.dist, "all_reduce", lambda total: total.add_(others.pop(0)))
    assert shared_normalizer(count, alone=True).item() == 4
    assert len(others) == 2
    assert shared_normalizer(count).item() == 3.5
    assert shared_normalizer(torch.tensor(0)).item() == 0.5
    assert count.item() == 4
