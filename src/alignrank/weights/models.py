"""Parameters and FLOPs of every recipe. `python -m alignrank.weights.models` writes them where `models` reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from alignrank.detectors import DETECTORS, deployed
from alignrank.weights.catalog import SIZES, recipe_folder, recipe_names
from alignrank.weights.recipe import load_recipe

COUNTED_SIDE = 640


def count(name: str, num_classes: int = 80) -> dict[str, int]:
    """Parameters and FLOPs of a recipe as deployed (unused head dropped, norms folded) at 640 px.

    FLOPs are two per multiply-add of convolutions, the way the YOLO papers count: norms, activations and
    attention products are left out.
    """
    recipe = load_recipe(name, num_classes=num_classes)
    with torch.device("meta"):  # shapes alone: nothing is computed, no weights are made
        model = deployed(DETECTORS[recipe.detector].model(recipe.architecture))
    parameters = sum(p.numel() for p in model.parameters())
    return {"parameters": parameters, "flops": convolution_flops(model)}


def convolution_flops(model: Any) -> int:
    """FLOPs of the convolutions in one forward of a 640 px image, in the model's present mode, on its device."""
    device = next(model.parameters()).device
    with torch.no_grad(), torch.device(device), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, COUNTED_SIDE, COUNTED_SIDE))
    total: int = sum(v for op, v in counter.get_flop_counts()["Global"].items() if "conv" in str(op))
    return total


def main() -> None:
    """Count all recipes and write the file that `alignrank models` shows."""
    sizes = {name: count(name) for name in recipe_names()}
    Path(str(recipe_folder() / SIZES)).write_text(json.dumps(sizes, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
