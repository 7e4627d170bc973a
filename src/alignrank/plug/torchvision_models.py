"""The detectors of torchvision: networks, anchors, matching and losses, each the library's own.

Built from the library's parts as its own functions build them, since those take no other backbone; tests compare the
two. The library is imported when one of them is asked for.
"""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from alignrank.errors import InputError, nearest
from alignrank.nn.backbone import TimmPyramid, timm_name

RESNET = "resnet50"
STRIDES = (4, 8, 16, 32)
_C5 = 2048  # channels of the last residual stage
# Arguments of the library's classes that are sections of a recipe: the input's size, and the selection.
_OURS = (
    "backbone", "num_classes", "min_size", "max_size", "image_mean", "image_std", "kwargs", "score_thresh",
    "nms_thresh", "detections_per_img", "topk_candidates", "box_score_thresh", "box_nms_thresh",
    "box_detections_per_img",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Architecture:
    """A detector of torchvision. kind: its class there; weights: the enumeration of its published weights.

    two_stages: it looks at proposals of its own; channel 0 of its class heads is the background. finest: stride of the
    pyramid's first map. classes: the tensor with `anchors` values for each channel of the class heads.
    """

    kind: str
    weights: str
    two_stages: bool
    finest: int
    classes: str
    anchors: int = 1


_DENSE = "head.classification_head.cls_logits.bias"
ARCHITECTURES = {
    "fcos_resnet50_fpn": Architecture("FCOS", "FCOS_ResNet50_FPN_Weights", False, 8, _DENSE),
    "retinanet_resnet50_fpn_v2": Architecture("RetinaNet", "RetinaNet_ResNet50_FPN_V2_Weights", False, 8, _DENSE, 9),
    "fasterrcnn_resnet50_fpn_v2": Architecture(
        "FasterRCNN", "FasterRCNN_ResNet50_FPN_V2_Weights", True, 4, "roi_heads.box_predictor.cls_score.bias"
    ),
}


@dataclass(frozen=True, slots=True)
class Form:
    """What a network is made of. backbone: `resnet50` or `timm:NAME`; width: channels of the pyramid; norm: of the
    backbone's batch norms; options: arguments of the library's class that differ from its defaults.
    """

    architecture: str
    backbone: str
    width: int
    norm: Literal["learn", "frozen"]
    options: Mapping[str, Any]


def categories(architecture: str) -> tuple[str, ...]:
    """Names of the channels of the published weights, that of the background included. Nothing is fetched."""
    from torchvision.models import detection

    weights = getattr(detection, ARCHITECTURES[architecture].weights).COCO_V1
    return tuple(weights.meta["categories"])


def library_model(form: Form, num_channels: int) -> Any:
    """The library's network with random weights, as its authors begin. num_channels: without the background.

    Raises InputError naming an option that the library's class does not have, and where the options make no network.
    """
    from torchvision.models import detection

    about = ARCHITECTURES[form.architecture]
    kind = getattr(detection, about.kind)
    known = [name for name in inspect.signature(kind).parameters if name not in _OURS]
    for name in form.options:
        if name not in known:
            raise InputError(f"model.config: {form.architecture} has no option {name!r}; {nearest(name, known)}")
    backbone = _backbone(form)
    statistics = {"image_mean": list(backbone.mean), "image_std": list(backbone.std)} if _is_timm(form) else {}
    parts = _PARTS[form.architecture](backbone.out_channels, num_channels)
    try:
        model = kind(backbone, num_channels + about.two_stages, **statistics, **parts, **form.options)
    except (ValueError, TypeError, KeyError, IndexError, RuntimeError) as error:
        raise InputError(f"model.config: these options make no {form.architecture} ({error})") from None
    return model


def _is_timm(form: Form) -> bool:
    return form.backbone != RESNET


def _backbone(form: Form) -> Any:
    """With the library's pyramid on it."""
    from torchvision.models import resnet
    from torchvision.models.detection.backbone_utils import BackboneWithFPN
    from torchvision.ops.misc import FrozenBatchNorm2d

    about = ARCHITECTURES[form.architecture]
    strides = STRIDES[STRIDES.index(about.finest) :]
    if _is_timm(form):
        return TimmWithPyramid(form, strides)
    norm = FrozenBatchNorm2d if form.norm == "frozen" else nn.BatchNorm2d
    stages = [2 + STRIDES.index(stride) - 1 for stride in strides]
    return BackboneWithFPN(
        resnet.resnet50(weights=None, norm_layer=norm),
        {f"layer{stage}": str(number) for number, stage in enumerate(stages)},
        [_C5 // STRIDES[-1] * stride for stride in strides],
        form.width,
        **_ends(form, _C5),
    )


def _ends(form: Form, coarsest: int) -> dict[str, Any]:
    """What the pyramid adds to the backbone's maps, and its norm. coarsest: channels of the last map."""
    from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

    if ARCHITECTURES[form.architecture].two_stages:
        return {"extra_blocks": LastLevelMaxPool(), "norm_layer": nn.BatchNorm2d}
    # FCOS makes P6 of P5, RetinaNet of the backbone's last map: the library tells them apart by their widths.
    before = form.width if ARCHITECTURES[form.architecture].kind == "FCOS" else coarsest
    return {"extra_blocks": LastLevelP6P7(before, form.width)}


class TimmWithPyramid(nn.Module):
    """A timm backbone in the place of the library's: normalised images -> its maps, through the library's pyramid.

    mean, std: those that the backbone learnt with. Raises InputError for one without the strides.
    """

    def __init__(self, form: Form, strides: Sequence[int]) -> None:
        from torchvision.ops import FeaturePyramidNetwork

        super().__init__()
        name = timm_name(form.backbone, (RESNET,))
        pyramid: Any = TimmPyramid(name, norm=form.norm, strides=strides)
        if pyramid.norms:
            raise InputError(f"model.backbone: {form.backbone} has its channels last, which {form.architecture} cannot")
        # Plain numbers: on the meta device there are none in tensors.
        settings = pyramid.body.pretrained_cfg
        self.mean, self.std = (
            tuple(settings.get(key, default)) for key, default in (("mean", [0] * 3), ("std", [1] * 3))
        )
        self.body = pyramid.body
        self.fpn = FeaturePyramidNetwork(pyramid.channels, form.width, **_ends(form, pyramid.channels[-1]))
        self.out_channels = form.width

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        maps = OrderedDict((str(number), level) for number, level in enumerate(self.body(images)))
        levels: dict[str, Tensor] = self.fpn(maps)
        return levels


def _fcos(width: int, num_channels: int) -> dict[str, Any]:
    return {}


def _retinanet(width: int, num_channels: int) -> dict[str, Any]:
    from torchvision.models.detection.retinanet import RetinaNetHead, _default_anchorgen

    anchors = _default_anchorgen()
    per_place = anchors.num_anchors_per_location()[0]
    head = RetinaNetHead(width, per_place, num_channels, norm_layer=partial(nn.GroupNorm, 32))
    head.regression_head._loss_type = "giou"
    return {"anchor_generator": anchors, "head": head}


def _faster_rcnn(width: int, num_channels: int) -> dict[str, Any]:
    from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, _default_anchorgen
    from torchvision.models.detection.rpn import RPNHead

    anchors = _default_anchorgen()
    return {
        "rpn_anchor_generator": anchors,
        "rpn_head": RPNHead(width, anchors.num_anchors_per_location()[0], conv_depth=2),
        "box_head": FastRCNNConvFCHead((width, 7, 7), [width] * 4, [1024], norm_layer=nn.BatchNorm2d),
    }


_PARTS = {
    "fcos_resnet50_fpn": _fcos,
    "retinanet_resnet50_fpn_v2": _retinanet,
    "fasterrcnn_resnet50_fpn_v2": _faster_rcnn,
}


def anchors_of(generator: Any, images: Tensor, maps: Sequence[Tensor]) -> list[Tensor]:
    """Anchors [A,4] px of each map, in float32 at least: half precision has steps of a pixel above 1024."""
    dtype = torch.promote_types(images.dtype, torch.float32)
    generator.set_cell_anchors(dtype, images.device)
    height, width = images.shape[-2:]
    shapes = [level.shape[-2:] for level in maps]
    strides = [[images.new_tensor(height // h, dtype=torch.int64), images.new_tensor(width // w, dtype=torch.int64)]
               for h, w in shapes]  # fmt: skip
    found: list[Tensor] = generator.grid_anchors([list(shape) for shape in shapes], strides)
    return found
