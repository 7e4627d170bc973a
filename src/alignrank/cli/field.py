"""The verb `field`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from alignrank.cli.options import (
    DATA_HELP,
    WEIGHTS_HELP,
    Device,
    Json,
    RandomModel,
    Split,
    check_subject,
    print_json,
    read_overrides,
    refuse_overrides,
)
from alignrank.input_size import read_size


def field(
    sources: Annotated[
        list[str] | None,
        typer.Argument(help="images, folders, globs; and, with --model, section.field=value", show_default=False),
    ] = None,
    weights: Annotated[str | None, typer.Option(help=WEIGHTS_HELP)] = None,
    model: RandomModel = None,
    data: Annotated[str | None, typer.Option(help=f"{DATA_HELP}; no data and no images: noise")] = None,
    split: Split = "val",
    imgsz: Annotated[
        str | None, typer.Option(help="side of the square input, px, a multiple of 32 [default: as trained]")
    ] = None,
    images: Annotated[int, typer.Option(min=1, help="images over which fields are averaged, at most")] = 8,
    point: Annotated[str, typer.Option(help="X,Y: where, in parts of the input")] = "0.5,0.5",
    seed: Annotated[int, typer.Option(min=0, help="of random weights and noise")] = 0,
    device: Device = "auto",
    out: Annotated[str | None, typer.Option(help="new folder [default: runs/field]")] = None,
    as_json: Json = False,
) -> None:
    """Measure effective receptive fields, level by level, pooled, and of FINE's tokens; a picture and field.json."""
    check_subject("field", weights, model)
    from alignrank.evaluation.field import field_to_folder
    from alignrank.evaluation.field_input import Pictures, overrides_among, random_subject, trained_subject
    from alignrank.evaluation.field_table import say_field
    from alignrank.evaluation.options import FieldOptions

    options = FieldOptions(images, read_size(imgsz), point.split(","), seed)
    named, overrides = overrides_among(sources or [])
    refuse_overrides(weights, overrides)
    pictures = Pictures(data, split, named)
    if model is not None:
        subject = random_subject(model, read_overrides(overrides), options.seed)
    else:
        subject = trained_subject(Path(str(weights)))
    result = field_to_folder(subject, pictures, options, out=out, device=device)
    say_field(result)
    if as_json:
        print_json(result)
