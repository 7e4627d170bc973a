"""Ranking losses in the losses of transformers' detectors: Rank-DETR's class loss and cost of a match in place of the
library's, list alignment and pairwise ranking beside its terms.

The library's function makes a criterion, and that does all the rest: here its matcher and its class loss are exchanged,
and each matching is remembered. Nothing of the library is changed: other calls see nothing of it.

Sources: Pu et al., Rank-DETR, NeurIPS 2023, eq. 6 and 7; Li & Liu 2025, YOLO-AlignRank (`alignrank.losses.ranking`).

Shape letters: B images, Q queries, C classes, T objects of an image, P candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from inspect import signature
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from alignrank.assign import high_order_cost, match_all
from alignrank.boxes import aligned_iou, at_least_float32, cxcywh_to_xyxy, outside_autocast, pairwise_iou
from alignrank.config import apply_overrides, shown
from alignrank.errors import InputError
from alignrank.losses import class_loss
from alignrank.losses.candidates import Candidates, faded, one_to_one_rank, rank_terms
from alignrank.losses.class_loss import fit_quality
from alignrank.losses.normalizer import shared_mean
from alignrank.plug.ranking import RankConfig, RankingConfig
from alignrank.plug.transformers_models import ARCHITECTURES, library_loss

Labels = Sequence[Mapping[str, Tensor]]
Pairs = tuple[Tensor, Tensor]


@dataclass(frozen=True, slots=True)
class _Criterion:
    """The library's criterion by its names: the class, its class loss, that term, and how layers are numbered."""

    kind: str
    class_loss: str
    term: str
    layer: str


_HYBRID = _Criterion("RTDetrLoss", "loss_labels_vfl", "loss_vfl", "_aux_{}")
CRITERIA = {
    "rt_detr": _HYBRID,
    "rt_detr_v2": _HYBRID,
    "d_fine": _Criterion("DFineLoss", "loss_labels_vfl", "loss_vfl", "_aux_{}"),
    "deformable_detr": _Criterion("DeformableDetrImageLoss", "loss_labels", "loss_ce", "_{}"),
}


def loss_function(model: Any, **options: Any) -> RankedLoss:
    """A loss for a detector of transformers, to be set on it: `model.loss_function = loss_function(model, ...)`.

    model: RTDetrForObjectDetection, RTDetrV2ForObjectDetection, DFineForObjectDetection or
    DeformableDetrForObjectDetection. options: `section.field`, as in recipes, such as `**{"rank.loss": "gcl"}`; without
    any it is the library's loss, bit for bit. The model's `loss_dict` then has `loss_align` and `loss_rank`, too.

    Of a training's progress it knows what is said to it: set `progress` (0 to 1, at first 1: all counts in full) of
    the returned function for `rank.cost_from` and the fading in of `loss.align` and `loss.rank`. As the library, each
    process computes alone. Raises InputError for another model or unknown options.
    """
    architecture = getattr(getattr(model, "config", None), "model_type", None)
    if architecture not in CRITERIA or type(model).__name__ != ARCHITECTURES[architecture].model:
        known = ", ".join(ARCHITECTURES[name].model for name in CRITERIA)
        raise InputError(f"loss_function: ranking losses are for {known}, got {shown(type(model).__name__)}")
    config = RankingConfig.parse(apply_overrides({}, options, where="loss_function"), where="loss_function")
    return RankedLoss(architecture, config, alone=True)


