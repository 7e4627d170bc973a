"""A training run from options to results: reads the data, trains, evaluates the best weights, writes pictures."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from alignrank.data.samples import DataSource, Split
from alignrank.data.sheet import SheetOptions, write_sheet
from alignrank.data.source import read
from alignrank.detectors.class_weights import weights_for
from alignrank.device import (
    choose_device,
    choose_precision,
    choose_threads,
    choose_workers,
    device_name,
    settle_threads,
)
from alignrank.errors import InputError
from alignrank.evaluation.options import ValOptions
from alignrank.evaluation.tables import shown
from alignrank.evaluation.val import REPORT, val, write_evaluation
from alignrank.folders import BESIDE, RUN_FILE, locked, new_run_folder, replacing
from alignrank.report.curves import plot_training
from alignrank.terminal.progress import say, steps, warn
from alignrank.terminal.skipped import Skipped, reasons, report_skipped, say_processed, skipped_in_words
from alignrank.training.auto_batch import with_batch
from alignrank.training.auto_candidates import with_candidates
from alignrank.training.best import best_in_words
from alignrank.training.callbacks import checked
from alignrank.training.fit import fit
from alignrank.training.loggers import PICTURES, RunLog, loggers_of
from alignrank.training.nodes import Group, settled
from alignrank.training.options import RunOptions
from alignrank.training.plan import Plan
from alignrank.training.state import check_state, last_state
from alignrank.version import __version__, commit
from alignrank.weights import checkpoint
from alignrank.weights.catalog import BEST
from alignrank.weights.published import for_data
from alignrank.weights.recipe import Recipe


def train(
    options: RunOptions,
    recipe: Recipe,
    *,
    command: str = "",
    classes: Sequence[str] | None = None,
    callbacks: Sequence[Any] = (),
    group: Group | None = None,
    is_trial: bool = False,
) -> dict[str, Any]:
    """Train and evaluate; what `train --json` prints. Nothing is written before the input has been checked.

    classes: those the data set must have, if given. callbacks: see `callbacks.EpochCallback`.
    group: this process and those that torchrun has started with it. is_trial: see `Plan`.
    """
    options = settled(options, group)
    heard = checked(callbacks, options.devices)
    with new_run_folder(options.out, recipe.name) as out:
        plan = _plan(options, recipe, out, group)
        plan = replace(plan, command=command, callbacks=heard, is_trial=is_trial)
        found = plan.train.classes
        if classes is not None and found != tuple(classes):
            raise InputError(
                f"{options.data}: its classes are {', '.join(found)}, the detector was made for {', '.join(classes)}"
            )
        about = {"options": options.located().model_dump(), "recipe": plan.recipe.to_dict(), "command": command}
        try:
            return _execute(plan, about, group)
        except InputError:  # a run that failed on its input leaves nothing behind
            if last_state(out) is None:
                for file in ("train_samples.jpg", RUN_FILE):
                    (out / file).unlink(missing_ok=True)
            raise


def resume(run: Path, *, group: Group | None = None) -> dict[str, Any]:
    """Continue an interrupted run in its own folder. Raises InputError if there is nothing to continue."""
    file = run / RUN_FILE
    if not file.is_file():
        raise InputError(f"{run}: is not a training run: there is no {RUN_FILE} in it")
    try:
        about = json.loads(file.read_text(encoding="utf-8"))
        options = RunOptions.parse(about["options"], where=str(file))
        recipe = Recipe.parse(about["recipe"], where=str(file))
    except (ValueError, KeyError, TypeError, RecursionError, OSError) as error:
        raise InputError(f"{file}: is damaged ({error}); start a new run") from None
    if (run / "results.json").is_file():
        raise InputError(
            f"{run}: this run is complete, see {run / 'results.json'}; start a new one with --weights to go on"
        )
    options = settled(options, group, run)
    state = last_state(run)
    if state is None:
        say(f"{run}: stopped before its first epoch ended, starting again")
    plan = replace(_plan(options, recipe, run, group, state), command=about.get("command", ""))
    if state is not None:
        check_state(state, plan.recipe)
    with locked(run):
        return _execute(plan, about, group)


def _plan(options: RunOptions, recipe: Recipe, out: Path, group: Group | None, resume: Path | None = None) -> Plan:
    if options.devices > 1 and hasattr(sys, "ps1"):
        raise InputError("devices: several processes cannot be started from a notebook or prompt; use the command line")
    loggers_of(recipe.train)
    settle_threads()
    with steps("reading annotations", None):
        source = read(options.data)
        train_split, val_split = _splits(source, options.val)
    device = choose_device(options.device)
    choose_precision(recipe.train.precision, device)
    classes = train_split.classes
    # A state holds all weights: what a run began with may be gone when it goes on.
    if resume is None:
        sized = with_candidates(for_data(recipe, classes), train_split.samples)
    else:
        sized = recipe.for_classes(len(classes))
    _check_class_weights(sized, classes)
    plan = Plan(
        recipe=with_batch(sized, device),
        train=train_split,
        val=val_split,
        out=out,
        device=device,
        devices=options.devices,
        machines=group.machines if group else None,
        workers=choose_workers(options.workers, device),
        weights=Path(options.weights) if options.weights else None,
        resume=resume,
    )
    if plan.on_machine > 1:
        plan.threads = choose_threads(plan.on_machine)
    return plan


def _check_class_weights(recipe: Recipe, classes: Sequence[str]) -> None:
    """Before anything is written. Raises InputError that names the classes."""
    try:
        architecture: Any = recipe.architecture
        weights_for(getattr(architecture.loss, "class_weights", ()), len(classes))
    except InputError as error:
        raise InputError(f"{error}; the classes are {', '.join(classes)[:200]}") from None


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
        val_split = _training_images_again(source.train)
    for name, split in (("training", source.train), ("validation", val_split)):
        if not split.samples:
            raise InputError(f"{split.source}: the {name} split has no usable image")
    if not any((~sample.crowd).any() for sample in source.train.samples):
        lost = "; ".join(["", *skipped_in_words(reasons(source.train.skipped))])
        raise InputError(
            f"{source.train.source}: there is no object in the whole training split, nothing can be learnt{lost}"
        )
    report_skipped(_skipped(source.train, val_split))
    for note in _notes(source.train, val_split):
        warn(note)
    return source.train, val_split


def _training_images_again(train: Split) -> Split:
    """What a data set without validation split is evaluated on (docs/decisions/0018)."""
    note = (
        f"{train.source}: has no validation split; figures will be those of the training images, and flatter: "
        f"make one with `alignrank data split {train.source} --out NEW`, or name it with --val"
    )
    return replace(train, samples=list(train.samples), skipped=[], notes=[note])


def _skipped(train: Split, val: Split) -> list[Skipped]:
    """Of both splits; what they share counts once."""
    of_train = set(train.skipped)
    return [*train.skipped, *(item for item in val.skipped if item not in of_train)]


def _notes(train: Split, val: Split) -> list[str]:
    return list(dict.fromkeys([*train.notes, *val.notes]))


def _execute(plan: Plan, about: Mapping[str, Any], group: Group | None) -> dict[str, Any]:
    for left in plan.out.glob(f"*{BESIDE}"):  # by a process that was killed
        left.unlink()
    with replacing(plan.out / RUN_FILE) as path:
        versions = {"alignrank": __version__, "torch": torch.__version__}
        path.write_text(json.dumps({**about, **versions}, indent=1), encoding="utf-8")
    say(
        f"{plan.recipe.name}: {len(plan.train)} training and {len(plan.val)} validation images, "
        f"{len(plan.train.classes)} classes, on {plan.device}; writing to {plan.out}"
    )
    if plan.resume is None:
        recipe = plan.recipe
        sheet = SheetOptions(recipe.size_in_training, recipe.augment, recipe.train.seed)
        write_sheet(plan.train, plan.out / "train_samples.jpg", sheet)
    log = RunLog(plan)
    if group is not None:
        group.tell(plan)
    try:
        result = _finish(plan, fit(plan, log), log)
    except BaseException:
        log.close(finished=False)
        raise
    log.close()
    return result


def say_result(result: Mapping[str, Any]) -> None:
    """The end of a run: which epoch was the best, headline figures, and where everything is."""
    metrics, out = result["metrics"], Path(result["out"])
    written = json.loads((out / "results.json").read_text(encoding="utf-8"))
    because = written["best_because"]
    say(f"best epoch {written['best_epoch']}{':' if because.startswith('AP') else ''} {because}")
    say("  ".join(f"{key.upper()} {shown(metrics[key])}" for key in ("ap", "ap50", "ap75")))
    rank = {key: shown(metrics["rank"][key]) for key in ("spearman", "misranked", "ap_lost_ranking")}
    say(
        f"oLRP {shown(metrics['lrp'])}  score-IoU Spearman {rank['spearman']}  mis-ranked {rank['misranked']}  "
        f"AP lost to ranking {rank['ap_lost_ranking']}"
    )
    say(f"weights   {result['weights']}")
    say(f"curves    {out / 'curves.png'}, {out / 'precision_recall.png'}, {out / 'f1.png'}, {out / 'confusion.png'}")
    say(f"pictures  {out / 'train_samples.jpg'}, {out / 'val_predictions.jpg'}")
    say(f"report    {out / REPORT}")
    say(f"results   {out / 'results.json'}")
    say_processed(written["processed"], written["objects"], [tuple(item) for item in written["skipped_reasons"]])


def _finish(plan: Plan, stopped: str | None, log: RunLog) -> dict[str, Any]:
    """Evaluate the best weights and write the results. stopped: which callback ended the run, and why."""
    best = plan.out / BEST
    history = json.loads((plan.out / "history.json").read_text(encoding="utf-8"))
    plot_training(history, plan.out / "curves.png")
    best_epoch = int(checkpoint.load(best).metrics["epoch"])
    validation = val(best, plan.val, ValOptions(), device=plan.device)
    write_evaluation(validation, plan.val, plan.out)
    skipped = _skipped(plan.train, plan.val)
    counts = Counter(item.unit for item in skipped)
    in_train = {sample.image for sample in plan.train.samples}
    others = [sample for sample in plan.val.samples if sample.image not in in_train]
    samples = [*plan.train.samples, *others]
    result = {
        "out": str(plan.out),
        "weights": str(best),
        "metrics": validation.metrics.to_dict(),
        "processed": len(samples),
        "skipped": {"image": counts["image"], "box": counts["box"]},
    }
    details = {
        "images": {"train": len(plan.train), "val": len(plan.val)},
        "validated_on_training_images": not others,
        "objects": sum(len(sample.labels) for sample in samples),
        "skipped_reasons": reasons(skipped),
        "warnings": _notes(plan.train, plan.val),
        "command": plan.command,
        "alignrank": __version__,
        "torch": torch.__version__,
        "device": device_name(plan.device),
        "threads": torch.get_num_threads() if plan.threads is None else plan.threads,
        "precision": choose_precision(plan.recipe.train.precision, plan.device),
        "epochs": len(history),
        "stopped": stopped or _patience_ended(plan, len(history)),
        "best_epoch": best_epoch,
        "best_because": best_in_words(history, best_epoch),
        "seconds": history[-1]["seconds"],
        "commit": commit(),
        "recipe": plan.recipe.to_dict(),
    }
    text = json.dumps(result | details, indent=1)
    (plan.out / "results.json").write_text(text + "\n", encoding="utf-8")
    log.pictures(PICTURES[1:], step=len(history))
    return result


def _patience_ended(plan: Plan, epochs: int) -> str | None:
    """Why a run that no callback ended has fewer epochs than were asked for; None where it has them all."""
    settings = plan.recipe.train
    return f"patience: {settings.patience} epochs without a better AP" if epochs < settings.epochs else None
