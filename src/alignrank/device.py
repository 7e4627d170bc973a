"""Which device, precision and number of workers to use when the user does not say."""

from __future__ import annotations

import os
from typing import Any, Literal

import torch

from alignrank.errors import InputError

Precision = Literal["32-true", "bf16-mixed", "16-mixed"]


def choose_device(name: Any = "auto") -> torch.device:
    """`auto` (or None) is CUDA, else MPS, else CPU; a number is that of a CUDA device.

    Raises InputError for a device that is not there.
    """
    if (isinstance(name, int) and not isinstance(name, bool)) or (isinstance(name, str) and name.isdecimal()):
        name = f"cuda:{name}"
    if name in ("auto", None):
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError, ValueError):
        raise InputError(f"device: {name!r} is not a device; use auto, cpu, cuda, cuda:N or mps") from None
    if device.type not in ("cpu", "cuda", "mps"):
        raise InputError(f"device: {name!r} is not supported; use auto, cpu, cuda, cuda:N or mps")
    count = torch.cuda.device_count() if device.type == "cuda" else 1
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available[device.type] or (device.index or 0) >= count:
        raise InputError(f"device: {name!r} is not available on this machine; use auto or cpu")
    return device


def choose_precision(wanted: str, device: torch.device) -> Precision:
    """Lightning's name for `auto|fp32|bf16|fp16`.

    auto: bf16, else fp16, on CUDA; bf16 on a CPU that computes in it (1.7 times as fast); else fp32.
    """
    if wanted == "fp16" and device.type == "cpu":
        raise InputError("train.precision: fp16 needs a GPU; use bf16 or fp32 on a CPU")
    if wanted == "auto":
        if device.type == "cuda":
            return "bf16-mixed" if torch.cuda.is_bf16_supported() else "16-mixed"
        return "bf16-mixed" if device.type == "cpu" and _cpu_has_bf16() else "32-true"
    names: dict[str, Precision] = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}
    return names[wanted]


def half_dtype(wanted: str, device: torch.device) -> torch.dtype | None:
    """The type autocast computes in under `choose_precision(wanted, device)`; None for fp32."""
    return {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(choose_precision(wanted, device))


def _cpu_has_bf16() -> bool:
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def choose_workers(wanted: int | None, device: torch.device) -> int:
    """Loader processes. On a CPU the training itself fills the cores and cached loading is cheap: none."""
    if wanted is not None:
        return wanted
    return 0 if device.type == "cpu" else min(8, max((os.cpu_count() or 2) - 1, 1))


def free_memory() -> int:
    """Bytes of main memory that can still be used; a cautious guess where the system does not tell."""
    try:
        with open("/proc/meminfo") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 2 * 1024**3
