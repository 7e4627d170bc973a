"""What a training process is sent: plain data, all heavy things are built from it in the process itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from alignrank.data.samples import Split
from alignrank.weights.recipe import Recipe


@dataclass(slots=True)
class Plan:
    """All a training process needs. out: the run's folder. weights: start from this file, if any. resume: the state to
    go on from, if any. threads: PyTorch's in each of several processes; None: as it is, or as Lightning chooses.
    callbacks: of one process only, see `callbacks.EpochCallback`.
    """

    recipe: Recipe
    train: Split
    val: Split
    out: Path
    device: torch.device
    devices: int = 1
    workers: int = 0
    threads: int | None = None
    weights: Path | None = None
    resume: Path | None = None
    command: str = ""
    callbacks: tuple[Any, ...] = ()
