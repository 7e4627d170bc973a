"""Test-time augmentation: a network looks at an image and at its mirror image, and one selection gets what it sees.

Boxes of the mirror image are turned back, so both views are one set of candidates. Suppression leaves one box of those
that both views have, and consensus makes it the mean of them. An NMS-free output gets both for this: each object is in
it twice.

Shape letters: B images, A points over all levels, C classes.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from alignrank.boxes import mirrored
from alignrank.contracts import Postprocess, Predictions
from alignrank.detectors.postprocess import NonMaximumSuppression, TopK

# Overlap above which boxes of the two views are merged, where neither the weights nor the user name one.
MERGED_IOU = 0.7


class Mirrored(nn.Module):
    """A network in evaluation -> one of twice its points: those of the image, then those of its mirror image.

    Predictions keep what a selection reads. sizes: see `Batch.sizes`; where the network uses them, a picture is
    mirrored in its place, and the padding beside it stays where it was.
    """

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network
        self.stride: int = network.stride
        self.uses_sizes: bool = getattr(network, "uses_sizes", False)

    def forward(self, images: Tensor, sizes: Tensor | None = None) -> Predictions:
        width = images.shape[-1]
        widths = images.new_full((len(images),), width) if sizes is None else sizes[:, 1]
        turned = images.flip(-1) if bool((widths == width).all()) else _turned(images, widths.long())
        given = () if sizes is None else (sizes,)
        seen: Predictions = self.network(images, *given)
        again: Predictions = self.network(turned.contiguous(memory_format=torch.channels_last), *given)
        return Predictions(
            torch.cat([seen.logits, again.logits], 1),
            torch.cat([seen.boxes, mirrored(again.boxes, widths.to(again.boxes.dtype)[:, None])], 1),
            strides=_both(seen.strides, again.strides),
            centreness=_both(seen.centreness, again.centreness),
            sizes=seen.sizes,
        )


def merging(
    postprocess: Postprocess, *, agnostic: bool = False, consensus: float | None = None
) -> NonMaximumSuppression:
    """The selection of both views: suppression as it is, or in place of top k; with consensus, unless it is soft.

    agnostic: of top k, which cannot always know. consensus: overlap; None: that of the weights, else `MERGED_IOU`;
    0: suppression alone.
    """
    if isinstance(postprocess, TopK):
        merged = NonMaximumSuppression(consensus=postprocess.consensus, agnostic=agnostic or postprocess.agnostic)
    else:
        assert isinstance(postprocess, NonMaximumSuppression)
        merged = copy.copy(postprocess)
    if not merged.soft:
        merged.consensus = (merged.consensus or MERGED_IOU) if consensus is None else consensus
    return merged


def _turned(images: Tensor, widths: Tensor) -> Tensor:
    """Each image [3,H,W] mirrored in its first `widths` columns."""
    column = torch.arange(images.shape[-1], device=images.device)
    index = torch.where(column < widths[:, None], widths[:, None] - 1 - column, column)  # [B,W]
    return images.gather(-1, index[:, None, None].expand_as(images))


def _both(seen: Tensor | None, again: Tensor | None) -> Tensor | None:
    """[...,A,n] twice -> [...,2A,n]."""
    return None if seen is None or again is None else torch.cat([seen, again], -2)
