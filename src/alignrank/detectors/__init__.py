"""The table of architectures, the one place where configuration, network, criterion and postprocess meet.

Imports are written out. A criterion is imported when it is asked for: prediction and export know no losses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from alignrank.config import Config
from alignrank.contracts import Batch, Built, Criterion, Postprocess, Predictions
from alignrank.detectors import (
    alignrank,
    deformable_detr,
    dino,
    reppoints,
    retinanet,
    torchvision_host,
    transformers_host,
    varifocalnet,
    yolo,
)
from alignrank.detectors.postprocess import NonMaximumSuppression, TopK
from alignrank.plug.published import Published


@dataclass(frozen=True, slots=True)
class Detector:
    """How to make one architecture. `model` and `postprocess` are enough for prediction and export.

    published: of another library's models, where the configuration's `model.pretrained` asks for a whole detector:
    (configuration, `section.field` overrides that it was made with) -> what the files of that detector say.
    """

    config: type[Config]
    model: Callable[[Any], Any]
    criterion: Callable[[Any], Criterion]
    postprocess: Callable[[Any], Postprocess]
    published: Callable[[Any, Mapping[str, Any]], Published] | None = None

    def build(self, config: Any) -> Built:
        """Network, criterion and postprocess."""
        return Built(self.model(config), self.criterion(config), self.postprocess(config))


def _yolo_criterion(config: Any) -> Criterion:
    from alignrank.detectors.yolo_criterion import YoloCriterion

    return YoloCriterion(config)


def _varifocalnet_criterion(config: Any) -> Criterion:
    from alignrank.detectors.varifocalnet_criterion import VarifocalNetCriterion

    return VarifocalNetCriterion(config)


def _reppoints_criterion(config: Any) -> Criterion:
    from alignrank.detectors.reppoints_criterion import RepPointsCriterion

    return RepPointsCriterion(config)


def _retinanet_criterion(config: Any) -> Criterion:
    from alignrank.detectors.retinanet_criterion import RetinaNetCriterion

    return RetinaNetCriterion(config)


def _set_criterion(config: Any) -> Criterion:
    from alignrank.detectors.set_criterion import SetCriterion

    return SetCriterion(config)


def _transformers_criterion(config: Any) -> Criterion:
    from alignrank.detectors.transformers_criterion import TransformersCriterion

    return TransformersCriterion(config)


def _torchvision_criterion(config: Any) -> Criterion:
    from alignrank.detectors.torchvision_criterion import TorchvisionCriterion

    return TorchvisionCriterion(config)


def _top_k(config: Any) -> Postprocess:
    return TopK()


def _nms(config: Any) -> Postprocess:
    return NonMaximumSuppression(config.postprocess)


DETECTORS: dict[str, Detector] = {
    "alignrank": Detector(alignrank.AlignRankConfig, alignrank.AlignRank, _yolo_criterion, alignrank.postprocess),
    "deformable_detr": Detector(
        deformable_detr.DeformableDetrConfig, deformable_detr.DeformableDetr, _set_criterion, _top_k
    ),
    "dino": Detector(dino.DinoConfig, dino.Dino, _set_criterion, _top_k),
    "reppoints": Detector(reppoints.RepPointsConfig, reppoints.RepPoints, _reppoints_criterion, _nms),
    "retinanet": Detector(retinanet.RetinaNetConfig, retinanet.RetinaNet, _retinanet_criterion, _nms),
    "torchvision": Detector(
        torchvision_host.TorchvisionConfig,
        torchvision_host.TorchvisionHost,
        _torchvision_criterion,
        _nms,
        torchvision_host.of_published,
    ),
    "transformers": Detector(
        transformers_host.TransformersConfig,
        transformers_host.TransformersHost,
        _transformers_criterion,
        _top_k,
        transformers_host.of_published,
    ),
    "varifocalnet": Detector(varifocalnet.VarifocalNetConfig, varifocalnet.VarifocalNet, _varifocalnet_criterion, _nms),
    "yolo": Detector(yolo.YoloConfig, yolo.Yolo, _yolo_criterion, yolo.postprocess),
}


def deployed(model: Any) -> Any:
    """The network in its form for inference: `model.deploy()` where it has that, else as it is. Works in place."""
    return model.deploy() if hasattr(model, "deploy") else model


def predictions_of(
    model: Any, images: Tensor, batch: Batch, *, denoising: torch.Generator | None = None
) -> Predictions:
    """What `model` says of a batch, of which it gets what it can use: the sizes of the pictures in the input where it
    `uses_sizes`; in training, where `denoising` draws the noise, noised truth where it makes queries of that.

    images: the batch's, as networks take them (`Batch.network_input`).
    """
    if not getattr(model, "uses_sizes", False):
        predictions: Predictions = model(images)
        return predictions
    sizes = batch.sizes()
    inputs: dict[str, Any] = {}
    if denoising is not None and hasattr(model, "denoising_queries"):
        inputs["denoising"] = model.denoising_queries(batch.targets, sizes, denoising)
    of_sizes: Predictions = model(images, sizes, **inputs)
    return of_sizes
