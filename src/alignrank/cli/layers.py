"""The verb `layers`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from alignrank.cli.options import Data, Device, Json, Split, Weights, print_json
from alignrank.weights.catalog import weights_file


def layers(
    weights: Weights,
    data: Data,
    split: Split = "val",
    images: Annotated[int, typer.Option(min=0, help="images of which there are pictures")] = 4,
    batch: Annotated[int, typer.Option(min=1, help="images at a time")] = 16,
    device: Device = "auto",
    out: Annotated[str | None, typer.Option(help="new folder [default: runs/layers]")] = None,
    as_json: Json = False,
) -> None:
    """Evaluate each decoder layer of a detection transformer, and measure its cost; plots, pictures and layers.json."""
    weights_file(weights)
    from alignrank.evaluation.layers import layers_to_folder
    from alignrank.evaluation.options import LayerOptions
    from alignrank.evaluation.tables import say_layers

    result = layers_to_folder(Path(weights), data, LayerOptions(images, batch), split=split, out=out, device=device)
    say_layers(result)
    if as_json:
        print_json(result)
