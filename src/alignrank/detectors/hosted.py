"""What detectors of other libraries share as detectors of ours: options, published weights, truth and noise.

Shape letters: B images, C classes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from alignrank.config import Config
from alignrank.contracts import Targets
from alignrank.errors import InputError
from alignrank.terminal.progress import say

# What only begins a training's averages, and not every checkpoint has.
_COUNTS = "num_batches_tracked"


class PublishedPart(Config):
    """Options of a detector of another library: where its weights come from."""

    hub: str = ""
    """The published checkpoint's name on the hub."""
    pretrained: str = ""
    """Published weights: `hub` to download them, or those of a folder; empty: random."""
    backbone_weights: str = ""
    """Of a timm backbone in a detector that is random otherwise, a .safetensors file."""
    keep_classes: bool = True
    """Published class heads are kept where there are as many classes; a run sets it by the names of the classes."""
    unnamed: list[int] = Field(default_factory=list)
    """Channels of published class heads that are no class, as COCO's numbers have gaps; set from the checkpoint."""


class HostedConfig(Config):
    """Classes of a detector of another library, and channels of its class heads."""

    num_classes: int = Field(default=80, ge=1, le=100_000)
    """Of the data set; set from its class names when a training begins."""
    model: Any = PublishedPart()
    """The library's detector."""

    @model_validator(mode="after")
    def _channels_exist(self) -> Self:
        unnamed = self.model.unnamed
        if unnamed != sorted(set(unnamed)) or not set(unnamed) <= set(range(self.num_channels)):
            raise ValueError(f"model.unnamed: must be some of the channels 0 to {self.num_channels - 1}, in order")
        return self

    @property
    def num_channels(self) -> int:
        """Of the library's class heads."""
        return self.num_classes + len(self.model.unnamed)

    @property
    def channels(self) -> list[int] | None:
        """Those of the classes, None where that is all of them."""
        unnamed = set(self.model.unnamed)
        return [channel for channel in range(self.num_channels) if channel not in unnamed] if unnamed else None


@dataclass(frozen=True, slots=True)
class Truth:
    """What a network gets in training beside pictures: the objects of every image, and a seed for what it draws."""

    targets: Sequence[Targets]
    seed: int


@contextmanager
def drawn(seed: int | None, device: torch.device) -> Iterator[None]:
    """The library draws from the global generator: here from the seed, and nobody else's numbers change."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def channels_of(channels: Tensor | None, labels: Tensor) -> Tensor:
    """Labels as `channels` [C] of class heads, where these have others, too."""
    return labels if channels is None else channels.to(labels.device)[labels]


def of_other_shapes(own: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> set[str]:
    """Names of the tensors whose shapes differ: of two numbers of classes, those of class heads."""
    return {name for name, tensor in own.items() if other[name].shape != tensor.shape}


def load_published(
    network: nn.Module,
    weights: Mapping[str, Tensor],
    of_classes: Collection[str],
    config: HostedConfig,
    called: tuple[str, str],
) -> None:
    """Load what fits of published weights, and say what was not kept.

    of_classes: names of the tensors of class heads. called: what the weights are called in errors, and in messages.
    Raises InputError where anything but class heads does not fit.
    """
    file, where = called
    part, own = config.model, network.state_dict()
    kept = {
        name: weights[name]
        for name, tensor in own.items()
        if name in weights and weights[name].shape == tensor.shape and (part.keep_classes or name not in of_classes)
    }
    left = [name for name in own if name not in kept and not name.endswith(_COUNTS)]
    if strange := [name for name in left if name not in of_classes]:
        raise InputError(
            f"model.pretrained: {file} does not fit model.config: {len(strange)} tensors are missing or have "
            f"another shape (first: {strange[0]})"
        )
    network.load_state_dict(kept, strict=False)
    now = network.state_dict()
    if changed := [name for name, tensor in kept.items() if not torch.equal(now[name], tensor)]:
        raise InputError(f"model.pretrained: {file}: {changed[0]} differs between layers that share it")
    if part.unnamed:
        say(f"{where}: {len(part.unnamed)} of its {config.num_channels} channels are no class, and never detected")
    if left:
        say(f"{where}: of other classes; not kept: {', '.join(left[:6])}"
            f"{f' and {len(left) - 6} more' if len(left) > 6 else ''}")  # fmt: skip
