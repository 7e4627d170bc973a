"""Which machine a figure is of."""

from __future__ import annotations

import platform
from pathlib import Path


def processor() -> str:
    """The model's name where the system tells it (Linux), else what Python knows of it."""
    told = Path("/proc/cpuinfo")
    named = told.read_text().partition("model name")[2].partition("\n")[0].strip("\t: ") if told.exists() else ""
    return named or platform.processor() or platform.machine()
