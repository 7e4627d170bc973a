"""What `Detector.train(callbacks=[...])` calls after each epoch, and how one of them ends a run early."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import lightning as L
import numpy as np

from alignrank.errors import InputError, TrainingError, first_line
from alignrank.terminal.progress import say
from alignrank.training.plan import Plan
from alignrank.training.recorder import Recorder

Answer = bool | str | None


class EpochCallback(Protocol):
    """epoch: from 1. metrics: the epoch's row of history.json: `lr`, `train/LOSS`, and where it was evaluated
    `val/LOSS`, `val/ap` and other figures.

    True ends the run as if it had reached its last epoch, and so does a text, which is kept as the reason. Weights and
    state of the epoch are on disk by then.
    """

    def on_epoch_end(self, epoch: int, metrics: Mapping[str, float]) -> Answer: ...


def checked(callbacks: Sequence[Any], devices: int) -> tuple[Any, ...]:
    """The same. Raises InputError for what cannot be called, and beside several processes."""
    if not isinstance(callbacks, Sequence):
        raise InputError(f"callbacks: must be a list, got {callbacks!r:.80}")
    for callback in callbacks:
        if isinstance(callback, type) or not callable(_function(callback)):
            raise InputError(
                f"callbacks: {callback!r:.80} has no on_epoch_end(epoch, metrics), and is no function of the two"
            )
    if callbacks and devices > 1:
        raise InputError("callbacks: are called in the process that trains, which must be this one; leave out devices")
    return tuple(callbacks)


class Callbacks(L.Callback):
    """Calls them, behind all that keeps the epoch. stopped: who ended the run, and why; None where nobody did."""

    def __init__(self, plan: Plan, recorder: Recorder) -> None:
        self._plan, self._recorder = plan, recorder
        self.stopped: str | None = None

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        epoch = trainer.current_epoch + 1
        for callback in self._plan.callbacks:
            name = getattr(callback, "__name__", type(callback).__name__)
            answer = self._answer(callback, name, epoch)
            if answer:
                self.stopped = self.stopped or (f"{name}: {answer}" if isinstance(answer, str) else name)
                trainer.should_stop = True
        if self.stopped is not None:
            say(f"stopped after epoch {epoch} by {self.stopped}")

    def _answer(self, callback: Any, name: str, epoch: int) -> Answer:
        problem, cause = "", None
        try:
            answer = _function(callback)(epoch, dict(self._recorder.history[-1]))
        except Exception as error:
            problem, cause = f"{type(error).__name__}: {first_line(error)}", error
        else:
            if answer is None or isinstance(answer, bool | np.bool_ | str):
                return answer if isinstance(answer, str) else bool(answer)
            problem = f"it must return None, True, False or a reason to stop, not {answer!r:.80}"
        raise TrainingError(
            f"the callback {name} failed after epoch {epoch} ({problem}); the state is kept: go on with "
            f"`alignrank train --resume {self._plan.out}`"
        ) from cause


def _function(callback: Any) -> Callable[[int, Mapping[str, float]], Any]:
    found: Any = getattr(callback, "on_epoch_end", callback)
    return found  # type: ignore[no-any-return]
