"""Where a run's figures and pictures go beside its folder's own files: TensorBoard, MLflow and W&B, through Lightning.

Nothing is sent anywhere unless somebody's own settings say so (MLFLOW_TRACKING_URI, WANDB_MODE): what the trackers
write stays in the run's folder. Their own telemetry is switched off by the variables that they document for it.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from PIL import Image

from alignrank.errors import InputError, first_line
from alignrank.extras import require
from alignrank.folders import replacing
from alignrank.terminal.progress import say, warn
from alignrank.training.plan import Plan
from alignrank.weights.settings import TrainConfig

# What each logger needs: the extra of that name, the package.
NEEDS = {"tensorboard": "tensorboard", "mlflow": "mlflow", "wandb": "wandb"}
# They have runs of their own, found again by an id; a failure of theirs is no fault of the training.
TRACKERS = ("mlflow", "wandb")
PROJECT = "alignrank"
# The ids of a run's runs, for a process that goes on with it.
IDS = "loggers.json"
# No usage statistics, no reports of crashes; and no lines about tables of a data base.
QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "WANDB_ERROR_REPORTING": "false", "MLFLOW_LOGGING_LEVEL": "WARNING"}
# Pictures of a run, in the order in which it makes them.
PICTURES = (
    *("train_samples.jpg", "curves.png", "precision_recall.png", "f1.png", "confusion.png"),
    "val_predictions.jpg",
)


def loggers_of(settings: TrainConfig) -> tuple[str, ...]:
    """Their names, each once. Raises InputError for one whose package is not installed."""
    if settings.loggers == "auto":
        found = importlib.util.find_spec(NEEDS["tensorboard"]) is not None
        return ("csv", "tensorboard") if found else ("csv",)
    names = tuple(dict.fromkeys(settings.loggers))
    for name in names:
        if name in NEEDS:
            require(name, NEEDS[name])
    return names


class RunLog:
    """The loggers of a run: in the process that trains, and once more in the first one for the pictures of its end."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._names = loggers_of(plan.recipe.train)
        self._opened: dict[str, Logger] = {}
        self._is_open = False

    def open(self, history: Iterable[Mapping[str, float]] = ()) -> None:
        """history: the epochs that the run has behind it. Trackers that go on with a run of their own know them."""
        if self._plan.recipe.train.loggers == "auto" and "tensorboard" not in self._names:
            say("TensorBoard is not installed: logs are in metrics.csv only")
        ids = self._ids()
        self._begin(self._names, ids)
        for row in history:
            self._rows(row, [name for name in self._opened if name not in ids])
        trackers = {name: str(self._opened[name].version) for name in self._opened if name in TRACKERS}
        if trackers:
            with replacing(self._plan.out / IDS) as path:
                path.write_text(json.dumps(trackers), encoding="utf-8")
        self.pictures(PICTURES[:1], step=0)

    def row(self, row: Mapping[str, float]) -> None:
        """One epoch."""
        self._rows(row, list(self._opened))

    def pictures(self, files: Sequence[str], *, step: int) -> None:
        """Those of the files that the run's folder holds, wherever pictures can go; where nobody has chosen loggers,
        nowhere: a sheet is larger than all figures.
        """
        if self._plan.recipe.train.loggers == "auto":
            return
        if not self._is_open:  # by this process; the one that trained has ended
            self._begin([name for name in self._names if name != "csv"], self._ids())
        paths = [self._plan.out / name for name in files if (self._plan.out / name).is_file()]
        for name in list(self._opened):
            for path in paths if name in self._opened else ():
                picture = partial(_picture, name, path=path, step=step)
                self._guarded(name, picture, tracked=True)  # the folder has the picture in any case

    def close(self, *, finished: bool = True) -> None:
        """finished: the run is at its end; else it has failed or was interrupted, and may go on."""
        for name in list(self._opened):
            self._guarded(name, partial(_end, name, finished=finished))
        self._opened, self._is_open = {}, False

    def _begin(self, names: Iterable[str], ids: Mapping[str, str]) -> None:
        self._is_open = True
        for name in names:
            try:
                self._opened[name] = self._begun(name, ids.get(name))
            except Exception as error:  # of the tracker, of what it is built on, of its server
                if name not in TRACKERS:
                    raise
                raise InputError(
                    f"train.loggers: {name} cannot be used ({type(error).__name__}: {first_line(error)}); "
                    "leave it out, or look at its settings"
                ) from None

    def _rows(self, row: Mapping[str, float], names: Iterable[str]) -> None:
        def write(logger: Logger) -> None:
            logger.log_metrics(dict(row), step=int(row["epoch"]))
            logger.save()

        for name in names:
            self._guarded(name, write)

    def _guarded(self, name: str, write: Callable[[Any], object], *, tracked: bool = False) -> None:
        """A tracker that fails (a server that is gone) is given up; what it misses is in the run's folder.

        tracked: another logger is given up, too.
        """
        try:
            write(self._opened[name])
        except Exception as error:
            if name not in TRACKERS and not tracked:
                raise
            warn(f"{name}: {first_line(error)}; the run goes on without it, its figures are in history.json")
            del self._opened[name]

    def _begun(self, name: str, run_id: str | None) -> Logger:
        out, recipe = self._plan.out, self._plan.recipe
        if name == "csv":
            return CSVLogger(out, name="", version="")
        if name == "tensorboard":
            return TensorBoardLogger(out, name="", version="tensorboard")
        for variable, value in QUIET.items():
            os.environ.setdefault(variable, value)
        logger = _mlflow(out, run_id) if name == "mlflow" else _wandb(out, run_id)
        if run_id is None:
            logger.log_hyperparams(recipe.to_dict() | {"classes": list(self._plan.train.classes)})
        return logger

    def _ids(self) -> dict[str, str]:
        try:
            ids = json.loads((self._plan.out / IDS).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return {name: run_id for name, run_id in ids.items() if name in self._names}


def _mlflow(out: Path, run_id: str | None) -> Logger:
    """In a store of the run's own, unless MLFLOW_TRACKING_URI names one."""
    address = os.environ.get("MLFLOW_TRACKING_URI")
    own = f"sqlite:///{(out / 'mlflow.db').absolute()}"
    if address is None and run_id is None:
        say(f"MLflow: look at it with `mlflow ui --backend-store-uri {own}`")
    logger = MLFlowLogger(
        os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT),
        out.name,
        address or own,
        artifact_location=None if address else (out / "mlflow").absolute().as_uri(),
        run_id=run_id,
    )
    client = logger.experiment
    if address is None:  # MLflow has told the processes to come, which would be the next run's setting
        os.environ.pop("MLFLOW_TRACKING_URI", None)
    if run_id is not None:
        client.update_run(run_id, status="RUNNING")
    return logger


