"""A training run from options to results: reads the data, trains, evaluates the best weights, writes pictures."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

import alignrank
from alignrank.config import Config, read_yaml
from alignrank.data.samples import DataSource, Split
from alignrank.data.source import read
from alignrank.engine.datasets import choose_split, report_skipped
from alignrank.engine.device import choose_device, choose_precision, choose_workers
from alignrank.engine.evaluation import evaluate_weights, write_training_sheet
from alignrank.engine.folders import new_run_folder
from alignrank.engine.progress import say
from alignrank.engine.recipe import Recipe, TrainConfig, load_recipe
from alignrank.engine.validate import CONF, IOU, MAX_DETS
from alignrank.errors import InputError, nearest
from alignrank.metrics import Metrics
from alignrank.report.curves import plot_training

# Options that are fields of the recipe's train section under the same name.
TRAIN_OPTIONS = ("epochs", "batch", "imgsz", "lr", "seed")
RUN_FILE = "run.json"


class RunOptions(Config):
    """Options of a run that are not part of the recipe."""

    model: str = "yolov8-n"
    data: str
    val: str | None = None
    weights: str | None = None
    workers: int | None = None
    device: str = "auto"
    devices: int = 1
    out: str | None = None


def read_options(
    config: Path | None, given: Mapping[str, Any], overrides: Mapping[str, Any]
) -> tuple[RunOptions, Recipe]:
    """Options from a YAML file, then the command line, then `section.field` overrides; later ones win.

    Raises InputError naming the file (or the command line) and the field.
    """
    where = str(config) if config is not None else "command line"
    values: dict[str, Any] = {}
    sections: dict[str, Any] = {}
    for key, value in (read_yaml(config) if config is not None else {}).items():
        if isinstance(value, Mapping):
            sections |= {f"{key}.{name}": field for name, field in value.items()}
        elif "." in key:
            sections[key] = value
        else:
            values[key] = value
    if "model.name" in sections:
        values["model"] = sections.pop("model.name")
    values |= {key: value for key, value in given.items() if value is not None}
    sections |= {f"train.{key}": values.pop(key) for key in TRAIN_OPTIONS if key in values} | dict(overrides)
    if values.get("data") is None:
        raise InputError(f"{where}: data: must be given, a folder or file of a data set, or digits")
    _check_names(values, where)
    options = RunOptions.parse(values, where=where)
    if (options.workers or 0) < 0:
        raise InputError(f"{where}: workers: must be 0 or more, got {options.workers}")
    if options.devices < 1:
        raise InputError(f"{where}: devices: must be 1 or more, got {options.devices}")
    recipe = load_recipe(options.model, overrides=sections, where=where if config is not None else "model")
    return options, recipe


def _check_names(values: Mapping[str, Any], where: str) -> None:
    known = [*RunOptions.model_fields, *TRAIN_OPTIONS]
    for key in values:
        if key not in known:
            raise InputError(f"{where}: unknown option {key!r}; {nearest(key, known)}")


def train(options: RunOptions, recipe: Recipe, *, command: str = "") -> dict[str, Any]:
    """Train and evaluate; what `train --json` prints. Nothing is written before the input has been checked."""
    from alignrank.engine.train import Plan

    source = read(options.data)
    train_split, val_split = _splits(source, options.val)
    device = choose_device(options.device)
    choose_precision(recipe.train.precision, device)
    recipe = recipe.for_classes(len(train_split.classes))
    out = new_run_folder(options.out, recipe.name)
    plan = Plan(
        recipe=recipe,
        train=train_split,
        val=val_split,
        out=out,
        device=device,
        devices=options.devices,
        workers=choose_workers(options.workers, device),
        weights=Path(options.weights) if options.weights else None,
        command=command,
    )
    about = {"options": options.model_dump(), "recipe": recipe.to_dict(), "command": command}
    return _execute(plan, about)


def resume(run: Path, *, command: str = "") -> dict[str, Any]:
    """Continue an interrupted run in its own folder. Raises InputError if there is nothing to continue."""
    from alignrank.engine.train import STATE_FILE, Plan

    file = run / RUN_FILE
    if not file.is_file():
        raise InputError(f"{run}: is not a training run: there is no {RUN_FILE} in it")
    try:
        about = json.loads(file.read_text(encoding="utf-8"))
        options = RunOptions.parse(about["options"], where=str(file))
        recipe = Recipe.parse(about["recipe"], where=str(file))
    except (ValueError, KeyError) as error:
        raise InputError(f"{file}: is damaged ({error})") from None
    if (run / "results.json").is_file():
        raise InputError(
            f"{run}: this run is complete, see {run / 'results.json'}; start a new one with --weights to go on"
        )
    source = read(options.data)
    train_split, val_split = _splits(source, options.val)
    device = choose_device(options.device)
    plan = Plan(
        recipe=recipe,
        train=train_split,
        val=val_split,
        out=run,
        device=device,
        devices=options.devices,
        workers=choose_workers(options.workers, device),
        weights=Path(options.weights) if options.weights else None,
        resume=(run / STATE_FILE).is_file(),
        command=command or about.get("command", ""),
    )
    if not plan.resume:
        say(f"{run}: stopped before its first epoch ended, starting again")
    return _execute(plan, about)


def _splits(source: DataSource, val: str | None) -> tuple[Split, Split]:
    if source.train is None:
        raise InputError(f"{source.path}: has no training split, only {', '.join(source.splits())}")
    if val is not None:
        other = read(val)
        val_split = other.val or other.train
        if val_split is None or val_split.classes != source.train.classes:
            raise InputError(f"--val {val}: its classes differ from those of {source.path}")
    elif source.val is not None:
        val_split = source.val
    else:
        raise InputError(
            f"{source.path}: has no validation split; make one with `alignrank data split {source.path} --out NEW`, "
            "or name it with --val"
        )
    for name, split in (("training", source.train), ("validation", val_split)):
        if not split.samples:
            raise InputError(f"{split.source}: the {name} split has no usable image")
    if not any((~sample.crowd).any() for sample in source.train.samples):
        raise InputError(
            f"{source.train.source}: there is no object in the whole training split, nothing can be learnt"
        )
    report_skipped([*source.train.skipped, *val_split.skipped])
    return source.train, val_split


def _execute(plan: Any, about: Mapping[str, Any]) -> dict[str, Any]:
    from alignrank.engine.train import fit

    existed = plan.out.exists()
    plan.out.mkdir(parents=True, exist_ok=True)
    try:
        # A change of the file system, so that two runs started at once do not share a folder.
        mode = "w" if plan.resume or existed else "x"
        with (plan.out / RUN_FILE).open(mode, encoding="utf-8") as file:
            json.dump({**about, "alignrank": alignrank.__version__, "torch": torch.__version__}, file, indent=1)
        say(
            f"{plan.recipe.name}: {len(plan.train)} training and {len(plan.val)} validation images, "
            f"{len(plan.train.classes)} classes, on {plan.device}; writing to {plan.out}"
        )
        if not plan.resume:
            write_training_sheet(plan.train, plan.recipe, plan.out / "train_samples.jpg")
        fit(plan)
    except InputError:
        _remove_new_run(plan.out, existed or plan.resume)
        raise
    return _finish(plan)


def validate_weights(
    weights: Path,
    data: str,
    *,
    split: str = "val",
    out: str | Path | None = None,
    imgsz: int | None = None,
    batch: int = 16,
    conf: float = CONF,
    iou: float = IOU,
    max_dets: int = 100,
    device: str = "auto",
) -> Metrics:
    """Evaluate saved weights on one split of a data set; plots and results in the new folder `out`, if given.

    max_dets: detections per image that count in COCO's figures.
    """
    folder = None if out is None else new_run_folder(str(out), "val")
    chosen_device = choose_device(device)
    if imgsz is not None:
        check_imgsz(imgsz)
    source = read(data, require_val=False)
    chosen = choose_split(source, split)
    report_skipped(chosen.skipped)
    if not chosen.samples:
        raise InputError(f"{chosen.source}: the {split} split has no usable image")
    metrics = evaluate_weights(
        weights, chosen, out=folder, device=chosen_device, imgsz=imgsz, batch=batch, conf=conf, iou=iou,
        max_dets=max(MAX_DETS, max_dets), coco_max_dets=max_dets,
    )  # fmt: skip
    if folder is not None:
        say(f"results, plots and pictures are in {folder}")
    return metrics


def check_imgsz(imgsz: int) -> None:
    """Raises InputError for a side the network cannot take."""
    TrainConfig.parse({"imgsz": imgsz}, where="command line")


def require_classes(data: str, classes: Sequence[str]) -> None:
    """Raises InputError if a data set's classes are not `classes`."""
    found = read(data, check_images=False).classes
    if tuple(found) != tuple(classes):
        raise InputError(f"{data}: its classes are {', '.join(found)}, the detector was made for {', '.join(classes)}")


