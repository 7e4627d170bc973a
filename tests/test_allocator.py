"""Freed memory that stays with the process: it does not come anew from the system, and what the user set stays."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from alignrank.allocator import keep_freed_memory

PROGRAM = """
import resource, sys
from alignrank.allocator import keep_freed_memory
if sys.argv[1] == "keep": assert keep_freed_memory()
def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def blocks(): return [bytearray(20_000_000) for _ in range(5)]
blocks(); blocks()
before = faults()
for _ in range(5): blocks()
print(faults() - before)
"""


def glibc() -> bool:
    try:
        return hasattr(ctypes.CDLL(None), "gnu_get_libc_version")
    except (OSError, TypeError):
        return False


@pytest.mark.skipif(not glibc(), reason="another C library than glibc")
def test_freed_memory_is_used_again() -> None:
    """Five times 100 MB are 122,000 pages of 4 kB."""
    said = {
        how: int(subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, check=True, env={}).stdout)
        for how in ("keep", "not")
    }
    assert said["keep"] < 0.1 * said["not"]


@pytest.mark.parametrize(
    "environment",
    [
        {"MALLOC_TRIM_THRESHOLD_": "131072"},
        {"MALLOC_MMAP_THRESHOLD_": "131072"},
        {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1:glibc.malloc.trim_threshold=131072"},
    ],
)
def test_the_user_decides(environment: dict[str, str]) -> None:
    assert not keep_freed_memory(environment)
