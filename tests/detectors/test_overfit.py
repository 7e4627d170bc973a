"""Every dense architecture learns four real images by heart: AP50 above .95 within 300 steps."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from alignrank.data import source
from alignrank.data.loader import EvaluationSet, Images, collate
from alignrank.engine.recipe import load_recipe
from alignrank.engine.validate import network_input, validate

STEPS, SIDE = 300, 256


@pytest.mark.slow
@pytest.mark.parametrize("name", ["yolov8-n", "yolov10-n"])
def test_overfit_four_images(shared: Path, name: str) -> None:
    split = source.read(shared / "data" / "bloodcells").train
    assert split is not None
    split.samples = split.samples[:4]
    dataset = EvaluationSet(Images(split, SIDE))
    batch = collate([dataset[i] for i in range(4)])
    assert sum(len(t.labels) for t in batch.targets) > 10

    built = load_recipe(name, num_classes=len(split.classes)).build()
    optimizer = torch.optim.AdamW(built.model.parameters(), lr=0.002, weight_decay=0)
    images = network_input(batch)
    for step in range(STEPS):
        # Falls to 0, so that the running statistics settle too.
        optimizer.param_groups[0]["lr"] = 0.002 * (1 - step / STEPS)
        optimizer.zero_grad()
        loss = built.criterion(built.model.train()(images), batch.targets).total
        loss.backward()
        torch.nn.utils.clip_grad_norm_(built.model.parameters(), 10)
        optimizer.step()
    result = validate(built.model, built.postprocess, [batch], split, device=torch.device("cpu"))
    assert result.metrics.ap50 is not None
    assert result.metrics.ap50 > 0.95
