"""Checkpoints of other code bases as ours. Nothing in them is executed.

The public VarifocalNet checkpoints (the authors' mmdetection fork, and mmdetection itself) name their tensors
`backbone.*`, `neck.lateral_convs.*`, `bbox_head.vfnet_cls.*`; the table below says what they are here. That of
Rank-DETR and H-Deformable-DETR is in `detrex`.
"""

from __future__ import annotations

import re
import warnings
from argparse import Namespace
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alignrank.errors import InputError
from alignrank.files import read_text
from alignrank.folders import new_file
from alignrank.terminal.progress import say
from alignrank.weights import checkpoint, detrex
from alignrank.weights.coco_names import COCO_IDS, COCO_NAMES
from alignrank.weights.recipe import Recipe, load_recipe

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


@dataclass(frozen=True, slots=True)
class Layout:
    """A way to name tensors. mark: pattern of a name that only it has; detector: ours; classes: our name of the tensor
    with one value a class; renamed: (tensors, file) -> under our names; settings: (those, the recipe's configuration)
    -> options that they tell; model: a recipe to point at.
    """

    name: str
    mark: str
    detector: str
    classes: str
    renamed: Callable[[Mapping[str, Tensor], str], dict[str, Tensor]]
    settings: Callable[[Mapping[str, Tensor], Any], dict[str, Any]]
    model: str


def convert(source: Path, out: Path, *, model: str = "vfnet-r50", classes: Sequence[str] = ()) -> Path:
    """Write a public checkpoint (.pth or .safetensors) as our weights. model: a recipe that it fits, but for the
    options that its tensors tell. classes: names; COCO's for 80 classes, or for 91 channels of DETR's kin, by its ids.

    Raises InputError naming the file and the first tensor that is missing, unknown or of another shape.
    """
    tensors = read_tensors(source)
    layout = _layout(source, tensors)
    recipe = load_recipe(model, where="--model")
    if recipe.detector != layout.detector:
        raise InputError(
            f"--model: {source} is a {layout.name} checkpoint, {model} a {recipe.detector}; try --model {layout.model}"
        )
    weights = layout.renamed(tensors, str(source))
    if layout.classes not in weights:
        raise InputError(f"{source}: there is no tensor for {layout.classes}; is it a {model}?")
    count = weights[layout.classes].numel()
    by_id = layout.detector == "deformable_detr" and count == COCO_IDS[-1] + 1 and not classes
    names = tuple(classes) or (COCO_NAMES if by_id or count == len(COCO_NAMES) else ())
    if len(names) != count and not by_id:
        raise InputError(
            f"--classes: {source} has {count} classes, got {len(names)} names; give a file with one a line"
        )
    told = layout.settings(weights, recipe.architecture)
    other = [f"{option}={str(value).lower()}" for option, value in told.items() if value != _option(recipe, option)]
    try:
        recipe = load_recipe(model, num_classes=count, overrides={"model.pretrained": "", **told}, where="--model")
    except InputError as error:  # the recipe alone is sound
        raise InputError(f"{source}: {error}") from None
    if other:
        say(f"{source}: unlike {model}, it has {' '.join(other)}")
    weights = _fitting(weights, recipe, source=source, model=model)
    if by_id:
        say(f"{source}: its {count} channels are COCO's ids, of which {len(COCO_IDS)} are classes; --classes names all")
        weights, recipe = detrex.of_coco(weights), recipe.for_classes(len(COCO_IDS))
    checkpoint.save(out, weights, recipe=recipe, classes=names, metrics={})
    return out


def _layout(source: Path, tensors: Mapping[str, Tensor]) -> Layout:
    for layout in LAYOUTS:
        if any(re.fullmatch(layout.mark, name) for name in tensors):
            return layout
    known = " or ".join(layout.name for layout in LAYOUTS)
    raise InputError(f"{source}: by the names of its tensors this is no {known} checkpoint")


def _option(recipe: Recipe, option: str) -> Any:
    value: Any = recipe.architecture
    for part in option.split("."):
        value = getattr(value, part)
    return value


