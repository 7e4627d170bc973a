"""What detection transformers share: configuration, and the network from images to encoded cells and proposals.

Sources: Zhu et al., Deformable DETR, ICLR 2021 (encoder; two stages, section A.4); Jia et al., DETRs with Hybrid
Matching, CVPR 2023, section 4 (mixed selection and look forward twice on top of it).

Shape letters: B images, S cells over all levels, L levels, Q queries, D width, C classes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from alignrank.boxes import at_least_float32, cxcywh_to_xyxy, outside_autocast
from alignrank.config import Config
from alignrank.contracts import Predictions
from alignrank.detectors.class_weights import ClassWeights
from alignrank.detectors.detr_decoder import Decoder, LayerOutput, Queries
from alignrank.detectors.rank_detr import RankConfig, Ranks
from alignrank.detectors.varifocalnet import PRIOR_BIAS, ModelConfig, build_backbone
from alignrank.nn.conv import fold_norms
from alignrank.nn.deformable_attention import DeformableAttention
from alignrank.nn.transformer import MLP, DecoderLayer, EncoderLayer, Levels, checkpointed

NUM_LEVELS = 4
# Fewer in narrow networks: a group of one channel has no variance on a map of one cell.
NORM_GROUPS = 32
# Of all cells: class logits [B,S,C], logits [B,S,4] of boxes (cx,cy,w,h), a mask [B,S] of those that propose nothing.
Proposals = tuple[Tensor, Tensor, Tensor]


class TransformerConfig(Config):
    """Encoder and decoder."""

    width: int = Field(default=256, ge=32, le=8192, multiple_of=32)
    """Channels of cells and queries."""
    heads: int = Field(default=8, ge=1, le=64)
    """Of every attention; must divide the width."""
    points: int = Field(default=4, ge=1, le=64)
    """At which a head looks, of each level."""
    encoder: int = Field(default=6, ge=1, le=24)
    """Encoder layers."""
    decoder: int = Field(default=6, ge=1, le=24)
    """Decoder layers."""
    hidden: int = Field(default=2048, ge=32, le=65_536)
    """Channels between the linear layers of a layer."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """In all layers."""
    look_forward_twice: bool = True
    """A layer's box loss also trains the layer before."""
    checkpointing: bool = False
    """Activations of layers are computed twice instead of kept: less memory, more time."""

    @model_validator(mode="after")
    def _whole_heads(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"heads: must divide the width, {self.width}, got {self.heads}")
        return self


class LossConfig(Config):
    """Weights of the loss terms; `rank.loss` is the kind of the class loss."""

    cls: float = Field(default=2.0, ge=0)
    """Weight of the class loss."""
    l1: float = Field(default=5.0, ge=0)
    """Weight of the L1 distance of boxes, in shares of the picture."""
    giou: float = Field(default=2.0, ge=0)
    """Weight of the GIoU loss."""
    class_weights: ClassWeights = Field(default_factory=list)
    """How often the positives of each class count in the class loss, in the order of classes; []: once."""


class MatchConfig(Config):
    """Weights in the cost of a match."""

    cls: float = Field(default=2.0, ge=0)
    """Of the class score, in the form of the focal loss."""
    l1: float = Field(default=5.0, ge=0)
    """Of the L1 distance of boxes, in shares of the picture."""
    giou: float = Field(default=2.0, ge=0)
    """Of the GIoU."""


class DetrConfig(Config):
    """Sections that all have."""

    num_classes: int = Field(default=80, ge=1, le=100_000)
    """Of the data set; set from its class names when a training begins."""
    model: ModelConfig = ModelConfig()
    """Backbone."""
    transformer: TransformerConfig = TransformerConfig()
    """Encoder and decoder."""
    rank: RankConfig = RankConfig()
    """The parts of Rank-DETR."""
    loss: LossConfig = LossConfig()
    """Weights of the loss terms."""
    match: MatchConfig = MatchConfig()
    """Which query learns which object."""


