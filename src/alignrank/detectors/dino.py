"""DINO: Deformable DETR whose queries' positions are made of their boxes, trained to denoise the ground truth as well.

Source: Zhang et al., DINO, ICLR 2023: section 3.3 (contrastive denoising), 3.4 (mixed query selection), 3.5 (look
forward twice). The switches of `rank` make it Rank-DETR's form of DINO, for which there is no public code: matching
queries are sorted, denoising ones stay in place and have no rank.

Shape letters: B images, S cells over all levels, Q queries, N denoising queries, D width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor, nn

from alignrank.config import Config
from alignrank.contracts import Predictions, Targets
from alignrank.detectors.denoising import Denoising, DenoisingConfig, noised
from alignrank.detectors.detr import Detr, DetrConfig, LossConfig, Proposals, best_cells, content, in_pixels, last_layer
from alignrank.detectors.detr_decoder import Queries
from alignrank.detectors.rank_detr import Groups, by_order
from alignrank.nn.transformer import Sight


class DinoQueriesConfig(Config):
    """How many boxes are looked for."""

    one_to_one: int = Field(default=900, ge=1, le=10_000)
    """Queries."""


class DinoLossConfig(LossConfig):
    """Weights of the loss terms; `rank.loss` is the kind of the class loss."""

    cls: float = Field(default=1.0, ge=0)
    """Weight of the class loss."""
    denoising: float = Field(default=1.0, ge=0)
    """Weight of the losses of denoising queries."""
    rank_denoising: bool = False
    """Their class loss is that of `rank.loss`, too, instead of the focal loss."""


class DinoConfig(DetrConfig):
    """All sections."""

    queries: DinoQueriesConfig = DinoQueriesConfig()
    """How many boxes are looked for."""
    denoising: DenoisingConfig = DenoisingConfig()
    """Queries of training that are made of the ground truth."""
    loss: DinoLossConfig = DinoLossConfig()
    """Weights of the loss terms."""

    @property
    def proposal_classes(self) -> int:
        """Classes that proposals tell apart."""
        return self.num_classes


class Dino(Detr):
    """images [B,3,H,W] float 0..1, sizes [B,2] -> Predictions of the matching queries.

    Auxiliary in training: `layer_0` ..., `proposals`, and `denoising` with layers of its own where that was given.
    """

    def __init__(self, config: DinoConfig) -> None:
        count = config.queries.one_to_one
        super().__init__(config, num_queries=count, rows=count, from_boxes=True)
        self.num_classes, self.noise = config.num_classes, config.denoising
        self.embedding = nn.Parameter(torch.randn(count, config.transformer.width))
        self.labels = nn.Parameter(torch.randn(config.num_classes, config.transformer.width))

    def denoising_queries(
        self, targets: Sequence[Targets], sizes: Tensor, generator: torch.Generator
    ) -> Denoising | None:
        """What `forward` takes as `denoising`, from the ground truth of pictures of `sizes` [B,2]."""
        return noised(targets, sizes, self.num_classes, self.noise, generator)

    def forward(
        self, images: Tensor, sizes: Tensor | None = None, *, denoising: Denoising | None = None
    ) -> Predictions:
        cells, levels = self.encode(images, sizes)
        proposals = self.propose(cells, levels)
        outputs = self.decoder(self.queries(proposals, denoising), cells, levels, every=self.training)
        sizes = content(images, sizes)
        fixed = 0 if denoising is None else denoising.labels.shape[1]
        predictions = last_layer(outputs, slice(fixed, None), sizes)
        if self.training:
            predictions.auxiliary["proposals"] = in_pixels(proposals[0], proposals[1].sigmoid(), sizes)
            if fixed:
                predictions.auxiliary["denoising"] = last_layer(outputs, slice(fixed), sizes)
        return predictions

    def queries(self, proposals: Proposals, denoising: Denoising | None = None) -> Queries:
        """The denoising queries, if any, then the matching ones."""
        logits, boxes, absent = proposals
        chosen = by_order(boxes, best_cells(logits.amax(-1), absent, self.num_queries)).detach().sigmoid()
        embedded = self.embedding.expand(chosen.shape[0], -1, -1)
        # A batch without objects has no denoising queries: every parameter must get a gradient all the same.
        embedded = embedded + 0 * self.labels.sum() if self.training else embedded
        fixed, sight = 0, Sight((self.num_queries,))
        if denoising is not None:
            fixed = denoising.labels.shape[1]
            known = self.labels[denoising.labels] * denoising.real[..., None]
            embedded, chosen = torch.cat([known, embedded], 1), torch.cat([denoising.boxes, chosen], 1)
            total = fixed + self.num_queries
            sight = Sight((total,), denoising.blocked(total))
        return Queries(embedded, None, chosen, Groups(fixed, (self.num_queries,)), sight)
