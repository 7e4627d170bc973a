"""Learning-rate schedule, parameter groups, and parts that do not learn."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from torch import nn

from alignrank.errors import InputError
from alignrank.weights.settings import TrainConfig

STEP = 0.1
NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)


def schedule(settings: TrainConfig, total: int) -> Callable[[int], float]:
    """Step -> factor of the learning rate: linear warm-up, then what `settings.schedule` says."""
    warmup = min(settings.warmup_epochs * total / settings.epochs, total / 2)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        if settings.schedule == "step":
            return STEP ** sum(step >= total * epoch / settings.epochs for epoch in settings.milestones)
        done = (step - warmup) / max(total - warmup, 1)
        shapes = {"linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2, "constant": 1.0}
        remaining = shapes[settings.schedule]
        return settings.final_lr + (1 - settings.final_lr) * remaining

    return factor


def parameter_groups(model: nn.Module, settings: TrainConfig) -> list[dict[str, Any]]:
    """Weights decay; norms and biases do not. A timm backbone, or what the network calls `backbone_name`, learns at
    `backbone_lr` of the rate, a bias that is not a norm's at `bias_lr` times the rate, and a module with a number
    `lr_factor` at that part of it.
    """
    for module in frozen_modules(model, settings.freeze):
        module.requires_grad_(False)
    factors = {name: module.lr_factor for name, module in model.named_modules() if hasattr(module, "lr_factor")}
    backbone = getattr(model, "backbone_name", "backbone.body")
    norms = {name for name, module in model.named_modules() if isinstance(module, NORMS)}
    groups: dict[tuple[float, bool], list[nn.Parameter]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            factor = settings.backbone_lr if name.startswith(backbone) else 1.0
            owner, _, kind = name.rpartition(".")
            factor *= factors.get(owner, 1.0)
            factor *= settings.bias_lr if kind == "bias" and owner not in norms else 1.0
            groups[factor, parameter.ndim > 1].append(parameter)
    return [
        {
            "params": parameters,
            "weight_decay": settings.weight_decay if decays else 0.0,
            "lr": settings.lr * factor,
        }
        for (factor, decays), parameters in groups.items()
    ]


def frozen_modules(model: nn.Module, names: list[str]) -> list[nn.Module]:
    """The modules called `names`. Raises InputError for a name the model does not have."""
    modules = dict(model.named_modules())
    for name in names:
        if name not in modules:
            children = ", ".join(child for child, _ in model.named_children())
            raise InputError(f"train.freeze: the model has no part {name!r}; its parts are {children}")
    return [modules[name] for name in names]
