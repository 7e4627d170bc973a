"""The command line: each verb is one engine call. Nothing heavy is imported before a verb runs.

stdout carries results only (one JSON object with --json); everything else goes to stderr.
Exit codes: 0 done, 1 our own fault, 2 bad input, 130 interrupted, 143 terminated.
"""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from alignrank.errors import InputError, nearest

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Object detection whose scores rank boxes by localization quality.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Look at, convert and split data sets.")
app.add_typer(data_app, name="data")

Json = Annotated[bool, typer.Option("--json", help="print one JSON object on stdout")]
Overrides = Annotated[list[str] | None, typer.Argument(help="section.field=value of the recipe", show_default=False)]
DATA_HELP, DEVICE_HELP = (
    "folder or file in COCO, YOLO, VOC or VisDrone form, or digits",
    "auto, cpu, cuda, cuda:N or mps",
)
Data = Annotated[str, typer.Option(help=DATA_HELP)]
Weights = Annotated[str, typer.Option(help="a .safetensors file or a run's folder")]
Device = Annotated[str, typer.Option(help=DEVICE_HELP)]


def _examples(*lines: str) -> str:
    return "\b\nExample:\n" + "\n".join(f"  {line}" for line in lines)


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value) + "\n")


def _overrides(items: list[str] | None) -> dict[str, Any]:
    from alignrank.config import parse_overrides

    return parse_overrides(items or [])


@app.command(
    epilog=_examples("alignrank train --model yolov8-n --data cells/ --epochs 60 --imgsz 320 augment.mixup=0.1")
)
def train(
    overrides: Overrides = None,
    model: Annotated[str | None, typer.Option(help="recipe name (see `alignrank models`) or YAML file")] = None,
    data: Annotated[str | None, typer.Option(help=DATA_HELP)] = None,
    val: Annotated[str | None, typer.Option(help="validation data, where DATA has none")] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file of these options and of recipe sections")] = None,
    resume: Annotated[Path | None, typer.Option(help="continue the run in this folder")] = None,
    weights: Annotated[str | None, typer.Option(help="start from these weights, also of other classes")] = None,
    epochs: Annotated[int | None, typer.Option(help="passes over the training images")] = None,
    batch: Annotated[str | None, typer.Option(help="images per step and process, or auto")] = None,
    imgsz: Annotated[int | None, typer.Option(help="side of the network's input, px, a multiple of 32")] = None,
    lr: Annotated[float | None, typer.Option(help="peak learning rate")] = None,
    seed: Annotated[int | None, typer.Option(help="of everything random")] = None,
    workers: Annotated[int | None, typer.Option(help="loader processes")] = None,
    device: Annotated[str | None, typer.Option(help=DEVICE_HELP)] = None,
    devices: Annotated[int | None, typer.Option(help="number of processes (one per GPU, or CPU processes)")] = None,
    out: Annotated[str | None, typer.Option(help="new folder for the run [default: runs/MODEL]")] = None,
    as_json: Json = False,
) -> None:
    """Train a detector; writes weights, curves, pictures and results.json to a new folder."""
    from alignrank.engine import run
    from alignrank.engine.options import read_options

    given = {
        "model": model, "data": data, "val": val, "weights": weights, "epochs": epochs, "batch": _batch(batch),
        "imgsz": imgsz, "lr": lr, "seed": seed, "workers": workers, "device": device, "devices": devices, "out": out,
    }  # fmt: skip
    if resume is not None:
        others = [f"--{name}" for name, value in given.items() if value is not None] + (overrides or [])
        if others or config is not None:
            raise InputError(
                f"--resume takes its options from the run; leave out {others[0] if others else '--config'}"
            )
        result = run.resume(resume)
    else:
        command = shlex.join(["alignrank", *sys.argv[1:]])
        result = run.train(*read_options(config, given, _overrides(overrides)), command=command)
    run.say_result(result)
    if as_json:
        _print_json(result)


def _batch(text: str | None) -> int | str | None:
    return int(text) if text is not None and text.lstrip("-").isdigit() else text


