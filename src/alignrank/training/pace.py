"""How far an epoch is, in words: what a run says of itself while an epoch lasts."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress

from alignrank.terminal.works import clock, seconds


class Pace:
    """losses: the epoch's mean loss parts so far; asked from another thread, and only when something is to be said."""

    def __init__(self, epochs: int, losses: Callable[[], Mapping[str, float]]) -> None:
        self._epochs, self._losses = epochs, losses
        self.begin(0, 0)

    def begin(self, epoch: int, num_steps: int) -> None:
        """epoch: from 1."""
        self._epoch, self._num_steps = epoch, num_steps
        self._began = time.monotonic()
        self._at = self._counted = 0

    def step(self, number: int) -> None:
        """The step `number`, from 1, is done; a resumed run may not begin with the first."""
        self._at = number
        self._counted += 1

    def in_words(self) -> str:
        """`epoch 1/16: step 35 of 120, loss 3.21, 1.4 s a step, 0:02:10 left in the epoch`."""
        spent = time.monotonic() - self._began
        epoch = f"epoch {self._epoch}/{self._epochs}"
        if not self._counted:
            return f"{epoch}: its first step is under way, {self._num_steps} in all, {clock(spent)} so far"
        each = spent / self._counted
        loss = ""
        with suppress(RuntimeError):  # parts are being added, or the device has failed, which the step will say
            loss = f"loss {sum(self._losses().values()):.2f}, "
        left = clock(each * max(self._num_steps - self._at, 0))
        return f"{epoch}: step {self._at} of {self._num_steps}, {loss}{seconds(each)} a step, {left} left in the epoch"
