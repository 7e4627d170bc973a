"""Weights of a tiny network with random parameters that finds something everywhere."""

from __future__ import annotations

from pathlib import Path

import torch

from alignrank.weights import checkpoint
from alignrank.weights.recipe import load_recipe


def write_tiny_weights(path: Path, classes: tuple[str, ...] = ("red", "blue")) -> Path:
    """A yolov10-n in tiny form for inputs of 64 px."""
    torch.manual_seed(0)
    recipe = load_recipe("yolov10-n", num_classes=len(classes), overrides={"model.size": "t", "train.imgsz": 64})
    model = recipe.build().model
    for branch in model.one_to_one.cls:
        torch.nn.init.constant_(branch[-1].bias, 0.0)
        torch.nn.init.normal_(branch[-1].weight, std=0.3)
    checkpoint.save(path, model.state_dict(), recipe=recipe, classes=classes, metrics={})
    return path
