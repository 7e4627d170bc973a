"""The table of architectures, the one place where configuration, network, criterion and postprocess meet.

Imports are written out, and made when they are asked for: a first prediction waits for one architecture, not for all,
and prediction and export know no losses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from alignrank.config import Config
from alignrank.contracts import Batch, Built, Criterion, Postprocess, Predictions
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


def _alignrank() -> Detector:
    from alignrank.detectors.alignrank import AlignRank, AlignRankConfig, postprocess

    return Detector(AlignRankConfig, AlignRank, _yolo_criterion, postprocess)


def _deformable_detr() -> Detector:
    from alignrank.detectors.deformable_detr import DeformableDetr, DeformableDetrConfig

    return Detector(DeformableDetrConfig, DeformableDetr, _set_criterion, _top_k)


def _dino() -> Detector:
    from alignrank.detectors.dino import Dino, DinoConfig

    return Detector(DinoConfig, Dino, _set_criterion, _top_k)


def _reppoints() -> Detector:
    from alignrank.detectors.reppoints import RepPoints, RepPointsConfig

    return Detector(RepPointsConfig, RepPoints, _reppoints_criterion, _nms)


def _retinanet() -> Detector:
    from alignrank.detectors.retinanet import RetinaNet, RetinaNetConfig

    return Detector(RetinaNetConfig, RetinaNet, _retinanet_criterion, _nms)


def _torchvision() -> Detector:
    from alignrank.detectors.torchvision_host import TorchvisionConfig, TorchvisionHost, of_published

    return Detector(TorchvisionConfig, TorchvisionHost, _torchvision_criterion, _nms, of_published)


def _transformers() -> Detector:
    from alignrank.detectors.transformers_host import TransformersConfig, TransformersHost, of_published

    return Detector(TransformersConfig, TransformersHost, _transformers_criterion, _top_k, of_published)


def _varifocalnet() -> Detector:
    from alignrank.detectors.varifocalnet import VarifocalNet, VarifocalNetConfig

    return Detector(VarifocalNetConfig, VarifocalNet, _varifocalnet_criterion, _nms)


def _yolo() -> Detector:
    from alignrank.detectors.yolo import Yolo, YoloConfig, postprocess

    return Detector(YoloConfig, Yolo, _yolo_criterion, postprocess)


class _Detectors(Mapping[str, Detector]):
    """{name: architecture}, each imported when it is looked up."""

    def __init__(self, makers: Mapping[str, Callable[[], Detector]]) -> None:
        self._makers = {name: cache(maker) for name, maker in makers.items()}

    def __getitem__(self, name: str) -> Detector:
        return self._makers[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)

    def __contains__(self, name: object) -> bool:
        return name in self._makers  # a Mapping's own would import it


DETECTORS: Mapping[str, Detector] = _Detectors(
    {
        "alignrank": _alignrank,
        "deformable_detr": _deformable_detr,
        "dino": _dino,
        "reppoints": _reppoints,
        "retinanet": _retinanet,
        "torchvision": _torchvision,
        "transformers": _transformers,
        "varifocalnet": _varifocalnet,
        "yolo": _yolo,
    }
)


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
