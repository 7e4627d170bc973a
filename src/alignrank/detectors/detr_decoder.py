"""The decoder of detection transformers: refines boxes layer by layer, each layer's queries sorted by score if asked.

Sources: Zhu et al., Deformable DETR, ICLR 2021, section A.4 (iterative refinement); Zhang et al., DINO, ICLR 2023,
section 3.5 (look forward twice) and 3.1 (positions from boxes); Pu et al., Rank-DETR, NeurIPS 2023, algorithm 1.

Shape letters: B images, Q queries, S cells over all levels, L levels, D width, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from alignrank.boxes import at_least_float32
from alignrank.detectors.rank_detr import Groups, Ranks, by_order
from alignrank.nn.transformer import MLP, DecoderLayer, Levels, Sight, checkpointed, inverse_sigmoid, sine_encoding


@dataclass(frozen=True, slots=True)
class Queries:
    """content [B,Q,D]; positions [B,Q,D], None: made of the boxes in each layer; boxes [B,Q,4] (cx,cy,w,h) in 0..1."""

    content: Tensor
    positions: Tensor | None
    boxes: Tensor
    groups: Groups
    sight: Sight


@dataclass(frozen=True, slots=True)
class LayerOutput:
    """Of one layer, in the order that its queries came in: logits [B,Q,C], boxes [B,Q,4] (cx,cy,w,h) in 0..1, states
    [B,Q,D]. next_boxes [B,Q,4]: what the next layer starts from, in its order.
    """

    logits: Tensor
    boxes: Tensor
    states: Tensor
    next_boxes: Tensor


class Decoder(nn.Module):
    """Layers with a class and a box head each. `position`: queries' positions are made of their boxes. `norm`: applied
    to what the heads see. ranks: None: queries keep their order.
    """

    def __init__(
        self,
        layers: list[DecoderLayer],
        *,
        num_classes: int,
        width: int,
        ranks: Ranks | None,
        from_boxes: bool = False,
        look_forward_twice: bool = True,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.classes = nn.ModuleList(nn.Linear(width, num_classes) for _ in layers)
        self.boxes = nn.ModuleList(MLP(width, width, width, 4) for _ in layers)
        self.position = MLP(2 * width, width, width) if from_boxes else None
        self.norm = nn.LayerNorm(width) if from_boxes else None
        self.ranks = ranks
        self.look_forward_twice = look_forward_twice
        self.checkpointing = False

    def forward(self, queries: Queries, cells: Tensor, levels: Levels, *, every: bool = True) -> list[LayerOutput]:
        """cells [B,S,D] -> the outputs of all layers, or of the last one alone."""
        x, positions, groups = queries.content, queries.positions, queries.groups
        # What a layer refines, and what its loss goes through: the same values, with and without the way back.
        boxes = refined = at_least_float32(queries.boxes)
        outputs: list[LayerOutput] = []
        last = len(self.layers) - 1
        for i, layer in enumerate(self.layers):
            references = levels.per_level(boxes)
            if self.position is not None:
                positions = self.position(sine_encoding(references[:, :, 0], x.shape[-1] // 2))
            x = checkpointed(layer, x, positions, references, cells, levels, queries.sight, wanted=self.checkpointing)
            states = x if self.norm is None else self.norm(x)
            logits = at_least_float32(self.classes[i](states))
            before = refined
            # Without the norm here and with it below are two runs of the box head, of which use needs one.
            if every or i < last:
                step = at_least_float32(self.boxes[i](x))
                refined = (step + inverse_sigmoid(boxes)).sigmoid()
                if self.ranks is not None:
                    # By the scores without the rank's own bias.
                    order = groups.order(logits.amax(-1))
                    refined = by_order(refined, order)
                boxes = refined.detach()
                refined = refined if self.look_forward_twice else boxes
            if every or i == last:
                shift = step if every and self.norm is None else at_least_float32(self.boxes[i](states))
                said = (shift + inverse_sigmoid(before)).sigmoid()
                biased = logits if self.ranks is None else self.ranks.biased(i, logits, groups)
                outputs.append(LayerOutput(biased, said, states, refined))
            if self.ranks is not None and i < last:
                x = self.ranks.fused(i + 1, by_order(x, order), groups)
                if positions is not None and self.position is None:
                    positions = by_order(positions, order)
        return outputs
