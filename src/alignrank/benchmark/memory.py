"""The most memory that prediction takes: of a process of its own, which loads one engine and runs it.

`python -m alignrank.benchmark.memory JSON` is that process; it prints the number of bytes.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from alignrank.benchmark.engines import Engine
from alignrank.benchmark.options import BenchmarkOptions
from alignrank.inference.entries import SourceImage

RUNS = 3


def peak_memory(engine: Engine, options: BenchmarkOptions, device: str, shape: tuple[int, int]) -> int | None:
    """Bytes, with the first of the batches and pictures of `shape` (height, width): of a GPU its own memory, else that
    of the whole process, libraries included. None where the system does not tell.
    """
    about = {
        "name": engine.name, "weights": str(engine.weights.resolve()), "imgsz": options.imgsz, "device": device,
        "batch": options.batches[0], "shape": shape,
    }  # fmt: skip
    ended = subprocess.run(
        [sys.executable, "-m", "alignrank.benchmark.memory", json.dumps(about)], capture_output=True, text=True
    )
    last = ended.stdout.strip().rpartition("\n")[2]
    return int(last) if ended.returncode == 0 and last.isdecimal() else None


def _measure(name: str, weights: str, imgsz: int | list[int] | None, device: str, batch: int, shape: list[int]) -> int:
    size = imgsz if imgsz is None or isinstance(imgsz, int) else (imgsz[0], imgsz[1])
    pipeline = Engine(name, Path(weights)).opened(BenchmarkOptions(size, (batch,)), device)
    image = SourceImage("noise", np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8))
    for _ in range(RUNS):
        list(pipeline.detected([pipeline.prepare(image) for _ in range(batch)]))
    if pipeline.detector.device.type == "cuda":
        return torch.cuda.max_memory_allocated(pipeline.detector.device)
    return process_peak()


def process_peak() -> int:
    """Bytes. Not getrusage's: a process begins with that of the one that started it."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return _resource_peak()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found[1]) * 1024 if found else _resource_peak()


def _resource_peak() -> int:
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    sys.stdout.write(f"{_measure(**json.loads(sys.argv[1]))}\n")
