"""The loss of detection transformers: every output is matched to the objects, then a class loss over all queries, L1
and GIoU over matched ones.

Sources: Carion et al., DETR, ECCV 2020, section 3.1; Zhu et al. 2021 (focal loss, proposals); Jia et al. 2023, eq. 2
(one-to-many); Zhang et al. 2023 (denoising); Pu et al. 2023, eq. 6 and 7 (GIoU-aware loss, high-order cost).

Shape letters: B images, Q queries, C classes, T objects of an image, P matched pairs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from alignrank.assign import detr_cost, high_order_cost, match_all
from alignrank.boxes import xyxy_to_cxcywh
from alignrank.contracts import LossTerms, Predictions, Targets
from alignrank.detectors.class_weights import weights_for
from alignrank.detectors.denoising import positives_of
from alignrank.detectors.detr import DetrConfig
from alignrank.detectors.positives import Pairs, Positives, gathered_pairs
from alignrank.losses import class_loss, giou_loss
from alignrank.losses.class_loss import fit_quality
from alignrank.losses.normalizer import shared_normalizer

# Of outputs; each has a number of objects of its own to be divided by.
PARTS = ("", "layers_", "proposals_", "many_", "denoising_")


@dataclass(frozen=True, slots=True)
class _Output:
    """Predictions that learn `targets`. part: under what name; weight: of all terms; plain: by the focal loss.

    pairs: of each image the (query, object) indices, None: by matching.
    """

    part: str
    predictions: Predictions
    targets: Sequence[Targets]
    weight: float = 1.0
    plain: bool = False
    pairs: list[Pairs] | None = None

    @property
    def num_objects(self) -> int:
        """In all images, as often as they are learnt."""
        if self.pairs is not None:
            return sum(len(query) for query, _ in self.pairs)
        return sum(len(target.labels) for target in self.targets)


class SetCriterion:
    """(Predictions, targets of every image) -> LossTerms: cls, l1 and giou of the last layer; the same with `layers_`
    before it, summed over the others; with `proposals_`, `many_` and `denoising_`, where predicted.
    """

    def __init__(self, config: DetrConfig) -> None:
        self.config: Any = config
        self.class_weights = weights_for(config.loss.class_weights, config.num_classes)

    def __call__(
        self, predictions: Predictions, targets: Sequence[Targets], *, alone: bool = False, progress: float = 1.0
    ) -> LossTerms:
        outputs = list(self._outputs(predictions, targets))
        matched = self._matched(outputs, progress)
        parts: dict[str, Tensor] = {}
        # One request, of all parts: a process without objects has no denoising queries, and must not ask less often.
        counts = dict.fromkeys(PARTS, 0) | {output.part: output.num_objects for output in outputs}
        shared = shared_normalizer(predictions.boxes.new_tensor(list(counts.values())), alone=alone)
        divisors = dict(zip(counts, shared, strict=True))
        for output, pairs in zip(outputs, matched, strict=True):
            for name, value in self._terms(output, pairs).items():
                term = output.weight * value / divisors[output.part]
                parts[output.part + name] = parts[output.part + name] + term if output.part + name in parts else term
        return LossTerms(torch.stack(list(parts.values())).sum(), parts)

    def positives(self, predictions: Predictions, targets: Sequence[Targets]) -> Positives:
        """The last layer's matched queries, by the cost of the end of training."""
        output = _Output("", predictions, targets)
        return gathered_pairs(self._matched([output], 1.0)[0], targets)

    def _outputs(self, predictions: Predictions, targets: Sequence[Targets]) -> Iterator[_Output]:
        config, extra = self.config, predictions.auxiliary
        yield _Output("", predictions, targets)
        yield from (_Output("layers_", layer, targets) for layer in _layers(predictions))
        if "proposals" in extra:
            # Where proposals tell only objects from the rest, all objects are of one class.
            learnt = targets
            if config.proposal_classes == 1:
                learnt = [Targets(t.boxes, torch.zeros_like(t.labels)) for t in targets]
            yield _Output("proposals_", extra["proposals"], learnt, plain=True)
        if "one_to_many" in extra:
            often = config.queries.repeats
            many = [Targets(t.boxes.repeat(often, 1), t.labels.repeat(often)) for t in targets]
            for layer in [extra["one_to_many"], *_layers(extra["one_to_many"])]:
                yield _Output("many_", layer, many, config.queries.many_weight)
        if "denoising" in extra:
            pairs = positives_of(extra["denoising"].boxes.shape[1], targets)
            plain = not config.loss.rank_denoising
            for layer in [extra["denoising"], *_layers(extra["denoising"])]:
                yield _Output("denoising_", layer, targets, config.loss.denoising, plain, pairs)

    def _matched(self, outputs: Sequence[_Output], progress: float) -> list[list[Pairs]]:
        """Of every output and image the (query, object) indices."""
        sizes = outputs[0].predictions.sizes
        assert sizes is not None
        widths_heights = sizes.flip(-1).tolist()  # those of all outputs
        costs = [
            self._cost(output.predictions.logits[image], output.predictions.boxes[image], target, size, progress)
            for output in outputs
            if output.pairs is None
            for image, (target, size) in enumerate(zip(output.targets, widths_heights, strict=True))
        ]
        found = iter(match_all(costs))
        return [
            output.pairs if output.pairs is not None else [next(found) for _ in output.targets] for output in outputs
        ]

    def _cost(
        self, logits: Tensor, boxes: Tensor, target: Targets, size: tuple[float, float], progress: float
    ) -> Tensor:
        """Of one image: logits [Q,C], boxes [Q,4] -> [Q,T]. size: (width, height) px of the picture."""
        rank, match = self.config.rank, self.config.match
        if rank.matching_cost and progress >= rank.cost_from:
            return high_order_cost(
                logits, boxes, target.labels, target.boxes,
                alpha=rank.cost_power, overlap=rank.cost_overlap, tie_break=rank.tie_break,
            )  # fmt: skip
        weights = (match.cls, match.l1, match.giou)
        return detr_cost(logits, boxes, target.labels, target.boxes, size=size, weights=weights)

    def _terms(self, output: _Output, pairs: list[Pairs]) -> dict[str, Tensor]:
        """Sums, weighted, not yet divided."""
        weights, predictions = self.config.loss, output.predictions
        assert predictions.sizes is not None
        image, query, label, gt = gathered_pairs(pairs, output.targets)
        own = predictions.boxes[image, query]
        shares = 1 / predictions.sizes[image].flip(-1).repeat(1, 2)
        distance = (xyxy_to_cxcywh(own) - xyxy_to_cxcywh(gt)) * shares
        return {
            "cls": weights.cls * self._class_loss(output, (image, query, label), own, gt),
            "l1": weights.l1 * distance.abs().sum(),
            "giou": weights.giou * giou_loss(own, gt).sum(),
        }

    def _class_loss(self, output: _Output, where: tuple[Tensor, Tensor, Tensor], own: Tensor, gt: Tensor) -> Tensor:
        rank, logits = self.config.rank, output.predictions.logits
        fit = fit_quality(own, gt, overlap=rank.target, power=rank.target_power)
        quality = torch.zeros_like(logits)
        quality[where] = fit.to(quality.dtype)
        # Proposals that tell only objects from the rest have one class.
        weights = self.class_weights if logits.shape[-1] == self.config.num_classes else ()
        return class_loss("focal" if output.plain else rank.loss, logits, quality, class_weights=weights)


def _layers(predictions: Predictions) -> list[Predictions]:
    return [value for name, value in predictions.auxiliary.items() if name.startswith("layer_")]
