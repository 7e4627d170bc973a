"""The records: what a batch becomes, and thresholds that a user gives over those of a detector."""

from __future__ import annotations

import pytest
import torch

from alignrank.contracts import Batch, Predictions, Thresholds, WantedThresholds
from alignrank.errors import InputError


def test_network_input_worked() -> None:
    """0, 51 and 255 of 8 bits are 0, 1/5 and 1, exactly; the batch itself stays as it is."""
    images = torch.tensor([0, 51, 255], dtype=torch.uint8).reshape(1, 3, 1, 1)
    batch = Batch(images, [], [])
    pixels = batch.network_input()
    assert pixels.dtype == torch.float32
    assert pixels.flatten().tolist() == [0.0, pytest.approx(0.2), 1.0]
    assert batch.images.flatten().tolist() == [0, 51, 255]


def test_wanted_thresholds() -> None:
    usual = Thresholds(conf=0.25, iou=0.7, max_dets=300)
    assert WantedThresholds().over(usual) == usual
    assert WantedThresholds(conf=0.0, max_dets=1).over(usual) == Thresholds(0.0, 0.7, 1)
    assert WantedThresholds(iou=1.0).over(usual) == Thresholds(0.25, 1.0, 300)
    for wrong, message in (({"conf": 1.01}, "conf"), ({"iou": -0.1}, "iou"), ({"max_dets": 0}, "max_dets")):
        with pytest.raises(InputError, match=message):
            WantedThresholds(**wrong)  # type: ignore[arg-type]


def test_auxiliary_predictions_are_no_shared_default() -> None:
    one, other = (Predictions(torch.zeros(1, 1, 1), torch.zeros(1, 1, 4)) for _ in range(2))
    one.auxiliary["first"] = other
    assert other.auxiliary == {}
