"""The table of architectures: one entry for each, imports written out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from alignrank.config import Config
from alignrank.contracts import Built, Postprocess
from alignrank.detectors import alignrank, reppoints, retinanet, varifocalnet, yolo


@dataclass(frozen=True, slots=True)
class Detector:
    """How to make one architecture. `model` and `postprocess` are enough for prediction and export."""

    config: type[Config]
    build: Callable[[Any], Built]
    model: Callable[[Any], Any]
    postprocess: Callable[[Any], Postprocess]


DETECTORS: dict[str, Detector] = {
    "alignrank": Detector(
        alignrank.AlignRankConfig, alignrank.build, alignrank.build_model, alignrank.build_postprocess
    ),
    "reppoints": Detector(
        reppoints.RepPointsConfig, reppoints.build, reppoints.build_model, reppoints.build_postprocess
    ),
    "retinanet": Detector(
        retinanet.RetinaNetConfig, retinanet.build, retinanet.build_model, retinanet.build_postprocess
    ),
    "varifocalnet": Detector(
        varifocalnet.VarifocalNetConfig, varifocalnet.build, varifocalnet.build_model, varifocalnet.build_postprocess
    ),
    "yolo": Detector(yolo.YoloConfig, yolo.build, yolo.build_model, yolo.build_postprocess),
}


def deployed(model: Any) -> Any:
    """The network in its form for inference: `model.deploy()` where it has that, else as it is. Works in place."""
    return model.deploy() if hasattr(model, "deploy") else model
