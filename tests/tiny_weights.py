"""Weights of tiny networks with random parameters that find something everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from alignrank.weights import checkpoint
from alignrank.weights.recipe import Recipe, load_recipe


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


def spread_norms(model: Any) -> None:
    """In place: batch norms that fit noise of 64 px."""
    with torch.no_grad():
        for norm in (module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)):
            norm.momentum = 1.0
        model.train()(torch.rand(4, 3, 64, 64))
        model.eval()


def spread_scores(model: Any) -> None:
    """Of `write_tiny_weights`' network, in place: norms that fit noise, else activations vanish with depth, and all
    scores are equal; and no score of 1.
    """
    torch.manual_seed(1)
    spread_norms(model)
    with torch.no_grad():
        for branch in model.one_to_one.cls:
            branch[-1].weight.mul_(0.1)


def write_tiny_transformer(path: Path, classes: tuple[str, ...] = ("red", "green")) -> Path:
    """A Rank-DETR of three decoder layers for inputs of 64 px."""
    torch.manual_seed(0)
    values = {
        "name": "tiny-rank-detr",
        "detector": "deformable_detr",
        "num_classes": len(classes),
        "model": {"backbone": "csp", "size": "t"},
        "transformer": {"width": 64, "heads": 4, "encoder": 1, "decoder": 3, "hidden": 64},
        "queries": {"one_to_one": 20, "one_to_many": 10},
        "rank": {"head": True, "query_layer": True, "loss": "gcl", "matching_cost": True},
        "train": {"imgsz": 64},
    }
    recipe = Recipe.parse(values, where="tiny-rank-detr")
    model = recipe.build().model
    for head in model.decoder.classes:
        torch.nn.init.constant_(head.bias, 0.0)
        torch.nn.init.normal_(head.weight, std=0.1)
    for boxes in model.decoder.boxes:
        torch.nn.init.normal_(boxes[-1].weight, std=0.1)
    checkpoint.save(path, model.state_dict(), recipe=recipe, classes=classes, metrics={})
    return path