def say_result(result: Mapping[str, Any]) -> None:
    """The end of a run: headline figures and where everything is."""
    metrics, out = result["metrics"], Path(result["out"])
    shown = "  ".join(
        f"{name} {metrics[key]:.3f}" if metrics[key] is not None else f"{name} -"
        for key, name in (("ap", "AP"), ("ap50", "AP50"), ("ap75", "AP75"))
    )
    say(shown)
    say(f"weights   {result['weights']}")
    say(f"curves    {out / 'curves.png'}, {out / 'precision_recall.png'}, {out / 'f1.png'}, {out / 'confusion.png'}")
    say(f"pictures  {out / 'train_samples.jpg'}, {out / 'val_predictions.jpg'}")
    say(f"results   {out / 'results.json'}")


def _commit() -> str | None:
    """The commit of the source tree this package runs from, for benchmark records; None for an installed one."""
    root = Path(__file__).resolve().parents[3]
    if not (root / ".git").exists():
        return None
    git = ["git", "-C", str(root)]
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return head.stdout.strip() or None


def _remove_new_run(out: Path, existed: bool) -> None:
    """A run that failed on its input leaves nothing behind."""
    if existed:
        return
    for file in ("train_samples.jpg", RUN_FILE):
        (out / file).unlink(missing_ok=True)
    with suppress(OSError):
        out.rmdir()


def _finish(plan: Any) -> dict[str, Any]:
    best = plan.out / "best.safetensors"
    history = json.loads((plan.out / "history.json").read_text(encoding="utf-8"))
    plot_training(history, plan.out / "curves.png")
    metrics = evaluate_weights(best, plan.val, out=plan.out, device=plan.device, imgsz=plan.recipe.train.imgsz)
    skipped = Counter(item.unit for item in [*plan.train.skipped, *plan.val.skipped])
    result = {
        "out": str(plan.out),
        "weights": str(best),
        "metrics": metrics.to_dict(),
        "processed": len(plan.train) + len(plan.val),
        "skipped": {"image": skipped["image"], "box": skipped["box"]},
    }
    details = {
        "command": plan.command,
        "alignrank": alignrank.__version__,
        "torch": torch.__version__,
        "device": f"{plan.device} ({platform.machine()}, {os.cpu_count()} cores)",
        "precision": choose_precision(plan.recipe.train.precision, plan.device),
        "epochs": len(history),
        "seconds": history[-1]["seconds"],
        "commit": _commit(),
        "recipe": plan.recipe.to_dict(),
    }
    text = json.dumps(result | details, indent=1)
    (plan.out / "results.json").write_text(text + "\n", encoding="utf-8")
    return result
