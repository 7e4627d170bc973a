"""The moving average of the weights during training."""

from __future__ import annotations

import copy
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn


class AveragedWeights(L.Callback):
    """Exponential moving average of the network, in float32; it is what gets evaluated and saved.

    decay(n) = min(ema_decay, (1 + n) / (10 + n)) after n updates, so that short runs average as well.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.model: nn.Module | None = None
        self._restored: dict[str, Tensor] | None = None
        self._paired: tuple[nn.Module, list[tuple[Tensor, Tensor]]] | None = None
        self._seen_step = 0

    def on_fit_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.model = copy.deepcopy(module.model).eval().requires_grad_(False)
        if self._restored is not None:
            self.model.load_state_dict(self._restored)
            self._restored = None
        self._paired = None

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._seen_step = trainer.global_step  # restored by now, unlike when the fit begins

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step != self._seen_step:
            self._seen_step = trainer.global_step
            self.update(module.model)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average towards `model`; integer buffers are copied."""
        assert self.model is not None
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        pairs = self._pairs(model)
        floating = [(a, c) for a, c in pairs if a.is_floating_point()]
        torch._foreach_lerp_([a for a, _ in floating], [c.to(a.dtype) for a, c in floating], 1 - decay)
        for a, c in pairs:
            if not a.is_floating_point():
                a.copy_(c)

    def _pairs(self, model: nn.Module) -> list[tuple[Tensor, Tensor]]:
        """Tensors of the average and of `model`. Listed once, since that takes twice as long as to average them."""
        assert self.model is not None
        if self._paired is None or self._paired[0] is not model:
            self._paired = model, list(zip(_distinct(self.model), _distinct(model), strict=True))
        return self._paired[1]

    def state_dict(self) -> dict[str, Any]:
        assert self.model is not None
        return {"updates": self.updates, "weights": self.model.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.updates = state_dict["updates"]
        self._restored = state_dict["weights"]


def _distinct(model: nn.Module) -> list[Tensor]:
    """The tensors of its state, each once: heads that layers share have several names."""
    named = model.state_dict(keep_vars=True).values()
    return list({id(tensor): tensor for tensor in named}.values())
