"""What a detector costs: parameters, multiply-adds, images per second, minutes of training an epoch."""

from __future__ import annotations

import json
import math
import time
from statistics import median
from typing import Any

import torch

from alignrank.detectors import deployed
from alignrank.device import device_name
from alignrank.errors import InputError
from alignrank.evaluation.options import ValOptions
from alignrank.evaluation.validate import limits_of
from alignrank.terminal.progress import steps, warn
from alignrank.weights.checkpoint import Checkpoint
from alignrank.weights.deployed import Deployed
from alignrank.weights.models import multiply_adds, num_parameters
from alignrank.weights.recipe import Recipe

# The first runs choose kernels and fill memory.
WARM_UP, RUNS = 2, 7


def cost(loaded: Checkpoint, detector: Deployed) -> dict[str, Any]:
    """Of the weights `loaded` and the same ready to run: {parameters: {training, deployed}, input: [height, width] px,
    multiply_adds, gflops (two per multiply-add), images_per_second, device, threads, minutes_per_epoch}; the last is
    absent where no results.json of the run lies beside the weights.
    """
    network = loaded.recipe.meta_network()
    training = num_parameters(network)
    size = detector.size.landscape
    counted = multiply_adds(deployed(network).eval(), size)
    minutes = minutes_per_epoch(loaded)
    return {
        "parameters": {"training": training, "deployed": num_parameters(detector.network)},
        "input": list(size),
        "multiply_adds": counted,
        "gflops": 2 * counted / 1e9,
        "images_per_second": 1 / median(_seconds(detector, size)),
        "device": device_name(detector.device),
        "threads": torch.get_num_threads(),
        **({} if minutes is None else {"minutes_per_epoch": minutes}),
    }


@torch.inference_mode()
def _seconds(detector: Deployed, size: tuple[int, int]) -> list[float]:
    """Of RUNS times an image of `size`, from the network's input to its selection."""
    image = torch.full((1, 3, *size), 0.5, device=detector.device).contiguous(memory_format=torch.channels_last)
    limits = limits_of(detector.postprocess, ValOptions())
    taken = []
    with steps("measuring speed", WARM_UP + RUNS) as advance:
        for _ in range(WARM_UP + RUNS):
            _wait(detector.device)
            began = time.perf_counter()
            predictions = detector.network(image)
            detector.postprocess(predictions, conf=limits.conf, iou=limits.iou, max_dets=limits.max_dets)
            _wait(detector.device)
            taken.append(time.perf_counter() - began)
            advance()
    return taken[WARM_UP:]


def _wait(device: torch.device) -> None:
    """Until all that was begun on it is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def minutes_per_epoch(loaded: Checkpoint) -> float | None:
    """Of the training that these weights are from, validation included; None where its results.json is not there.

    One that cannot be read or is of another recipe is left alone, with a warning.
    """
    path = loaded.path.parent / "results.json"
    if not path.is_file():
        return None
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        recipe = Recipe.parse(results["recipe"], where=str(path))
        minutes = float(results["seconds"]) / 60 / int(results["epochs"])
        if not (math.isfinite(minutes) and minutes >= 0):
            raise ValueError(minutes)
    except (OSError, ValueError, RecursionError, KeyError, TypeError, ZeroDivisionError, InputError):
        warn(f"{path}: is no readable result of a training; no minutes per epoch")
        return None
    if recipe != loaded.recipe:
        warn(f"{path}: is of a training with another recipe; no minutes per epoch")
        return None
    return minutes
