"""H-DETR: Deformable DETR with two stages, and a second group of queries that learn one-to-many in training.

Sources: Zhu et al., Deformable DETR, ICLR 2021; Jia et al., DETRs with Hybrid Matching, CVPR 2023, section 3.3 (hybrid
branch). With `queries.one_to_many=0` it is plain Deformable DETR; the switches of `rank` make it Rank-DETR.

Shape letters: B images, S cells over all levels, Q queries, D width, C classes.
"""

from __future__ import annotations

from typing import Self

import torch
from pydantic import Field
from torch import Tensor, nn

from alignrank.config import Config
from alignrank.contracts import Predictions
from alignrank.detectors.detr import Detr, DetrConfig, Proposals, best_cells, content, in_pixels, last_layer
from alignrank.detectors.detr_decoder import Queries
from alignrank.detectors.rank_detr import Groups, by_order
from alignrank.nn.transformer import Sight, sine_encoding


class QueriesConfig(Config):
    """How many boxes are looked for."""

    one_to_one: int = Field(default=300, ge=1, le=10_000)
    """Queries that find each object once; the only ones in use."""
    one_to_many: int = Field(default=1500, ge=0, le=100_000)
    """Queries of training alone that find each object several times; 0: plain Deformable DETR."""
    repeats: int = Field(default=6, ge=1, le=100)
    """How often."""
    many_weight: float = Field(default=1.0, ge=0)
    """Weight of the loss of these."""


class DeformableDetrConfig(DetrConfig):
    """All sections."""

    queries: QueriesConfig = QueriesConfig()
    """How many boxes are looked for."""

    @property
    def proposal_classes(self) -> int:
        """Classes that proposals tell apart: object or not, by the first channel."""
        return 1


class DeformableDetr(Detr):
    """images [B,3,H,W] float 0..1, sizes [B,2] -> Predictions of the one-to-one queries.

    Auxiliary in training: `layer_0` ..., `one_to_many` with layers of its own, `proposals`.
    """

    def __init__(self, config: DeformableDetrConfig) -> None:
        queries, width = config.queries, config.transformer.width
        rows = queries.one_to_one + queries.one_to_many
        super().__init__(config, num_queries=queries.one_to_one, rows=rows, from_boxes=False)
        self.num_many = queries.one_to_many
        self.embedding = nn.Parameter(torch.randn(rows, width))
        self.position = nn.Sequential(nn.Linear(2 * width, 2 * width), nn.LayerNorm(2 * width))
        nn.init.xavier_uniform_(self.position[0].weight)  # type: ignore[arg-type]

    def forward(self, images: Tensor, sizes: Tensor | None = None) -> Predictions:
        cells, levels = self.encode(images, sizes)
        proposals = self.propose(cells, levels)
        outputs = self.decoder(self.queries(proposals), cells, levels, every=self.training)
        sizes = content(images, sizes)
        predictions = last_layer(outputs, slice(self.num_queries), sizes)
        if self.training:
            predictions.auxiliary["proposals"] = in_pixels(proposals[0][..., :1], proposals[1].sigmoid(), sizes)
            if self.num_many:
                many = slice(self.num_queries, None)
                predictions.auxiliary["one_to_many"] = last_layer(outputs, many, sizes)
        return predictions

    def queries(self, proposals: Proposals) -> Queries:
        """The one-to-one queries; in training the one-to-many ones after them."""
        logits, boxes, absent = proposals
        more = (self.num_many,) if self.training and self.num_many else ()
        groups = Groups(0, (self.num_queries, *more))
        count, width = sum(groups.sorted), self.embedding.shape[1]
        chosen = by_order(boxes, best_cells(logits[..., 0], absent, count)).detach().sigmoid()
        # The other half of the layer's outputs was the content, before mixed selection. Not a slice: OpenVINO drops one
        # that a gather follows, and finds then that shapes do not fit.
        positions = self.position(sine_encoding(chosen, width // 2)).chunk(2, -1)[0]
        embedded = self.embedding[:count].expand(chosen.shape[0], -1, -1)
        return Queries(embedded, positions, chosen, groups, Sight(groups.sorted))

    def deploy(self) -> Self:
        """In place, for inference only: without the one-to-many queries, too."""
        self.num_many = 0
        self.embedding = nn.Parameter(self.embedding[: self.num_queries].detach().clone())
        return super().deploy()
