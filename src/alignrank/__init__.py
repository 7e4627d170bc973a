"""AlignRank: object detection whose scores rank boxes by localization quality.

Public names and sub-packages are imported when first used, so that `import alignrank` takes no time and no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from alignrank.version import __version__ as __version__

if TYPE_CHECKING:
    from alignrank import assign, boxes, contracts, detectors, losses, metrics, nn, plug
    from alignrank.api import Detector, diagnose
    from alignrank.detections import Detections
    from alignrank.errors import InputError
    from alignrank.weights.recipe import build_detector

__all__ = [
    "Detections",
    "Detector",
    "InputError",
    "assign",
    "boxes",
    "build_detector",
    "contracts",
    "detectors",
    "diagnose",
    "losses",
    "metrics",
    "nn",
    "plug",
]

_HOMES = {
    "Detector": "alignrank.api",
    "Detections": "alignrank.detections",
    "InputError": "alignrank.errors",
    "build_detector": "alignrank.weights.recipe",
    "diagnose": "alignrank.api",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in __all__:
        return importlib.import_module(f"alignrank.{name}")
    raise AttributeError(f"module 'alignrank' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
