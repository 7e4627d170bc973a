"""The verb `track`."""

from __future__ import annotations

from typing import Annotated

import typer

from alignrank.cli.completion import choice
from alignrank.cli.options import (
    Agnostic,
    Classes,
    Consensus,
    Device,
    Imgsz,
    Iou,
    Json,
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
from alignrank.input_size import read_size


def track(
    sources: Annotated[
        list[str], typer.Argument(help="videos, cameras, addresses; folders and globs of frames in order")
    ],
    weights: RunnableOrModel = None,
    model: PublishedModel = None,
    pretrained: Pretrained = None,
    tracker: Annotated[str, choice("bytetrack", "ocsort", "sort")] = "bytetrack",
    low: Annotated[float, typer.Option(min=0, max=1, help="score from which on an object goes on with a track")] = 0.1,
    memory: Annotated[float, typer.Option(min=0, help="seconds for which a lost object is waited for")] = 1.0,
    confirm: Annotated[int, typer.Option(min=1, help="frames in a row with which an object gets its id")] = 2,
    conf: PredictConf = None,
    iou: Iou = None,
    classes: Classes = None,
    max_dets: Annotated[
        int | None, typer.Option(min=1, help="boxes per frame at most [default: recipe's or 300]")
    ] = None,
    imgsz: Imgsz = None,
    rect: Rect = None,
    batch: Annotated[int, typer.Option(min=1, help="frames at a time")] = 8,
    nms: Nms = False,
    agnostic: Agnostic = False,
    consensus: Consensus = None,
    tta: Tta = False,
    tile: Tile = None,
    overlap: Overlap = None,
    device: Device = "auto",
    out: Annotated[str | None, typer.Option(help="new folder [default: runs/track]")] = None,
    pictures: Annotated[bool, typer.Option(help="write drawn videos and pictures")] = True,
    as_json: Json = False,
) -> None:
    """Follow objects through videos; writes drawn videos, predictions.json and .csv with ids, and MOT text."""
    check_subject("track", weights, model, pretrained)
    from alignrank.contracts import WantedThresholds
    from alignrank.inference.options import PredictOptions, TrackOptions
    from alignrank.inference.to_folder import predict_to_folder
    from alignrank.inference.windows import Tiling
    from alignrank.weights.deployed import SelectionOptions

    options = PredictOptions(
        thresholds=WantedThresholds(conf, iou, max_dets), classes=classes or None, imgsz=read_size(imgsz),
        rect=rect, batch=batch, keep_images=pictures, tiling=Tiling.of(tile, overlap),
        tracking=TrackOptions(tracker, low, memory, confirm),
    )  # fmt: skip
    result = predict_to_folder(
        sources, weights_or_published(weights, model, pretrained), options, out=out, device=device,
        selection=SelectionOptions(nms, agnostic, consensus, tta), collect=as_json,
    )  # fmt: skip
    if as_json:
        print_json(result)
