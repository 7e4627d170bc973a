"""Detectors of transformers as detectors of ours: configuration, and the network around the library's own.

The library computes everything; here its inputs are made from ours, and our Predictions from its outputs. It is
imported when a network is made.

Shape letters: B images, Q queries, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from alignrank.boxes import xyxy_to_cxcywh
from alignrank.config import Config, apply_overrides
from alignrank.contracts import Predictions, Targets
from alignrank.detectors.detr import content, in_pixels
from alignrank.errors import InputError
from alignrank.plug import published, transformers_models
from alignrank.plug.published import Published
from alignrank.plug.ranking import LossConfig, RankConfig, RankingConfig
from alignrank.plug.transformers_models import ARCHITECTURES
from alignrank.plug.transformers_pixels import MEAN, STD, sections_of
from alignrank.terminal.progress import say


class HostConfig(Config):
    """A detector of transformers."""

    architecture: Literal["rt_detr", "rt_detr_v2", "d_fine", "deformable_detr", "rf_detr"] = "rt_detr"
    """As the library calls it."""
    config: dict[str, Any] = Field(default_factory=dict)
    """Fields of the library's own configuration that differ from its defaults; `model.config.NAME=VALUE` sets one."""
    hub: str = ""
    """The published checkpoint's name on the hub."""
    pretrained: str = ""
    """Published weights: `hub` to download them, or a folder with config.json and model.safetensors; empty: random."""
    backbone_weights: str = ""
    """Of a timm backbone in a detector that is random otherwise, a .safetensors file."""
    keep_classes: bool = True
    """Published class heads are kept where there are as many classes; a run sets it by the names of the classes."""
    unnamed: list[int] = Field(default_factory=list)
    """Channels of published class heads that are no class, as COCO's numbers have gaps; set from the checkpoint."""


class TransformersConfig(Config):
    """All sections."""

    num_classes: int = Field(default=80, ge=1, le=100_000)
    """Of the data set; set from its class names when a training begins."""
    model: HostConfig = HostConfig()
    """The library's detector."""
    rank: RankConfig = RankConfig()
    """Rank-DETR's losses in place of the library's."""
    loss: LossConfig = LossConfig()
    """Terms that compare queries, beside the library's."""

    @model_validator(mode="after")
    def _channels_exist(self) -> Self:
        unnamed = self.model.unnamed
        if unnamed != sorted(set(unnamed)) or not set(unnamed) <= set(range(self.num_channels)):
            raise ValueError(f"model.unnamed: must be some of the channels 0 to {self.num_channels - 1}, in order")
        return self

    @model_validator(mode="after")
    def _ranking_goes(self) -> Self:
        if self.model.architecture == "rf_detr" and not self.ranking.is_off:
            raise ValueError("rank, loss: rf_detr trains with the library's loss alone, its queries come in groups")
        return self

    @property
    def ranking(self) -> RankingConfig:
        """Both sections of ranking losses."""
        return RankingConfig(rank=self.rank, loss=self.loss)

    @property
    def num_channels(self) -> int:
        """Of the library's class heads."""
        return self.num_classes + len(self.model.unnamed)

    @property
    def channels(self) -> list[int] | None:
        """Those of the classes, None where that is all of them."""
        unnamed = set(self.model.unnamed)
        return [channel for channel in range(self.num_channels) if channel not in unnamed] if unnamed else None


def of_published(config: TransformersConfig, overrides: Mapping[str, Any]) -> Published:
    """What the files of the checkpoint say that it asks for.

    overrides: `section.field` that somebody has set; those of `model.config` win over the checkpoint. Raises InputError
    where the checkpoint cannot be had, and for one of another architecture.
    """
    part = config.model
    settings = published.settings_of(part.pretrained, part.hub)
    where = published.named(part.pretrained, part.hub)
    found, channels = transformers_models.adopted(part.architecture, settings, where)
    wanted = {key: value for key, value in overrides.items() if key.startswith("model.config")}
    values = apply_overrides({"model": {"config": found}}, wanted, where="model.config")["model"]["config"]
    if not transformers_models.same_network(part.architecture, values, part.config):
        config = config.model_copy(update={"model": part.model_copy(update={"config": values})})
    stride = _stride(part.architecture, transformers_models.library_config(part.architecture, values, len(channels)))
    processor = published.processor_of(part.pretrained, part.hub)
    if processor is None:
        return Published(config, channels)
    return Published(config, channels, sections_of(part.architecture, processor, stride, where))