def _wandb(out: Path, run_id: str | None) -> Logger:
    """Offline, unless WANDB_MODE says otherwise."""
    import wandb

    mode: Any = os.environ.get("WANDB_MODE", "offline")
    if mode == "offline" and run_id is None:
        say(f"W&B: offline; `wandb sync {out / 'wandb'}/offline-run-*` sends it, WANDB_MODE=online does from the start")
    settings = wandb.Settings(console="off", silent=True)
    project = os.environ.get("WANDB_PROJECT", PROJECT)
    run = wandb.init(project=project, name=out.name, dir=out, id=run_id, resume="allow", mode=mode, settings=settings)
    run.define_metric("trainer/global_step")  # as Lightning does with a run that it has made; ours is the epoch
    run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
    return WandbLogger(experiment=run)


def _picture(name: str, logger: Any, *, path: Path, step: int) -> None:
    if name == "tensorboard":
        with Image.open(path) as picture:
            logger.experiment.add_image(path.stem, np.asarray(picture.convert("RGB")), step, dataformats="HWC")
    elif name == "mlflow":
        logger.experiment.log_artifact(logger.run_id, str(path), "pictures")
    elif name == "wandb":
        logger.log_image(f"pictures/{path.stem}", [str(path)], step)


def _end(name: str, logger: Any, *, finished: bool) -> None:
    logger.finalize("success" if finished else "failed")
    if name == "wandb":
        logger.experiment.finish(exit_code=0 if finished else 1)
