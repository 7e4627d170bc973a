"""Keeps the state of a run: at the end of each epoch, and where Ctrl-C or SIGTERM ends the run within one."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.utilities.exceptions import SIGTERMException

from alignrank.training.recorder import check_finite, writing
from alignrank.training.state import write_state


class StateKeeper(L.Callback):
    """The last of the callbacks: what it writes holds the others' states.

    The first Ctrl-C, and SIGTERM, let the step under way (at the end of an epoch: the evaluation) finish, so that the
    state is whole; a second Ctrl-C ends the run at once. With several processes the state is that of the last epoch.
    received: the signal's number, None before.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if trainer.world_size == 1 and threading.current_thread() is threading.main_thread():
            # Lightning's own handler of SIGTERM ends the run within an optimizer's step.
            self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}

    def _note(self, number: int, frame: Any) -> None:
        self.received = number
        self._restore()

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # Half a step (accumulated gradients) is not in a state; the end of an epoch has one of its own.
        whole = (batch_idx + 1) % trainer.accumulate_grad_batches == 0 and not trainer.is_last_batch
        if whole and self.received is not None:
            check_finite(module.model, trainer.current_epoch + 1, self.out)
            self._write(trainer, trainer.current_epoch, batch_idx + 1)
            self._stop()

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._write(trainer, trainer.current_epoch + 1, 0)
        if self.received is not None:
            self._stop()

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._restore()

    def on_exception(self, trainer: L.Trainer, module: L.LightningModule, exception: BaseException) -> None:
        self._restore()

    def _stop(self) -> None:
        raise SIGTERMException if self.received == signal.SIGTERM else KeyboardInterrupt

    def _write(self, trainer: L.Trainer, epoch: int, batches: int) -> None:
        """Every process takes part in saving; the first one writes."""
        with writing(self.out, epoch):
            write_state(self.out, epoch, trainer.save_checkpoint, batches=batches, first=trainer.is_global_zero)

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
