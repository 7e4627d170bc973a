"""What is active where: the maps of backbone and neck, and how FINE modulates, over each image."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from alignrank.contracts import Batch, Frame, Targets
from alignrank.data.letterbox import letterbox
from alignrank.detectors import predictions_of
from alignrank.errors import InputError
from alignrank.evaluation.feature_maps import FINEST, FeatureMaps
from alignrank.folders import new_run_folder
from alignrank.inference.entries import SourceImage
from alignrank.inference.sources import Sources
from alignrank.report.heat_maps import MapPanel, plot_maps
from alignrank.terminal.progress import counted, say, steps
from alignrank.weights.deployed import Deployed, deploy

Array = np.ndarray[Any, Any]
NO_FINE = "this network has no FINE (neck.fine): activations only"


@dataclass(frozen=True, slots=True)
class MeanMap:
    """values [h,w] of one image, the mean over channels: of magnitudes for a map of a `part` of the network, of M
    itself for a FINE module, whose `name` it then has. stride: px of the input from cell to cell.
    """

    part: str
    stride: int
    values: Array
    name: str = ""

    @property
    def title(self) -> str:
        return f"{self.part}, stride {self.stride}" if not self.name else f"M of {self.name}, stride {self.stride}"


def maps_to_folder(
    weights: Path,
    sources: Sequence[str],
    *,
    imgsz: int | Sequence[int] | None = None,
    out: str | Path | None = None,
    device: str = "auto",
) -> dict[str, Any]:
    """A picture for each image that `sources` name, as for `predict`; returns what is in maps.json.

    Both are in the new folder `out`, else runs/maps. Raises InputError where no image can be read.
    """
    detector = deploy(weights, device).resized(imgsz)
    opened = Sources([*sources])
    rows: list[dict[str, Any]] = []
    with new_run_folder(out, "maps") as folder:
        try:
            with steps("drawing maps", opened.count) as advance, closing(iter(opened)) as images:
                for image in counted(images, advance):
                    rows.append(_drawn(image, detector, folder, len(rows) + 1))
            fine = any(level["part"] == "fine" for row in rows for level in row["maps"])
            result = {"weights": str(weights), "model": detector.recipe, "fine": fine, "images": rows}
            (folder / "maps.json").write_text(json.dumps(result, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        except BaseException as error:
            if not isinstance(error, InputError):
                opened.skips.report()
            if rows:
                say(f"{folder}: holds a part of the results only")
            raise
    opened.skips.report()
    if not fine:
        say(NO_FINE)
    say(f"pictures and maps.json are in {folder}")
    return {"out": str(folder), **result}


def _drawn(image: SourceImage, detector: Deployed, folder: Path, number: int) -> dict[str, Any]:
    batch = _letterboxed(image, detector)
    found = mean_maps(detector, batch)
    (frame,) = batch.frames
    size = batch.images.shape[-2], batch.images.shape[-1]
    panels, rows = [], []
    for mean in found:
        values, extent = of_picture(mean.values, frame, size)
        panels.append(MapPanel(mean.title, values, extent, signed=mean.part == "fine"))
        rows.append(_row(mean, values))
    path = folder / "pictures" / f"{number}.png"
    plot_maps(image.image, Path(image.name).name, panels, path)
    return {"source": image.name, "file": str(path.relative_to(folder)), "size": list(frame.size), "maps": rows}


def _letterboxed(image: SourceImage, detector: Deployed) -> Batch:
    pixels = torch.from_numpy(np.require(image.image, requirements=["C", "W"])).permute(2, 0, 1)
    canvas, scale, offset = letterbox(pixels, detector.size)
    frame = Frame(image.name, image.image.shape[:2], scale, offset)
    return Batch(canvas[None], [Targets.empty()], [frame]).to(detector.device)


@torch.inference_mode()
def mean_maps(detector: Deployed, batch: Batch) -> list[MeanMap]:
    """Of the one image of a batch: backbone and neck, finest first, then FINE modules in the order in which they run.

    Raises InputError where maps are not numbers.
    """
    with FeatureMaps(detector.network) as maps:
        predictions_of(detector.network, batch.network_input(), batch)
    width = maps.levels[0].map.shape[-1]
    found = [MeanMap(level.part, level.stride, _numbers(level.map[0].abs().mean(0))) for level in maps.levels]
    for fusion in maps.fusions:
        stride = FINEST * width // fusion.low.shape[-1]
        found.append(MeanMap("fine", stride, _numbers(fusion.modulation()[0].mean(0)), fusion.name))
    if not all(np.isfinite(mean.values).all() for mean in found):
        raise InputError(f"{batch.frames[0].source}: maps are not numbers; these weights are of no use")
    return found


def _numbers(values: torch.Tensor) -> Array:
    numbers: Array = values.float().cpu().numpy()
    return numbers


def of_picture(values: Array, frame: Frame, size: tuple[int, int]) -> tuple[Array, tuple[float, float, float, float]]:
    """The cells [h,w] that the picture lies in, without those of the grey around it; and where they lie, px of the
    picture: (left, right, bottom, top). size: (height, width) px of the input.
    """
    spans, ends = [], []
    for length, cells, side, factor, offset in zip(
        size, values.shape, frame.size, frame.scale[::-1], frame.offset[::-1], strict=True
    ):
        cell = length / cells
        first, last = int(offset / cell), min(-int(-(offset + side * factor) // cell), cells)
        spans.append(slice(first, max(last, first + 1)))
        ends.append(((spans[-1].start * cell - offset) / factor, (spans[-1].stop * cell - offset) / factor))
    (top, bottom), (left, right) = ends
    return values[spans[0], spans[1]], (left, right, bottom, top)


def _row(mean: MeanMap, values: Array) -> dict[str, Any]:
    named = {"module": mean.name} if mean.name else {}
    figures = {"mean": float(values.mean()), "min": float(values.min()), "max": float(values.max())}
    return {"part": mean.part, **named, "stride": mean.stride, "cells": list(values.shape), **figures}
