"""Inputs of the image's own shape against squares: AP and time of trained weights, on two data sets.

    python benchmarks/aspect_ratio.py runs/cells/best.safetensors runs/cars/best.safetensors

The first weights are of bloodcells (all images 640 x 480), the second of aerialcars (83 of 640 x 640, 60 of 640 x 377).
Network and postprocess are timed in turns, one image at a time and with --batch images, on one thread. Data by path:
ALIGNRANK_SHARED, else ../shared.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from paired import ROOT, SHARED, commit

from alignrank.contracts import Thresholds
from alignrank.data.loader import EvaluationSet, evaluation_loader
from alignrank.data.opening import open_split, opened
from alignrank.data.samples import Split
from alignrank.evaluation.options import ValOptions
from alignrank.evaluation.val import val
from alignrank.evaluation.validate import THRESHOLDS
from alignrank.weights.deployed import deploy

RESULTS = ROOT / "benchmarks" / "results" / "aspect_ratio.json"
CPU = torch.device("cpu")
FORMS = {"square": False, "rect": True}
FIGURES = ("ap", "ap50", "ap75")


def milliseconds(weights: Path, split: Split, rect: bool, batch: int) -> float:
    """Mean time of an image through network and postprocess; decoding and resizing are done before."""
    detector = deploy(weights, CPU).resized(None, rect)
    loader = evaluation_loader(EvaluationSet(opened(split, detector.size, cache="ram", quiet=True)), batch, workers=0)
    limits: Thresholds = detector.postprocess.thresholds or THRESHOLDS
    batches = list(loader)
    started = time.perf_counter()
    with torch.inference_mode():
        for part in batches:
            predictions = detector.network(part.network_input())
            detector.postprocess(predictions, conf=limits.conf, iou=limits.iou, max_dets=limits.max_dets)
    return (time.perf_counter() - started) / len(split) * 1000


def measured(weights: Path, name: str, rounds: int, batch: int) -> dict[str, Any]:
    """One data set's entry."""
    split = open_split(str(SHARED / "data" / name), "val")
    entry: dict[str, Any] = {"weights": str(weights), "images": len(split)}
    for form, rect in FORMS.items():
        metrics = val(weights, split, ValOptions(rect=rect), device=CPU).metrics.to_dict()
        entry[form] = {key: metrics[key] for key in FIGURES} | {"misranked": metrics["rank"]["misranked"]}
    for size in (1, batch):
        times: dict[str, list[float]] = {form: [] for form in FORMS}
        for _ in range(rounds):
            for form, rect in FORMS.items():
                times[form].append(milliseconds(weights, split, rect, size))
        for form in FORMS:
            entry[form][f"ms_batch_{size}"] = round(statistics.median(times[form]), 2)
        ratios = [rect / square for rect, square in zip(times["rect"], times["square"], strict=True)]
        entry[f"time_ratio_batch_{size}"] = round(statistics.median(ratios), 3)
    entry["ap_difference"] = entry["rect"]["ap"] - entry["square"]["ap"]
    return entry


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bloodcells", type=Path)
    parser.add_argument("aerialcars", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=16)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if not (SHARED / "data").is_dir():
        sys.exit(f"no data at {SHARED} (set ALIGNRANK_SHARED)")
    result: dict[str, Any] = {
        "command": " ".join(["python", *sys.argv]),
        "commit": commit(),
        "torch": torch.__version__,
        "device": f"cpu ({platform.machine()}, 1 of {os.cpu_count()} cores)",
    }
    for name in ("bloodcells", "aerialcars"):
        result[name] = measured(getattr(arguments, name), name, arguments.rounds, arguments.batch)
        print(name, json.dumps(result[name]), file=sys.stderr)
    RESULTS.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
