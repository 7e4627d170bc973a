"""Detectors of torchvision as detectors of ours: configuration, and the network around the library's own.

The library computes maps, heads, anchors and boxes; here its inputs are made from ours, and our Predictions from its
outputs. It is imported when a network is made.

Shape letters: B images, A anchors over all levels, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from alignrank.contracts import Predictions, Targets
from alignrank.detectors.hosted import HostedConfig, PublishedPart, Truth, load_published, of_other_shapes
from alignrank.detectors.postprocess import NmsConfig
from alignrank.detectors.torchvision_stages import Inputs, dense, truth_of, two_stages
from alignrank.errors import InputError
from alignrank.nn.backbone import inside_of, load_weights
from alignrank.plug import torchvision_models
from alignrank.plug.published import HUB, Published
from alignrank.plug.ranking import DenseLossConfig
from alignrank.plug.torchvision_models import ARCHITECTURES, RESNET, Form
from alignrank.plug.torchvision_weights import weights_of

NO_EXPORT = (
    "a detector with two stages cannot be written as ONNX of any batch: its second stage looks at as many proposals as "
    "suppression leaves; predict and val run it, and torchvision exports its own object for one picture"
)


class TorchvisionPart(PublishedPart):
    """A detector of torchvision."""

    architecture: Literal["fcos_resnet50_fpn", "retinanet_resnet50_fpn_v2", "fasterrcnn_resnet50_fpn_v2"] = (
        "fcos_resnet50_fpn"
    )
    """The library's function that makes it."""
    backbone: str = RESNET
    """`resnet50`, the library's own, or `timm:NAME`."""
    width: int = Field(default=256, ge=32, le=8192, multiple_of=32)
    """Channels of the pyramid, and of the head."""
    norm: Literal["learn", "frozen"] = "learn"
    """The backbone's batch norms `learn`, or stay as they are (`frozen`); set from the checkpoint."""
    config: dict[str, Any] = Field(default_factory=dict)
    """Arguments of the library's class that differ from its defaults; `model.config.NAME=VALUE` sets one."""
    hub: str = ""
    """Address of the published weights, a file of PyTorch whose name tells its checksum."""
    pretrained: str = ""
    """Published weights: `hub` to download them, or the library's state dict as .safetensors, or a folder with it."""
    backbone_weights: str = ""
    """Of the backbone in a detector that is random otherwise, a .safetensors file."""

    @property
    def form(self) -> Form:
        """What the network is made of."""
        return Form(self.architecture, self.backbone, self.width, self.norm, self.config)


class TorchvisionConfig(HostedConfig):
    """All sections."""

    model: TorchvisionPart = TorchvisionPart()
    """The library's detector."""
    loss: DenseLossConfig = DenseLossConfig()
    """Ranking losses in place of the library's class loss, and beside its terms; not with two stages."""
    postprocess: NmsConfig = NmsConfig()
    """Selection of detections."""

    @model_validator(mode="after")
    def _ranking_goes(self) -> Self:
        if ARCHITECTURES[self.model.architecture].two_stages and not self.loss.is_off:
            raise ValueError(
                f"loss: {self.model.architecture} trains with the library's losses alone, the scores of its second "
                "stage come from a softmax over samples"
            )
        return self

    @property
    def library_channels(self) -> list[int]:
        """Of the classes, as the library counts them: where there is a background, it is channel 0."""
        first = int(ARCHITECTURES[self.model.architecture].two_stages)
        return [channel + first for channel in self.channels or range(self.num_channels)]


