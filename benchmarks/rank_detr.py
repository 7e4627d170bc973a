"""What Rank-DETR gains over H-DETR and DINO, in tiny forms on small data, from a small ImageNet backbone.

    python benchmarks/rank_detr.py --threads 1                      # seed 0 of every row, then the tables
    python benchmarks/rank_detr.py --rows h rank-h --seeds 0 1 2 --threads 1

Every row trains with equal steps; rows differ in the switches of `rank` alone. Finished (row, seed) pairs are kept,
interrupted ones resumed; two processes may train different rows at the same time. Differences of a rank row to its host
come with paired bootstrap intervals over images and seeds. Densities of the scores of matched and unmatched queries are
those of `alignrank layers`, last layer. Data: the blood cells at 320 px, which H-DETR learns faster than the embedded
digits at 224 px (after 270 s of one core AP50 .48; digits after 500 s .36). Data and backbone by path:
ALIGNRANK_SHARED, else ../shared.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from intervals import change
from paired import ROOT, SHARED, alignrank, compare, diagnosis, figure, mean, measured, recorded, trained

from alignrank.metrics import Diagnosis

DATA = SHARED / "data" / "bloodcells"
WEIGHTS = SHARED / "weights" / "tf_efficientnet_lite0.safetensors"
RESULTS = ROOT / "benchmarks" / "results" / "rank_detr.json"
RUNS = ROOT / "runs" / "rank-detr"
COMMON = [
    *("--imgsz", "320", "--batch", "4", "--epochs", "10", "train.milestones=[8]", "train.val_every=2"),
    f"model.pretrained={os.path.relpath(WEIGHTS, ROOT)}",
]
ROWS = {"h": "h-detr-tiny", "rank-h": "rank-h-detr-tiny", "dino": "dino-tiny", "rank-dino": "rank-dino-tiny"}
PAIRS = {"rank-h": "h", "rank-dino": "dino"}
COLUMNS = {
    "ap": "AP", "ap50": "AP50", "ap75": "AP75", "lrp": "oLRP", "lrp_loc": "Loc", "lrp_fp": "FP", "lrp_fn": "FN",
    "rank.spearman": "Spearman", "rank.misranked": "mis-ranked",
}  # fmt: skip


def folder(row: str, seed: int) -> Path:
    """Where the run is."""
    return RUNS / f"{row}-seed{seed}"


def evaluated(row: str, seed: int) -> Path:
    """Where its detections are."""
    return folder(row, seed) / "val"


def judged(row: str, seed: int) -> Diagnosis:
    """The evaluated detections of a run."""
    return diagnosis(DATA, evaluated(row, seed))


def run(row: str, seed: int, threads: int) -> dict[str, Any]:
    """Train (or resume) one row and seed, evaluate it; its entry of the table."""
    out = folder(row, seed)
    about = trained(out, DATA, seed, threads, ["--model", ROWS[row], *COMMON])
    figures = measured(out, "val", DATA, threads)
    return figures | {"scores": densities(out, threads)} | about


def densities(out: Path, threads: int) -> dict[str, Any]:
    """Mean scores of the last layer's matched and unmatched queries, and the densities themselves."""
    where = out / "layers"
    if not (where / "layers.json").exists():
        weights = f"{out.relative_to(ROOT)}/best.safetensors"
        words = ["--weights", weights, "--data", os.path.relpath(DATA, ROOT), "--images", "1"]
        alignrank(threads, "layers", *words, "--out", str(where.relative_to(ROOT)))
    density = json.loads((where / "layers.json").read_text())["layers"][-1]["density"]
    edges = density["edges"]
    means = {
        kind: round(sum(v * (b - a) * (a + b) / 2 for v, a, b in zip(density[kind], edges, edges[1:], strict=False)), 4)
        for kind in ("matched", "unmatched")
    }
    return {"mean": means, "density": {kind: [round(v, 4) for v in density[kind]] for kind in means}}


def main() -> None:
    table = recorded(str(__doc__), RESULTS, list(ROWS), [DATA, WEIGHTS], run)
    compare(table, "against_host", {row: (host, row) for row, host in PAIRS.items()}, evaluated, judged)
    print("\n".join(markdown(table.read())))


def markdown(table: dict[str, Any]) -> list[str]:
    """The tables of docs/results.md: means over seeds, and differences with their intervals."""
    lines = ["| row | seeds | " + " | ".join(COLUMNS.values()) + " | unmatched score |"]
    lines += ["|---" * (len(COLUMNS) + 3) + "|"]
    for row, entries in table["rows"].items():
        values = [mean([figure(entry, name) for entry in entries.values()]) for name in COLUMNS]
        unmatched = mean([entry["scores"]["mean"]["unmatched"] for entry in entries.values()])
        lines.append(f"| {row} | {len(entries)} | " + " | ".join(values) + f" | {unmatched} |")
    lines += ["", "| minus its host | " + " | ".join(COLUMNS.values()) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for row, gaps in table["against_host"].items():
        lines.append(f"| {row} | " + " | ".join(change(gaps[name]) for name in COLUMNS) + " |")
    return lines


if __name__ == "__main__":
    main()
