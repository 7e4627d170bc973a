"""Checkpoints of other code bases as ours. Nothing in them is executed.

The public VarifocalNet checkpoints (the authors' mmdetection fork, and mmdetection itself) name their tensors
`backbone.*`, `neck.lateral_convs.*`, `bbox_head.vfnet_cls.*`; the table below says what they are here.
"""

from __future__ import annotations

import pickle
import re
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import torch
from torch import Tensor

from alignrank.detectors import DETECTORS
from alignrank.errors import InputError
from alignrank.files import read_text
from alignrank.folders import new_file
from alignrank.weights import checkpoint
from alignrank.weights.coco_names import COCO_NAMES
from alignrank.weights.recipe import load_recipe

# Pattern of their name -> our name. `scales` are collected into vectors.
NAMES = (
    (r"backbone\.(.+)", r"backbone.body.\1"),
    (r"neck\.lateral_convs\.(\d)\.conv\.(.+)", r"neck.laterals.\1.\2"),
    (r"neck\.fpn_convs\.([012])\.conv\.(.+)", r"neck.outputs.\1.\2"),
    (r"neck\.fpn_convs\.3\.conv\.(.+)", r"neck.extras.0.\1"),
    (r"neck\.fpn_convs\.4\.conv\.(.+)", r"neck.extras.1.\1"),
    (r"bbox_head\.cls_convs\.(\d)\.(.+)", r"head.cls_tower.\1.\2"),
    (r"bbox_head\.reg_convs\.(\d)\.(.+)", r"head.box_tower.\1.\2"),
    (r"bbox_head\.vfnet_reg_conv\.(.+)", r"head.box_conv.\1"),
    (r"bbox_head\.vfnet_reg_refine_dconv\.(.+)", r"head.box_star.\1"),
    (r"bbox_head\.vfnet_reg_refine\.(.+)", r"head.refine.\1"),
    (r"bbox_head\.vfnet_reg\.(.+)", r"head.box.\1"),
    (r"bbox_head\.vfnet_cls_dconv\.(.+)", r"head.cls_star.\1"),
    (r"bbox_head\.vfnet_cls\.(.+)", r"head.cls.\1"),
)
# Within a convolution with norm; `conv_offset` belongs to a deformable one.
PARTS = ((r"\.conv\.conv_offset\.", ".0.plan."), (r"\.gn\.", ".1."))
SCALES = {"scales": "head.scale", "scales_refine": "head.refine_scale"}


def convert(source: Path, out: Path, *, model: str = "vfnet-r50", classes: Sequence[str] = ()) -> Path:
    """Write a VarifocalNet checkpoint (.pth or .safetensors) as our weights. `classes`: names; COCO's for 80 classes.

    Raises InputError naming the file and the first tensor that is missing, unknown or of another shape.
    """
    tensors = read_tensors(source)
    key = "bbox_head.vfnet_cls.bias"
    if key not in tensors:
        raise InputError(f"{source}: tensor {key} is missing; this is no VarifocalNet checkpoint")
    count = len(tensors[key])
    names = tuple(classes) or (COCO_NAMES if count == len(COCO_NAMES) else ())
    if len(names) != count:
        raise InputError(
            f"--classes: {source} has {count} classes, got {len(names)} names; give a file with one a line"
        )
    deformable = any("conv_offset" in name and name.startswith("bbox_head") for name in tensors)
    overrides: dict[str, Any] = {"model.pretrained": "", "head.dcn": deformable}
    recipe = load_recipe(model, num_classes=count, overrides=overrides, where="--model")
    with torch.device("meta"):
        expected = DETECTORS[recipe.detector].model(recipe.architecture).state_dict()
    weights = renamed(tensors, deformable=deformable)
    for name, tensor in expected.items():
        if name not in weights and name.endswith("num_batches_tracked"):
            weights[name] = torch.zeros((), dtype=torch.int64)
        if name not in weights:
            raise InputError(f"{source}: there is no tensor for {name}; is it a {model}?")
        if weights[name].shape != tensor.shape:
            shapes = f"{list(weights[name].shape)}, {model} has {list(tensor.shape)}"
            raise InputError(f"{source}: the tensor for {name} has shape {shapes}")
    unknown = sorted(set(weights) - set(expected))
    if unknown:
        raise InputError(f"{source}: tensor {unknown[0]} does not belong to {model}")
    checkpoint.save(out, weights, recipe=recipe, classes=names, metrics={})
    return out


def convert_file(source: Path, out: Path, *, model: str, classes: str | None) -> Path:
    """The same with names from a text file, one a line."""
    if out.suffix != ".safetensors":
        raise InputError(f"--out: {out} must end with .safetensors")
    new_file(out, "--out")
    if classes is None:
        return convert(source, out, model=model)
    names = [line.strip() for line in read_text(Path(classes)).splitlines() if line.strip()]
    return convert(source, out, model=model, classes=names)


def read_tensors(source: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint, at its top or under `state_dict` or `model`."""
    if not source.is_file():
        raise InputError(f"{source}: no such file")
    if source.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return dict(load_file(source))
        except (SafetensorError, OSError) as error:
            raise InputError(f"{source}: not a readable safetensors file ({error})") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols; what matters is raised
            content = torch.load(source, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, BadZipFile, ValueError) as error:
        reason = re.split(r"[.\n]", str(error).strip() or type(error).__name__)[0]
        raise InputError(
            f"{source}: cannot be read without running code from it ({reason}); save its state_dict alone, as tensors"
        ) from None
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise InputError(f"{source}: holds no state_dict of tensors")
    return {str(key): value for key, value in content.items()}


def renamed(tensors: Mapping[str, Tensor], *, deformable: bool = False) -> dict[str, Tensor]:
    """Their tensors under our names; a name that is not in the table stays as it is."""
    weights: dict[str, Tensor] = {}
    scales: dict[str, dict[int, Tensor]] = defaultdict(dict)
    last = max((int(m[1]) for name in tensors if (m := re.match(r"bbox_head\.cls_convs\.(\d)\.", name))), default=0)
    for name, tensor in tensors.items():
        if match := re.fullmatch(r"bbox_head\.(scales|scales_refine)\.(\d)\.scale", name):
            scales[match[1]][int(match[2])] = tensor
            continue
        ours = name
        for pattern, replacement in NAMES:
            if re.fullmatch(pattern, name):
                ours = re.sub(pattern, replacement, name)
                break
        if ours.startswith("head."):
            for pattern, replacement in PARTS:
                ours = re.sub(pattern, replacement, ours)
            inner = ".0.conv." if deformable and re.match(rf"head\.\w+_tower\.{last}\.conv\.", ours) else ".0."
            ours = re.sub(r"\.conv\.(?=weight|bias)", inner, ours)
        weights[ours] = tensor
    for theirs, vector in scales.items():
        weights[SCALES[theirs]] = torch.stack([vector[i] for i in sorted(vector)])
    return weights
