"""What every detector of another library must do as one of ours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from alignrank import Detector
from alignrank.contracts import Built, Predictions, Targets
from alignrank.weights import checkpoint


def assert_every_parameter_gets_a_gradient(
    built: Built, said: Callable[[list[Targets]], Predictions], targets: Sequence[Targets]
) -> None:
    """Also where there is no object, and so no denoising: several processes would wait for the others' for ever."""
    for some in (list(targets), [Targets.empty() for _ in targets]):
        built.model.zero_grad()
        built.criterion(said(some), some).total.backward()
        without = [key for key, value in built.model.named_parameters() if value.requires_grad and value.grad is None]
        assert without == []


def assert_saved_as_ours_it_says(detector: Detector, expected: Predictions, images: Tensor, path: Path) -> None:
    """The detector's weights, written to `path` and read again."""
    checkpoint.save(path, detector.model.state_dict(), recipe=detector.recipe, classes=detector.classes, metrics={})
    with torch.no_grad():
        again = checkpoint.load(path).build_model()(images)
    assert torch.equal(again.logits, expected.logits)
    assert torch.equal(again.boxes, expected.boxes)
