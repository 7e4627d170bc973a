"""The verbs, each one call of a room below."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from alignrank.cli.benchmark import benchmark
from alignrank.cli.completion import choice
from alignrank.cli.convert import convert
from alignrank.cli.data import data_app
from alignrank.cli.export import export
from alignrank.cli.field import field
from alignrank.cli.layers import layers
from alignrank.cli.maps import maps
from alignrank.cli.options import (
    CLASSES_HELP,
    DATA_HELP,
    DEVICE_HELP,
    IMGSZ_HELP,
    Agnostic,
    Consensus,
    Data,
    Device,
    Imgsz,
    Iou,
    Json,
    Model,
    Nms,
    Overlap,
    Overrides,
    Pretrained,
    PublishedModel,
    Rect,
    RunnableOrModel,
    Split,
    Tile,
    Tta,
    ValConf,
    check_subject,
    examples,
    print_json,
    read_batch,
    read_overrides,
    weights_or_published,
)
from alignrank.cli.predict import predict
from alignrank.cli.push import push
from alignrank.cli.recipes import config, models
from alignrank.cli.serve import serve
from alignrank.cli.track import track
from alignrank.cli.tune import tune
from alignrank.errors import InputError
from alignrank.input_size import read_size
from alignrank.version import __version__
from alignrank.weights.catalog import check_recipe

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Object detection whose scores rank boxes by localization quality.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(data_app, name="data")


def _version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"alignrank {__version__}\n")
        raise typer.Exit


@app.callback()
def program(
    version: Annotated[
        bool, typer.Option("--version", help="print the version", is_eager=True, callback=_version)
    ] = False,
) -> None:
    """Object detection whose scores rank boxes by localization quality."""


@app.command(
    epilog=examples("alignrank train --model yolov8-n --data cells/ --epochs 60 --imgsz 320 augment.mixup=0.1")
)
def train(
    overrides: Overrides = None,
    model: Model = None,
    data: Annotated[str | None, typer.Option(help=DATA_HELP)] = None,
    val: Annotated[str | None, typer.Option(help="validation data, where DATA has none")] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file of these options and of recipe sections")] = None,
    resume: Annotated[Path | None, typer.Option(help="continue the run in this folder")] = None,
    weights: Annotated[str | None, typer.Option(help="start from these weights, also of other classes")] = None,
    epochs: Annotated[int | None, typer.Option(help="passes over the training images")] = None,
    batch: Annotated[str | None, typer.Option(help="images per step and process, or auto")] = None,
    imgsz: Annotated[str | None, typer.Option(help=f"{IMGSZ_HELP} [default: recipe's]")] = None,
    lr: Annotated[float | None, typer.Option(help="peak learning rate")] = None,
    seed: Annotated[int | None, typer.Option(help="of everything random")] = None,
    workers: Annotated[int | None, typer.Option(help="loader processes")] = None,
    device: Annotated[str | None, typer.Option(help=DEVICE_HELP)] = None,
    devices: Annotated[int | None, typer.Option(help="number of processes (one per GPU, or CPU processes)")] = None,
    out: Annotated[str | None, typer.Option(help="new folder for the run [default: runs/MODEL]")] = None,
    as_json: Json = False,
) -> None:
    """Train a detector; writes weights, curves, pictures and results.json to a new folder."""
    if model is not None:
        check_recipe(model, "command line")
    from alignrank.training.nodes import joined, launched
    from alignrank.training.options import read_options

    given = {
        "model": model, "data": data, "val": val, "weights": weights, "epochs": epochs, "batch": read_batch(batch),
        "imgsz": read_size(imgsz), "lr": lr, "seed": seed, "workers": workers, "device": device, "devices": devices,
        "out": out,
    }  # fmt: skip
    if resume is not None:
        others = [f"--{name}" for name, value in given.items() if value is not None] + (overrides or [])
        if others or config is not None:
            raise InputError(
                f"--resume takes its options from the run; leave out {others[0] if others else '--config'}"
            )
    if launched() is not None:  # gloo aborts a process that is still importing when the first one has refused
        import alignrank.training.run  # noqa: F401
    with joined() as group:
        if group is not None and group.rank > 0:
            from alignrank.training.follow import follow

            raise typer.Exit(follow(group))
        # Before Lightning is imported, which takes most of a start: a mistake is told in a third of the time.
        options = None if resume is not None else read_options(config, given, read_overrides(overrides))
        from alignrank.training import run

        if resume is not None:
            result = run.resume(resume, group=group)
        else:
            assert options is not None
            result = run.train(*options, command=shlex.join(["alignrank", *sys.argv[1:]]), group=group)
        run.say_result(result)
    if as_json:
        print_json(result)


app.command(epilog=examples("alignrank tune --model yolov8-n --data cells/ --trials 40 --epochs 30 --imgsz 320"))(tune)


@app.command(epilog=examples(
    "alignrank val --weights runs/yolov8-n/best.safetensors --data cells/ --out report/",
    "alignrank val --model transformers/rtdetr-r18 --data coco/ --out report/",
))  # fmt: skip
def val(
    data: Data,
    weights: RunnableOrModel = None,
    model: PublishedModel = None,
    pretrained: Pretrained = None,
    split: Split = "val",
    imgsz: Imgsz = None,
    rect: Rect = None,
    batch: Annotated[int, typer.Option(min=1)] = 16,
    conf: ValConf = None,
    iou: Iou = None,
    max_dets: Annotated[int, typer.Option(min=1, help="detections per image that count in COCO's figures")] = 100,
    nms: Nms = False,
    agnostic: Agnostic = False,
    consensus: Consensus = None,
    tta: Tta = False,
    tile: Tile = None,
    overlap: Overlap = None,
    oracle: Annotated[
        str, choice("ctr", "ctr-iou", "box", "class", "class-iou", after=": replace by ground truth")
    ] = "",
    device: Device = "auto",
    out: Annotated[str | None, typer.Option(help="new folder for plots, report.html, detections, metrics.json")] = None,
    as_json: Json = False,
) -> None:
    """Evaluate weights: COCO's 12 figures, oLRP, ranking before and after NMS, by class; plots and an HTML report."""
    check_subject("val", weights, model, pretrained)
    from alignrank.contracts import WantedThresholds
    from alignrank.evaluation.options import ValOptions
    from alignrank.evaluation.tables import say_figures
    from alignrank.evaluation.val import val_to_folder
    from alignrank.inference.windows import Tiling

    options = ValOptions(
        thresholds=WantedThresholds(conf, iou), coco_max_dets=max_dets, imgsz=read_size(imgsz), rect=rect,
        batch=batch, nms=nms, oracle=oracle, agnostic=agnostic, consensus=consensus, tta=tta,
        tiling=Tiling.of(tile, overlap),
    )  # fmt: skip
    metrics = val_to_folder(
        weights_or_published(weights, model, pretrained), data, options, split=split, out=out, device=device
    )
    say_figures({"value": metrics})
    if as_json:
        print_json(metrics.to_dict())


