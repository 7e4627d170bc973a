"""What each part of alignrank-n does: rows of parts on and off, trained alike, both outputs measured.

    python benchmarks/ablation.py                          # seed 0 of every row, then the table
    python benchmarks/ablation.py --rows base rank all --seeds 0 1 2
    python benchmarks/ablation.py --rows all --threads 1   # beside other work: one thread, no barriers to wait at

Finished (row, seed) pairs are kept, interrupted ones resumed. The NMS-free output and the one-to-many output (with NMS,
and its candidates before it) are measured on the best epoch's weights of the NMS-free output. Differences to `base`
come with paired bootstrap intervals: images are drawn with replacement, and seeds too where there are several.
Data by path: ALIGNRANK_SHARED, else ../shared.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from alignrank.metrics import Diagnosis, read_inputs

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("ALIGNRANK_SHARED", ROOT.parent / "shared"))
DATA = SHARED / "data" / "bloodcells"
RESULTS = ROOT / "benchmarks" / "results" / "ablation.json"
RUNS = ROOT / "runs" / "ablation"
EPOCHS, REPLICATES = 60, 300
COMMON = ["--model", "alignrank-n", "--imgsz", "320", "--batch", "16", "--epochs", str(EPOCHS)]
NO_PARTS = ["head.sampling=none", "head.fusion=false"]
ROWS = {
    "base": [*NO_PARTS, "loss.align=0.0", "loss.rank=0.0"],
    "align": [*NO_PARTS, "loss.rank=0.0"],
    "rank": [*NO_PARTS, "loss.align=0.0"],
    "align+rank": NO_PARTS,
    "sampling": ["head.fusion=false", "loss.align=0.0", "loss.rank=0.0"],
    "fusion": ["head.sampling=none", "loss.align=0.0", "loss.rank=0.0"],
    "all": ["train.save_every=15"],  # for the pictures of alignrank_figures.py
}
OUTPUTS = {"nms_free": [], "one_to_many": ["--nms"]}
FIGURES = (
    *("ap", "ap50", "ap75", "lrp", "lrp_loc", "lrp_fp", "lrp_fn", "rank.spearman", "rank.spearman_true"),
    *("rank.misranked", "rank.best_box_missed", "rank.ap_lost_ranking", "rank.ap_lost_duplicates"),
    *("rank.duplicates_70", "rank.duplicates_90"),
)


def folder(row: str, seed: int) -> Path:
    """Where the run is."""
    return RUNS / f"{row}-seed{seed}"


def alignrank(threads: int, *words: str) -> None:
    """One command of ours."""
    environment = os.environ | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
    subprocess.run([sys.executable, "-m", "alignrank", *words], check=True, cwd=ROOT, env=environment)


def run(row: str, seed: int, threads: int) -> dict[str, Any]:
    """Train (or resume) one row and seed, evaluate both outputs; its entry of the table."""
    out = folder(row, seed)
    shown = str(out.relative_to(ROOT))
    near = os.path.relpath(DATA, ROOT)
    if not (out / "results.json").exists():
        if (out / "run.json").exists():
            alignrank(threads, "train", "--resume", shown)
        else:
            alignrank(threads, "train", *COMMON, "--data", near, "--seed", str(seed), "--out", shown, *ROWS[row])
    entry: dict[str, Any] = {}
    for output, option in OUTPUTS.items():
        measured = out / output
        if not (measured / "metrics.json").exists():
            weights = ["--weights", f"{shown}/best.safetensors", "--data", near]
            alignrank(threads, "val", *weights, *option, "--out", str(measured.relative_to(ROOT)))
        metrics = json.loads((measured / "metrics.json").read_text())
        entry[output] = {key: metrics[key] for key in metrics if key.startswith(("ap", "lrp", "rank"))}
        del entry[output]["rank_by_size"]
    results = json.loads((out / "results.json").read_text())
    history = json.loads((out / "history.json").read_text())
    return entry | {
        "ap_by_epoch": [round(epoch["val/ap"], 4) for epoch in history],
        "minutes": round(results["seconds"] / 60, 1),
        **{key: results[key] for key in ("command", "commit", "device", "precision", "torch")},
        "processor": platform.processor() or platform.machine(),
        "seed": seed,
    }


def diagnosis(row: str, seed: int, output: str) -> Diagnosis:
    """Of saved detections."""
    truth = DATA / "annotations" / "val.json"
    return Diagnosis(read_inputs(truth, folder(row, seed) / output / "detections.json"))


def differences(row: str, seeds: list[int], output: str) -> dict[str, dict[str, float]]:
    """Mean over seeds of the row's figures minus the base's, with 95 % intervals over images and seeds."""
    pairs = [(diagnosis("base", seed, output), diagnosis(row, seed, output)) for seed in seeds]
    num_images = len(pairs[0][0].inputs.image_ids)
    rng = np.random.default_rng(0)
    drawn: dict[str, list[float]] = defaultdict(list)
    for _ in range(REPLICATES):
        weights = np.bincount(rng.integers(0, num_images, num_images), minlength=num_images).astype(float)
        gaps = [
            _gaps(first.resampled(weights)[0], second.resampled(weights)[0])
            for first, second in (pairs[i] for i in rng.integers(0, len(pairs), len(pairs)))
        ]
        for name in FIGURES:
            drawn[name].append(float(np.mean([gap[name] for gap in gaps])))
    points = [_gaps(first.metrics.scalars(), second.metrics.scalars()) for first, second in pairs]
    return {
        name: {
            "difference": round(float(np.mean([point[name] for point in points])), 4),
            "low": round(float(np.nanpercentile(drawn[name], 2.5)), 4),
            "high": round(float(np.nanpercentile(drawn[name], 97.5)), 4),
        }
        for name in FIGURES
    }


def _gaps(first: Any, second: Any) -> dict[str, float]:
    undefined = float("nan")
    return {
        name: undefined if first[name] is None or second[name] is None else second[name] - first[name]
        for name in FIGURES
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="*", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    parser.add_argument("--threads", type=int, default=0, help="0: torch's default")
    arguments = parser.parse_args()
    if not DATA.exists():
        sys.exit(f"{DATA} is not there: set ALIGNRANK_SHARED")
    table: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"rows": {}, "against_base": {}}
    rows = table["rows"]
    for seed in arguments.seeds:
        for row in arguments.rows:
            if str(seed) not in rows.get(row, {}):
                rows.setdefault(row, {})[str(seed)] = run(row, seed, arguments.threads)
                RESULTS.write_text(json.dumps(table, indent=1) + "\n")
    for row in [row for row in ROWS if row != "base" and row in rows and "base" in rows]:
        seeds = sorted(int(seed) for seed in rows[row].keys() & rows["base"].keys())
        if seeds and all(
            (folder(r, s) / o / "detections.json").exists() for r in (row, "base") for s in seeds for o in OUTPUTS
        ):
            table["against_base"][row] = {"seeds": seeds} | {o: differences(row, seeds, o) for o in OUTPUTS}
    RESULTS.write_text(json.dumps(table, indent=1) + "\n")
    for output in OUTPUTS:
        for row, entries in rows.items():
            for seed, entry in entries.items():
                figures = {k: entry[output][k] for k in ("ap", "ap50", "ap75", "lrp")} | entry[output]["rank"]
                shown = "  ".join(f"{name} {value:.3f}" for name, value in figures.items() if value is not None)
                print(f"{output} {row} seed {seed}: {shown}")


if __name__ == "__main__":
    main()