def of_published(config: TorchvisionConfig, overrides: Mapping[str, Any]) -> Published:
    """What the weights say that it asks for: their classes, and whether the backbone's norms are frozen.

    overrides: `section.field` that somebody has set, which win. Raises InputError where they cannot be had, and for
    those of another architecture. Weights with as many channels as the published ones have their names.
    """
    part, about = config.model, ARCHITECTURES[config.model.architecture]
    weights = weights_of(part.pretrained, part.hub)
    if about.classes not in weights or len(weights[about.classes]) % about.anchors:
        raise InputError(
            f"model.pretrained: {called(part)} is no {part.architecture}: {about.classes} is missing or has another "
            "shape"
        )
    count = len(weights[about.classes]) // about.anchors
    names = torchvision_models.categories(part.architecture)
    names = names if len(names) == count else tuple(f"LABEL_{channel}" for channel in range(count))
    found: dict[str, Any] = {"keep_classes": True}
    if "model.norm" not in overrides:
        found["norm"] = "learn" if any(name.endswith("num_batches_tracked") for name in weights) else "frozen"
    config = config.model_copy(update={"model": part.model_copy(update=found)})
    return Published(config, names[about.two_stages :])


def called(part: TorchvisionPart) -> str:
    """How published weights are called in messages."""
    return part.hub if part.pretrained == HUB else part.pretrained


class TorchvisionHost(nn.Module):
    """images [B,3,H,W] float 0..1, sizes [B,2] -> Predictions.

    Boxes end at the picture's edge, as the library's detections do. `raw`: what the library's matching and losses are
    called with, without the truth. `host`: the library's network.
    """

    uses_sizes = True
    stride = 32
    backbone_name = "host.backbone.body"
    mean: Tensor
    std: Tensor
    channels: Tensor

    def __init__(self, config: TorchvisionConfig) -> None:
        super().__init__()
        part = config.model
        self.host: Any = torchvision_models.library_model(part.form, config.num_channels)
        self.two_stages = ARCHITECTURES[part.architecture].two_stages
        self.no_export = NO_EXPORT if self.two_stages else None
        transform = self.host.transform
        self.register_buffer("channels", torch.tensor(config.library_channels), persistent=False)
        self.register_buffer("mean", torch.tensor(transform.image_mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(transform.image_std).view(1, 3, 1, 1), persistent=False)
        if part.pretrained:
            self._load(config)
        else:
            self._begin(part)

    def denoising_queries(self, targets: Sequence[Targets], sizes: Tensor, generator: torch.Generator) -> Truth:
        """What `forward` takes as `denoising`: objects among which two-stage detectors sample proposals."""
        return Truth(targets, int(torch.randint(2**62, (), generator=generator)))

    def forward(self, images: Tensor, sizes: Tensor | None = None, *, denoising: Truth | None = None) -> Predictions:
        x = (images - self.mean) / self.std
        if sizes is not None:
            x = torch.where(inside_of(x, sizes), x, 0.0)
        maps = self.host.backbone(x)
        inputs = Inputs(x, maps, sizes)
        if not self.two_stages:
            return dense(self.host, inputs, self.channels)
        truth = None if denoising is None else truth_of(denoising.targets, x, self.channels)
        return two_stages(self.host, inputs, self.channels, truth, 0 if denoising is None else denoising.seed)

    def _begin(self, part: TorchvisionPart) -> None:
        """Random weights, but for the backbone's where a file has them."""
        if part.architecture == "fcos_resnet50_fpn":
            # Its distances end in a ReLU and begin around 0: a side that falls below it first never learns again, and
            # whole trainings end without boxes. FCOS itself has exp(0) = 1 stride there.
            nn.init.ones_(self.host.head.regression_head.bbox_reg.bias)
        if part.backbone_weights:
            load_weights(self.host.backbone.body, "its backbone", Path(part.backbone_weights))

    def _load(self, config: TorchvisionConfig) -> None:
        part = config.model
        with torch.device("meta"):
            other = torchvision_models.library_model(part.form, config.num_channels + 1).state_dict()
        of_classes = of_other_shapes(self.host.state_dict(), other)
        load_published(
            self.host, weights_of(part.pretrained, part.hub), of_classes, config, (called(part), called(part))
        )
