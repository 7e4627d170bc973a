"""VarifocalNet against ATSS and FCOS once more, under conditions that do not favour one, and what its targets cost.

    python benchmarks/varifocalnet_fair.py --threads 1                 # seed 0 of every row, then the tables
    python benchmarks/varifocalnet_fair.py --rows cells-atss cells-vfnet --seeds 0 1 --threads 1
    python benchmarks/varifocalnet_fair.py --rows                      # the tables anew, of what there is

Two processes may train different rows at the same time; finished (row, seed) pairs are kept, interrupted ones resumed.
The older `varifocalnet.py` has 64 channels, 532 steps and one rate for all. What is chosen here:

- EfficientNet-Lite0 with the weights of ImageNet and their true norm statistics, 128 channels, 256 px. Stem and first
  stage frozen and batch norms `fixed` (statistics stay, affine parameters learn) as in the recipes and the paper.
- Batch 3, for a step is to take no more than about .8 s: measured on a core shared with other work, .7 to .9 s of
  processor time (FCOS, ATSS) and .9 to 1.1 s (VarifocalNet), so that a row takes 20 to 27 minutes. On bloodcells 15
  epochs of 100 steps, on aerialcars 13 of 118: 1,500 and 1,534 steps for every row.
- AdamW, decay .0001, clipping at 10, biases and backbone at the rate of the rest; a tenth of it after two thirds and
  again after eleven twelfths, as in the paper; warm-up of half an epoch. The recipes' .07 epochs are 500 steps of COCO,
  and would be seven here. Only mirroring as augmentation, no averaged weights.
- The rate of each method is the one of three with the highest AP after 300 steps on bloodcells, seed 0. It is searched
  when a row first needs it, and holds for both sets, all seeds, and all rows of the method. Its validation images are
  those of the rows.
- The weights of the last epoch are judged: no epoch is chosen. On aerialcars all four classes are learned and the class
  car is judged. Scores above .05 as in the paper, 300 detections of an image; `conf_001` is the same with scores above
  .001, for the IoU as target gives low scores.

Rows of the target's effect begin as ATSS + varifocal loss (`cells-vfl`) or VarifocalNet (`cells-vfnet`), or ATSS, and
change one thing, or two. A target that is held up is max(IoU, floor), the floor falls from 1 to 0 in the first half.
Differences come with paired bootstrap intervals over images and seeds. Data and backbone by path: ALIGNRANK_SHARED,
else ../shared.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock
from intervals import differences_table
from paired import (
    ROOT,
    SHARED,
    Rows,
    compare,
    diagnosis,
    figures,
    learning_curve,
    mean,
    measured,
    recorded,
    trained,
)

from alignrank.metrics import Diagnosis

WEIGHTS = SHARED / "weights" / "tf_efficientnet_lite0.safetensors"
RESULTS = ROOT / "benchmarks" / "results" / "varifocalnet_fair.json"
RUNS = ROOT / "runs" / "varifocalnet_fair"
MAX_DETS = 300
COMMON = [
    *("--imgsz", "256", "--batch", "3", "neck.width=128", "train.warmup_epochs=0.5"),
    *("train.optimizer=adamw", "train.bias_lr=1.0", "train.backbone_lr=1.0", "train.clip_norm=10.0"),
    *("model.backbone=timm:tf_efficientnet_lite0", "model.norm=fixed", "model.freeze=2"),
    f"model.pretrained={os.path.relpath(WEIGHTS, ROOT)}",
]
METHODS = {
    "fcos": ["--model", "fcos-r50"],
    "atss": ["--model", "atss-r50"],
    "vfl": ["--model", "atss-r50", "loss.classification=vfl", "head.centreness=false"],
    "vfnet": ["--model", "vfnet-r50"],
}
SEARCHED = (0.00025, 0.0005, 0.001)
SEARCH = ["--epochs", "3", "train.milestones=[2]", "train.val_every=3"]


@dataclass(frozen=True)
class Data:
    """A set by its folder's name, the length of its trainings, and the class that is judged (empty: all)."""

    name: str
    words: Sequence[str]
    judged: str = ""


@dataclass(frozen=True)
class Row:
    """One training: its data, its method, what is changed, and the rows it is compared with."""

    data: Data
    method: str
    changed: Sequence[str] = ()
    against: Sequence[str] = ()


CELLS = Data("bloodcells", ["--epochs", "15", "train.milestones=[10,14]", "train.val_every=3"])
CARS = Data("aerialcars", ["--epochs", "13", "train.milestones=[9,12]", "train.val_every=4"], "car")
FLOOR = ["loss.iou_floor=1.0", "loss.iou_floor_end=0.5"]
TARGETS = ["loss.normalizer=targets"]
CENTRAL = ["loss.box_weight=centreness"]
BY_IOU = ["loss.box_weight=iou"]
STRIDES = ["head.distances=stride"]
ON_VFL, ON_VFNET = ("cells-atss", "cells-vfl"), ("cells-atss", "cells-vfnet")
ROWS = {
    "cells-atss": Row(CELLS, "atss"),
    "cells-fcos": Row(CELLS, "fcos", against=("cells-atss",)),
    "cells-vfl": Row(CELLS, "vfl", against=("cells-atss",)),
    "cells-vfnet": Row(CELLS, "vfnet", against=("cells-atss",)),
    "cells-vfl-floor": Row(CELLS, "vfl", FLOOR, ON_VFL),
    "cells-vfl-central": Row(CELLS, "vfl", CENTRAL, ON_VFL),
    "cells-vfl-targets": Row(CELLS, "vfl", TARGETS, ON_VFL),
    "cells-vfnet-floor-central": Row(CELLS, "vfnet", [*FLOOR, *CENTRAL], ON_VFNET),
    "cars-atss": Row(CARS, "atss"),
    "cars-fcos": Row(CARS, "fcos", against=("cars-atss",)),
    "cars-vfl": Row(CARS, "vfl", against=("cars-atss",)),
    "cars-vfnet": Row(CARS, "vfnet", against=("cars-atss",)),
    "cells-vfl-floor-central": Row(CELLS, "vfl", [*FLOOR, *CENTRAL], ON_VFL),
    "cells-vfnet-floor": Row(CELLS, "vfnet", FLOOR, ON_VFNET),
    "cells-vfnet-strides": Row(CELLS, "vfnet", STRIDES, ON_VFNET),
    "cells-atss-iou": Row(CELLS, "atss", BY_IOU, ("cells-atss",)),
}
COLUMNS = {
    "ap": "AP", "ap50": "AP50", "ap75": "AP75", "lrp": "oLRP", "rank.spearman": "Spearman",
    "rank.spearman_true": "Spearman, true boxes", "rank.misranked": "mis-ranked",
    "rank.ap_lost_ranking": "AP lost to ranking",
}  # fmt: skip
CLASSES = ("RBC", "WBC", "Platelets")


