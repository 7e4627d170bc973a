"""What FINE gains in small detectors on small data: rows trained alike, with and without it, from the same weights.

    python benchmarks/fine.py --threads 1                     # seed 0 of every row, then the tables
    python benchmarks/fine.py --rows nuclei nuclei+fine --seeds 0 1 --threads 1
    python benchmarks/fine.py --rows                          # the tables anew, of what there is

Two processes may train different rows at the same time; finished (row, seed) pairs are kept, interrupted ones resumed.
`yolov8-n` on nuclei (one class, up to 300 an image) and on aerialcars (all four classes learned, the class car judged);
FCOS with 64 channels on EfficientNet-Lite0 of ImageNet, its batch norms frozen, on nuclei. A seed gives both rows of a
pair the same first weights outside of FINE, and the same pictures. Differences come with paired bootstrap intervals
over images and seeds. `false_positives`: detections that are wrong at IoU .5 when as many objects are found.
`bypassed`: the trained detector without its modulation. Data and backbone by path: ALIGNRANK_SHARED, else ../shared.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from intervals import change
from paired import (
    ROOT,
    SHARED,
    compare,
    diagnosis,
    figure,
    figures,
    learning_curve,
    mean,
    measured,
    recorded,
    trained,
)

from alignrank.data.loader import EvaluationSet, evaluation_loader
from alignrank.data.opening import open_split, opened
from alignrank.evaluation.options import ValOptions
from alignrank.evaluation.validate import validate
from alignrank.metrics import Diagnosis
from alignrank.nn.fine import FINE
from alignrank.report.plot_parts import new_figure, outside_legend, saved, styled
from alignrank.weights import checkpoint

WEIGHTS = SHARED / "weights" / "tf_efficientnet_lite0.safetensors"
RESULTS = ROOT / "benchmarks" / "results" / "fine.json"
PICTURE = ROOT / "docs" / "images" / "fine_losses.png"
RUNS = ROOT / "runs" / "fine"
MAX_DETS = 300
SKIPPED = 2  # values of a curve
RECALLS = (0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True)
class Row:
    """One training: its data, the class that is judged (empty: all), its words, and the row it is compared with."""

    data: str
    words: Sequence[str]
    against: str = ""
    judged: str = ""


# The rate is that of the recipe when the rows were run.
YOLO = ["--model", "yolov8-n", "--imgsz", "320", "--batch", "16", "train.lr=0.0015"]
YOLO_NUCLEI = [*YOLO, "--epochs", "20", "train.val_every=2"]
YOLO_CARS = [*YOLO, "--epochs", "30", "train.val_every=3"]
FCOS_NUCLEI = [
    *("--model", "fcos-r50", "--imgsz", "256", "--batch", "16", "--epochs", "9", "train.milestones=[7,8]"),
    *("train.optimizer=adamw", "train.lr=0.001", "train.bias_lr=1.0", "train.clip_norm=10.0", "train.val_every=2"),
    *("model.backbone=timm:tf_efficientnet_lite0", "model.norm=frozen", "neck.width=64"),
    f"model.pretrained={os.path.relpath(WEIGHTS, ROOT)}",
]
FINE_ON = "neck.fine=true"
ROWS = {
    "nuclei": Row("nuclei", YOLO_NUCLEI),
    "nuclei+fine": Row("nuclei", [*YOLO_NUCLEI, FINE_ON], "nuclei"),
    "cars": Row("aerialcars", YOLO_CARS, judged="car"),
    "cars+fine": Row("aerialcars", [*YOLO_CARS, FINE_ON], "cars", judged="car"),
    "fcos": Row("nuclei", FCOS_NUCLEI),
    "fcos+fine": Row("nuclei", [*FCOS_NUCLEI, FINE_ON], "fcos"),
    "nuclei+fine, direct": Row("nuclei", [*YOLO_NUCLEI, FINE_ON, "neck.fine_modulation=direct"], "nuclei"),
    "nuclei+fine, zero_init": Row("nuclei", [*YOLO_NUCLEI, FINE_ON, "neck.fine_zero_init=true"], "nuclei"),
    "cars+fine, zero_init": Row("aerialcars", [*YOLO_CARS, FINE_ON, "neck.fine_zero_init=true"], "cars", judged="car"),
    "fcos+fine, zero_init": Row("nuclei", [*FCOS_NUCLEI, FINE_ON, "neck.fine_zero_init=true"], "fcos"),
    "nuclei+fine, none": Row("nuclei", [*YOLO_NUCLEI, FINE_ON, "neck.fine_modulation=none"], "nuclei"),
}
COLUMNS = {
    "ap": "AP", "ap50": "AP50", "ap75": "AP75", "ap_small": "AP small", "ap_medium": "AP medium", "lrp": "oLRP",
    "rank.spearman": "Spearman", "rank.misranked": "mis-ranked",
}  # fmt: skip


def folder(row: str, seed: int) -> Path:
    """Where the run is."""
    return RUNS / f"{row.replace(', ', '-')}-seed{seed}"


def evaluated(row: str, seed: int) -> Path:
    """Where its detections are."""
    return folder(row, seed) / "val"


def judged(row: str, seed: int) -> Diagnosis:
    """The evaluated detections of a run, of the class that is judged."""
    classes = [ROWS[row].judged] if ROWS[row].judged else None
    data = SHARED / "data" / ROWS[row].data
    return diagnosis(data, evaluated(row, seed), max_dets=MAX_DETS, classes=classes)


def run(row: str, seed: int, threads: int) -> dict[str, Any]:
    """Train (or resume) one row and seed and evaluate it; its entry of the table."""
    out, data = folder(row, seed), SHARED / "data" / ROWS[row].data
    about = trained(out, data, seed, threads, ROWS[row].words)
    measured(out, "val", data, threads, ["--max-dets", str(MAX_DETS)])
    found = judged(row, seed)
    entry = {**figures(found), "false_positives": false_positives(found), **learning_curve(out)}
    if row.endswith("+fine"):
        entry["bypassed"] = bypassed(out, data)
    return entry | about


def false_positives(found: Diagnosis) -> dict[str, int | None]:
    """{share of the objects found at IoU .5: wrong detections up to there}; None where it is not reached."""
    matching = found.matching
    taken, left_out = matching.at(0.5)
    by_score = np.argsort(-matching.scores, kind="stable")
    by_score = by_score[~left_out[by_score]]
    true = taken[by_score] >= 0
    objects = int(matching.gt_counts[:, 0].sum())
    recall, wrong = np.cumsum(true) / objects, np.cumsum(~true)
    reached = np.searchsorted(recall, RECALLS)
    return {
        f"{share:.1f}": int(wrong[place]) if place < len(wrong) else None
        for share, place in zip(RECALLS, reached, strict=True)
    }


def bypassed(out: Path, data: Path) -> dict[str, float]:
    """Figures of the best weights with the modulation replaced by zero, the fine map alone."""
    loaded = checkpoint.load(out)
    split = open_split(str(data), "val")
    model = loaded.build_model()
    for module in model.modules():
        if isinstance(module, FINE):
            module.forward = lambda low, high: low  # type: ignore[method-assign]
    loader = evaluation_loader(EvaluationSet(opened(split, loaded.recipe.size_in_use)), 16, workers=0)
    postprocess = loaded.recipe.build().postprocess
    options = ValOptions(before_nms=False, coco_max_dets=MAX_DETS)
    scalars = validate(model, postprocess, loader, split, options).diagnosis.metrics.scalars()
    return {name: round(scalars[name], 4) for name in ("ap", "ap50", "ap75")}


def main() -> None:
    table = recorded(
        str(__doc__), RESULTS, list(ROWS), [WEIGHTS, *(SHARED / "data" / row.data for row in ROWS.values())], run
    )
    wanted = {row: (about.against, row) for row, about in ROWS.items() if about.against}
    compare(table, "against_host", wanted, evaluated, judged)
    loss_curves(table.read())
    print("\n".join(markdown(table.read())))


def loss_curves(table: dict[str, Any]) -> None:
    """The loss of training and validation by epoch, without FINE and with its three modulations (the paper's figure 7).

    Of one seed, the first; the first epochs, which are all alike, are left out.
    """
    rows = [row for row in ROWS if ROWS[row].words[:2] == YOLO_NUCLEI[:2] and ROWS[row].data == "nuclei"]
    shown = {row: next(iter(table["rows"][row].values()))["losses"] for row in rows if row in table["rows"]}
    figure, axes = new_figure(2, 2, width=4.2, height=3.2)
    for axis, split in zip(axes, ("train", "val"), strict=True):
        for row, losses in shown.items():
            total = np.sum([losses[name] for name in losses if name.startswith(split)], 0)
            label = row.removeprefix("nuclei+fine").strip(", ") or "residual"
            axis.plot(
                _epochs(row, len(total))[SKIPPED:], total[SKIPPED:], label="without" if row == "nuclei" else label
            )
        styled(axis, {"train": "Training", "val": "Validation"}[split], "epoch", "loss")
    outside_legend(axes[1], "modulation")
    saved(figure, PICTURE)


def _epochs(row: str, count: int) -> list[int]:
    words = list(ROWS[row].words)
    epochs = int(words[words.index("--epochs") + 1])
    return [round((i + 1) * epochs / count) for i in range(count)]


def markdown(table: dict[str, Any]) -> list[str]:
    """The tables of docs/fine.md: means over seeds, differences with their intervals, false positives."""
    lines = ["| row | seeds | " + " | ".join(COLUMNS.values()) + " |", "|---" * (len(COLUMNS) + 2) + "|"]
    for row, entries in table["rows"].items():
        values = [mean([figure(entry, name) for entry in entries.values()]) for name in COLUMNS]
        lines.append(f"| {row} | {len(entries)} | " + " | ".join(values) + " |")
    lines += ["", "| minus its host | seeds | " + " | ".join(COLUMNS.values()) + " |"]
    lines += ["|---" * (len(COLUMNS) + 2) + "|"]
    for row, gaps in table["against_host"].items():
        lines.append(f"| {row} | {len(gaps['seeds'])} | " + " | ".join(change(gaps[name]) for name in COLUMNS) + " |")
    lines += ["", "| false positives at recall | " + " | ".join(f"{share:.1f}" for share in RECALLS) + " |"]
    lines += ["|---" * (len(RECALLS) + 1) + "|"]
    for row, entries in table["rows"].items():
        cells = [[entry["false_positives"][f"{share:.1f}"] for entry in entries.values()] for share in RECALLS]
        lines.append(
            f"| {row} | " + " | ".join("/".join("-" if v is None else str(v) for v in c) for c in cells) + " |"
        )
    return lines


if __name__ == "__main__":
    main()