class Mapper(nn.Module):
    """Maps of strides 8, 16, 32 -> four maps of one width, the last of stride 64."""

    def __init__(self, channels: tuple[int, ...], width: int) -> None:
        super().__init__()
        convs = [nn.Conv2d(c, width, 1) for c in channels] + [nn.Conv2d(channels[-1], width, 3, stride=2, padding=1)]
        for conv in convs:
            assert conv.bias is not None
            nn.init.xavier_uniform_(conv.weight)
            nn.init.zeros_(conv.bias)
        self.convs = nn.ModuleList(convs)
        self.norms = nn.ModuleList(nn.GroupNorm(min(NORM_GROUPS, width // 4), width) for _ in convs)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        return [
            norm(conv(x)) for norm, conv, x in zip(self.norms, self.convs, [*maps, maps[-1]], strict=True)
        ]  # fmt: skip


class Detr(nn.Module, ABC):
    """Backbone, encoder and proposals, and a decoder that subclasses feed. `uses_sizes`: forward takes the pictures'
    sizes in the input; what lies beyond is padding, for backbone, attention and coordinates. `num_queries`: those that
    are in use after training.
    """

    stride = 32
    uses_sizes = True

    def __init__(self, config: DetrConfig, *, num_queries: int, rows: int, from_boxes: bool) -> None:
        """rows: queries of the decoder that have a rank. from_boxes: see Decoder."""
        super().__init__()
        self.num_queries = num_queries
        part, classes = config.transformer, config.num_classes
        backbone = build_backbone(config.model)
        self.backbone: nn.Module = backbone
        self.pads_backbone = config.model.backbone != "csp"
        self.mapper = Mapper(backbone.channels, part.width)
        self.level_embedding = nn.Parameter(torch.empty(NUM_LEVELS, part.width))
        self.encoder = nn.ModuleList(
            EncoderLayer(part.width, _attention(config), part.hidden, part.dropout) for _ in range(part.encoder)
        )
        self.proposal = nn.Sequential(nn.Linear(part.width, part.width), nn.LayerNorm(part.width))
        self.proposal_classes = nn.Linear(part.width, classes)
        self.proposal_boxes = MLP(part.width, part.width, part.width, 4)
        ranks = Ranks(config.rank, layers=part.decoder, rows=rows, width=part.width, num_classes=classes)
        self.decoder = Decoder(
            [
                DecoderLayer(part.width, _attention(config), part.heads, part.hidden, part.dropout)
                for _ in range(part.decoder)
            ],
            num_classes=classes,
            width=part.width,
            ranks=ranks if config.rank.sorts else None,
            from_boxes=from_boxes,
            look_forward_twice=part.look_forward_twice,
        )
        self.checkpointing = self.decoder.checkpointing = part.checkpointing
        self._initialize()

    def _initialize(self) -> None:
        """As the authors begin: Xavier for matrices, zeros for the last layers of boxes, a prior for classes."""
        heads = [self.proposal_classes, *self.decoder.classes]
        kept = {id(p) for head in heads for p in head.parameters()} | {id(p) for p in self.backbone.parameters()}
        kept |= {id(p) for p in self.mapper.parameters()}
        if self.decoder.ranks is not None:
            kept |= {id(p) for p in self.decoder.ranks.biases.parameters()}
        for parameter in self.parameters():
            if parameter.dim() > 1 and id(parameter) not in kept:
                nn.init.xavier_uniform_(parameter)
        for module in self.modules():
            if isinstance(module, DeformableAttention):
                module.initialize()
        for head in heads:
            nn.init.constant_(head.bias, PRIOR_BIAS)
        for boxes in [self.proposal_boxes, *self.decoder.boxes]:
            nn.init.zeros_(boxes[-1].weight)
            nn.init.zeros_(boxes[-1].bias)
        nn.init.normal_(self.level_embedding)

    def encode(self, images: Tensor, sizes: Tensor | None) -> tuple[Tensor, Levels]:
        """Cells [B,S,D] of all levels, and where they are."""
        maps = self.mapper(self.backbone(images, sizes) if self.pads_backbone else self.backbone(images))
        levels = Levels.of(maps, images, sizes)
        cells = torch.cat([x.flatten(2).transpose(1, 2) for x in maps], 1)
        of_level = torch.cat(
            [x.expand(h * w, -1) for x, (h, w) in zip(self.level_embedding, levels.shapes, strict=True)]
        )
        positions = levels.positions(cells.shape[-1]) + of_level
        references = levels.per_level(levels.centres())
        for layer in self.encoder:
            cells = checkpointed(layer, cells, positions, references, levels, wanted=self.checkpointing)
        return cells, levels

    def propose(self, cells: Tensor, levels: Levels) -> Proposals:
        """What every cell proposes."""
        boxes, absent = levels.proposals()
        seen = self.proposal(cells.masked_fill(absent, 0))
        logits = at_least_float32(self.proposal_classes(seen))
        return logits, at_least_float32(self.proposal_boxes(seen)) + boxes, absent.squeeze(-1)

    @abstractmethod
    def queries(self, proposals: Proposals) -> Queries:
        """What the decoder starts from; those in use come first where nothing else was asked for."""

    def layers(self, images: Tensor, sizes: Tensor | None = None) -> list[Predictions]:
        """What every decoder layer says, first to last, of the queries in use."""
        cells, levels = self.encode(images, sizes)
        outputs = self.decoder(self.queries(self.propose(cells, levels)), cells, levels, every=True)
        return layers_in_pixels(outputs, slice(self.num_queries), content(images, sizes))

    def deploy(self) -> Self:
        """In place, for inference only: the static part of query ranks and our own norms folded."""
        if self.decoder.ranks is not None:
            self.decoder.ranks.settle(self.num_queries)
        fold_norms(self)
        return self


def _attention(config: DetrConfig) -> DeformableAttention:
    part = config.transformer
    return DeformableAttention(part.width, heads=part.heads, levels=NUM_LEVELS, points=part.points)


def content(images: Tensor, sizes: Tensor | None) -> Tensor:
    """[B,2] (height, width) px of the pictures in the input: `sizes`, or all of it."""
    if sizes is not None:
        return sizes
    return torch.tensor([images.shape[-2:]], dtype=torch.float32, device=images.device).expand(images.shape[0], -1)


def in_pixels(logits: Tensor, boxes: Tensor, sizes: Tensor) -> Predictions:
    """boxes [B,Q,4] (cx,cy,w,h) in shares of pictures of `sizes` [B,2] (height, width) px."""
    with outside_autocast(boxes):
        scale = sizes.flip(-1).repeat(1, 2)[:, None]
        return Predictions(logits, cxcywh_to_xyxy(at_least_float32(boxes)) * scale, sizes=sizes)


def layers_in_pixels(outputs: list[LayerOutput], chosen: slice, sizes: Tensor) -> list[Predictions]:
    """The `chosen` queries of each layer."""
    return [in_pixels(output.logits[:, chosen], output.boxes[:, chosen], sizes) for output in outputs]


def last_layer(outputs: list[LayerOutput], chosen: slice, sizes: Tensor) -> Predictions:
    """The `chosen` queries of the last layer, with those of the layers before it as auxiliary `layer_0` ..."""
    *before, last = layers_in_pixels(outputs, chosen, sizes)
    last.auxiliary |= {f"layer_{i}": predictions for i, predictions in enumerate(before)}
    return last


def best_cells(scores: Tensor, absent: Tensor, count: int) -> Tensor:
    """scores [B,S], absent [B,S] bool -> indices [B,count] of the best cells, best first.

    Cells that propose nothing come last. An input with fewer cells than queries gives each several.
    """
    scores = scores.detach().masked_fill(absent, torch.finfo(scores.dtype).min)
    cells = scores.shape[1]
    best = scores.topk(min(count, cells), 1).indices
    if cells >= count:
        return best
    return best[:, torch.arange(count, device=scores.device) % cells]
