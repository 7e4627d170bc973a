"""The verb `export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from alignrank.cli.completion import choice
from alignrank.cli.options import DATA_HELP, SPLITS, WEIGHTS_HELP, Agnostic, Consensus, Imgsz, Json, print_json
from alignrank.input_size import read_size
from alignrank.weights.catalog import is_recipe, weights_file


def export(
    weights: Annotated[str, typer.Option(help=f"{WEIGHTS_HELP}; or a recipe's name, for random weights")],
    format: Annotated[str, choice("onnx", "openvino", "pt2", "torchscript", "litert", "coreml")] = "onnx",
    imgsz: Imgsz = None,
    nms: Annotated[bool, typer.Option("--nms", help="suppression within the graph, of the one-to-many output")] = False,
    dynamic: Annotated[bool, typer.Option("--dynamic", help="an input of any sides that suit the stride")] = False,
    half: Annotated[bool, typer.Option("--half", help="weights of 16 bits")] = False,
    int8: Annotated[bool, typer.Option("--int8", help="8 bits, ranges from the images of --data")] = False,
    agnostic: Agnostic = False,
    consensus: Consensus = None,
    data: Annotated[
        str | None, typer.Option(help=f"whose images the two are compared on [default: drawn ones]; {DATA_HELP}")
    ] = None,
    split: Annotated[str, choice(*SPLITS, before="of the data: ")] = "val",
    check: Annotated[bool, typer.Option(help="compare the two")] = True,
    out: Annotated[str | None, typer.Option(help="file to write [default: beside the weights]")] = None,
    as_json: Json = False,
) -> None:
    """Export weights, and check that the exported model says the same as the original."""
    if not is_recipe(Path(weights)):
        weights_file(weights)
    from alignrank.export.options import ExportOptions
    from alignrank.inference.exported import Samples, export_checked
    from alignrank.terminal.progress import say
    from alignrank.weights.deployed import SelectionOptions

    path = export_checked(
        Path(weights), format, options=ExportOptions(read_size(imgsz), nms, dynamic, half, int8),
        selection=SelectionOptions(agnostic=agnostic, consensus=consensus), out=out,
        samples=Samples(data, split, off=not check),
    )  # fmt: skip
    say(f"wrote {path}")
    if as_json:
        print_json({"out": str(path), "format": format})
