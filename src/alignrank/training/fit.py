"""Training on Lightning's Trainer: our callbacks, and what each way of ending means."""

from __future__ import annotations

import logging
import signal
import time
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import nn

from alignrank.device import choose_precision
from alignrank.errors import TERMINATED, InputError, TrainingError
from alignrank.terminal.progress import say
from alignrank.training.averaging import AveragedWeights
from alignrank.training.callbacks import Callbacks
from alignrank.training.keeper import StateKeeper
from alignrank.training.loggers import RunLog
from alignrank.training.module import TrainingModule
from alignrank.training.optimizer import frozen_modules
from alignrank.training.plan import Plan
from alignrank.training.recorder import Recorder
from alignrank.weights import checkpoint


def fit(plan: Plan, log: RunLog | None = None) -> str | None:
    """Train as planned; results are in `plan.out`. Raises KeyboardInterrupt when interrupted (state is kept).

    log: where figures go, too; it is still open at the end. Returns which callback ended the run, and why; None where
    none did.
    """
    _quiet()
    settings = plan.recipe.train
    L.seed_everything(settings.seed, verbose=False)
    module = TrainingModule(plan)
    frozen_modules(module.model, settings.freeze)
    if plan.weights is not None and not plan.resume:
        _start_from(module.model, plan.weights)
    averaged, keeper = AveragedWeights(settings.ema_decay), StateKeeper(plan.out)
    recorder = Recorder(plan, averaged, log)
    callbacks = Callbacks(plan, recorder)
    trainer = L.Trainer(
        accelerator={"cuda": "gpu"}.get(plan.device.type, plan.device.type),
        devices=[plan.device.index or 0] if plan.device.type == "cuda" and plan.devices == 1 else plan.devices,
        strategy=_strategy(plan),
        precision=choose_precision(settings.precision, plan.device),
        max_epochs=settings.epochs,
        accumulate_grad_batches=settings.accumulate,
        gradient_clip_val=settings.clip_norm or None,
        callbacks=[averaged, recorder, keeper, callbacks],
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
    except (RuntimeError, ConnectionError, EOFError) as error:
        # A tensor that the process was handing over when it died: its end of the socket is gone.
        handing_over = plan.workers > 0 and not isinstance(error, RuntimeError)
        if not handing_over and "DataLoader worker" not in str(error):
            raise
        if keeper.received == signal.SIGTERM:  # it reached the workers first
            raise SystemExit(TERMINATED) from None
        reason = [*str(error).splitlines(), type(error).__name__][0]
        raise TrainingError(
            f"a loader process died, for want of memory mostly ({reason}); fewer --workers need "
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
    return callbacks.stopped


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
