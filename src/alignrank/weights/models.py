"""Parameters and FLOPs of every recipe. `python -m alignrank.weights.models` writes them where `models` reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from alignrank.detectors import deployed
from alignrank.weights.catalog import SIZES, recipe_folder, recipe_names
from alignrank.weights.recipe import load_recipe

COUNTED_SIDE = 640
# Matrix products of two and of three operands: linear layers. Products inside attention are batched ones.
LINEAR = ("aten.mm", "aten.addmm")


def count(name: str, num_classes: int = 80) -> dict[str, int]:
    """Parameters and FLOPs of a recipe as deployed (unused head dropped, norms folded) at 640 px.

    FLOPs are two per multiply-add of convolutions and linear layers, the way the YOLO papers count: norms, activations
    and products inside attention are left out.
    """
    recipe = load_recipe(name, num_classes=num_classes)
    network = recipe.meta_network()
    if not getattr(network, "runs_without_numbers", True):
        network = recipe.network()
    model = deployed(network.eval())
    return {"parameters": num_parameters(model), "flops": 2 * multiply_adds(model, (COUNTED_SIDE, COUNTED_SIDE))}


def num_parameters(model: nn.Module) -> int:
    """All elements of its parameters."""
    return sum(p.numel() for p in model.parameters())


def multiply_adds(model: Any, size: tuple[int, int]) -> int:
    """Those of convolutions and linear layers in one forward of an image of `size` (height, width) px, in the model's
    present mode, on its device.
    """
    device = next(model.parameters()).device
    trained = [p.requires_grad_(False) for p in model.parameters() if p.requires_grad]
    try:  # frozen: the counter stumbles over views of what is trained
        with torch.no_grad(), torch.device(device), FlopCounterMode(display=False) as counter:
            model(torch.zeros(1, 3, *size))
    finally:
        for parameter in trained:
            parameter.requires_grad_()
    counted = ((str(op), flops) for op, flops in counter.get_flop_counts()["Global"].items())
    total: int = sum(flops for op, flops in counted if "conv" in op or op in LINEAR)
    return total // 2


def main() -> None:
    """Count all recipes and write the file that `alignrank models` shows."""
    sizes = {name: count(name) for name in recipe_names()}
    Path(str(recipe_folder() / SIZES)).write_text(json.dumps(sizes, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
