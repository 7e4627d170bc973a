"""How the processor of a published checkpoint of transformers fits pictures into the input, in words of a recipe.

Its settings are read by the library's own class, which knows the forms of older files. What our fitting cannot do to
the pixel is refused: figures would be others than the library's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from alignrank.config import shown
from alignrank.errors import InputError, nearest
from alignrank.input_size import SIDE_STEP
from alignrank.plug.published import PROCESSOR
from alignrank.plug.transformers_models import ARCHITECTURES, library_class, one_line, quiet

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Processors by the first part of their names, and whether they resize with antialias.
_ANTIALIAS = {"RTDetr": True, "Detr": True, "DeformableDetr": True, "RfDetr": False}
_ENDS = ("Fast", "Pil", "ImageProcessor", "FeatureExtractor")
_BILINEAR = 2


def sections_of(architecture: str, settings: Mapping[str, Any], stride: int, where: str) -> dict[str, Any]:
    """A published `preprocessor_config.json` as `section.field` of a recipe: `train.imgsz`, `data.fit` and
    `data.antialias`. stride: of the network.

    Raises InputError naming the field that cannot be had.
    """
    where = f"model.pretrained: {where}: {PROCESSOR}"
    name = _name(architecture, settings, where)
    kind = library_class(architecture, f"{name}ImageProcessor")
    try:
        with quiet():
            processor = kind.from_dict(dict(settings))
            size = {side: int(value) for side, value in dict(processor.size).items() if value is not None}
    except Exception as error:  # the library's own checks raise what they like
        raise InputError(f"{where} cannot be used ({one_line(error)})") from None
    _check(architecture, processor, where)
    fit, imgsz = _size(size, stride, masked=ARCHITECTURES[architecture].masked, where=where)
    return {"train.imgsz": imgsz, "data.fit": fit, "data.antialias": _ANTIALIAS[name]}


def _name(architecture: str, settings: Mapping[str, Any], where: str) -> str:
    said = settings.get("image_processor_type", settings.get("feature_extractor_type"))
    if said is None:
        return ARCHITECTURES[architecture].processor
    name = str(said)
    for end in _ENDS:
        name = name.removesuffix(end)
    if name not in _ANTIALIAS:
        known = [f"{kind}ImageProcessor" for kind in _ANTIALIAS]
        raise InputError(f"{where}: image_processor_type: cannot be {shown(said)}; {nearest(str(said), known)}")
    return name


def _check(architecture: str, processor: Any, where: str) -> None:
    normalised = ARCHITECTURES[architecture].normalised
    wanted: dict[str, Any] = {"do_resize": True, "do_rescale": True, "resample": _BILINEAR, "do_normalize": normalised}
    wanted |= {"image_mean": MEAN, "image_std": STD} if normalised else {}
    for field, value in wanted.items():
        said = getattr(processor, field)
        if (tuple(said) if isinstance(value, tuple) else said) != value:
            raise InputError(f"{where}: {field}: {architecture} is used here with {value}, got {shown(said)}")
    if not math.isclose(processor.rescale_factor, 1 / 255, rel_tol=1e-6):
        raise InputError(f"{where}: rescale_factor: must be 1/255, got {shown(processor.rescale_factor)}")
    if processor.do_pad and getattr(processor, "pad_size", None) is not None:
        raise InputError(f"{where}: pad_size: must not be given, got {shown(processor.pad_size)}")


def _size(size: Mapping[str, int], stride: int, *, masked: bool, where: str) -> tuple[str, int | list[int]]:
    """`data.fit` and `train.imgsz`."""
    if set(size) == {"height", "width"}:
        height, width = size["height"], size["width"]
        if height > width or height % stride or width % stride:
            raise InputError(
                f"{where}: size: must be multiples of {stride} and no higher than wide, got {height} x {width}"
            )
        return "stretch", height if height == width and height % SIDE_STEP == 0 else [height, width]
    if masked and set(size) == {"shortest_edge", "longest_edge"}:
        return "detr", [size["shortest_edge"], size["longest_edge"]]
    either = ", or shortest_edge and longest_edge" if masked else ""
    raise InputError(f"{where}: size: must be height and width{either}, got {shown(dict(size))}")
