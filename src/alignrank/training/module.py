"""Lightning's module of a run: network and criterion, optimizer, schedule and data."""

from __future__ import annotations

from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor, nn

from alignrank.allocator import keep_freed_memory
from alignrank.contracts import Batch
from alignrank.data.augment import resize_batch
from alignrank.data.letterbox import shape_of
from alignrank.data.loader import TrainingSet, training_loader
from alignrank.data.opening import opened
from alignrank.data.order import Share
from alignrank.detectors import predictions_of
from alignrank.errors import TrainingError
from alignrank.training.nodes import check_images
from alignrank.training.optimizer import frozen_modules, parameter_groups, schedule
from alignrank.training.plan import Plan
from alignrank.training.state import progress_of


class TrainingModule(L.LightningModule):
    """Network and criterion; optimizer, schedule and data of one run."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan = plan
        self.settings = plan.recipe.train
        # A state holds all weights: the file that a run began with may be gone by now.
        built = (plan.recipe.without_pretrained() if plan.resume else plan.recipe).build()
        self.model: nn.Module = built.model.to(memory_format=torch.channels_last)
        self.size = plan.recipe.size_in_training.for_stride(built.model.stride)
        self.criterion = built.criterion
        self.postprocess = built.postprocess
        self._sums: dict[str, Tensor] = {}
        self._batches = 0

    def setup(self, stage: str) -> None:
        # Lightning gives each of several processes its share of the affinity; it knows no container's quota.
        if self.plan.threads is not None:
            torch.set_num_threads(self.plan.threads)
        if self.plan.device.type == "cpu":
            keep_freed_memory()

    def train_dataloader(self) -> Any:
        plan = self.plan
        # Lightning asks for data before it has restored its own counters.
        epoch, batches = progress_of(plan.resume) if plan.resume else (0, 0)
        images = opened(
            plan.train,
            self.size,
            cache=self.settings.cache,
            processes=plan.on_machine,
            quiet=self.global_rank > 0,
        )
        check_images(plan.train.source, len(images))
        dataset = TrainingSet(
            images,
            plan.recipe.augment,
            seed=self.settings.seed,
            epochs=self.settings.epochs,
            repeat_threshold=plan.recipe.data.repeat_threshold,
        )
        batch = int(self.settings.batch)
        return training_loader(
            dataset,
            batch,
            workers=plan.workers,
            seed=self.settings.seed,
            share=Share(self.global_rank, plan.devices, epoch, batches * batch),
            pin=plan.device.type == "cuda",
        )

    def train(self, mode: bool = True) -> TrainingModule:
        """Frozen parts stay in evaluation mode: their batch norms must not drift."""
        super().train(mode)
        for module in frozen_modules(self.model, self.settings.freeze):
            module.eval()
        return self

    def on_train_start(self) -> None:
        self.train()  # Lightning leaves modes as they are

    def on_train_epoch_start(self) -> None:
        self.train()
        self._sums, self._batches = {}, 0

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["losses"] = {"sums": self._sums, "batches": self._batches}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The sums of an epoch that was interrupted; states of before version 0.2 have none."""
        losses = checkpoint.get("losses", {"sums": {}, "batches": 0})
        self._sums, self._batches = losses["sums"], losses["batches"]

    def training_step(self, batch: Batch, index: int) -> Tensor:
        batch = self._sized(batch)
        total = max(int(self.trainer.estimated_stepping_batches), 1)
        predictions = predictions_of(self.model, batch.images, batch, denoising=self._noise())
        try:
            terms = self.criterion(predictions, batch.targets, progress=self.global_step / total)
        except TrainingError as error:  # of matching: predictions that are not finite have no cost
            raise self._diverged(str(error), batch) from None
        if not torch.isfinite(terms.total):
            raise self._diverged("the loss is not finite", batch)
        for name, value in terms.parts.items():
            self._sums[name] = self._sums.get(name, torch.zeros_like(value)) + value.detach()
        self._batches += 1
        return terms.total

    def _diverged(self, what: str, batch: Batch) -> TrainingError:
        sources = ", ".join(frame.source for frame in batch.frames)
        return TrainingError(
            f"{what} in epoch {self.current_epoch + 1}; lower lr, or look at the images of the batch: {sources}; what "
            f"is in {self.plan.out} is of the last whole epoch"
        )

    def _noise(self) -> torch.Generator:
        """From seed and step alone, so that a resumed run draws the same."""
        drawn = np.random.default_rng([self.settings.seed, self.global_step, self.global_rank]).integers(2**62)
        return torch.Generator().manual_seed(int(drawn))

    def _sized(self, batch: Batch) -> Batch:
        """Float images, resized by the run's multi-scale range (multiples of the stride, from seed and step)."""
        batch = Batch(batch.network_input(), batch.targets, batch.frames)
        spread = self.plan.recipe.augment.multi_scale
        if spread == 0:
            return batch
        factor = np.random.default_rng([self.settings.seed, self.global_step]).uniform(1 - spread, 1 + spread)
        step = self.size.step
        height, width = (max(round(side * factor / step), 1) * step for side in shape_of(batch.images))
        return batch if (height, width) == shape_of(batch.images) else resize_batch(batch, (height, width))

    def mean_losses(self) -> dict[str, float]:
        """Mean loss parts of the epoch so far, this process's share."""
        return {name: float(total) / max(self._batches, 1) for name, total in self._sums.items()}

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return batch.to(device) if isinstance(batch, Batch) else super().transfer_batch_to_device(batch, device, 0)

    def configure_optimizers(self) -> Any:
        settings = self.settings
        groups = parameter_groups(self.model, settings)
        optimizer: torch.optim.Optimizer
        if settings.optimizer == "adamw":
            optimizer = torch.optim.AdamW(groups, lr=settings.lr, betas=(settings.momentum, 0.999))
        else:
            optimizer = torch.optim.SGD(
                groups, lr=settings.lr, momentum=settings.momentum, nesterov=settings.momentum > 0
            )
        total = max(int(self.trainer.estimated_stepping_batches), 1)
        factor = schedule(settings, total)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
