"""Which device, precision, number of workers and threads to use when the user does not say; what a device is called."""

from __future__ import annotations

import os
import platform
from typing import Any, Literal

import torch

from alignrank.cores import allowed_cores, usable_cores
from alignrank.errors import InputError

THREADS = "ALIGNRANK_THREADS"
MAX_THREADS = 1024
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


def device_name(device: torch.device) -> str:
    """What it is, for results: the name of a CUDA device, else kind of machine and usable cores."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device} ({platform.machine()}, {usable_cores()} cores)"


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
    return 0 if device.type == "cpu" else min(8, max(usable_cores() - 1, 1))


def choose_threads(processes: int = 1) -> int | None:
    """PyTorch's threads for each of `processes`; None: as it has chosen, or the user.

    The user's word is ALIGNRANK_THREADS, else OMP_NUM_THREADS or MKL_NUM_THREADS, which PyTorch reads, else a call of
    `torch.set_num_threads`. PyTorch itself knows no container's quota. Raises InputError for a bad ALIGNRANK_THREADS.
    """
    given = os.environ.get(THREADS)
    if given:
        if not given.strip().isdecimal() or not 1 <= int(given) <= MAX_THREADS:
            raise InputError(f"{THREADS}: {given!r} is no number of threads; use one from 1 to {MAX_THREADS}")
        return int(given)
    if any(os.environ.get(name) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")):
        return None
    if processes > 1:
        return max(1, usable_cores() // processes)
    now, usable = torch.get_num_threads(), usable_cores()
    # What PyTorch chooses by itself: all logical cores, or all physical ones.
    by_itself = {cores // siblings for cores in (os.cpu_count() or 1, allowed_cores()) for siblings in (1, 2)}
    return usable if now > usable and now in by_itself else None


def settle_threads() -> None:
    """Let PyTorch use as many threads as `choose_threads` says, in this process."""
    threads = choose_threads()
    if threads is not None and threads != torch.get_num_threads():
        torch.set_num_threads(threads)


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
