"""From torchvision's feature maps to Predictions: of heads over all places, and of proposals that are looked at again.

Every module and formula of boxes is the library's own. What its losses are called with goes to `Predictions.raw`; the
rest of the Predictions has no gradient.

Shape letters: B images, A anchors over all levels, C classes, P proposals of an image, K pairs (proposal, class).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from alignrank.boxes import at_least_float32, outside_autocast
from alignrank.contracts import Predictions, Targets
from alignrank.detectors.hosted import channels_of, drawn
from alignrank.detectors.postprocess import MAX_CANDIDATES
from alignrank.plug.torchvision_models import anchors_of

# Of pairs that are none: a score of 0.
NEVER = -1e4
# Sides below this are no boxes, px, as the library has it.
_SMALLEST = 1e-2
# Of a probability that a logit is made of: the float32 before 1.
_ALMOST_ONE = 1 - 2**-24
LibraryTruth = list[dict[str, Tensor]]


@dataclass(frozen=True, slots=True)
class Inputs:
    """images [B,3,H,W], normalised; maps of the pyramid by name; sizes [B,2] (height, width) px, None: whole images."""

    images: Tensor
    maps: Mapping[str, Tensor]
    sizes: Tensor | None

    @property
    def edges(self) -> Tensor:
        """[B,1,4], or [1,1,4]: the largest coordinates of a box."""
        if self.sizes is None:
            height, width = self.images.shape[-2:]
            return self.images.new_tensor([width, height] * 2)[None, None]
        return self.sizes.flip(-1).repeat(1, 2)[:, None].to(self.images.dtype)

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """(height, width) of each picture."""
        if self.sizes is None:
            return [(self.images.shape[-2], self.images.shape[-1])] * len(self.images)
        return [(int(height), int(width)) for height, width in self.sizes.tolist()]


def truth_of(targets: Sequence[Targets], like: Tensor, channels: Tensor) -> LibraryTruth:
    """As the library takes it; like: of the device and type of its boxes; channels [C]: those of the classes in its
    heads.
    """
    return [
        {"boxes": target.boxes.to(like), "labels": channels_of(channels, target.labels.to(like.device))}
        for target in targets
    ]


def dense(host: Any, inputs: Inputs, channels: Tensor) -> Predictions:
    """Of a head that says something at every anchor. channels [C]: of the classes."""
    levels = list(inputs.maps.values())
    raw = {name: at_least_float32(said) for name, said in host.head(levels).items()}
    of_levels = anchors_of(host.anchor_generator, inputs.images, levels)
    anchors = torch.cat(of_levels)
    with outside_autocast(inputs.images), torch.no_grad():
        boxes = _clipped(_decoded(host.box_coder, raw["bbox_regression"], anchors), inputs.edges)
        logits = _of_classes(raw["cls_logits"], channels)
        if "bbox_ctrness" in raw:
            logits = geometric_mean(logits, raw["bbox_ctrness"])
        strides = [anchors.new_full((len(level), 1), 8.0 * 2**number) for number, level in enumerate(of_levels)]
    counts = [len(level) for level in of_levels]
    return Predictions(
        logits, boxes, strides=torch.cat(strides), sizes=inputs.sizes, raw=raw | {"anchors": anchors, "counts": counts}
    )


def two_stages(
    host: Any, inputs: Inputs, channels: Tensor, truth: LibraryTruth | None = None, seed: int = 0
) -> Predictions:
    """Of a network of region proposals, and a head that looks at them: the best pairs (proposal, class), of which each
    has a box of its own.

    truth: among which the proposals of training are sampled, from `seed`; without it all of them are background.
    """
    from torchvision.models.detection.rpn import concat_box_prediction_layers

    images, rpn, second = inputs.images, host.rpn, host.roi_heads
    levels, shapes = list(inputs.maps.values()), inputs.shapes
    objectness, deltas = rpn.head(levels)
    of_levels = anchors_of(rpn.anchor_generator, images, levels)
    anchors = torch.cat(of_levels)
    with outside_autocast(images):
        objectness, deltas = (at_least_float32(said) for said in concat_box_prediction_layers(objectness, deltas))
        boxes = rpn.box_coder.decode(deltas.detach(), [anchors] * len(images)).view(len(images), -1, 4)
        proposals = _proposals(rpn, boxes, objectness, shapes, [len(level) for level in of_levels])
        if host.training:
            empty = truth_of([Targets.empty()] * len(images), anchors, channels)
            with drawn(seed, images.device):
                proposals = second.select_training_samples(proposals, truth or empty)[0]
    class_logits, regression = (at_least_float32(said) for said in _looked_at(second, inputs, proposals, shapes))
    raw = {
        "objectness": objectness, "deltas": deltas, "anchors": anchors, "proposals": proposals,
        "class_logits": class_logits, "regression": regression, "seed": seed,
    }  # fmt: skip
    most = second.fg_bg_sampler.batch_size_per_image if host.training else rpn.post_nms_top_n()
    most = min(MAX_CANDIDATES, most * len(channels))
    with outside_autocast(images), torch.no_grad():
        logits, boxes = _best_pairs(second, raw, inputs.edges, channels, most)
    return Predictions(logits, boxes, sizes=inputs.sizes, raw=raw)


def geometric_mean(logits: Tensor, centreness: Tensor) -> Tensor:
    """logits [B,A,C], centreness [B,A,1], both raw -> logits of the scores sqrt(sigmoid * sigmoid)."""
    return _logit((logsigmoid(logits) + logsigmoid(centreness)) / 2)


def _logit(log_probability: Tensor) -> Tensor:
    return log_probability - torch.log1p(-log_probability.exp().clamp(max=_ALMOST_ONE))


def _of_classes(said: Tensor, channels: Tensor) -> Tensor:
    return said if said.shape[-1] == len(channels) else said.index_select(-1, channels)


def _clipped(boxes: Tensor, edges: Tensor) -> Tensor:
    return boxes.clamp(min=0).minimum(edges)


def _decoded(coder: Any, regression: Tensor, anchors: Tensor) -> Tensor:
    """regression [B,A,4], anchors [A,4] -> boxes [B,A,4] px."""
    if not hasattr(coder, "decode_single"):
        distances: Tensor = coder.decode(regression, anchors)
        return distances
    repeated = anchors.expand(regression.shape[0], -1, -1).reshape(-1, 4)
    boxes: Tensor = coder.decode_single(regression.reshape(-1, 4), repeated)
    return boxes.reshape(regression.shape)


def _proposals(
    rpn: Any, boxes: Tensor, objectness: Tensor, shapes: list[tuple[int, int]], counts: list[int]
) -> list[Tensor]:
    """[P,4] px of each image. On the meta device, where nothing is suppressed, as many as there may be."""
    if boxes.is_meta:
        return [image[: rpn.post_nms_top_n()] for image in boxes]
    proposals: list[Tensor] = rpn.filter_proposals(boxes, objectness, shapes, counts)[0]
    return proposals


def _looked_at(
    second: Any, inputs: Inputs, proposals: list[Tensor], shapes: list[tuple[int, int]]
) -> tuple[Tensor, Tensor]:
    """Class logits and box regression of all proposals of all images."""
    if inputs.images.is_meta:
        side = second.box_roi_pool.output_size
        channels = next(iter(inputs.maps.values())).shape[1]
        pooled = inputs.images.new_empty(sum(map(len, proposals)), channels, *side)
    else:
        pooled = second.box_roi_pool(inputs.maps, proposals, shapes)
    said: tuple[Tensor, Tensor] = second.box_predictor(second.box_head(pooled))
    return said


def _best_pairs(
    second: Any, raw: Mapping[str, Any], edges: Tensor, channels: Tensor, most: int
) -> tuple[Tensor, Tensor]:
    """Logits [B,K,C] and boxes [B,K,4] of the `most` pairs that score highest; K = most, filled up with none."""
    proposals = raw["proposals"]
    counts = [len(image) for image in proposals]
    logits = _logit(raw["class_logits"].log_softmax(-1)).index_select(-1, channels)
    boxes = second.box_coder.decode(raw["regression"], proposals).index_select(1, channels)
    all_logits = logits.new_full((len(counts), most, len(channels)), NEVER)
    all_boxes = boxes.new_zeros(len(counts), most, 4)
    edges = edges.expand(len(counts), 1, 4)
    for image, (said, found) in enumerate(zip(logits.split(counts), boxes.split(counts), strict=True)):
        found = _clipped(found, edges[image])
        smallest = (found[..., 2:] - found[..., :2]).amin(-1)
        best, pair = said.masked_fill(smallest < _SMALLEST, NEVER).flatten().topk(min(most, said.numel()))
        rows = torch.arange(len(best), device=best.device)
        all_logits[image, rows, pair % len(channels)] = best
        all_boxes[image, : len(best)] = found.reshape(-1, 4)[pair]
    return all_logits, all_boxes
