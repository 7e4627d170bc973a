"""The verbs below `alignrank data`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from alignrank.cli.options import DATA_HELP, IMGSZ_HELP, Json, Split, examples, print_json, read_overrides
from alignrank.input_size import read_size

data_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Check, look at, convert and split data sets.",
    epilog=examples("alignrank data check cells/", "alignrank data show cells/ --augmented --out sheet.jpg"),
)

BAD_INPUT = 2


@data_app.command(epilog=examples("alignrank data check cells/ --out cells-report/ --fix cells-clean/"))
def check(
    data: Annotated[str, typer.Argument(help=f"a {DATA_HELP}")],
    out: Annotated[Path | None, typer.Option(help="new folder for report.json and pictures of the worst")] = None,
    fix: Annotated[Path | None, typer.Option(help="new folder for a cleaned copy, in COCO form")] = None,
    as_json: Json = False,
) -> None:
    """Report every problem of a data set; exits with 2 where training would refuse it."""
    from alignrank.data.check_report import check as run

    result = run(data, out=out, fix=fix)
    if as_json:
        print_json(result)
    if not result["ok"]:
        raise typer.Exit(BAD_INPUT)


@data_app.command(epilog=examples("alignrank data show cells/ --augmented --out sheet.jpg"))
def show(
    data: Annotated[str, typer.Argument(help="a data set, or digits")],
    out: Annotated[str, typer.Option(help="picture to write")] = "samples.jpg",
    split: Split = "train",
    count: Annotated[int, typer.Option(min=1, max=400)] = 16,
    imgsz: Annotated[str, typer.Option(help=IMGSZ_HELP)] = "640",
    augmented: Annotated[bool, typer.Option("--augmented", help="as the training sees them")] = False,
    seed: int = 0,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="augment.field=value or data.rect=true")] = None,
) -> None:
    """Draw a sheet of samples with their boxes."""
    from alignrank.data.verbs import sheet_options
    from alignrank.data.verbs import show as draw

    options = sheet_options(
        read_overrides(overrides), imgsz=read_size(imgsz), seed=seed, count=count, augmented=augmented
    )
    draw(data, Path(out), split=split, options=options)


@data_app.command(epilog=examples("alignrank data convert cells/data.yaml --to coco --out cells-coco/"))
def convert(
    data: Annotated[str, typer.Argument(help="a data set, or digits")],
    to: Annotated[str, typer.Option(help="coco, yolo or voc")],
    out: Annotated[str, typer.Option(help="new folder")],
    link: Annotated[bool, typer.Option("--link", help="hard links instead of copies of images")] = False,
    as_json: Json = False,
) -> None:
    """Write a data set in another format."""
    from alignrank.data.verbs import convert as write

    result = write(data, Path(out), to=to, link=link)
    if as_json:
        print_json(result)


@data_app.command(epilog=examples("alignrank data split photos.json --out photos/ --val-fraction 0.2"))
def split(
    data: Annotated[str, typer.Argument(help="a data set")],
    out: Annotated[str, typer.Option(help="new folder, in COCO form")],
    val_fraction: Annotated[float, typer.Option(help="share of the validation split")] = 0.2,
    seed: int = 0,
    as_json: Json = False,
) -> None:
    """Make a training and a validation split; near-equal images stay together."""
    from alignrank.data.verbs import split as write

    result = write(data, Path(out), val_fraction=val_fraction, seed=seed)
    if as_json:
        print_json(result)
