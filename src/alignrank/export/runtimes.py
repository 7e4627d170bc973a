"""Exported files as networks that are ready to run: what is before and behind the network stays the same code.

Shape letters: B images, A points, C classes, K selected.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from alignrank.contracts import Predictions
from alignrank.errors import InputError, nearest
from alignrank.export.described import Described, described
from alignrank.export.graph import Opened
from alignrank.input_size import ImageSize
from alignrank.weights.catalog import is_exported
from alignrank.weights.checkpoint import Checkpoint
from alignrank.weights.deployed import Deployed, SelectionOptions, deploy


@dataclass(slots=True)
class ScoredPredictions(Predictions):
    """Of a graph that ends with scores; its `logits` are empty. given [B,A,C]: the scores, in 0..1."""

    given: Tensor | None = None

    def scores(self) -> Tensor:
        """[B,A,C] in 0..1."""
        assert self.given is not None
        return self.given


class ExportedNetwork:
    """images [B,3,H,W] float 0..1 -> ScoredPredictions, by the runtime of a file."""

    training = False

    def __init__(self, opened: Opened, about: Described, path: Path) -> None:
        self.opened, self.about, self.path, self.stride = opened, about, path, about.stride
        # Of another number for each level: enough to tell one from the next.
        points = torch.tensor(about.level_points, dtype=torch.int64)
        self.levels = torch.arange(len(points)).repeat_interleave(points).float()[:, None] if len(points) else None

    def eval(self) -> ExportedNetwork:
        """Itself: it does not train."""
        return self

    def train(self, mode: bool = True) -> ExportedNetwork:
        """Itself: it does not train."""
        return self

    def __call__(self, images: Tensor) -> Predictions:
        """Raises InputError for images that the file does not take."""
        self._check(images)
        pixels = np.ascontiguousarray(images.numpy())
        batches = [pixels[i : i + 1] for i in range(len(pixels))] if self.about.one_image else [pixels]
        try:
            rows = [[torch.from_numpy(np.asarray(output)) for output in self.opened.run(batch)] for batch in batches]
        # Each runtime has its own class for it.
        except Exception as error:
            raise InputError(f"{self.path}: its runtime cannot run it ({str(error)[:200]})") from None
        boxes, scores, *labels = (torch.cat(parts) for parts in zip(*rows, strict=True))
        if labels:
            every = scores.new_zeros(*scores.shape, len(self.about.names))
            scores = every.scatter_(2, labels[0].long()[..., None], scores[..., None])
        return ScoredPredictions(boxes.new_zeros(0), boxes, strides=self.levels, given=scores)

    def _check(self, images: Tensor) -> None:
        wanted = self.about.size
        fits = images.ndim == 4 and images.shape[1] == 3
        if fits and not wanted.rect:
            fits = tuple(images.shape[2:]) == wanted.landscape
        elif fits:
            fits = all(side % self.stride == 0 for side in images.shape[2:])
        if not fits or images.dtype != torch.float32:
            height, width = ("any", "any") if wanted.rect else wanted.landscape
            raise InputError(
                f"{self.path}: takes float32 images of shape [B, 3, {height}, {width}], got {images.dtype} of "
                f"{list(images.shape)}"
            )


@dataclass(frozen=True, slots=True)
class ExportedFile(Deployed):
    """A file of another runtime in place of a network. path: of the file."""

    order: ClassVar[torch.memory_format] = torch.contiguous_format

    path: Path = Path()

    def resized(self, imgsz: ImageSize | None, rect: bool | None = None) -> ExportedFile:
        """The same where the graph takes other inputs. Raises InputError where it does not."""
        if self.network.about.size.rect:
            resized = Deployed.resized(self, imgsz, rect)
            assert isinstance(resized, ExportedFile)
            return resized
        own = self.size.imgsz
        if imgsz is not None and Deployed.resized(self, imgsz, False).size.imgsz not in (own, _plain(own)):
            raise InputError(
                f"{self.path}: has an input of one size, imgsz {own}, not {imgsz}; export with --dynamic, or again"
            )
        if rect:
            raise InputError(f"{self.path}: has an input of one shape; leave out --rect, or export with --dynamic")
        return self


def _plain(imgsz: Any) -> Any:
    return imgsz if isinstance(imgsz, int) else list(imgsz)


def open_exported(path: Path, device: str | torch.device = "auto") -> ExportedFile:
    """Raises InputError for files that cannot be run, are not alignrank's or are damaged, for missing runtimes, and for
    devices but the processor.
    """
    from alignrank.export.formats import FORMATS

    check_device(device)
    if not path.exists():
        raise InputError(f"weights: no file {path}")
    suffixes = {row.suffix: row for row in FORMATS.values()}
    if path.suffix not in suffixes:
        raise InputError(f"{path}: is no exported file; {nearest(path.suffix, suffixes)}")
    opened = suffixes[path.suffix].module.open_file(path)
    about = described(opened.about, path)
    network: Any = ExportedNetwork(opened, about, path)
    return ExportedFile(network, about.postprocess, about.names, about.size, about.recipe, torch.device("cpu"), path)


def ready(weights: Path | Checkpoint | ExportedFile, device: str, selection: SelectionOptions) -> Deployed:
    """Weights or an exported file, ready to run. Raises InputError for what cannot be used."""
    if isinstance(weights, Checkpoint) or (isinstance(weights, Path) and not is_exported(weights)):
        return deploy(weights, device, selection=selection)
    opened = open_exported(weights, device) if isinstance(weights, Path) else weights
    check_device(device)
    refuse_options(opened.path, selection)
    return opened


def check_device(device: str | torch.device) -> None:
    """Raises InputError for all but the processor."""
    if str(device) not in ("auto", "cpu"):
        raise InputError(f"device: exported files run on the cpu here, not on {device}")


def refuse_options(path: Path, selection: SelectionOptions, oracle: str = "") -> None:
    """Raises InputError for options that a graph cannot take any more, or that need more than its detections."""
    for name in ("nms", "agnostic", "consensus"):
        if getattr(selection, name):
            raise InputError(f"{path}: --{name} is decided when a file is exported; leave it out, or give the weights")
    for name, value in (("tta", selection.tta), ("oracle", oracle)):
        if value:
            raise InputError(f"{path}: --{name} needs the weights, not an exported file")