def data_of(data: Data) -> Path:
    """Its folder."""
    return SHARED / "data" / data.name


def folder(row: str, seed: int) -> Path:
    """Where the run is."""
    return RUNS / f"{row}-seed{seed}"


def rate(method: str, threads: int) -> float:
    """Of those searched, the one with the highest AP, the lower of equal ones. What is missing is trained and recorded
    first, by one process at a time.
    """
    table = Rows(RESULTS)
    RUNS.mkdir(parents=True, exist_ok=True)
    with FileLock(RUNS / f"search-{method}.lock"):
        for lr in SEARCHED:
            if str(lr) not in table.read().get("search", {}).get(method, {}):
                out = RUNS / f"search-{method}-{lr}"
                words = [*METHODS[method][:2], *COMMON, *SEARCH, *METHODS[method][2:], f"train.lr={lr}"]
                about = trained(out, data_of(CELLS), 0, threads, words)
                table.record(method, str(lr), {"ap": about["ap_by_epoch"][-1], **about}, section="search")
    return best_rate(table.read()["search"][method])


def best_rate(searched: dict[str, Any]) -> float:
    """{rate: entry} -> the rate."""
    return max(map(float, searched), key=lambda lr: (searched[str(lr)]["ap"], -lr))


def evaluated(row: str, seed: int, name: str = "val") -> Path:
    """Where its detections are."""
    return folder(row, seed) / name


def judged(row: str, seed: int, name: str = "val", classes: Sequence[str] = ()) -> Diagnosis:
    """The evaluated detections of a run, of the class that is judged, or of these."""
    data = ROWS[row].data
    chosen = classes or ([data.judged] if data.judged else None)
    return diagnosis(data_of(data), evaluated(row, seed, name), max_dets=MAX_DETS, classes=chosen)


def run(row: str, seed: int, threads: int) -> dict[str, Any]:
    """Train (or resume) one row and seed at its method's rate and evaluate it; its entry of the table."""
    about, out = ROWS[row], folder(row, seed)
    data, lr = data_of(about.data), rate(about.method, threads)
    words = [*METHODS[about.method], *COMMON, *about.data.words, *about.changed, f"train.lr={lr}"]
    history = trained(out, data, seed, threads, words)
    limit = ["--max-dets", str(MAX_DETS)]
    measured(out, "val", data, threads, limit, weights="last")
    measured(out, "val-001", data, threads, [*limit, "--conf", "0.001"], weights="last")
    entry = {"lr": lr, **figures(judged(row, seed)), "conf_001": figures(judged(row, seed, "val-001"))}
    if about.data is CELLS:
        entry["ap_of"] = {name: figures(judged(row, seed, classes=[name]))["ap"] for name in CLASSES}
    return entry | learning_curve(out) | history


def main() -> None:
    needed = [WEIGHTS, *(data_of(data) for data in (CELLS, CARS))]
    table = recorded(str(__doc__), RESULTS, list(ROWS), needed, run)
    pairs = ((row, other) for row, about in ROWS.items() for other in about.against)
    wanted = {f"{row} minus {other}": (other, row) for row, other in pairs}
    compare(table, "against", wanted, evaluated, judged)
    print("\n".join(markdown(table.read())))


def markdown(table: dict[str, Any]) -> list[str]:
    """The tables of docs/results.md: means over seeds, differences with their intervals, the search of rates."""
    more = [*CLASSES, "AP above .001"]
    lines = ["| row | seeds | rate | " + " | ".join([*COLUMNS.values(), *more]) + " |"]
    lines += ["|---" * (len(COLUMNS) + len(more) + 3) + "|"]
    done = table["rows"]
    for row, entries in ((row, done[row]) for row in ROWS if row in done):
        every = list(entries.values())
        cells = [mean([entry[name] for entry in every if name in entry]) for name in COLUMNS]
        cells += [mean([entry["ap_of"][name] for entry in every if "ap_of" in entry]) for name in CLASSES]
        cells += [mean([entry["conf_001"]["ap"] for entry in every if "ap" in entry["conf_001"]])]
        lines.append(f"| {row} | {len(every)} | {every[0]['lr']} | " + " | ".join(cells) + " |")
    lines += ["", *differences_table(table["against"], COLUMNS)]
    lines += ["", "| AP in the search | " + " | ".join(map(str, SEARCHED)) + " |", "|---" * (len(SEARCHED) + 1) + "|"]
    for method, searched in table.get("search", {}).items():
        cells = [mean([searched[str(lr)]["ap"]] if str(lr) in searched else []) for lr in SEARCHED]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return lines


if __name__ == "__main__":
    main()
