"""RetinaNet's criterion: its terms are means over positives."""

from __future__ import annotations

import pytest
import torch

from alignrank.contracts import Predictions, Targets
from alignrank.weights.recipe import load_recipe


def test_twice_the_same_image_has_the_same_loss() -> None:
    recipe = load_recipe(
        "retinanet-r50",
        num_classes=2,
        overrides={"model.backbone": "csp", "model.size": "t", "model.norm": "learn", "model.freeze": 0},
    )
    built = recipe.build()
    torch.manual_seed(0)
    images = torch.rand(1, 3, 64, 64)
    targets = Targets(torch.tensor([[4.0, 4, 40, 44], [20, 10, 60, 50]]), torch.tensor([0, 1]))
    with torch.no_grad():
        one: Predictions = built.model.train()(images)
        two: Predictions = built.model(images.repeat(2, 1, 1, 1))
        single, double = built.criterion(one, [targets]), built.criterion(two, [targets, targets])
    for name in ("box", "cls"):
        assert single.parts[name] > 0
        assert double.parts[name].item() == pytest.approx(single.parts[name].item(), rel=1e-4)