@app.command(epilog=_examples("alignrank val --weights runs/yolov8-n/best.safetensors --data cells/ --out report/"))
def val(
    weights: Weights,
    data: Data,
    split: Annotated[str, typer.Option(help="train, val or test")] = "val",
    imgsz: Annotated[int | None, typer.Option(help="side of the network's input [default: as trained]")] = None,
    batch: Annotated[int, typer.Option(min=1)] = 16,
    conf: Annotated[float, typer.Option(min=0, max=1, help="lowest score kept")] = 0.001,
    iou: Annotated[float, typer.Option(min=0, max=1, help="NMS threshold (not used by NMS-free models)")] = 0.7,
    max_dets: Annotated[int, typer.Option(min=1, help="detections per image that count in COCO's figures")] = 100,
    device: Device = "auto",
    out: Annotated[str | None, typer.Option(help="new folder for plots, report.html, detections, metrics.json")] = None,
    as_json: Json = False,
) -> None:
    """Evaluate weights: COCO's 12 figures, oLRP, ranking before and after NMS, by class; plots and an HTML report."""
    from alignrank.engine import run
    from alignrank.engine.figure_tables import say_figures

    metrics = run.validate_weights(
        Path(weights), data, split=split, out=out, imgsz=imgsz, batch=batch, conf=conf, iou=iou, max_dets=max_dets,
        device=device,
    )  # fmt: skip
    say_figures({"value": metrics})
    if as_json:
        _print_json(metrics.to_dict())


@app.command(epilog=_examples("alignrank diagnose --gt gt.json --dt dt.json --images images/ --html report.html"))
def diagnose(
    gt: Annotated[str, typer.Option(help="ground truth, a COCO JSON file")],
    dt: Annotated[str, typer.Option(help="results of any detector, a COCO JSON file")],
    dt2: Annotated[str | None, typer.Option(help="results of a second detector, to compare with the first")] = None,
    images: Annotated[str | None, typer.Option(help="folder of the images, for pictures in the report")] = None,
    html: Annotated[str | None, typer.Option(help="file to write the report to, for a browser")] = None,
    classes: Annotated[str | None, typer.Option(help="only these, names or category ids, separated by commas")] = None,
    max_dets: Annotated[int, typer.Option(help="detections per image and class that count")] = 100,
    tau: Annotated[float, typer.Option(help="IoU threshold of oLRP")] = 0.5,
    gap: Annotated[float, typer.Option(help="IoU difference from which on two boxes have an order")] = 0.05,
    conf: Annotated[float, typer.Option(help="score of the operating point")] = 0.25,
    replicates: Annotated[int, typer.Option(help="draws of the images for intervals of --dt2, 0: none")] = 200,
    seed: Annotated[int, typer.Option(help="of the draws")] = 0,
    as_json: Json = False,
) -> None:
    """Measure how well the scores of any detector rank its boxes."""
    from alignrank.engine.diagnose import diagnose as run
    from alignrank.engine.figure_tables import say_figures
    from alignrank.engine.folders import new_file
    from alignrank.engine.progress import say

    report = None if html is None else new_file(html, "html")
    wanted = None if classes is None else [name.strip() for name in classes.split(",")]
    result = run(
        gt, dt, dt2, images=images, classes=wanted, max_dets=max_dets, tau=tau, gap=gap, conf=conf,
        replicates=replicates, seed=seed,
    )  # fmt: skip
    say_figures({name: of.metrics for name, of in result.diagnoses.items()}, result.comparison)
    if report is not None:
        say(f"wrote {result.save(report)}")
    if as_json:
        _print_json(result.to_dict())


@app.command(epilog=_examples("alignrank predict --weights runs/yolov8-n photos/ 'more/*.jpg' clip.mp4 --conf 0.4"))
def predict(
    sources: Annotated[list[str], typer.Argument(help="image files, folders, globs, videos")],
    weights: Weights,
    conf: Annotated[float, typer.Option(min=0, max=1, help="lowest score shown")] = 0.25,
    iou: Annotated[float, typer.Option(min=0, max=1, help="NMS threshold (not used by NMS-free models)")] = 0.7,
    classes: Annotated[str | None, typer.Option(help="only these, names or numbers, separated by commas")] = None,
    max_dets: Annotated[int, typer.Option(min=1, help="boxes per image at most")] = 300,
    imgsz: Annotated[int | None, typer.Option(help="side of the network's input [default: as trained]")] = None,
    batch: Annotated[int, typer.Option(min=1, help="images at a time")] = 8,
    device: Device = "auto",
    out: Annotated[str | None, typer.Option(help="new folder [default: runs/predict]")] = None,
    pictures: Annotated[bool, typer.Option(help="write drawn pictures and videos")] = True,
    as_json: Json = False,
) -> None:
    """Detect objects in images and videos; writes pictures, predictions.json and predictions.csv."""
    from alignrank.engine.deploy import predict_to_folder

    result = predict_to_folder(
        sources, Path(weights), conf=conf, iou=iou, classes=classes, max_dets=max_dets, imgsz=imgsz, batch=batch,
        device=device, out=out, pictures=pictures, collect=as_json,
    )  # fmt: skip
    if as_json:
        _print_json(result)


