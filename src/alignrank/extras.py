"""Packages that only a part of AlignRank needs: its extras in pyproject.toml."""

from __future__ import annotations

import importlib
import importlib.util
import re
from importlib import metadata
from typing import Any

from alignrank.errors import InputError

# Where a package is not named as it is imported.
PACKAGES = {
    "sklearn": "scikit-learn",
    "skimage": "scikit-image",
    "litert_torch": "litert-torch",
    "ai_edge_litert": "ai-edge-litert",
    "prometheus_client": "prometheus-client",
    "python_multipart": "python-multipart",
}


def require(extra: str, *modules: str) -> None:
    """Raises InputError with the command to run unless all modules, of the extra, are there. Imports nothing."""
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise InputError(missing(extra, module))


def optional(extra: str, module: str) -> Any:
    """The module, imported. Raises InputError with the command to run where its package is not there."""
    require(extra, module.partition(".")[0])
    return importlib.import_module(module)


def missing(extra: str, module: str) -> str:
    """The sentence: which package is not there, and what installs all that the extra consists of.

    It names the packages, not `alignrank[EXTRA]`, and so works beside a clone, a wheel or an index.
    """
    package = PACKAGES.get(module, module)
    wanted = " ".join(f"'{requirement}'" for requirement in requirements(extra) or [package])
    return f"the package {package} is not installed (extra {extra!r} of alignrank); run `pip install {wanted}`"


def requirements(extra: str) -> list[str]:
    """What the installed distribution's metadata asks for under the extra, such as `av>=14.2`."""
    try:
        lines = metadata.requires("alignrank") or []
    except metadata.PackageNotFoundError:  # the source tree, on a path
        return []
    of_extra = re.compile(rf"""extra\s*==\s*['"]{re.escape(extra)}['"]""")
    return [line.partition(";")[0].strip() for line in lines if of_extra.search(line.partition(";")[2])]
