"""The verb `export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from alignrank.cli.options import WEIGHTS_HELP, Agnostic, Consensus, Imgsz, Json, Nms, print_json
from alignrank.input_size import read_size
from alignrank.weights.catalog import is_recipe, weights_file


def export(
    weights: Annotated[str, typer.Option(help=f"{WEIGHTS_HELP}; or a recipe's name, for random weights")],
    format: Annotated[str, typer.Option(help="onnx")] = "onnx",
    imgsz: Imgsz = None,
    nms: Nms = False,
    agnostic: Agnostic = False,
    consensus: Consensus = None,
    out: Annotated[str | None, typer.Option(help="file to write [default: beside the weights]")] = None,
    as_json: Json = False,
) -> None:
    """Export weights, and check that the exported model says the same as the original."""
    if not is_recipe(Path(weights)):
        weights_file(weights)
    from alignrank.export.formats import export_weights
    from alignrank.terminal.progress import say
    from alignrank.weights.deployed import SelectionOptions

    path = export_weights(
        Path(weights), format, imgsz=read_size(imgsz), out=out, selection=SelectionOptions(nms, agnostic, consensus)
    )
    say(f"wrote {path}, equal to the weights within tolerance")
    if as_json:
        print_json({"out": str(path), "format": format})