@app.command(epilog=examples("alignrank diagnose --gt gt.json --dt dt.json --images images/ --html report.html"))
def diagnose(
    gt: Annotated[str, typer.Option(help="ground truth, a COCO JSON file")],
    dt: Annotated[str, typer.Option(help="results of any detector, a COCO JSON file")],
    dt2: Annotated[str | None, typer.Option(help="results of a second detector, to compare with the first")] = None,
    images: Annotated[str | None, typer.Option(help="folder of the images, for pictures in the report")] = None,
    html: Annotated[str | None, typer.Option(help="file to write the report to, for a browser")] = None,
    classes: Annotated[
        list[str] | None, typer.Option(help=f"only these, names or category ids, {CLASSES_HELP}")
    ] = None,
    max_dets: Annotated[int, typer.Option(help="detections per image and class that count")] = 100,
    tau: Annotated[float, typer.Option(help="IoU threshold of oLRP")] = 0.5,
    gap: Annotated[float, typer.Option(help="IoU difference from which on two boxes have an order")] = 0.05,
    conf: Annotated[float, typer.Option(help="score of the operating point")] = 0.25,
    replicates: Annotated[int, typer.Option(help="draws of the images for intervals of --dt2, 0: none")] = 200,
    seed: Annotated[int, typer.Option(help="of the draws")] = 0,
    as_json: Json = False,
) -> None:
    """Measure how well the scores of any detector rank its boxes."""
    from alignrank.evaluation.diagnose import diagnose as run
    from alignrank.evaluation.options import DiagnosisOptions
    from alignrank.evaluation.tables import say_figures
    from alignrank.folders import new_file
    from alignrank.terminal.progress import say

    report = None if html is None else new_file(html, "html")
    options = DiagnosisOptions(images, classes or None, max_dets, tau, gap, conf, replicates, seed)
    result = run(gt, dt, dt2, options)
    say_figures({name: of.metrics for name, of in result.diagnoses.items()}, result.comparison)
    if report is not None:
        say(f"wrote {result.save(report)}")
    if as_json:
        print_json(result.to_dict())


app.command(epilog=examples("alignrank layers --weights runs/rank-detr --data cells/ --out layers/"))(layers)
app.command(epilog=examples("alignrank field --model yolov8-n neck.fine=true photos/ --imgsz 320 --out field/"))(field)
app.command(epilog=examples("alignrank maps --weights runs/yolov8-n photos/ --out maps/"))(maps)


app.command(epilog=examples(
    "alignrank predict --weights runs/yolov8-n photos/ 'more/*.jpg' clip.mp4 --conf 0.4",
    "alignrank predict --model transformers/rtdetr-r18 street.jpg",
    "alignrank predict --weights runs/yolov8-n --engine ray --workers 4 lake/ --out found/",
))(predict)  # fmt: skip
app.command(epilog=examples("alignrank track street.mp4 --weights runs/yolov8-n --out tracks/"))(track)
app.command(epilog=examples("alignrank export --weights runs/yolov8-n --format onnx"))(export)
app.command(epilog=examples(
    "alignrank benchmark --weights runs/yolov8-n", "alignrank benchmark --model alignrank-n --engines eager,onnx",
))(benchmark)  # fmt: skip
app.command(epilog=examples(
    "alignrank serve --weights runs/yolov8-n",
    "alignrank serve --weights model.onnx --host 0.0.0.0 --port 80 --token SECRET",
))(serve)  # fmt: skip
app.command(epilog=examples(
    "alignrank convert vfnet_r50.pth --out vfnet-r50.safetensors",
    "alignrank convert rank_detr_r50.pth --out rank-detr.safetensors --model rank-h-detr-r50",
))(convert)  # fmt: skip
app.command(epilog=examples("alignrank push --weights runs/yolov8-n someone/cells --private"))(push)
app.command(epilog=examples("alignrank config yolov8-n", "alignrank config alignrank-n model.size=s > mine.yaml"))(
    config
)
app.command(epilog=examples("alignrank models"))(models)
