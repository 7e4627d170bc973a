"""Which px of the input matter to a cell of a network's maps: effective receptive fields, their sizes and ratios.

Sources: Luo et al., Understanding the effective receptive field, NIPS 2016 (the gradient of a cell with respect to the
input); Lee, Lee & Kang, FINE (`alignrank.nn.fine`), figure 6: fields of two levels differ, and pooling the finer one
brings them together.

Size of a field g [H,W] >= 0: sigma = sqrt((v_x + v_y) / 2), px, with v_x = sum g (x - m_x)^2 / sum g around the mean
m_x = sum g x / sum g, and v_y the same of rows.

Shape letters: B images, C channels, H, W px of the input, h, w cells of a map.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from alignrank.contracts import Batch
from alignrank.detectors import predictions_of
from alignrank.device import choose_device
from alignrank.errors import InputError
from alignrank.evaluation.feature_maps import FINEST, FeatureMaps
from alignrank.evaluation.field_input import Pictures, Subject
from alignrank.evaluation.options import FieldOptions
from alignrank.folders import new_run_folder
from alignrank.input_size import InputSize, up_to_step
from alignrank.report.heat_maps import FieldPanel, plot_fields
from alignrank.terminal.progress import counted, say, steps
from alignrank.weights.deployed import Deployed, deploy

Array = np.ndarray[Any, Any]
Part = Literal["backbone", "pooled", "neck", "token"]
Kind = Literal["low", "high"]
KINDS: tuple[Kind, Kind] = ("low", "high")
PARTS: tuple[Part, ...] = ("backbone", "pooled", "neck", "token")
# Side of a group of cells that are averaged (FINE, figure 6), beside one cell alone.
GROUPS = (2, 4)
PICTURE, RESULT = "field.png", "field.json"


@dataclass(frozen=True, slots=True)
class Place:
    """What a field is of: a cell of a map of `stride` px; pooled: of `cells` x `cells` of the backbone's, averaged; a
    token that a FINE module `name` samples from its `level`, low or high, which stands for `cells` x `cells`.
    """

    part: Part
    stride: int
    cells: int = 1
    name: str = ""
    level: Kind | Literal[""] = ""

    def __str__(self) -> str:
        if self.part == "token":
            return f"{self.name}, {self.level} token"
        of = "backbone" if self.part == "pooled" else self.part
        return f"{of}, stride {self.stride}" + (f", {self.cells} x {self.cells}" if self.cells > 1 else "")


@dataclass(frozen=True, slots=True)
class Field:
    """gradient [H,W]: magnitudes, summed over colours, a mean over images."""

    place: Place
    gradient: Array

    @property
    def centre(self) -> tuple[float, float] | None:
        """(x, y) px from the input's upper left corner; None where nothing reaches the cell."""
        moments = _moments(self.gradient)
        return None if moments is None else moments[0]

    @property
    def sigma(self) -> float | None:
        """px, see this file's head; None where nothing reaches the cell."""
        moments = _moments(self.gradient)
        return None if moments is None else moments[1]

    def to_dict(self) -> dict[str, Any]:
        of = self.place
        named = {"module": of.name, "level": of.level} if of.part == "token" else {}
        centre = None if self.centre is None else list(self.centre)
        return {"part": of.part, **named, "stride": of.stride, "cells": of.cells, "sigma": self.sigma, "centre": centre}


def _moments(gradient: Array) -> tuple[tuple[float, float], float] | None:
    total = gradient.sum()
    if not total > 0:
        return None
    means, variances = [], []
    for axis in (0, 1):
        weights = gradient.sum(axis) / total
        middles = np.arange(len(weights)) + 0.5
        means.append(float(weights @ middles))
        variances.append(float(weights @ (middles - means[-1]) ** 2))
    return (means[0], means[1]), float(np.sqrt(np.mean(variances)))


