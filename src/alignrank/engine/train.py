"""Training on Lightning: one module, and callbacks for the averaged weights and for what is written down.

A run is a `Plan`; everything heavy is built inside the training process, so that several processes can
be spawned from the plan alone.
"""

from __future__ import annotations

import logging
import signal
import time
import warnings
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor, nn

from alignrank.contracts import Batch
from alignrank.data.augment import resize_batch
from alignrank.data.loader import TrainingSet, training_loader
from alignrank.data.samples import Split
from alignrank.engine import checkpoint
from alignrank.engine.averaging import AveragedWeights
from alignrank.engine.device import choose_precision
from alignrank.engine.images import opened
from alignrank.engine.optimization import frozen_modules, parameter_groups, schedule
from alignrank.engine.progress import say
from alignrank.engine.recipe import Recipe
from alignrank.engine.sides import SIDE_STEP
from alignrank.engine.state import progress_of
from alignrank.engine.validate import network_input
from alignrank.errors import InputError, TrainingError

TERMINATED = 143


@dataclass(slots=True)
class Plan:
    """All a training process needs. out: the run's folder. weights: start from this file, if any. resume: the state to
    go on from, if any.
    """

    recipe: Recipe
    train: Split
    val: Split
    out: Path
    device: torch.device
    devices: int = 1
    workers: int = 0
    weights: Path | None = None
    resume: Path | None = None
    command: str = ""


class TrainingModule(L.LightningModule):
    """Network and criterion; optimizer, schedule and data of one run."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan = plan
        self.settings = plan.recipe.train
        # A state holds all weights: the file that a run began with may be gone by now.
        built = (plan.recipe.without_pretrained() if plan.resume else plan.recipe).build()
        self.model: nn.Module = built.model.to(memory_format=torch.channels_last)
        self.criterion = built.criterion
        self.postprocess = built.postprocess
        self._sums: dict[str, Tensor] = {}
        self._batches = 0

    def train_dataloader(self) -> Any:
        plan = self.plan
        # Lightning asks for data before it has restored its own counters.
        epoch, batches = progress_of(plan.resume) if plan.resume else (0, 0)
        images = opened(
            plan.train,
            self.settings.imgsz,
            cache=self.settings.cache,
            processes=plan.devices,
            quiet=self.global_rank > 0,
        )
        dataset = TrainingSet(images, plan.recipe.augment, seed=self.settings.seed, epochs=self.settings.epochs)
        return training_loader(
            dataset,
            int(self.settings.batch),
            workers=plan.workers,
            seed=self.settings.seed,
            rank=self.global_rank,
            ranks=plan.devices,
            epoch=epoch,
            skip=batches,
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
        terms = self.criterion(self.model(batch.images), batch.targets, progress=self.global_step / total)
        if not torch.isfinite(terms.total):
            sources = ", ".join(frame.source for frame in batch.frames)
            raise TrainingError(
                f"the loss is not finite in epoch {self.current_epoch + 1}; lower lr, or look at the images of the "
                f"batch: {sources}; what is in {self.plan.out} is of the last whole epoch"
            )
        for name, value in terms.parts.items():
            self._sums[name] = self._sums.get(name, torch.zeros_like(value)) + value.detach()
        self._batches += 1
        return terms.total

    def _sized(self, batch: Batch) -> Batch:
        """Float images, resized by the run's multi-scale range (a multiple of the stride, from seed and step)."""
        batch = Batch(network_input(batch), batch.targets, batch.frames)
        spread = self.plan.recipe.augment.multi_scale
        if spread == 0:
            return batch
        rng = np.random.default_rng([self.settings.seed, self.global_step])
        side = self.settings.imgsz * rng.uniform(1 - spread, 1 + spread)
        side = max(round(side / SIDE_STEP), 1) * SIDE_STEP
        return batch if side == batch.images.shape[-1] else resize_batch(batch, side)

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


def fit(plan: Plan) -> None:
    """Train as planned; results are in `plan.out`. Raises KeyboardInterrupt when interrupted (state is kept)."""
    from alignrank.engine.keeper import StateKeeper
    from alignrank.engine.record import Recorder

    _quiet()
    settings = plan.recipe.train
    L.seed_everything(settings.seed, verbose=False)
    module = TrainingModule(plan)
    frozen_modules(module.model, settings.freeze)
    if plan.weights is not None and not plan.resume:
        _start_from(module.model, plan.weights)
    averaged, keeper = AveragedWeights(settings.ema_decay), StateKeeper(plan.out)
    trainer = L.Trainer(
        accelerator={"cuda": "gpu"}.get(plan.device.type, plan.device.type),
        devices=[plan.device.index or 0] if plan.device.type == "cuda" and plan.devices == 1 else plan.devices,
        strategy=_strategy(plan),
        precision=choose_precision(settings.precision, plan.device),
        max_epochs=settings.epochs,
        accumulate_grad_batches=settings.accumulate,
        gradient_clip_val=settings.clip_norm or None,
        callbacks=[averaged, Recorder(plan, averaged), keeper],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        sync_batchnorm=plan.devices > 1 and plan.device.type == "cuda",
        default_root_dir=plan.out,
    )
    state = str(plan.resume) if plan.resume else None
    start = time.monotonic()
    try:
        trainer.fit(module, ckpt_path=state, weights_only=True)
    except InputError as error:
        raise _of_worker(error) from None
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        if keeper.received == signal.SIGTERM:  # it reached the workers first
            raise SystemExit(TERMINATED) from None
        raise TrainingError(
            f"a loader process died, for want of memory mostly ({str(error).splitlines()[0]}); fewer --workers need "
            f"less; go on with `alignrank train --resume {plan.out}`"
        ) from None
    except SIGTERMException:
        say(f"terminated; go on with `alignrank train --resume {plan.out}`")
        raise SystemExit(TERMINATED) from None
    except SystemExit:
        # Lightning turns Ctrl-C into exit(1); the command line exits with 130.
        say(f"stopped; go on with `alignrank train --resume {plan.out}`")
        raise KeyboardInterrupt from None
    say(f"trained in {timedelta(seconds=round(time.monotonic() - start))}")


def _of_worker(error: InputError) -> InputError:
    """What a loader process raised comes with that process's traceback around its one sentence."""
    lines = str(error).rstrip().splitlines()
    name = f"{InputError.__module__}.{InputError.__qualname__}: "
    return InputError(lines[-1].removeprefix(name)) if len(lines) > 1 and lines[-1].startswith(name) else error


def _start_from(model: nn.Module, weights: Path) -> None:
    loaded, missing = checkpoint.transfer(model, checkpoint.load(weights).weights)
    say(f"{weights}: loaded {len(loaded)} of {len(loaded) + len(missing)} tensors")
    if missing:
        say(f"not loaded, trained from scratch: {', '.join(missing[:6])}{' ...' if len(missing) > 6 else ''}")


def _strategy(plan: Plan) -> Any:
    if plan.devices == 1:
        return "auto"
    backend = "nccl" if plan.device.type == "cuda" else "gloo"
    return DDPStrategy(start_method="spawn", process_group_backend=backend)


def _quiet() -> None:
    """Lightning's notices speak to its own users; ours get one line an epoch."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    logging.getLogger("lightning.fabric").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning.*")
    warnings.filterwarnings("ignore", message=".*isinstance.treespec.*")
