"""Images a second of `predict --engine ray` with one and two workers, against the plain engine, in turn.

Random weights: how fast a network is does not depend on them. `whole` counts the command from its start, with imports
and the start of Ray; `steady` goes from the first finished part to the last one. Needs the extra `ray`.
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
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from paired import ROOT, commit
from PIL import Image

from alignrank.api import Detector
from alignrank.cores import usable_cores
from alignrank.weights import checkpoint
from alignrank.weights.recipe import load_recipe

OUT = ROOT / "benchmarks" / "results" / "ray_predict.json"
MODEL, SIDE, SIZE = "alignrank-n", 320, (640, 480)


def write_pictures(folder: Path, count: int) -> None:
    """Smooth pictures as JPEG, about as large as photographs of this size."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(count):
        small = Image.fromarray(rng.integers(0, 255, (60, 80, 3), dtype=np.uint8))
        small.resize(SIZE, Image.Resampling.BICUBIC).save(folder / f"{number:06d}.jpg", quality=90)


def command(weights: Path, pictures: Path, out: Path, workers: int) -> float:
    """Seconds of the whole command; workers: 0 for the plain engine."""
    given = ["--weights", str(weights), "--device", "cpu", "--out", str(out), "--batch", "8"]
    given += ["--engine", "ray", "--workers", str(workers)] if workers else ["--no-pictures"]
    start = time.monotonic()
    subprocess.run([sys.executable, "-m", "alignrank", "predict", str(pictures), *given], check=True)
    return time.monotonic() - start


def steady_of_parts(out: Path, count: int) -> float:
    """Images a second between the first finished part and the last one."""
    times = sorted(path.stat().st_mtime for path in out.glob("part-*.parquet"))
    return count * (len(times) - 1) / len(times) / (times[-1] - times[0])


def steady_of_plain(weights: Path, pictures: Path, count: int, first: int) -> float:
    """Images a second of the plain engine behind its `first` images."""
    start = 0.0
    for number, _ in enumerate(Detector.load(weights).predict(str(pictures), batch=8, stream=True, device="cpu")):
        if number == first:
            start = time.monotonic()
    return (count - 1 - first) / (time.monotonic() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=640)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--note", default="", help="about the machine, kept with the figures")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        pictures, weights = work / "pictures", work / "weights.safetensors"
        write_pictures(pictures, options.images)
        recipe = load_recipe(MODEL, num_classes=2, overrides={"train.imgsz": SIDE})
        checkpoint.save(weights, recipe.build().model.state_dict(), recipe=recipe, classes=("a", "b"), metrics={})
        for turn in range(options.rounds):
            for workers in (0, 1, 2):
                out = work / f"{turn}-{workers}"
                load = os.getloadavg()[0]
                seconds = command(weights, pictures, out, workers)
                steady = (
                    steady_of_parts(out, options.images)
                    if workers
                    else steady_of_plain(weights, pictures, options.images, 16)
                )
                row = {"engine": "ray" if workers else "plain", "workers": workers, "round": turn}
                rows.append(row | {"whole": options.images / seconds, "steady": steady, "load_before": load})
                print(rows[-1], flush=True)
    about = {
        "command": " ".join(["python", *sys.argv]), "commit": commit(), "note": options.note, "model": MODEL,
        "imgsz": SIDE, "image": SIZE, "images": options.images, "cores": usable_cores(), "machine": platform.machine(),
        "torch": torch.__version__, "ray": version("ray"), "unit": "images a second", "rows": rows,
    }  # fmt: skip
    OUT.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
