"""Detectors of transformers as detectors of ours: configuration, and the network around the library's own.

The library computes everything; here its inputs are made from ours, and our Predictions from its outputs. It is
imported when a network is made.

Shape letters: B images, Q queries, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from alignrank.boxes import xyxy_to_cxcywh
from alignrank.config import apply_overrides
from alignrank.contracts import Predictions, Targets
from alignrank.detectors.detr import content, in_pixels
from alignrank.detectors.hosted import (
    HostedConfig,
    PublishedPart,
    Truth,
    channels_of,
    drawn,
    load_published,
    of_other_shapes,
)
from alignrank.nn.backbone import inside_of
from alignrank.plug import published, transformers_models
from alignrank.plug.published import Published
from alignrank.plug.ranking import LossConfig, RankConfig, RankingConfig
from alignrank.plug.transformers_models import ARCHITECTURES
from alignrank.plug.transformers_pixels import MEAN, STD, sections_of


class HostConfig(PublishedPart):
    """A detector of transformers."""

    architecture: Literal["rt_detr", "rt_detr_v2", "d_fine", "deformable_detr", "rf_detr"] = "rt_detr"
    """As the library calls it."""
    config: dict[str, Any] = Field(default_factory=dict)
    """Fields of the library's own configuration that differ from its defaults; `model.config.NAME=VALUE` sets one."""
    pretrained: str = ""
    """Published weights: `hub` to download them, or a folder with config.json and model.safetensors; empty: random."""


class TransformersConfig(HostedConfig):
    """All sections."""

    model: HostConfig = HostConfig()
    """The library's detector."""
    rank: RankConfig = RankConfig()
    """Rank-DETR's losses in place of the library's."""
    loss: LossConfig = LossConfig()
    """Terms that compare queries, beside the library's."""

    @model_validator(mode="after")
    def _ranking_goes(self) -> Self:
        if self.model.architecture == "rf_detr" and not self.ranking.is_off:
            raise ValueError("rank, loss: rf_detr trains with the library's loss alone, its queries come in groups")
        return self

    @property
    def ranking(self) -> RankingConfig:
        """Both sections of ranking losses."""
        return RankingConfig(rank=self.rank, loss=self.loss)


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
        seed = None if denoising is None else denoising.seed
        with drawn(seed, images.device), transformers_models.traceable(self.host):
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
        inside = inside_of(x, sizes)
        return {"pixel_values": torch.where(inside, x, 0.0), "pixel_mask": inside[:, 0].long()}

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
        of_classes = _class_tensors(config, self.host.state_dict())
        load_published(
            self.host, weights, of_classes, config, (str(folder), published.named(part.pretrained, part.hub))
        )

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
    return of_other_shapes(own, other)


def labels_of(targets: Sequence[Targets], shares: Tensor, channels: Tensor | None = None) -> list[dict[str, Tensor]]:
    """The truth as the library takes it: boxes (cx,cy,w,h) in shares of `shares` [B,2] (height, width) px; labels are
    `channels` [C] of class heads, where these have others, too.
    """
    scales = shares.flip(-1).repeat(1, 2)
    return [
        {
            "class_labels": channels_of(channels, target.labels.to(shares.device)),
            "boxes": xyxy_to_cxcywh(target.boxes.to(scale)) / scale,
        }
        for target, scale in zip(targets, scales, strict=True)
    ]


def _stride(architecture: str, settings: Any) -> int:
    """Of which sides must be multiples: windows of patches in a transformer, the coarsest map else; 1 where padding is
    masked, since the library does not pad a picture that is alone, and masked padding is seen at its edge.
    """
    if ARCHITECTURES[architecture].masked:
        return 1
    backbone = settings.backbone_config
    windows = getattr(backbone, "num_windows", None)
    return 32 if windows is None else int(backbone.patch_size) * int(windows)