@dataclass(frozen=True, slots=True)
class Truth:
    """What denoising queries are made of: the objects of every image, and a seed for the noise."""

    targets: Sequence[Targets]
    seed: int


class TransformersHost(nn.Module):
    """images [B,3,H,W] float 0..1, sizes [B,2] -> Predictions of the last decoder layer.

    `raw` in training: what the library's loss is called with, without the truth. `host`: the library's network.
    `runs_without_numbers`: on the meta device, too; all can be made there.
    """

    uses_sizes = True
    backbone_name = "host.model.backbone"
    mean: Tensor
    std: Tensor
    channels: Tensor | None

    def __init__(self, config: TransformersConfig) -> None:
        super().__init__()
        part = config.model
        about = ARCHITECTURES[part.architecture]
        settings = transformers_models.library_config(part.architecture, part.config, config.num_channels)
        self.masked, self.normalised = about.masked, about.normalised
        self.runs_without_numbers = not about.masked  # what is masked is counted
        self.num_queries: int = settings.num_queries
        self.host: Any = transformers_models.library_model(part.architecture, settings)
        self.stride = _stride(part.architecture, settings)
        channels = None if config.channels is None else torch.tensor(config.channels)
        self.register_buffer("channels", channels, persistent=False)
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1), persistent=False)
        if part.pretrained:
            self._load(config)
        elif part.backbone_weights:
            self._load_backbone(part.backbone_weights)
        self.host.loss_function = transformers_models.Recorder(transformers_models.library_loss(part.architecture))

    def denoising_queries(self, targets: Sequence[Targets], sizes: Tensor, generator: torch.Generator) -> Truth:
        """What `forward` takes as `denoising`; the library makes queries of it where it learns from such."""
        return Truth(targets, int(torch.randint(2**62, (), generator=generator)))

    def forward(self, images: Tensor, sizes: Tensor | None = None, *, denoising: Truth | None = None) -> Predictions:
        shares = content(images, sizes if self.masked else None)
        inputs = self._inputs(images, sizes)
        if not self.training:
            with transformers_models.traceable(self.host):
                said = self.host(**inputs)
            return in_pixels(self._of_classes(said.logits), said.pred_boxes, shares)
        targets = [Targets.empty()] * len(images) if denoising is None else denoising.targets
        with _drawn(denoising, images.device), transformers_models.traceable(self.host):
            raw = self.host(**inputs, labels=labels_of(targets, shares, self.channels)).loss
        raw["logits"] = self._touched(raw["logits"])
        chosen = self._last_queries(raw)
        logits = self._of_classes(raw["logits"][:, chosen])
        predictions = in_pixels(logits, raw["pred_boxes"][:, chosen], shares)
        predictions.raw = raw
        return predictions

    def _of_classes(self, logits: Tensor) -> Tensor:
        return logits if self.channels is None else logits.index_select(-1, self.channels)

    def _inputs(self, images: Tensor, sizes: Tensor | None) -> dict[str, Tensor]:
        x = (images - self.mean) / self.std if self.normalised else images
        if sizes is None or not self.masked:
            return {"pixel_values": x}
        rows = torch.arange(x.shape[-2], device=x.device) < sizes[:, :1]
        columns = torch.arange(x.shape[-1], device=x.device) < sizes[:, 1:]
        inside = rows[:, :, None] & columns[:, None, :]
        return {"pixel_values": torch.where(inside[:, None], x, 0.0), "pixel_mask": inside.long()}

    def _touched(self, logits: Tensor) -> Tensor:
        """A batch without objects has no denoising queries: their embedding must get a gradient all the same."""
        embedding = getattr(self.host.model, "denoising_class_embed", None)
        return logits if embedding is None else logits + 0 * embedding.weight.sum()

    def _last_queries(self, raw: Mapping[str, Any]) -> slice:
        """Those that are in use after training: denoising queries come before them, further groups after them."""
        about = raw.get("denoising_meta_values")
        start = 0 if about is None else about["dn_num_split"][0]
        return slice(start, start + self.num_queries)

    def _load(self, config: TransformersConfig) -> None:
        part = config.model
        folder = published.folder_of(part.pretrained, part.hub)
        weights = transformers_models.published_weights(part.architecture, folder)
        own = self.host.state_dict()
        of_classes = _class_tensors(config, own)
        kept = {
            name: weights[name]
            for name, tensor in own.items()
            if name in weights and weights[name].shape == tensor.shape and (part.keep_classes or name not in of_classes)
        }
        left = [name for name in own if name not in kept]
        if strange := [name for name in left if name not in of_classes]:
            raise InputError(
                f"model.pretrained: {folder} does not fit model.config: {len(strange)} tensors are missing or have "
                f"another shape (first: {strange[0]})"
            )
        self.host.load_state_dict(kept, strict=False)
        now = self.host.state_dict()
        if changed := [name for name, tensor in kept.items() if not torch.equal(now[name], tensor)]:
            raise InputError(f"model.pretrained: {folder}: {changed[0]} differs between layers that share it")
        where = published.named(part.pretrained, part.hub)
        if part.unnamed:
            say(f"{where}: {len(part.unnamed)} of its {config.num_channels} channels are no class, and never detected")
        if left:
            say(f"{where}: of other classes; not kept: {', '.join(left[:6])}"
                f"{f' and {len(left) - 6} more' if len(left) > 6 else ''}")  # fmt: skip

    def _load_backbone(self, path: str) -> None:
        from alignrank.nn.backbone import load_weights

        body = self.host.model.backbone.model
        load_weights(getattr(body, "_backbone", body), "its backbone", Path(path))


