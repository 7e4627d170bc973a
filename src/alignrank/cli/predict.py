"""The verb `predict`."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from alignrank.cli.options import (
    Agnostic,
    Classes,
    Consensus,
    Device,
    Imgsz,
    Iou,
    Json,
    MaxDets,
    Nms,
    Overlap,
    PredictConf,
    Pretrained,
    PublishedModel,
    Rect,
    RunnableOrModel,
    Tile,
    Tta,
    check_subject,
    print_json,
    weights_or_published,
)
from alignrank.errors import InputError
from alignrank.imports import collecting_later
from alignrank.input_size import read_size


def predict(
    sources: Annotated[
        list[str], typer.Argument(help="images, videos, folders, globs, .txt lists, addresses, camera numbers")
    ],
    weights: RunnableOrModel = None,
    model: PublishedModel = None,
    pretrained: Pretrained = None,
    conf: PredictConf = None,
    iou: Iou = None,
    classes: Classes = None,
    max_dets: MaxDets = None,
    imgsz: Imgsz = None,
    rect: Rect = None,
    batch: Annotated[int, typer.Option(min=1, help="images at a time")] = 8,
    nms: Nms = False,
    agnostic: Agnostic = False,
    consensus: Consensus = None,
    tta: Tta = False,
    tile: Tile = None,
    overlap: Overlap = None,
    device: Device = "auto",
    engine: Annotated[Literal["local", "ray"], typer.Option(help="ray: workers, results as Parquet files")] = "local",
    workers: Annotated[int | None, typer.Option(min=1, help="of --engine ray: networks [default: 1]")] = None,
    column: Annotated[str | None, typer.Option(help="of --engine ray: paths or bytes in Parquet files")] = None,
    out: Annotated[str | None, typer.Option(help="new folder [default: runs/predict]")] = None,
    pictures: Annotated[bool, typer.Option(help="write drawn pictures and videos")] = True,
    as_json: Json = False,
) -> None:
    """Detect objects in images and videos; writes pictures, predictions.json and predictions.csv."""
    check_subject("predict", weights, model, pretrained)
    if engine == "local" and (workers is not None or column is not None):
        raise InputError(f"--{'column' if workers is None else 'workers'}: is for --engine ray")
    with collecting_later():
        from alignrank.contracts import WantedThresholds
        from alignrank.inference.options import PredictOptions
        from alignrank.inference.windows import Tiling
        from alignrank.weights.deployed import SelectionOptions

    options = PredictOptions(
        thresholds=WantedThresholds(conf, iou, max_dets), classes=classes or None, imgsz=read_size(imgsz),
        rect=rect, batch=batch, keep_images=pictures, tiling=Tiling.of(tile, overlap),
    )  # fmt: skip
    subject = weights_or_published(weights, model, pretrained)
    selection = SelectionOptions(nms, agnostic, consensus, tta)
    if engine == "ray":
        from alignrank.inference.ray_engine import predict_to_parquet

        pool = (workers or 1, column)
        result = predict_to_parquet(sources, subject, options, selection=selection, device=device, out=out, pool=pool)
    else:
        from alignrank.inference.to_folder import predict_to_folder

        result = predict_to_folder(
            sources, subject, options, out=out, device=device, selection=selection, collect=as_json
        )
    if as_json:
        print_json(result)
