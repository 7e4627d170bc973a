"""How a part of another library's model takes FINE in: which classes can, and what they become.

An instance's class is replaced by a subclass of it, with FINE under the attribute `fine`. The names of the host's own
weights stay; copies, pickles and state dicts work as those of any module. Each library has a file beside this one.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from alignrank.nn.fine import FINE

# (like, number of the fusion, counted from the coarsest map) -> FINE for it.
Make = Callable[[Tensor, int], FINE]


class Modulated:
    """What a part of a host has become; a base beside the part's own class."""

    plain: ClassVar[type[nn.Module]]


@dataclass(frozen=True)
class Change:
    """A part of a host, an instance of `becomes.plain`, and the FINE that it gets. Nothing has changed so far."""

    part: Any
    becomes: type[Modulated]
    fine: nn.Module

    def make(self) -> None:
        """The part has FINE, which is in training if the part is."""
        self.part.fine = self.fine.train(self.part.training)
        self.part.__class__ = self.becomes


def release(part: Any) -> None:
    """A `Modulated` part is an instance of its host's class again, without FINE."""
    del part.fine
    part.__class__ = part.plain


@dataclass(frozen=True)
class Host:
    """A class that joins levels of a pyramid: the file that knows how, and models that are built with it."""

    file: str
    models: str

    def plan(self, module: nn.Module, make: Make) -> list[Change]:
        """The changes that give `module`, an instance of the host's class, FINE."""
        changes: list[Change] = importlib.import_module(f"alignrank.plug.{self.file}").plan(module, make)
        return changes


# Classes by full name, so that nobody's library is imported to look for it.
HOSTS = {
    "torchvision.ops.feature_pyramid_network.FeaturePyramidNetwork": Host(
        "torchvision", "Faster R-CNN, Mask R-CNN, Keypoint R-CNN, RetinaNet, FCOS with FPN"
    ),
    "transformers.models.rt_detr.modeling_rt_detr.RTDetrHybridEncoder": Host("transformers", "RT-DETR"),
    "transformers.models.rt_detr_v2.modeling_rt_detr_v2.RTDetrV2HybridEncoder": Host("transformers", "RT-DETRv2"),
    "transformers.models.d_fine.modeling_d_fine.DFineHybridEncoder": Host("transformers", "D-FINE"),
}


def host_of(module: nn.Module) -> Host | None:
    """A subclass is no host: its forward, which FINE's would replace, may be another."""
    kind = type(module)
    return HOSTS.get(f"{kind.__module__}.{kind.__qualname__}")
