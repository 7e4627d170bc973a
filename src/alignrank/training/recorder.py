"""What a training run writes down: an evaluation each epoch, weights, logs. Its state: keeper.py."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning as L
import torch
from safetensors import SafetensorError
from torch import nn

from alignrank.data.loader import EvaluationSet, evaluation_loader
from alignrank.data.opening import opened
from alignrank.errors import TrainingError
from alignrank.evaluation.options import ValOptions
from alignrank.evaluation.validate import validate
from alignrank.folders import replacing
from alignrank.terminal.progress import counted, say, shown, steps
from alignrank.terminal.works import Work
from alignrank.training.averaging import AveragedWeights
from alignrank.training.best import FIGURES, Best, validation_loss
from alignrank.training.loggers import RunLog
from alignrank.training.module import TrainingModule
from alignrank.training.pace import Pace
from alignrank.training.plan import Plan
from alignrank.weights import checkpoint

SHOWN = ("ap", "ap50", "ap75", "misranked")  # of the figures of an epoch, on the terminal


def _rates(trainer: L.Trainer) -> list[float]:
    return [group["lr"] for group in trainer.optimizers[0].param_groups]


@contextmanager
def writing(out: Path, epoch: int) -> Iterator[None]:
    """A write that fails, for want of room mostly, ends the run; files keep what they held."""
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        raise TrainingError(
            f"{out}: the results of epoch {epoch} could not be written ({error}); those of the epoch before are "
            f"whole: make room, then `alignrank train --resume {out}`"
        ) from None


def check_finite(model: nn.Module, epoch: int, out: Path) -> None:
    """Raises TrainingError for weights that a step has broken behind a loss that was finite."""
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise TrainingError(
                f"{name} is not finite in epoch {epoch}; weights and state in {out} are those of the epoch before; a "
                "lower train.lr may help"
            )


class Recorder(L.Callback):
    """Runs on the first process only; the others wait at the end of the epoch. run_log: where figures go, but for
    history.json.
    """

    def __init__(self, plan: Plan, averaged: AveragedWeights, run_log: RunLog | None = None) -> None:
        self.plan, self.averaged, self.run_log = plan, averaged, run_log
        self.history: list[dict[str, float]] = []
        self.best = Best()
        self.seconds = 0.0
        self._loader: Any = None
        self._work: Work | None = None
        self._showing = ExitStack()

    def state_dict(self) -> dict[str, Any]:
        self.seconds = time.monotonic() - self._started
        best = {"best_ap": self.best.ap, "best_epoch": self.best.epoch, "best_loss": self.best.loss}
        return {"history": self.history, "seconds": self.seconds, "improved": self.best.improved, **best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """States of before version 0.2 say nothing of the loss; there the best epoch was always an improvement."""
        self.history, self.seconds = state_dict["history"], state_dict["seconds"]
        epoch = state_dict["best_epoch"]
        row = next((row for row in self.history if row["epoch"] == epoch), {})
        loss = state_dict.get("best_loss", validation_loss(row))
        self.best = Best(epoch, state_dict["best_ap"], loss, state_dict.get("improved", epoch))

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._started = time.monotonic() - self.seconds
        if not trainer.is_global_zero:
            return
        if self.run_log is not None:
            with writing(self.plan.out, len(self.history)):
                self.run_log.open(self.history)
        say(self._beginning(trainer))
        total = int(trainer.estimated_stepping_batches) * trainer.accumulate_grad_batches
        self._pace = Pace(self.plan.recipe.train.epochs, module.mean_losses)
        self._work = Work("training", total, self._pace.in_words)
        self._work.done = trainer.global_step * trainer.accumulate_grad_batches
        self._showing.enter_context(shown(self._work))

    def _beginning(self, trainer: L.Trainer) -> str:
        """What the run is about to do, with all that decides how long it takes."""
        plan, settings = self.plan, self.plan.recipe.train
        size, processes = plan.recipe.size_in_training, f" in each of {plan.devices} processes"
        own_shape = size.rect or plan.recipe.augment.rescales
        repeated = ", rare classes repeated" if plan.recipe.data.repeat_threshold else ""
        sides = "-".join(str(side) for side in (size.shorter, size.longer) if side is not None)
        return (
            f"training images {len(plan.train)}{repeated}, steps an epoch {trainer.num_training_batches}, "
            f"input {sides} px{' at most, in the shape of the image' if own_shape else ''}, batch {settings.batch}"
            f"{processes if plan.devices > 1 else ''}, precision {trainer.precision}, "
            f"threads {torch.get_num_threads()}, workers {plan.workers}, device {plan.device}"
        )

    def on_train_epoch_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if self._work is not None:
            self._pace.begin(trainer.current_epoch + 1, int(trainer.num_training_batches))

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._work is not None:
            self._pace.step(batch_idx + 1)
            self._work.advance(f"epoch {trainer.current_epoch + 1}")

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        epoch, settings = trainer.current_epoch + 1, self.plan.recipe.train
        evaluated = epoch == settings.epochs or epoch % settings.val_every == 0
        if trainer.is_global_zero:
            check_finite(module.model, epoch, self.plan.out)
            row: dict[str, float] = {"epoch": epoch, "lr": max(_rates(trainer))}
            row |= {f"train/{name}": value for name, value in module.mean_losses().items()}
            if evaluated:
                self._evaluate(module, row, epoch)
            if settings.save_every and epoch % settings.save_every == 0:
                self._save(f"epoch_{epoch:04d}", {"epoch": epoch})
            self.seconds = time.monotonic() - self._started
            row["seconds"] = round(self.seconds, 1)
            self.history.append(row)
            self._log(row)
            self._say(row)
        # An epoch without evaluation says nothing of what was learnt.
        waited = trainer.strategy.broadcast(epoch - self.best.improved) if settings.patience and evaluated else 0
        if settings.patience and waited >= settings.patience:
            trainer.should_stop = True

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._showing.close()
        if self.run_log is not None and self.plan.devices > 1:  # this process ends; else the run's last pictures follow
            self.run_log.close()

    def on_exception(self, trainer: L.Trainer, module: L.LightningModule, exception: BaseException) -> None:
        self._showing.close()
        if self.run_log is not None:
            self.run_log.close(finished=False)

    def _evaluate(self, module: TrainingModule, row: dict[str, float], epoch: int) -> None:
        plan, settings = self.plan, self.plan.recipe.train
        if self._loader is None:
            size = plan.recipe.size_in_use.for_stride(module.size.step)
            dataset = EvaluationSet(opened(plan.val, size, cache=settings.cache))
            self._loader = evaluation_loader(dataset, int(settings.batch), workers=0)
        assert self.averaged.model is not None
        options = ValOptions(before_nms=False)
        with steps(f"validating epoch {epoch}", len(self._loader)) as advance:
            batches = counted((batch.to(module.device) for batch in self._loader), advance)
            result = validate(
                self.averaged.model, module.postprocess, batches, plan.val, options, criterion=module.criterion
            )
            scalars = result.metrics.scalars()
        row |= {f"val/{name}": value for name, value in result.losses.items()}
        figures = {name: value for name, value in scalars.items() if value is not None}
        known = {name.removeprefix("rank."): value for name, value in figures.items()}
        row |= {f"val/{name}": known[name] for name in FIGURES if name in known}
        about: dict[str, Any] = {"epoch": epoch, **figures}
        self._save("last", about)
        if self.best.takes(row):
            self._save("best", about)

    def _save(self, name: str, about: dict[str, Any]) -> None:
        assert self.averaged.model is not None
        plan, weights = self.plan, self.averaged.model.state_dict()
        path = plan.out / f"{name}.safetensors"
        with writing(self.plan.out, about["epoch"]):
            checkpoint.save(path, weights, recipe=plan.recipe, classes=plan.train.classes, metrics=about)

    def _log(self, row: dict[str, float]) -> None:
        with writing(self.plan.out, int(row["epoch"])):
            if self.run_log is not None:
                self.run_log.row(row)
            with replacing(self.plan.out / "history.json") as path:
                path.write_text(json.dumps(self.history), encoding="utf-8")

    def _say(self, row: dict[str, float]) -> None:
        epochs = self.plan.recipe.train.epochs
        epoch = int(row["epoch"])
        losses = "  ".join(f"{k.removeprefix('train/')} {v:.3f}" for k, v in row.items() if k.startswith("train/"))
        figures = "  ".join(f"{k.upper()} {row[f'val/{k}']:.3f}" for k in SHOWN if f"val/{k}" in row)
        left = timedelta(seconds=round(self.seconds / epoch * (epochs - epoch)))
        say(f"epoch {epoch}/{epochs}  {losses}  {figures}  {left} left")
