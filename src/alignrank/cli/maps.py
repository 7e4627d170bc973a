"""The verb `maps`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from alignrank.cli.options import Device, Imgsz, Json, Weights, print_json
from alignrank.input_size import read_size
from alignrank.weights.catalog import weights_file


def maps(
    sources: Annotated[list[str], typer.Argument(help="images, folders, globs, .txt lists, addresses")],
    weights: Weights,
    imgsz: Imgsz = None,
    device: Device = "auto",
    out: Annotated[str | None, typer.Option(help="new folder [default: runs/maps]")] = None,
    as_json: Json = False,
) -> None:
    """Draw what is active in backbone and neck, and how FINE modulates, over images; pictures and maps.json."""
    weights_file(weights)
    from alignrank.evaluation.maps import maps_to_folder

    result = maps_to_folder(Path(weights), sources, imgsz=read_size(imgsz), out=out, device=device)
    if as_json:
        print_json(result)
