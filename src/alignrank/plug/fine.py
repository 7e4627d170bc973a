"""`add_fine` and `remove_fine`: FINE into another library's detector, and out again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar, get_args

import torch
from torch import Tensor, nn

from alignrank.errors import InputError, nearest
from alignrank.nn.fine import FINE, Attention, Modulation, Pooling, Variant, modulation_of
from alignrank.plug.modulated import HOSTS, Modulated, host_of, release

Model = TypeVar("Model", bound=nn.Module)


def add_fine(
    model: Model,
    *,
    variant: Variant = "paper",
    pooling: Pooling = "avg",
    attention: Attention = "aats",
    modulation: Modulation | None = None,
    head_dim: int = 16,
    zero_init: bool = False,
    ratio: int = 2,
    pools: Sequence[int] = (1, 2),
) -> Model:
    """The same model, its pyramid's two coarsest fusions (strides 32 and 16, 16 and 8) modulated by FINE.

    model: a torchvision detector with a FeaturePyramidNetwork, or such a network; RT-DETR, RT-DETRv2 or D-FINE of
    transformers, or their hybrid encoder (`HOSTS`). Every one in it gets FINE, in its device, type and mode. The
    host's weights and their names stay; new ones have `.fine.` in theirs. Do it before an optimizer takes the
    parameters and before the model is compiled or distributed.
    zero_init: the outputs stay what they are, bit for bit, until it is trained: for trained hosts.
    ratio, pools: pooling of the finer map over that of the coarser one; that of the coarser one, at the first fusion
    and at the second. The rest is as in `alignrank.nn.fine.FINE`.

    Raises InputError for a model without such a part, for one that has FINE, and for unknown options.
    Source: Lee, Lee & Kang, Context-Guided Semantic Alignment for Feature Fusion Networks.
    """
    if _fine_in(model):
        raise InputError(f"{type(model).__name__} has FINE already; alignrank.plug.remove_fine takes it out")
    _choice("variant", variant, Variant)
    _choice("pooling", pooling, Pooling)
    _choice("attention", attention, Attention)
    if modulation is not None:
        _choice("modulation", modulation, Modulation)
    if not isinstance(pools, (tuple, list)) or len(pools) != 2:
        raise InputError(f"pools must be two numbers, for the first fusion and the second, not {pools!r}")
    for name, value in (("head_dim", head_dim), ("ratio", ratio), ("pools", pools[0]), ("pools", pools[1])):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"{name} must be a whole number of at least 1, not {value!r}")
    if zero_init and modulation_of(variant, modulation) == "direct":
        raise InputError("zero_init needs modulation='residual' or 'none': a direct product would be 0")

    def make(like: Tensor, fusion: int) -> FINE:
        with torch.device(like.device):
            return FINE(like.shape[0], pools[fusion], **options).to(like.dtype)

    options: dict[str, Any] = {
        "ratio": ratio,
        "head_dim": head_dim,
        "variant": variant,
        "pooling": pooling,
        "attention": attention,
        "modulation": modulation,
        "zero_init": zero_init,
    }
    changes = [
        change
        for module in model.modules()
        if (host := host_of(module)) is not None
        for change in host.plan(module, make)
    ]
    if not changes:
        raise InputError(f"{type(model).__name__} has no place for FINE; {_known()}")
    for change in changes:  # after all of them were made: a fault leaves the model as it is
        change.make()
    return model


def remove_fine(model: Model) -> Model:
    """The same model as it was before `add_fine`: its classes, the names in its state dict, and, if it was not trained
    since, its outputs.

    Raises InputError for a model without FINE.
    """
    parts = _fine_in(model)
    if not parts:
        raise InputError(f"{type(model).__name__} has no FINE of alignrank.plug.add_fine to remove")
    for part in parts:
        release(part)
    return model


def _fine_in(model: nn.Module) -> list[Modulated]:
    """Parts of the model that have it."""
    if not isinstance(model, nn.Module):
        raise InputError(f"model must be a torch.nn.Module, not {type(model).__name__}; {_known()}")
    return [module for module in model.modules() if isinstance(module, Modulated)]


def _choice(name: str, value: str, kind: Any) -> None:
    if value not in get_args(kind):
        raise InputError(f"{name}={value!r} is unknown; {nearest(value, get_args(kind))}")


def _known() -> str:
    """What can be given."""
    hosts = "; ".join(f"{host.models} ({path.rpartition('.')[2]} of {host.file})" for path, host in HOSTS.items())
    return f"hosts are: {hosts}. Recipes of AlignRank itself have the option neck.fine=true"
