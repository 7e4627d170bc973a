"""Weights as a network ready to run: what prediction, evaluation and export start from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch

from alignrank.arguments import share, switch
from alignrank.contracts import Postprocess
from alignrank.detectors import DETECTORS, deployed
from alignrank.detectors.mirrored import Mirrored, merging
from alignrank.device import choose_device, settle_threads
from alignrank.input_size import ImageSize, InputSize, check_size, plain_size
from alignrank.nn.csp import split_entries
from alignrank.weights import checkpoint


@dataclass(frozen=True, slots=True)
class SelectionOptions:
    """nms: the one-to-many output and NMS, also where there is an NMS-free output. agnostic: one object has one class.
    consensus: overlap above which the boxes of an object are merged; None: as the weights say. tta: also of the mirror
    image, see `detectors.mirrored`.

    Raises InputError naming the option that is out of range.
    """

    nms: bool = False
    agnostic: bool = False
    consensus: float | None = None
    tta: bool = False

    def __post_init__(self) -> None:
        for option in ("nms", "agnostic", "tta"):
            object.__setattr__(self, option, switch(option, getattr(self, option)))
        if self.consensus is not None:
            object.__setattr__(self, "consensus", share("consensus", self.consensus))

    def of(self, loaded: checkpoint.Checkpoint) -> checkpoint.Checkpoint:
        """The same weights, read with these. Raises InputError where they have no such output."""
        if self.nms:
            loaded = loaded.with_nms()
        return loaded.with_selection(agnostic=self.agnostic, consensus=self.consensus, suppressed=self.tta)


@dataclass(frozen=True, slots=True)
class Deployed:
    """A network ready to run on `device`, and all that its outputs need to be understood.

    classes: names by label; size: of its input, as it was trained, unless `resized`; order: of its images in memory.
    """

    order: ClassVar[torch.memory_format] = torch.channels_last

    network: Any
    postprocess: Postprocess
    classes: tuple[str, ...]
    size: InputSize
    recipe: str
    device: torch.device

    def resized(self, imgsz: ImageSize | None, rect: bool | None = None) -> Deployed:
        """The same with another input; None leaves things as they are. Raises InputError for impossible sizes."""
        given: Any = plain_size(imgsz) if imgsz is not None else self.size.imgsz
        check_size(given, self.network.stride)
        wanted = self.size.rect if rect is None else rect
        size = InputSize.of(given, rect=wanted, step=self.network.stride, fit=self.size.fit)
        return replace(self, size=size)


def deploy(
    weights: Path | checkpoint.Checkpoint,
    device: str | torch.device = "auto",
    *,
    selection: SelectionOptions | None = None,
) -> Deployed:
    """Load weights for inference: unused head dropped, norms folded. Raises InputError for unusable files.

    selection: where it is not as the weights say.
    """
    selection = selection or SelectionOptions()
    settle_threads()
    chosen = choose_device(device) if isinstance(device, str) else device
    loaded = weights if isinstance(weights, checkpoint.Checkpoint) else checkpoint.load(weights)
    loaded = selection.of(loaded)
    network = split_entries(deployed(loaded.build_model())).to(chosen).to(memory_format=torch.channels_last)
    recipe = loaded.recipe
    postprocess = DETECTORS[recipe.detector].postprocess(recipe.architecture)
    if selection.tta:
        network = Mirrored(network)
        postprocess = merging(postprocess, agnostic=selection.agnostic, consensus=selection.consensus)
    return Deployed(network, postprocess, loaded.classes, recipe.size_in_use, recipe.name, chosen)
