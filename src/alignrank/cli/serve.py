"""The verb `serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from alignrank.cli.options import (
    Agnostic,
    Classes,
    Consensus,
    Device,
    Imgsz,
    Iou,
    MaxDets,
    Nms,
    PredictConf,
    Rect,
    Runnable,
    Tta,
)
from alignrank.extras import require
from alignrank.input_size import read_size
from alignrank.weights.catalog import weights_file


def serve(
    weights: Runnable,
    host: Annotated[str, typer.Option(help="address to listen at; beyond this machine it needs a token")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free")] = 8000,
    token: Annotated[
        str | None, typer.Option(envvar="ALIGNRANK_TOKEN", help="what clients must send", show_default=False)
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="images of several requests at a time, at most")] = 8,
    queue: Annotated[int, typer.Option(min=1, help="requests that may wait; others get 503")] = 64,
    conf: PredictConf = None,
    iou: Iou = None,
    classes: Classes = None,
    max_dets: MaxDets = None,
    imgsz: Imgsz = None,
    rect: Rect = None,
    nms: Nms = False,
    agnostic: Agnostic = False,
    consensus: Consensus = None,
    tta: Tta = False,
    device: Device = "auto",
) -> None:
    """Answer HTTP requests with the objects in their images, and show a page to try it; Ctrl-C or SIGTERM ends it."""
    weights_file(weights)
    require("serve", "fastapi", "uvicorn", "prometheus_client", "python_multipart")
    from alignrank.contracts import WantedThresholds
    from alignrank.inference.options import PredictOptions
    from alignrank.serve.options import ServeOptions
    from alignrank.serve.run import serve as run
    from alignrank.weights.deployed import SelectionOptions

    predicting = PredictOptions(
        thresholds=WantedThresholds(conf, iou, max_dets), classes=classes or None, imgsz=read_size(imgsz), rect=rect
    )
    run(
        Path(weights), ServeOptions(host, port, token, batch, queue), predicting, device=device,
        selection=SelectionOptions(nms, agnostic, consensus, tta),
    )  # fmt: skip
