"""Parameters and FLOPs of every recipe."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from alignrank.detectors import DETECTORS, deployed
from alignrank.weights.recipe import load_recipe, recipe_names

COUNTED_SIDE = 640


def model_rows() -> list[dict[str, Any]]:
    """One dictionary a recipe: {name, parameters, flops, licence of the weights}."""
    return [{"name": name, **count(name), "weights": "none ship"} for name in recipe_names()]


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


def say_table(rows: list[dict[str, Any]]) -> None:
    """The rows as a table."""
    from rich.table import Table

    from alignrank.terminal.progress import console

    table = Table("model", "parameters, M", "GFLOPs at 640", "pretrained weights")
    for row in rows:
        table.add_row(row["name"], f"{row['parameters'] / 1e6:.2f}", f"{row['flops'] / 1e9:.1f}", row["weights"])
    console.print(table)
