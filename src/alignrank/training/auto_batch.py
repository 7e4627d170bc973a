"""`train.batch: auto`: the largest batch that the GPU's memory holds, from two trial steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from alignrank.contracts import Batch, Frame, Targets
from alignrank.detectors import predictions_of
from alignrank.device import half_dtype
from alignrank.terminal.progress import say
from alignrank.weights.recipe import Recipe

# On a CPU memory is not what limits the batch.
CPU_BATCH = 16
TRIALS = (2, 6)
MAX_BATCH = 128
MEMORY_SHARE = 0.7
TRIAL_OBJECTS = 30


def with_batch(recipe: Recipe, device: torch.device) -> Recipe:
    """The recipe with a number for its batch: as it is, or found by trying where it says `auto`."""
    if recipe.train.batch != "auto":
        return recipe
    batch = CPU_BATCH
    if device.type == "cuda":
        used = {trial: _memory_of_step(recipe, trial, device) for trial in TRIALS}
        total = torch.cuda.get_device_properties(device).total_memory
        batch = largest_batch(used, int(total * MEMORY_SHARE))
    say(f"batch: auto chose {batch}")
    return replace(recipe, train=recipe.train.model_copy(update={"batch": batch}))


def largest_batch(used: Mapping[int, int], budget: int) -> int:
    """Bytes used at two batch sizes -> the largest batch within `budget` bytes, a multiple of 4 where above 4."""
    (small, small_bytes), (large, large_bytes) = sorted(used.items())
    per_image = max((large_bytes - small_bytes) / (large - small), 1)
    fixed = small_bytes - per_image * small
    batch = int(min(max((budget - fixed) / per_image, 1), MAX_BATCH))
    return batch if batch < 4 else batch - batch % 4


def _memory_of_step(recipe: Recipe, batch: int, device: torch.device) -> int:
    """Peak bytes of one forward and backward of random images with objects."""
    built = recipe.build()
    model = built.model.to(device, memory_format=torch.channels_last).train()
    height, width = recipe.size_in_training.for_stride(built.model.stride).landscape
    images = torch.rand(batch, 3, height, width, device=device).contiguous(memory_format=torch.channels_last)
    corners = torch.rand(TRIAL_OBJECTS, 2, device=device) * height / 2
    boxes = torch.cat([corners, corners + height / 4], 1)
    targets = [Targets(boxes, torch.zeros(TRIAL_OBJECTS, dtype=torch.int64, device=device)) for _ in range(batch)]
    trial = Batch(images, targets, [Frame("", (height, width)) for _ in targets])
    half = half_dtype(recipe.train.precision, device)
    torch.cuda.reset_peak_memory_stats(device)
    with torch.autocast(device.type, half, enabled=half is not None):
        predictions = predictions_of(model, images, trial, denoising=torch.Generator())
        built.criterion(predictions, targets).total.backward()
    peak = torch.cuda.max_memory_allocated(device)
    del built, model
    torch.cuda.empty_cache()
    return peak