@dataclass(slots=True)
class RankedLoss:
    """The library's loss of an architecture with ranking losses, called as the library calls it.

    progress: of the training, 0..1; alone: as in `shared_normalizer`.
    """

    architecture: str
    config: RankingConfig
    progress: float = 1.0
    alone: bool = False

    def __call__(self, *arguments: Any, **named: Any) -> tuple[Tensor, dict[str, Tensor], Any]:
        library = library_loss(self.architecture)
        if self.config.is_off:
            found: tuple[Tensor, dict[str, Tensor], Any] = library(*arguments, **named)
            return found
        bound = signature(library).bind(*arguments, **named).arguments
        call = _Call(self, proposals=bound.get("enc_topk_logits"))
        total, terms, auxiliary = self._with(library, call.criterion)(*arguments, **named)
        with outside_autocast(bound["logits"]):
            extra = call.terms(bound["labels"])
        return torch.stack([total, *extra.values()]).sum() if extra else total, terms | extra, auxiliary

    def _with(self, library: Any, criterion: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, in which the name of the library's criterion means `criterion(that one, ...)`."""
        kind = CRITERIA[self.architecture].kind
        if kind not in library.__code__.co_names:
            raise InputError(f"rank, loss: the installed transformers trains {self.architecture} without a {kind}")
        names = library.__globals__ | {kind: partial(criterion, library.__globals__[kind])}
        return FunctionType(library.__code__, names, argdefs=library.__defaults__, closure=library.__closure__)


@dataclass(frozen=True, slots=True)
class _Layer:
    """Of a matching: logits [B,Q,C], boxes [B,Q,4] in the library's form, of each image the (query, object) indices."""

    logits: Tensor
    boxes: Tensor
    pairs: Sequence[Pairs]


@dataclass(slots=True)
class _Call:
    """One call of the loss. proposals: logits of the encoder; decoder: its layers, the last one first."""

    of: RankedLoss
    proposals: Tensor | None
    decoder: list[_Layer] = field(default_factory=list)

    def criterion(self, kind: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """The library's, with parts exchanged."""
        made, names = kind(*arguments, **named), CRITERIA[self.of.architecture]
        made.matcher = _Matcher(made.matcher, self)
        if self.of.config.rank.loss != "library":
            setattr(made, names.class_loss, partial(self.class_loss, getattr(made, names.class_loss)))
        return made

    def class_loss(
        self, library: Callable[..., Any], outputs: Any, labels: Labels, pairs: Sequence[Pairs], divisor: float
    ) -> Any:
        """The library's for proposals and for denoising queries, as Rank-DETR has a plain one there."""
        rank = self.of.config.rank
        if rank.loss == "library" or not any(outputs["logits"] is layer.logits for layer in self.decoder):
            return library(outputs, labels, pairs, divisor)
        with outside_autocast(outputs["logits"]):
            logits = at_least_float32(outputs["logits"])
            image, query, gt = _gathered(pairs, labels, logits.device)
            own = _xyxy(outputs["pred_boxes"][image, query])
            fit = fit_quality(own, gt[1], overlap=rank.target, power=rank.target_power)
            quality = torch.zeros_like(logits)
            quality[image, query, gt[0]] = fit.to(quality.dtype)
            total = class_loss(rank.loss, logits, quality)
        # Under the library's name it gets the library's weight.
        return {CRITERIA[self.of.architecture].term: total / divisor}

    def terms(self, labels: Labels) -> dict[str, Tensor]:
        """`loss_align` and `loss_rank` of every layer of the decoder, named as the library names layers."""
        found, loss = {}, self.of.config.loss
        fade = faded(self.of.progress, loss.fade_start, loss.fade_end)
        if not fade:
            return {}
        for number, layer in enumerate(self.decoder if loss.align or loss.rank else ()):
            name = CRITERIA[self.of.architecture].layer.format(number - 1) if number else ""
            wider, taken = candidates(layer.logits, layer.boxes, layer.pairs, labels, loss.candidate_iou)
            matched = _those(wider, taken)
            if loss.align:
                lists = matched if loss.align_scope == "class" else wider
                terms = rank_terms(lists, loss, "object", align_scope=loss.align_scope)
                value = shared_mean(terms.align, terms.num_align, alone=self.of.alone)
                found["loss_align" + name] = fade * loss.align * value
            if loss.rank:
                rank = one_to_one_rank(matched, wider, taken, loss, alone=self.of.alone)
                found["loss_rank" + name] = fade * loss.rank * rank
        return found


class _Matcher(nn.Module):
    """In the place of the library's: by Rank-DETR's cost where that is due, and remembered."""

    def __init__(self, library: nn.Module, call: _Call) -> None:
        super().__init__()
        self.library, self.call = library, call

    @torch.no_grad()
    def forward(self, outputs: Mapping[str, Tensor], labels: Labels) -> Sequence[Pairs]:
        """outputs: `logits` [B,Q,C] and `pred_boxes` [B,Q,4] -> of each image the (query, object) indices."""
        rank = self.call.of.config.rank
        logits, boxes = outputs["logits"], outputs["pred_boxes"]
        pairs: Sequence[Pairs]
        if rank.matching_cost and self.call.of.progress >= rank.cost_from:
            by_image = zip(logits, boxes, labels, strict=True)
            pairs = match_all([_cost(rank, *image) for image in by_image])
        else:
            pairs = self.library(outputs, labels)
        if logits is not self.call.proposals:
            self.call.decoder.append(_Layer(logits, boxes, pairs))
        return pairs


def _cost(rank: RankConfig, logits: Tensor, boxes: Tensor, label: Mapping[str, Tensor]) -> Tensor:
    """Of one image: logits [Q,C], boxes [Q,4] -> [Q,T]. An overlap is the same in shares of the input as in pixels."""
    return high_order_cost(
        logits, _xyxy(boxes), label["class_labels"], _xyxy(label["boxes"]),
        alpha=rank.cost_power, overlap=rank.cost_overlap, tie_break=rank.tie_break,
    )  # fmt: skip


def candidates(
    logits: Tensor, boxes: Tensor, pairs: Sequence[Pairs], labels: Labels, iou: float
) -> tuple[Candidates, Tensor]:
    """The queries that compete for objects, and which of them [P] bool are matched.

    logits [B,Q,C]; boxes [B,Q,4] (cx,cy,w,h); pairs: of each image the (query, object) indices; labels: the library's.
    A matched query is its object's. Another one is the object's that it overlaps most, if that IoU is above `iou`.
    """
    most = max((len(label["boxes"]) for label in labels), default=0)
    boxes = _xyxy(boxes.detach())
    parts = []
    for image, (own, (query, gt), label) in enumerate(zip(boxes, pairs, labels, strict=True)):
        objects = _xyxy(label["boxes"])
        number = torch.full((len(own),), -1, dtype=torch.int64, device=own.device)
        if len(objects):
            overlap, nearest = pairwise_iou(own, objects).max(1)
            number = torch.where(overlap > iou, nearest, number)
        taken = torch.zeros_like(number, dtype=torch.bool)
        number[query], taken[query] = gt.to(number.device), True
        place = (number >= 0).nonzero().squeeze(1)
        number = number[place]
        of_class = label["class_labels"][number]
        quality = aligned_iou(own[place], objects[number])
        of_image = torch.full_like(place, image)
        parts.append((logits[image, place, of_class], quality, image * most + number, of_class, of_image, taken[place]))
    values, quality, number, of_class, of_image, chosen = (torch.cat(part) for part in zip(*parts, strict=True))
    return Candidates(values, quality, number, of_class, of_image), chosen


def _those(found: Candidates, kept: Tensor) -> Candidates:
    return Candidates(
        found.logits[kept], found.quality[kept], found.gt_index[kept], found.labels[kept], found.images[kept]
    )


def _gathered(
    pairs: Sequence[Pairs], labels: Labels, device: torch.device
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    """Images and queries [P] of all pairs, and their objects' labels [P] and boxes [P,4] xyxy."""
    image = torch.cat([torch.full_like(query, number) for number, (query, _) in enumerate(pairs)]).to(device)
    query = torch.cat([query for query, _ in pairs]).to(device)
    of_class = torch.cat([label["class_labels"][gt] for (_, gt), label in zip(pairs, labels, strict=True)])
    boxes = torch.cat([label["boxes"][gt] for (_, gt), label in zip(pairs, labels, strict=True)])
    return image, query, (of_class, _xyxy(boxes))


def _xyxy(boxes: Tensor) -> Tensor:
    return cxcywh_to_xyxy(at_least_float32(boxes))
