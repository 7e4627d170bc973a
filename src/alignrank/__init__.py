"""AlignRank: object detection whose scores rank boxes by localization quality.

Public names are imported when first used, so that `import alignrank` takes no time and no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from alignrank.api import Detector
    from alignrank.contracts import Detections
    from alignrank.engine.diagnose import diagnose
    from alignrank.engine.recipe import build_detector
    from alignrank.errors import InputError

__all__ = ["Detections", "Detector", "InputError", "build_detector", "diagnose"]

_HOMES = {
    "Detector": "alignrank.api",
    "Detections": "alignrank.contracts",
    "InputError": "alignrank.errors",
    "build_detector": "alignrank.engine.recipe",
    "diagnose": "alignrank.engine.diagnose",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'alignrank' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