def _fitting(weights: Mapping[str, Tensor], recipe: Recipe, *, source: Path, model: str) -> dict[str, Tensor]:
    """Copies of exactly the tensors of the recipe's network. Raises InputError naming the first that does not fit.

    Counts of batches, which only begin a training's averages, may be missing or too many.
    """
    expected = recipe.meta_network().state_dict()
    fitting: dict[str, Tensor] = {}
    for name, tensor in expected.items():
        if name not in weights and name.endswith("num_batches_tracked"):
            fitting[name] = torch.zeros((), dtype=torch.int64)
            continue
        if name not in weights:
            raise InputError(f"{source}: there is no tensor for {name}; is it a {model}?")
        if weights[name].shape != tensor.shape:
            shapes = f"{list(weights[name].shape)}, {model} has {list(tensor.shape)}"
            raise InputError(f"{source}: the tensor for {name} has shape {shapes}")
        if weights[name].is_floating_point() != tensor.is_floating_point() or weights[name].layout != tensor.layout:
            kind = f"{weights[name].dtype}, {weights[name].layout}"
            raise InputError(f"{source}: the tensor for {name} has another kind of numbers ({kind})")
        # Tensors of a file may share memory (detrex has one norm for all levels), those of ours may not.
        fitting[name] = weights[name].clone()
    unknown = sorted(name for name in set(weights) - set(expected) if not name.endswith("num_batches_tracked"))
    if unknown:
        raise InputError(f"{source}: tensor {unknown[0]} does not belong to {model}")
    return fitting


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
        # A namespace holds values and runs nothing; DETR's kin keep their command line in one.
        with warnings.catch_warnings(), torch.serialization.safe_globals([Namespace]):
            warnings.simplefilter("ignore")  # about pickle protocols; what matters is raised
            content = torch.load(source, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken or hostile pickle ends in any of them
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


def renamed(tensors: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """A VarifocalNet's tensors under our names; a name that is not in the table stays as it is."""
    weights: dict[str, Tensor] = {}
    scales: dict[str, dict[int, Tensor]] = defaultdict(dict)
    deformable = _is_deformable(tensors)
    last = max((int(m[1]) for name in tensors if (m := re.match(r"bbox_head\.cls_convs\.(\d)\.", name))), default=0)
    for name, tensor in tensors.items():
        if match := re.fullmatch(r"bbox_head\.(scales|scales_refine)\.(\d)\.scale", name):
            scales[match[1]][int(match[2])] = tensor
            continue
        found = (match.expand(ours) for theirs, ours in NAMES if (match := re.fullmatch(theirs, name)))
        ours = next(found, name)
        if ours.startswith("head."):
            for pattern, replacement in PARTS:
                ours = re.sub(pattern, replacement, ours)
            inner = ".0.conv." if deformable and re.match(rf"head\.\w+_tower\.{last}\.conv\.", ours) else ".0."
            ours = re.sub(r"\.conv\.(?=weight|bias)", inner, ours)
        weights[ours] = tensor
    for theirs, vector in scales.items():
        if any(scale.shape for scale in vector.values()):
            raise InputError(f"{where}: tensors bbox_head.{theirs}.*.scale must be one number each")
        weights[SCALES[theirs]] = torch.stack([vector[i] for i in sorted(vector)])
    return weights


def _is_deformable(tensors: Mapping[str, Tensor]) -> bool:
    """The towers' last convolutions have offsets."""
    return any("conv_offset" in name and name.startswith("bbox_head") for name in tensors)


def _settings(weights: Mapping[str, Tensor], config: Any) -> dict[str, Any]:
    return {"head.dcn": any(name.startswith("head.") and ".0.plan." in name for name in weights)}


LAYOUTS = (
    Layout(
        name="VarifocalNet",
        mark=r"bbox_head\.vfnet_cls\.bias",
        detector="varifocalnet",
        classes="head.cls.bias",
        renamed=renamed,
        settings=_settings,
        model="vfnet-r50",
    ),
    Layout(
        name="Rank-DETR or H-Deformable-DETR",
        mark=r"transformer\.level_embeds?",
        detector="deformable_detr",
        classes="decoder.classes.0.bias",
        renamed=detrex.renamed,
        settings=detrex.settings,
        model="rank-h-detr-r50",
    ),
)