def _class_tensors(config: TransformersConfig, own: Mapping[str, Tensor]) -> set[str]:
    """Names of the tensors whose shapes are of the number of classes."""
    part = config.model
    settings = transformers_models.library_config(part.architecture, part.config, config.num_channels + 1)
    with torch.device("meta"):
        other = transformers_models.library_model(part.architecture, settings).state_dict()
    return {name for name, tensor in own.items() if other[name].shape != tensor.shape}


def labels_of(targets: Sequence[Targets], shares: Tensor, channels: Tensor | None = None) -> list[dict[str, Tensor]]:
    """The truth as the library takes it: boxes (cx,cy,w,h) in shares of `shares` [B,2] (height, width) px; labels are
    `channels` [C] of class heads, where these have others, too.
    """
    scales = shares.flip(-1).repeat(1, 2)
    return [
        {
            "class_labels": _at(channels, target.labels.to(shares.device)),
            "boxes": xyxy_to_cxcywh(target.boxes.to(scale)) / scale,
        }
        for target, scale in zip(targets, scales, strict=True)
    ]


def _at(channels: Tensor | None, labels: Tensor) -> Tensor:
    return labels if channels is None else channels.to(labels.device)[labels]


def _stride(architecture: str, settings: Any) -> int:
    """Of which sides must be multiples: windows of patches in a transformer, the coarsest map else; 1 where padding is
    masked, since the library does not pad a picture that is alone, and masked padding is seen at its edge.
    """
    if ARCHITECTURES[architecture].masked:
        return 1
    backbone = settings.backbone_config
    windows = getattr(backbone, "num_windows", None)
    return 32 if windows is None else int(backbone.patch_size) * int(windows)


@contextmanager
def _drawn(truth: Truth | None, device: torch.device) -> Iterator[None]:
    """The library draws from the global generator: here from the seed, and nobody else's numbers change."""
    if truth is None:
        yield
        return
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(truth.seed)
        yield
