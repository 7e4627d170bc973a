"""What VarifocalNet gains over ATSS and FCOS, in a small form on small data: rows trained alike, from a small backbone.

    python benchmarks/varifocalnet.py                       # seed 0 of every row, then the table
    python benchmarks/varifocalnet.py --rows atss vfnet --seeds 0 1 --threads 1

MobileNetV2 with ImageNet weights (batch norms frozen) and 64 channels in place of ResNet-50 and 256, 256 px, AdamW in
place of SGD (VarifocalNet, 8 epochs: AP .452 instead of .146), equal steps for all rows. Finished (row, seed) pairs are
kept, interrupted ones resumed. `oracle`: AP when a part of the best weights' predictions is replaced by ground truth
(`alignrank val --oracle`). Differences to `atss` come with paired bootstrap intervals over images and seeds. Data by
path: ALIGNRANK_SHARED, else ../shared.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from intervals import change
from paired import ROOT, SHARED, compare, diagnosis, figure, mean, measured, recorded, trained

from alignrank.metrics import Diagnosis

DATA = SHARED / "data" / "bloodcells"
WEIGHTS = SHARED / "weights" / "mobilenetv2_100.safetensors"
RESULTS = ROOT / "benchmarks" / "results" / "varifocalnet.json"
RUNS = ROOT / "runs" / "varifocalnet"
COMMON = [
    *("--imgsz", "256", "--batch", "16", "--epochs", "28", "train.milestones=[19,26]", "neck.width=64"),
    *("train.optimizer=adamw", "train.lr=0.001", "train.bias_lr=1.0", "train.clip_norm=10.0"),
    *("model.backbone=timm:mobilenetv2_100", "model.norm=frozen", f"model.pretrained={os.path.relpath(WEIGHTS, ROOT)}"),
]
ROWS = {
    "fcos": ["--model", "fcos-r50"],
    "atss": ["--model", "atss-r50"],
    "atss+vfl": ["--model", "atss-r50", "loss.classification=vfl", "head.centreness=false"],
    "vfnet-unrefined": ["--model", "vfnet-r50", "head.refine=false"],
    "vfnet": ["--model", "vfnet-r50"],
}
PARTS = ("box", "class", "class-iou")
CENTRENESS_PARTS = ("ctr", "ctr-iou")
COLUMNS = {
    "ap": "AP", "ap50": "AP50", "ap75": "AP75", "lrp": "oLRP", "rank.spearman": "Spearman",
    "rank.misranked": "mis-ranked", "rank.ap_lost_ranking": "AP lost to ranking",
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
    """Train (or resume) one row and seed, evaluate it as it is and with parts right; its entry of the table."""
    out = folder(row, seed)
    about = trained(out, DATA, seed, threads, [*ROWS[row][:2], *COMMON, *ROWS[row][2:]])
    figures = measured(out, "val", DATA, threads)
    parts = PARTS if row not in ("fcos", "atss") else CENTRENESS_PARTS + PARTS
    oracle = {}
    for part in parts:
        corrected = measured(out, f"oracle-{part}", DATA, threads, ["--oracle", part])
        oracle[part] = {key: corrected[key] for key in ("ap", "ap50", "ap75")}
    return figures | {"oracle": oracle} | about


def main() -> None:
    table = recorded(str(__doc__), RESULTS, list(ROWS), [DATA, WEIGHTS], run)
    compare(table, "against_atss", {row: ("atss", row) for row in ROWS if row != "atss"}, evaluated, judged)
    print("\n".join(markdown(table.read())))


def markdown(table: dict[str, Any]) -> list[str]:
    """The tables of docs/results.md: means over seeds, differences with their intervals, AP with a part right."""
    lines = ["| row | seeds | " + " | ".join(COLUMNS.values()) + " |", "|---" * (len(COLUMNS) + 2) + "|"]
    for row, entries in table["rows"].items():
        values = [mean([figure(entry, name) for entry in entries.values()]) for name in COLUMNS]
        lines.append(f"| {row} | {len(entries)} | " + " | ".join(values) + " |")
    lines += ["", "| minus atss | " + " | ".join(COLUMNS.values()) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for row, gaps in table["against_atss"].items():
        lines.append(f"| {row} | " + " | ".join(change(gaps[name]) for name in COLUMNS) + " |")
    parts = [*CENTRENESS_PARTS, *PARTS]
    lines += ["", "| AP with a part right | as it is | " + " | ".join(parts) + " |", "|---" * (len(parts) + 2) + "|"]
    for row, entries in table["rows"].items():
        own = mean([entry["ap"] for entry in entries.values()])
        right = [mean([e["oracle"][k]["ap"] for e in entries.values() if k in e["oracle"]]) for k in parts]
        lines.append(f"| {row} | {own} | " + " | ".join(right) + " |")
    return lines


if __name__ == "__main__":
    main()
