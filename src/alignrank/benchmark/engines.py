"""Ways to run one detector: PyTorch in several forms, and exported files by their runtimes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from alignrank.benchmark.options import EAGER, FILES, HALF, USUAL, BenchmarkOptions
from alignrank.device import choose_device
from alignrank.errors import ExportError, InputError
from alignrank.export.formats import FORMATS, export_weights
from alignrank.export.options import ExportOptions
from alignrank.export.runtimes import open_exported
from alignrank.inference.options import PredictOptions
from alignrank.inference.predict import Pipeline
from alignrank.terminal.progress import steps
from alignrank.weights import checkpoint
from alignrank.weights.catalog import is_exported
from alignrank.weights.checkpoint import Checkpoint
from alignrank.weights.deployed import Deployed, deploy


@dataclass(frozen=True, slots=True)
class Engine:
    """name: see `options`. weights: the file that it runs, ours or an exported one."""

    name: str
    weights: Path

    def opened(self, options: BenchmarkOptions, device: str) -> Pipeline:
        """Ready to run. Raises InputError where this machine cannot."""
        if self.name in EAGER:
            detector: Deployed = deploy(self.weights, device)
            if self.name == "contiguous":
                detector.network.to(memory_format=torch.contiguous_format)
        else:
            detector = open_exported(self.weights, device)
        precision = self.name if self.name in HALF else "fp32"
        wanted = PredictOptions(batch=max(options.batches), precision=precision)
        return Pipeline(detector.resized(options.imgsz, rect=False if self.name in EAGER else None), wanted)


def engines(
    weights: Path | Checkpoint, options: BenchmarkOptions, device: str, folder: Path
) -> Iterator[tuple[str, Engine | str]]:
    """(name, engine), or the reason why the usual engine of that name is not to be had here.

    folder: an empty one, for exported files. Raises InputError for what cannot be used, and for named engines that are
    not to be had.
    """
    if isinstance(weights, Path) and is_exported(weights):
        own = next(row.name for row in FORMATS.values() if weights.suffix == row.suffix)
        if options.engines not in (None, (own,)):
            raise InputError(f"engines: {weights} is run by its own runtime; leave them out, or give the weights")
        yield own, Engine(own, weights)
        return
    loaded = weights if isinstance(weights, Checkpoint) else checkpoint.load(weights)
    path = folder / "weights.safetensors"
    checkpoint.save(path, loaded.weights, recipe=loaded.recipe, classes=loaded.classes, metrics={})
    for name in options.engines or USUAL:
        try:
            _check(name, device)
            yield name, Engine(name, path if name in EAGER else _exported(loaded, name, options, folder))
        except (InputError, ExportError) as error:
            if options.engines is not None:
                raise
            yield name, str(error)


def _check(name: str, device: str) -> None:
    """Raises InputError where the device is not one for it."""
    kind = choose_device(device).type
    if name in FILES and kind != "cpu":
        raise InputError(f"engines: {name}: exported files run on the cpu here, not on {kind}")
    if name == "fp16" and kind == "cpu":
        raise InputError("engines: fp16 needs a GPU; use bf16 on a CPU")


def _exported(loaded: Checkpoint, name: str, options: BenchmarkOptions, folder: Path) -> Path:
    with steps(f"exporting to {name}", None):
        out = folder / f"exported{FORMATS[name].suffix}"
        return export_weights(loaded, name, options=ExportOptions(options.imgsz), out=out)
