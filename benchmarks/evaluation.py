"""Time and memory of evaluation: ours against pycocotools and faster-coco-eval, on a made-up data set of COCO's size.

    python benchmarks/evaluation.py                  # 3 rounds, about 4 minutes

5,000 images, 80 classes, about 36,000 objects, 100 detections an image: jittered copies of objects, and clutter. Each
measurement is a process of its own; a round runs every row once, and ratios are taken within a round. The rows:

    pycocotools, faster   from the two files to the twelve figures
    ap                    the same by alignrank.metrics, average precision alone
    diagnosis             the same by alignrank.metrics.evaluate: every figure of the rank diagnosis
    faster-arrays, ap-arrays   without reading the files: from the loaded results to the figures
    diagnose-200mb        `alignrank diagnose` with its HTML report on a results file of 200 MB (21,500 images), once
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
ROWS = ("pycocotools", "faster", "ap", "diagnosis", "faster-arrays", "ap-arrays")
LARGE = "diagnose-200mb"
CLASSES, DETECTIONS = 80, 100
# Each ratio: a row over another of the same round, and what the project asks of it.
RATIOS = {
    "ap / pycocotools": ("ap", "pycocotools", 0.25),
    "diagnosis / pycocotools": ("diagnosis", "pycocotools", 1.0),
    "ap-arrays / faster-arrays": ("ap-arrays", "faster-arrays", 0.25),
}


def generate(folder: Path, images: int, seed: int = 0) -> tuple[int, int]:
    """Write gt.json and dt.json; (objects, detections)."""
    rng = np.random.default_rng(seed)
    frequency = 1 / np.arange(1, CLASSES + 1) ** 0.8
    frequency /= frequency.sum()
    annotations: list[dict[str, Any]] = []
    count = 0
    with (folder / "dt.json").open("w") as file:
        file.write("[")
        for image in range(1, images + 1):
            num = int(rng.poisson(7.3))
            sides = np.exp(rng.normal(4.1, 1.1, (num, 2))).clip(4, (600, 440))
            boxes = np.concatenate([rng.random((num, 2)) * (np.array([640, 480]) - sides).clip(1), sides], axis=1)
            labels = rng.choice(CLASSES, num, p=frequency) + 1
            crowd = rng.random(num) < 0.01
            for box, label, is_crowd in zip(boxes.tolist(), labels.tolist(), crowd.tolist(), strict=True):
                annotations.append({
                    "id": len(annotations) + 1, "image_id": image, "category_id": label, "bbox": box,
                    "area": 0.6 * box[2] * box[3], "iscrowd": int(is_crowd),
                })  # fmt: skip
            rows = np.concatenate([_copies(rng, boxes, labels), _clutter(rng, frequency)])[:DETECTIONS]
            for *box, score, label in rows.tolist():
                found = {
                    "image_id": image, "category_id": int(label), "bbox": [round(v, 2) for v in box],
                    "score": round(score, 5),
                }  # fmt: skip
                file.write((", " if count else "") + json.dumps(found))
                count += 1
        file.write("]")
    frames = [{"id": i, "width": 640, "height": 480, "file_name": f"{i}.jpg"} for i in range(1, images + 1)]
    categories = [{"id": k, "name": f"class {k}"} for k in range(1, CLASSES + 1)]
    truth = {"images": frames, "annotations": annotations, "categories": categories}
    (folder / "gt.json").write_text(json.dumps(truth))
    return len(annotations), count


def _copies(rng: np.random.Generator, boxes: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """One to three boxes for each object, the later ones worse placed and scored; a tenth of another class."""
    repeats = rng.integers(1, 4, len(boxes))
    place = np.concatenate([np.arange(n) for n in repeats]) if len(boxes) else np.zeros(0)
    boxes, labels = np.repeat(boxes, repeats, axis=0), np.repeat(labels, repeats)
    spread = (0.04 + 0.12 * place)[:, None]
    moved = boxes[:, :2] + rng.normal(size=(len(boxes), 2)) * spread * boxes[:, 2:]
    sides = boxes[:, 2:] * np.exp(rng.normal(size=(len(boxes), 2)) * spread)
    scores = (rng.beta(4, 2, len(boxes)) * 0.9**place).clip(0.01, 0.99)
    wrong = rng.random(len(boxes)) < 0.1
    labels = np.where(wrong, rng.integers(1, CLASSES + 1, len(boxes)), labels)
    return np.column_stack([moved, sides, scores, labels])[:60]


def _clutter(rng: np.random.Generator, frequency: np.ndarray) -> np.ndarray:
    corners = rng.random((DETECTIONS, 2)) * (500, 380)
    sides = np.exp(rng.normal(4, 1, (DETECTIONS, 2)))
    return np.column_stack(
        [corners, sides, rng.beta(1, 8, DETECTIONS), rng.choice(CLASSES, DETECTIONS, p=frequency) + 1]
    )


def measure(row: str, folder: Path) -> dict[str, Any]:
    """Run in a process of its own: seconds, peak memory in MB, and the figure for comparison."""
    gt, dt = str(folder / "gt.json"), str(folder / "dt.json")
    run = {"pycocotools": _coco, "faster": _coco, "faster-arrays": _coco}.get(row, _ours)
    seconds, figures = run(row, gt, dt)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    return {"seconds": seconds, "peak_mb": peak, **figures}


def _coco(row: str, gt: str, dt: str) -> tuple[float, dict[str, float]]:
    if row == "pycocotools":
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    else:
        from faster_coco_eval import COCO
        from faster_coco_eval import COCOeval_faster as COCOeval
    with contextlib.redirect_stdout(io.StringIO()):
        start = time.perf_counter()
        truth = COCO(gt)
        results = truth.loadRes(dt)
        if row == "faster-arrays":
            start = time.perf_counter()
        evaluation = COCOeval(truth, results, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        seconds = time.perf_counter() - start
    return seconds, {"ap": float(evaluation.stats[0])}


def _ours(row: str, gt: str, dt: str) -> tuple[float, dict[str, float]]:
    from alignrank.metrics import average_precision, evaluate, read_inputs

    start = time.perf_counter()
    if row == "diagnosis":
        metrics = evaluate(gt, dt)
        seconds = time.perf_counter() - start
        return seconds, {"ap": metrics.ap, "lrp": metrics.lrp, "misranked": metrics.rank["misranked"]}
    inputs = read_inputs(gt, dt)
    if row == "ap-arrays":
        start = time.perf_counter()
    figures = average_precision(inputs).figures()
    return time.perf_counter() - start, {"ap": figures["ap"]}


def large(folder: Path) -> dict[str, Any]:
    """`alignrank diagnose` on a results file of at least 200 MB: seconds and peak memory of the child."""
    objects, detections = generate(folder, 21_500, seed=1)
    megabytes = (folder / "dt.json").stat().st_size / 1e6
    command = [sys.executable, "-m", "alignrank", "diagnose", "--gt", str(folder / "gt.json"), "--dt",
               str(folder / "dt.json"), "--html", str(folder / "report.html")]  # fmt: skip
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e3
    report = (folder / "report.html").stat().st_size / 1e6
    return {"seconds": seconds, "peak_mb": peak, "results_mb": megabytes, "objects": objects,
            "detections": detections, "report_mb": report}  # fmt: skip


def child(arguments: list[str]) -> dict[str, Any]:
    """The JSON that a run of this script prints."""
    result = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True, check=False)
    if result.returncode:
        sys.exit(f"{' '.join(arguments)} failed:\n{result.stderr}")
    measured: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--skip-large", action="store_true")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/evaluation.json")
    parser.add_argument("--row", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row:
        result = large(options.folder) if options.row == LARGE else measure(options.row, options.folder)
        print(json.dumps(result))
        return
    command = " ".join(["python", "benchmarks/evaluation.py", *sys.argv[1:]])
    commit = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    about: dict[str, Any] = {
        "command": command, "commit": commit.stdout.strip(), "seed": 0,
        "device": f"cpu ({platform.machine()}, {os.cpu_count()} cores)",
        "versions": {name: version(name) for name in ("alignrank", "numpy", "pycocotools", "faster-coco-eval")},
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        about["objects"], about["detections"] = generate(folder, options.images)
        about["images"] = options.images
        rounds = []
        for number in range(options.rounds):
            rounds.append({row: child(["--row", row, "--folder", str(folder)]) for row in ROWS})
            for row, result in rounds[-1].items():
                print(f"round {number + 1} {row:14} {result['seconds']:6.2f} s {result['peak_mb']:6.0f} MB", flush=True)
        about["rows"] = {row: {key: median(r[row][key] for r in rounds) for key in rounds[0][row]} for row in ROWS}
        about["ratios"] = {
            name: {"median": median(r[a]["seconds"] / r[b]["seconds"] for r in rounds), "asked_at_most": limit}
            for name, (a, b, limit) in RATIOS.items()
        }
        memory = about["rows"]["diagnosis"]["peak_mb"] / about["rows"]["faster"]["peak_mb"]
        about["ratios"]["peak memory, diagnosis / faster"] = {"median": memory, "asked_at_most": 1.5}
        about["rounds"] = rounds
    if not options.skip_large:
        with tempfile.TemporaryDirectory() as temporary:
            about[LARGE] = child(["--row", LARGE, "--folder", temporary])
            print(f"{LARGE} {about[LARGE]}", flush=True)
    options.out.write_text(json.dumps(about, indent=1) + "\n")
    print(json.dumps(about["ratios"], indent=1))


if __name__ == "__main__":
    main()
