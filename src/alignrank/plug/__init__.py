"""Parts of ours in the models of other libraries: FINE in the pyramids of torchvision and of transformers, and ranking
losses (`transformers.loss_function`, `torchvision.compute_loss`).

`import alignrank.plug` takes neither library: a host's is imported when one of its models is met, or its module here is
used.
"""

from __future__ import annotations

import importlib
from typing import Any

from alignrank.plug.fine import add_fine, remove_fine
from alignrank.plug.modulated import HOSTS

__all__ = ["HOSTS", "add_fine", "remove_fine"]


def __getattr__(name: str) -> Any:
    if name in ("torchvision", "transformers"):
        return importlib.import_module(f"alignrank.plug.{name}")
    raise AttributeError(f"module 'alignrank.plug' has no attribute {name!r}")