def field_to_folder(
    subject: Subject, pictures: Pictures, options: FieldOptions, *, out: str | Path | None = None, device: str = "auto"
) -> dict[str, Any]:
    """Measure the effective receptive fields of a network; returns what is in field.json.

    A picture and field.json are in the new folder `out`, else runs/field.
    """
    chosen = choose_device(device)
    detector = deploy(subject.loaded, chosen)
    side = options.side or _side(detector.size)
    detector = detector.resized(side, False)
    with new_run_folder(out, "field") as folder:
        batches = pictures.read(options.images, side, options.seed)
        with steps("measuring fields", len(batches)) as advance:
            fields = measure(detector, counted(batches, advance), options.at)
        result = {
            **subject.to_dict(),
            **pictures.to_dict(),
            "images": [frame.source for batch in batches for frame in batch.frames],
            "imgsz": side,
            "point": list(options.at),
            **figures(fields),
            "picture": PICTURE,
        }
        try:
            with steps("writing results and a picture", None):
                plot_fields(_rows(fields), folder / PICTURE)
                (folder / RESULT).write_text(json.dumps(result, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        except BaseException:
            say(f"{folder}: holds a part of the results only")
            raise
        say(f"results and a picture are in {folder}")
    return {"out": str(folder), **result}


def _side(size: InputSize) -> int:
    """Of a square, of the recipe's own size; of a pair the shorter side, which every picture fills."""
    return size.longer if size.shorter is None else up_to_step(size.shorter, size.step)


def measure(detector: Deployed, batches: Iterable[Batch], point: Sequence[float]) -> list[Field]:
    """Fields at a point (x, y), in parts of the input, averaged over all images; batches are of one size.

    Raises InputError where gradients are not numbers.
    """
    network = detector.network.requires_grad_(False)
    sums: dict[Place, Array] = {}
    count = 0
    for batch in batches:
        inputs = batch.to(detector.device)
        images = inputs.network_input().requires_grad_()
        with torch.enable_grad(), FeatureMaps(network) as maps:
            predictions_of(network, images, inputs)
            values = values_at(maps, point)
        for place, value in values.items():
            gradient = magnitudes(value, images)
            sums[place] = sums[place] + gradient if place in sums else gradient
        count += len(images)
    if not all(np.isfinite(total).all() for total in sums.values()):
        raise InputError(f"{detector.recipe}: gradients are not numbers; these weights are of no use")
    return [Field(place, total / count) for place, total in sums.items()]


def values_at(maps: FeatureMaps, point: Sequence[float]) -> dict[Place, Tensor]:
    """0-dim: at `point`, the sum over images and channels of each map, of groups of cells, and of FINE's tokens.

    Of maps that end in a layer norm every other channel: the sum over all of them is constant, and has no gradient.
    """
    values: dict[Place, Tensor] = {}
    for level in maps.levels:
        features = level.map[:, ::2] if level.normed else level.map
        values[Place(level.part, level.stride)] = group_sum(features, point)
    backbone = [level for level in maps.levels if level.part == "backbone"]
    for level in backbone[:-1]:
        features = level.map[:, ::2] if level.normed else level.map
        for cells in GROUPS:
            values[Place("pooled", level.stride, cells)] = group_sum(features, point, cells)
    normed = {id(level.map) for level in backbone if level.normed}
    width = backbone[0].map.shape[-1]
    for fusion in maps.fusions:
        pools = fusion.module.pool_low, fusion.module.pool_high
        for kind, pool, features, tokens in zip(KINDS, pools, (fusion.low, fusion.high), fusion.tokens(), strict=True):
            row, column = _group_at(point, features, pool.kernel)
            token = tokens[..., row, column]
            place = Place("token", FINEST * width // features.shape[-1], pool.kernel, fusion.name, kind)
            values[place] = (token[:, ::2] if id(features) in normed else token).sum()
    return values


def group_sum(features: Tensor, point: Sequence[float], cells: int = 1) -> Tensor:
    """[B,C,h,w] -> 0-dim: of the group of cells x cells that `point` (x, y in 0..1) lies in, the mean over its cells,
    summed over images and channels. Groups begin at the upper left corner; those at the other borders may be smaller.
    """
    row, column = _group_at(point, features, cells)
    group = features[..., row * cells : (row + 1) * cells, column * cells : (column + 1) * cells]
    return group.mean((-2, -1)).sum()


def _group_at(point: Sequence[float], features: Tensor, cells: int) -> tuple[int, int]:
    """Row and column, among groups of cells x cells, of the one that the point lies in; at 1 the last cell's."""
    height, width = features.shape[-2:]
    x, y = point
    return min(int(y * height), height - 1) // cells, min(int(x * width), width - 1) // cells


def magnitudes(value: Tensor, images: Tensor) -> Array:
    """[H,W] float64: |d value / d px|, summed over colours and images [B,3,H,W]. The graph is kept."""
    (gradient,) = torch.autograd.grad(value, images, retain_graph=True)
    summed: Array = gradient.abs().sum((0, 1)).cpu().double().numpy()
    return summed


def figures(fields: Sequence[Field]) -> dict[str, Any]:
    """For JSON: fields; growth from level to level of backbone and neck; pairs of groups of cells and the next coarser
    level; pairs of FINE's tokens. A ratio is the coarser sigma over the finer one, None where either is undefined.
    """
    sigmas = {field.place: field.sigma for field in fields}
    growth = {}
    for part in ("backbone", "neck"):
        of_levels = [sigma for place, sigma in sigmas.items() if place.part == part]
        ratios = [_ratio(coarse, fine) for fine, coarse in pairwise(of_levels)]
        defined = [ratio for ratio in ratios if ratio is not None]
        growth[part] = {"ratios": ratios, "mean": float(np.mean(defined)) if defined else None}
    backbone = [place for place in sigmas if place.part == "backbone"]
    pooled = [
        _pair({"stride": fine.stride, "cells": cells}, sigmas[place], sigmas[coarse])
        for fine, coarse in pairwise(backbone)
        for cells, place in ((1, fine), *((cells, Place("pooled", fine.stride, cells)) for cells in GROUPS))
    ]
    lows = {place.name: sigma for place, sigma in sigmas.items() if place.level == "low"}
    highs = {place.name: sigma for place, sigma in sigmas.items() if place.level == "high"}
    tokens = [_pair({"module": name}, sigma, highs[name]) for name, sigma in lows.items()]
    return {"fields": [field.to_dict() for field in fields], "growth": growth, "pooled": pooled, "tokens": tokens}


def _pair(of: dict[str, Any], fine: float | None, coarse: float | None) -> dict[str, Any]:
    return {**of, "sigma_fine": fine, "sigma_coarse": coarse, "ratio": _ratio(coarse, fine)}


def _ratio(coarse: float | None, fine: float | None) -> float | None:
    return coarse / fine if coarse is not None and fine else None


def _rows(fields: Sequence[Field]) -> list[list[FieldPanel]]:
    """A row for each part that there is."""
    rows = ([field for field in fields if field.place.part == part] for part in PARTS)
    return [[FieldPanel(str(f.place), f.gradient, f.sigma, f.centre) for f in row] for row in rows if row]