@app.command(epilog=_examples("alignrank export --weights runs/yolov8-n --format onnx"))
def export(
    weights: Weights,
    format: Annotated[str, typer.Option(help="onnx")] = "onnx",
    imgsz: Annotated[int | None, typer.Option(help="side of the input [default: as trained]")] = None,
    out: Annotated[str | None, typer.Option(help="file to write [default: beside the weights]")] = None,
    as_json: Json = False,
) -> None:
    """Export weights, and check that the exported model says the same as the original."""
    from alignrank.engine.deploy import export_weights
    from alignrank.engine.progress import say

    path = export_weights(Path(weights), format, imgsz=imgsz, out=out)
    say(f"wrote {path}, equal to the weights within tolerance")
    if as_json:
        _print_json({"out": str(path), "format": format})


@app.command(epilog=_examples("alignrank models"))
def models(as_json: Json = False) -> None:
    """List recipes with parameters and FLOPs (80 classes, 640 px, as deployed)."""
    from alignrank.engine.model_table import model_rows, say_table

    rows = model_rows()
    say_table(rows)
    if as_json:
        _print_json({"models": rows})


@data_app.command(epilog=_examples("alignrank data show cells/ --augmented --out sheet.jpg"))
def show(
    data: Annotated[str, typer.Argument(help="a data set, or digits")],
    out: Annotated[str, typer.Option(help="picture to write")] = "samples.jpg",
    split: Annotated[str, typer.Option(help="train, val or test")] = "train",
    count: Annotated[int, typer.Option(min=1, max=400)] = 16,
    imgsz: Annotated[int, typer.Option(help="px, a multiple of 32")] = 640,
    augmented: Annotated[bool, typer.Option("--augmented", help="as the training sees them")] = False,
    seed: int = 0,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="augment.field=value")] = None,
) -> None:
    """Draw a sheet of samples with their boxes."""
    from alignrank.engine.datasets import show as draw

    draw(
        data,
        Path(out),
        split=split,
        count=count,
        imgsz=imgsz,
        augmented=augmented,
        seed=seed,
        overrides=_overrides(overrides),
    )


@data_app.command(epilog=_examples("alignrank data convert cells/data.yaml --to coco --out cells-coco/"))
def convert(
    data: Annotated[str, typer.Argument(help="a data set, or digits")],
    to: Annotated[str, typer.Option(help="coco, yolo or voc")],
    out: Annotated[str, typer.Option(help="new folder")],
    link: Annotated[bool, typer.Option("--link", help="hard links instead of copies of images")] = False,
    as_json: Json = False,
) -> None:
    """Write a data set in another format."""
    from alignrank.engine.datasets import convert as write

    result = write(data, Path(out), to=to, link=link)
    if as_json:
        _print_json(result)


@data_app.command(epilog=_examples("alignrank data split photos.json --out photos/ --val-fraction 0.2"))
def split(
    data: Annotated[str, typer.Argument(help="a data set")],
    out: Annotated[str, typer.Option(help="new folder, in COCO form")],
    val_fraction: Annotated[float, typer.Option(help="share of the validation split")] = 0.2,
    seed: int = 0,
    as_json: Json = False,
) -> None:
    """Make a training and a validation split; near-equal images stay together."""
    from alignrank.engine.datasets import split as write

    result = write(data, Path(out), val_fraction=val_fraction, seed=seed)
    if as_json:
        _print_json(result)


def _fail(message: str, code: int) -> NoReturn:
    sys.stderr.write(f"alignrank: {message}\n")
    raise SystemExit(code)


# Typer brings its own copy of click in some releases; this class is the same to both.
UsageError: Any = typer.BadParameter.__base__


def main() -> None:
    """Entry point: turns errors into one line and an exit code."""
    try:
        code = app(standalone_mode=False)
    except InputError as error:
        _fail(str(error), 2)
    except (KeyboardInterrupt, typer.Abort):
        _fail("interrupted; a training run goes on with `alignrank train --resume RUN`", 130)
    except BrokenPipeError:
        raise SystemExit(1) from None
    except UsageError as error:
        _fail(_usage_message(error), 2)
    raise SystemExit(code if isinstance(code, int) else 0)


def _usage_message(error: Any) -> str:
    """What was typed wrong, with the nearest right word."""
    message = str(error.format_message())
    command = error.ctx.command if error.ctx is not None else None
    if command is not None and hasattr(error, "option_name"):
        known = [option for parameter in command.params for option in parameter.opts if option.startswith("--")]
        return f"unknown option {error.option_name}; {nearest(error.option_name, known)}"
    if command is not None and message.startswith("No such command"):
        given = message.split("'")[1]
        return f"unknown command {given!r}; {nearest(given, command.commands)}"
    parameter = getattr(error, "param", None)
    if parameter is not None and not any(name in message for name in [*parameter.opts, parameter.name]):
        message = f"{parameter.opts[-1]}: {message}"
    return message
