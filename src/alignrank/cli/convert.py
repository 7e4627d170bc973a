"""`alignrank convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from alignrank.cli.options import Json, print_json


def convert(
    source: Annotated[
        str, typer.Argument(help="a VarifocalNet, Rank-DETR or H-Deformable-DETR checkpoint, .pth or .safetensors")
    ],
    out: Annotated[str, typer.Option(help="file to write, .safetensors")],
    model: Annotated[str, typer.Option(help="the recipe it fits")] = "vfnet-r50",
    classes: Annotated[str | None, typer.Option(help="file with one class name a line [default: COCO's 80]")] = None,
    as_json: Json = False,
) -> None:
    """Turn a public checkpoint into weights of ours; nothing in it is executed."""
    from alignrank.terminal.progress import say
    from alignrank.weights.foreign import convert_file

    path = convert_file(Path(source), Path(out), model=model, classes=classes)
    say(f"wrote {path}")
    if as_json:
        print_json({"out": str(path), "model": model})
