"""DINO's contrastive denoising: the ground truth, noised, as queries of training that need no matching.

Source: Zhang et al., DINO, ICLR 2023, section 3.3; Li et al., DN-DETR, CVPR 2022, section 3 (groups, label noise).

Layout: G groups one after another; a group has T positive queries, then T negative ones, where T is the largest number
of objects in an image of the batch; the i-th of each belongs to the image's i-th object.

Shape letters: B images, G groups, T objects, N = 2*G*T queries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from alignrank.boxes import xyxy_to_cxcywh
from alignrank.config import Config
from alignrank.contracts import Targets


class DenoisingConfig(Config):
    """Queries of training that are made of the ground truth."""

    queries: int = Field(default=100, ge=0, le=10_000)
    """Pairs of a positive and a negative query of an image, about; 0: none."""
    label_noise: float = Field(default=0.5, ge=0, le=1)
    """Half of this share of labels is drawn anew."""
    box_noise: float = Field(default=1.0, gt=0, le=10)
    """Corners move by at most this part of half a side; those of negatives by one to two times that."""


@dataclass(frozen=True, slots=True)
class Denoising:
    """labels [B,N]; boxes [B,N,4] (cx,cy,w,h) in shares of the picture; real [B,N] bool: an object is behind it."""

    labels: Tensor
    boxes: Tensor
    real: Tensor
    groups: int

    def blocked(self, total: int) -> Tensor:
        """[total,total] bool with these N queries first: a group does not see another one, others see none of them."""
        size = self.labels.shape[1] // self.groups
        index = torch.arange(total, device=self.labels.device)
        group = torch.where(index < self.labels.shape[1], index // size, -1)
        return (group[:, None] != group) & (group >= 0)


def noised(
    targets: Sequence[Targets], sizes: Tensor, num_classes: int, config: DenoisingConfig, generator: torch.Generator
) -> Denoising | None:
    """Queries from targets, whose boxes are px of pictures of `sizes` [B,2] (height, width). None without any object.

    generator: on the CPU, the only randomness: the same on every device. The truth stays on its device, which nothing
    here waits for.
    """
    most = max((len(target.labels) for target in targets), default=0)
    if most == 0 or config.queries == 0:
        return None
    groups = max(config.queries // most, 1)
    labels = pad_sequence([t.labels for t in targets], batch_first=True).repeat(1, 2 * groups)
    real = pad_sequence([torch.ones_like(t.labels, dtype=torch.bool) for t in targets], batch_first=True)
    boxes = pad_sequence([t.boxes for t in targets], batch_first=True) / sizes.flip(-1).repeat(1, 2)[:, None]
    boxes = boxes.repeat(1, 2 * groups, 1)
    other = torch.randint(num_classes, labels.shape, generator=generator)
    replaced = torch.rand(labels.shape, generator=generator) < config.label_noise / 2
    part = torch.rand(boxes.shape, generator=generator)
    part += (torch.arange(labels.shape[1]) // most % 2)[:, None]  # a group's second half: negatives
    sign = torch.randint(2, boxes.shape, generator=generator) * 2 - 1
    other, replaced, shift = (_sent(x, sizes.device) for x in (other, replaced, sign * part))
    half = (boxes[..., 2:] - boxes[..., :2]).repeat(1, 1, 2) / 2
    moved = (boxes + shift * half * config.box_noise).clamp(0, 1)
    return Denoising(torch.where(replaced, other, labels), xyxy_to_cxcywh(moved), real.repeat(1, 2 * groups), groups)


def _sent(x: Tensor, device: torch.device) -> Tensor:
    """To a GPU of CUDA from page-locked memory, the one way that waits for nothing; MPS would read what is freed."""
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x.to(device)


def positives_of(count: int, targets: Sequence[Targets]) -> list[tuple[Tensor, Tensor]]:
    """Of each image the (query, object) index pairs among `count` queries of the layout above."""
    most = max((len(target.labels) for target in targets), default=0)
    groups = count // (2 * most) if most else 0
    pairs = []
    for target in targets:
        index = torch.arange(len(target.labels), device=target.labels.device)
        start = 2 * most * torch.arange(groups, device=index.device)
        pairs.append(((start[:, None] + index).flatten(), index.repeat(groups)))
    return pairs
