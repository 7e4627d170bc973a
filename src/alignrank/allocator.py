"""What the C library does with memory that was freed; imports no PyTorch."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping

# glibc's numbers of its parameters, and the largest values that it takes: 2 GB, 32 MB.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST_TRIM, _LARGEST_MMAP = 2**31 - 1, 2**25
# Any of them in an environment variable is the user's word on it.
_OF_USER = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "trim_threshold", "mmap_threshold")


def keep_freed_memory(environment: Mapping[str, str] = os.environ) -> bool:
    """Let freed memory stay with the process, for its next tensors; whether that was done.

    glibc gives what is free at the end of its heap back to the system, and takes it again page by page: 2 to 8 % of a
    training step on a CPU. Both thresholds are set, since glibc no longer raises one when it was told the other.
    Nothing is done under another C library, or where the user has set either (also in GLIBC_TUNABLES).
    """
    asked = " ".join([*environment, environment.get("GLIBC_TUNABLES", "")])
    if any(name in asked for name in _OF_USER):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # musl, macOS, Windows
        return False
    return bool(mallopt(_TRIM_THRESHOLD, _LARGEST_TRIM) and mallopt(_MMAP_THRESHOLD, _LARGEST_MMAP))
