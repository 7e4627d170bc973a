"""Large pictures with and without tiles: AP, AP of small objects, seconds, and the memory of a 100-megapixel picture.

    python benchmarks/tiles.py runs/cars/best.safetensors
    python benchmarks/tiles.py runs/cars/best.safetensors --picture tiles.jpg

The weights are of aerialcars. Its validation images are put together to pictures of 4 x 4, of one size each (640 x 640
or 640 x 377), so objects keep their pixels and the pictures' own seams are not where tiles end. `images` are the images
themselves, `same_scale` is a network input in which pixels are as large as in a tile's: four times the side, without
seams. Memory is that of a process of its own. Data by path: ALIGNRANK_SHARED, else ../shared.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from paired import ROOT, SHARED, commit
from PIL import Image

from alignrank import Detector
from alignrank.benchmark.memory import process_peak
from alignrank.data.decode import Array, decode
from alignrank.data.opening import open_split
from alignrank.data.samples import Sample, Split
from alignrank.evaluation.options import ValOptions
from alignrank.evaluation.val import val
from alignrank.inference.windows import Tiling
from alignrank.weights import checkpoint

RESULTS = ROOT / "benchmarks" / "results" / "tiles.json"
CPU = torch.device("cpu")
GRID, TILE, BATCH = 4, 640, 8
FIGURES = ("ap", "ap50", "ap_small", "ap_medium", "ap_large")
# A picture of 4 x 4 has about two hundred objects; COCO's hundred would count.
MAX_DETS = 1000
LARGE = 16  # images on a side of the picture that memory is measured with: 105 megapixels


def mosaics(split: Split, folder: Path, grid: int) -> Split:
    """Pictures of grid x grid images of one size, as many as there are whole ones, written as PNG."""
    by_size: dict[tuple[int, int], list[Sample]] = defaultdict(list)
    for sample in split.samples:
        by_size[sample.size].append(sample)
    made: list[Sample] = []
    for size, samples in sorted(by_size.items()):
        for first in range(0, len(samples) - grid * grid + 1, grid * grid):
            made.append(mosaic(samples[first : first + grid * grid], size, folder / f"{len(made)}.png", len(made) + 1))
    return replace(split, samples=made, skipped=[], notes=[])


def mosaic(samples: Sequence[Sample], size: tuple[int, int], path: Path, image_id: int) -> Sample:
    """One picture of samples [n*n], row by row, with their objects."""
    grid = round(len(samples) ** 0.5)
    places = [(index // grid * size[0], index % grid * size[1]) for index in range(len(samples))]
    canvas = np.zeros((grid * size[0], grid * size[1], 3), np.uint8)
    for sample, (top, left) in zip(samples, places, strict=True):
        canvas[top : top + size[0], left : left + size[1]] = decode(sample.image)
    Image.fromarray(canvas).save(path, compress_level=1)
    moved = [sample.boxes + np.array([left, top] * 2) for sample, (top, left) in zip(samples, places, strict=True)]
    others = (np.concatenate([getattr(s, name) for s in samples]) for name in ("labels", "areas", "crowd"))
    return Sample(path, image_id, canvas.shape[:2], np.concatenate(moved).astype(np.float32), *others)


def measured(weights: Path, split: Split, **options: Any) -> dict[str, Any]:
    """Figures of an evaluation, and its seconds an image, decoding and metrics included."""
    start = time.perf_counter()
    split = replace(split, samples=list(split.samples))
    metrics = val(weights, split, ValOptions(batch=BATCH, coco_max_dets=MAX_DETS, **options), device=CPU).metrics
    seconds = (time.perf_counter() - start) / len(split)
    figures = metrics.to_dict()
    car = next(row["ap"] for row in figures["per_class"].values() if row["name"] == "car")
    rounded = {name: round(figures[name], 4) for name in FIGURES}
    duplicates = round(figures["rank"]["ap_lost_duplicates"], 4)
    return {**rounded, "car": round(car, 4), "ap_lost_duplicates": duplicates, "seconds": round(seconds, 2)}


def rows(weights: Path, split: Split, large: Split) -> dict[str, dict[str, Any]]:
    """By name, each said when it is done."""
    side = checkpoint.load(weights).recipe.size_in_use.longer
    wanted: dict[str, tuple[Split, dict[str, Any]]] = {
        "images": (split, {}),
        "without": (large, {}),
        "same_scale": (large, {"imgsz": GRID * side}),
        "tiles": (large, {"tiling": Tiling(TILE)}),
        "tiles_overlap_40": (large, {"tiling": Tiling(TILE, 0.4)}),
        "tiles_320": (large, {"tiling": Tiling(TILE // 2)}),
    }
    found = {}
    for name, (data, options) in wanted.items():
        found[name] = measured(weights, data, **options)
        print(name, found[name], file=sys.stderr)
    return found


def memory(weights: Path, split: Split, folder: Path) -> dict[str, Any]:
    """Of a picture of LARGE x LARGE images, a JPEG, in a process of its own: MB before, at most while it is decoded,
    and at most in tiles.
    """
    path = folder / "large.png"
    chosen = [sample for sample in split.samples if sample.size == (TILE, TILE)]
    mosaic([chosen[i % len(chosen)] for i in range(LARGE * LARGE)], (TILE, TILE), path, 1)
    Image.MAX_IMAGE_PIXELS = None
    Image.open(path).save(path.with_suffix(".jpg"), quality=92)
    words = [sys.executable, __file__, str(weights), "--only", str(path.with_suffix(".jpg"))]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def only(weights: Path, path: Path) -> dict[str, Any]:
    """What a fresh process measures."""
    detector = Detector.load(weights)
    small = np.random.default_rng(0).integers(0, 255, (2 * TILE, 2 * TILE, 3), np.uint8)
    list(detector.predict(small, tile=TILE, batch=BATCH, stream=True, device="cpu"))
    before = process_peak()
    image = decode(path)
    decoding = process_peak()
    # The peak from now on (man 5 proc); elsewhere than on Linux it stays that of decoding.
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    start = time.perf_counter()
    (found,) = detector.predict(image, tile=TILE, batch=BATCH, stream=True, device="cpu")
    seconds = time.perf_counter() - start
    megabytes = {"before": before, "decoded": image.nbytes, "peak_decoding": decoding, "peak_tiles": process_peak()}
    return {
        "megapixels": round(image.nbytes / 3e6, 1),
        "tiles": len(Tiling(TILE).grid(found.size).windows()) - 1,
        "mb": {name: round(size / 1e6) for name, size in megabytes.items()},
        "seconds": round(seconds, 1),
        "objects": len(found),
    }


def drawn(weights: Path, sample: Sample, path: Path) -> None:
    """One picture without tiles, above, and with them."""
    detector, pictures = Detector.load(weights), list[Array]()
    for options in ({}, {"tile": TILE}):
        (found,) = detector.predict(str(sample.image), device="cpu", **options)  # type: ignore[call-overload]
        pictures.append(found.plot())
    both = Image.fromarray(np.concatenate(pictures))
    both.thumbnail((1280, 4 * 1280))
    both.save(path, quality=85)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--only", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--picture", type=Path, help="draw one picture, without tiles and with them, and end")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.only is not None:
        print(json.dumps(only(arguments.weights, arguments.only)))
        return
    split = open_split(str(SHARED / "data" / "aerialcars"), "val")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        large = mosaics(split, folder, GRID)
        if arguments.picture is not None:
            drawn(arguments.weights, large.samples[-1], arguments.picture)
            return
        result: dict[str, Any] = {
            "command": " ".join(["python", *sys.argv]),
            "commit": commit(),
            "torch": torch.__version__,
            "device": f"cpu ({platform.machine()}, 1 of {os.cpu_count()} cores)",
            "pictures": len(large),
            "objects": large.num_boxes,
            "rows": rows(arguments.weights, split, large),
            "memory": memory(arguments.weights, split, folder),
        }
    print(result["memory"], file=sys.stderr)
    RESULTS.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
