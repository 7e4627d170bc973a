"""Ranking losses in other libraries' detectors: transformers' RT-DETR in a tiny form and torchvision's FCOS, with and
without, on two data sets.

    python benchmarks/hosts_ranking.py --seeds 0 1 --threads 1                # every row, then the tables
    python benchmarks/hosts_ranking.py --rows bloodcells/rtdetr --threads 1   # one row of seed 0
    python benchmarks/hosts_ranking.py --rows                                 # the tables anew, of what there is

The protocol, set before the first run:

- Networks, losses and matching are the libraries' own, from random weights but for EfficientNet-Lite0 as backbone with
  the weights of ImageNet. RT-DETR has 128 channels, three decoder layers, 100 queries and 50 denoising queries; its
  backbone's norms learn, since it gets pixels of 0..1 and not what those weights are used to. FCOS has 128 channels.
- 256 px, each picture stretched for RT-DETR; batches of 4, only mirroring, no averaged weights, bf16 where the
  processor has it, else fp32. On bloodcells 10 epochs of 75 steps, on aerialcars 9 of 88 (all four classes are learned,
  the class car is judged). A tenth of the rate in the last two epochs, warm-up of one.
- AdamW. RT-DETR at .0004 and its backbone at a quarter of that, as our tiny H-DETR; FCOS at .0005, the middle one of
  those that `varifocalnet_fair.py` tries. No rate is searched, and each row of a model has the same one.
- Ranking losses have the weights of `alignrank-n`, list alignment .25 and pairs .1, with the other options as they
  are by default. In RT-DETR with Rank-DETR's class loss and cost of a match, whose share of the training (the last
  quarter) is its default; a row more, on bloodcells, has lists and pairs alone, beside the library's varifocal loss and
  cost. In FCOS with varifocal loss.
- Rows of FCOS were run anew from 29 November, 17:00 on, with boxes that begin at one stride (torchvision_host.py). With
  the library's first weights, seed 0, a side of all boxes stayed below its ReLU in three of six trainings, and others
  learned boxes after half of their steps: they told when that happened, not what a loss is worth. They are kept in the
  section `first_weights_of_the_library`, with a row whose class targets were held up at first (`loss.iou_floor`, since
  removed), which did not help.
- The weights of the last epoch are judged: no epoch is chosen. 100 detections of an image, all scores of RT-DETR, and
  of FCOS those above .05. Seeds 0 and 1.
- Differences are with minus without, by set and as mean over the sets, with 95 % intervals over images and seeds.

About 8 minutes of one core for each row and seed. A row whose recipe or options this version does not have is skipped,
and one line says so. Finished (row, seed) pairs are kept, interrupted ones resumed; two processes may run different
rows. Data and backbone by path: ALIGNRANK_SHARED, else ../shared.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from intervals import change, differences
from paired import (
    ROOT,
    SHARED,
    Rows,
    compare,
    diagnosis,
    figure,
    figures,
    mean,
    measured,
    paired_draws,
    recorded,
    trained,
)

from alignrank.config import parse_overrides
from alignrank.errors import InputError
from alignrank.metrics import Diagnosis
from alignrank.weights.recipe import load_recipe

WEIGHTS = SHARED / "weights" / "tf_efficientnet_lite0.safetensors"
RESULTS = ROOT / "benchmarks" / "results" / "hosts_ranking.json"
RUNS = ROOT / "runs" / "hosts_ranking"


@dataclass(frozen=True)
class DataSet:
    """Epochs of a training, and the class that is judged (empty: all)."""

    epochs: int
    judged: str = ""


SETS = {"bloodcells": DataSet(10), "aerialcars": DataSet(9, judged="car")}
COMMON = [
    *("--batch", "4", "train.optimizer=adamw", "train.weight_decay=0.0001", "train.ema_decay=0.0"),
    *("train.schedule=step", "train.warmup_epochs=1.0", f"model.backbone_weights={os.path.relpath(WEIGHTS, ROOT)}"),
    *("augment.mosaic=0.0", "augment.scale=0.0", "augment.translate=0.0", "augment.multi_scale=0.0"),
    *("augment.hue=0.0", "augment.saturation=0.0", "augment.brightness=0.0"),
]
BACKBONE = (
    "{model_type: timm_backbone, backbone: tf_efficientnet_lite0, features_only: true, use_pretrained_backbone: false, "
    "out_indices: [2, 3, 4]}"
)
RTDETR = [
    *("--imgsz", "256", "train.lr=0.0004", "train.backbone_lr=0.25", "train.clip_norm=0.1"),
    *(f"model.config.backbone_config={BACKBONE}", "model.config.freeze_backbone_batch_norms=false"),
    *("model.config.encoder_in_channels=[40, 112, 320]", "model.config.decoder_in_channels=[128, 128, 128]"),
    *("model.config.encoder_hidden_dim=128", "model.config.encoder_ffn_dim=256", "model.config.d_model=128"),
    *("model.config.encoder_attention_heads=4", "model.config.decoder_attention_heads=4"),
    *("model.config.decoder_ffn_dim=256", "model.config.num_queries=100", "model.config.num_denoising=50"),
]
FCOS = [
    *("--imgsz", "256", "train.lr=0.0005", "train.clip_norm=10.0", "model.backbone=timm:tf_efficientnet_lite0"),
    *("model.width=128", "train.freeze=[]", "postprocess.conf=0.05"),
]
LISTS_AND_PAIRS = ["loss.align=0.25", "loss.rank=0.1"]


@dataclass(frozen=True)
class Row:
    """A recipe, the words of its training, and the row that it is compared with (empty: none)."""

    model: str
    words: Sequence[str]
    against: str = ""
    sets: Sequence[str] = tuple(SETS)


RTDETR_R18, FCOS_R50 = "transformers/rtdetr-r18", "torchvision/fcos_resnet50_fpn"
ROWS = {
    "rtdetr": Row(RTDETR_R18, RTDETR),
    "rtdetr, ranking losses": Row(
        RTDETR_R18, [*RTDETR, "rank.loss=gcl", "rank.matching_cost=true", *LISTS_AND_PAIRS], "rtdetr"
    ),
    "rtdetr, lists and pairs": Row(RTDETR_R18, [*RTDETR, *LISTS_AND_PAIRS], "rtdetr", ("bloodcells",)),
    "fcos": Row(FCOS_R50, FCOS),
    "fcos, ranking losses": Row(FCOS_R50, [*FCOS, "loss.classification=vfl", *LISTS_AND_PAIRS], "fcos"),
}
RUNS_OF = [f"{data}/{row}" for row, data in product(ROWS, SETS) if data in ROWS[row].sets]
COLUMNS = {
    "ap": "AP", "ap50": "AP50", "ap75": "AP75", "lrp": "oLRP", "rank.spearman_true_class_mean": "true boxes",
    "rank.misranked": "mis-ranked", "rank.ap_lost_between": "lost between",
}  # fmt: skip


def folder(named: str, seed: int) -> Path:
    """Where the run is. named: `data/row`."""
    data, _, row = named.partition("/")
    return RUNS / f"{row.replace(', ', '-').replace(' ', '_')}-{data}-seed{seed}"


def evaluated(named: str, seed: int) -> Path:
    """Where its detections are."""
    return folder(named, seed) / "val"


def judged(named: str, seed: int) -> Diagnosis:
    """Those detections, of the class that is judged."""
    data = named.partition("/")[0]
    classes = [SETS[data].judged] if SETS[data].judged else None
    return diagnosis(SHARED / "data" / data, evaluated(named, seed), classes=classes)


def words_of(named: str) -> list[str]:
    """Of the training."""
    data, _, row = named.partition("/")
    epochs = SETS[data].epochs
    ends = ["--epochs", str(epochs), f"train.milestones=[{epochs - 2}]", f"train.val_every={epochs}"]
    return ["--model", ROWS[row].model, *COMMON, *ends, *ROWS[row].words]


def run(named: str, seed: int, threads: int) -> dict[str, Any]:
    """Train (or resume) one row on one set with one seed and evaluate it; its entry of the table."""
    data, out = SHARED / "data" / named.partition("/")[0], folder(named, seed)
    about = trained(out, data, seed, threads, words_of(named))
    measured(out, "val", data, threads, ["--max-dets", "100"], weights="last")
    found = judged(named, seed)
    named_values = zip(found.inputs.names, found.spearman_true, strict=True)
    by_class = {name: None if value is None else round(value, 4) for name, value in named_values}
    return figures(found) | {"spearman_true_by_class": by_class} | about


def missing(row: Row) -> str:
    """Why this version cannot train a row; empty where it can."""
    try:
        load_recipe(row.model, overrides=parse_overrides([w for w in (*COMMON, *row.words) if "=" in w]), where="row")
    except InputError as error:
        return str(error)
    return ""


def main() -> None:
    known = []
    for named in RUNS_OF:
        if reason := missing(ROWS[named.partition("/")[2]]):
            print(f"{named}: skipped, {reason.partition(';')[0]}", file=sys.stderr)
        else:
            known.append(named)
    table = recorded(str(__doc__), RESULTS, known, [WEIGHTS, *(SHARED / "data" / data for data in SETS)], run)
    wanted = {
        f"{named} - {about.against}": (f"{data}/{about.against}", named)
        for named in known
        for data, about in [(named.partition("/")[0], ROWS[named.partition("/")[2]])]
        if about.against
    }
    compare(table, "compared", wanted, evaluated, judged)
    table.update(mean_of_sets=pooled(table))
    print("\n".join(markdown(table.read())))


def pooled(table: Rows) -> dict[str, Any]:
    """Differences as mean over the sets, of rows that both have."""
    found = {}
    for row, about in ROWS.items():
        pairs = {
            data: paired_draws(table, (f"{data}/{about.against}", f"{data}/{row}"), evaluated, judged)
            for data in about.sets
            if about.against
        }
        if len(pairs) == len(SETS) and all(pairs.values()):
            seeds = {data: list(by_seed) for data, by_seed in pairs.items()}
            groups = [list(by_seed.values()) for by_seed in pairs.values()]
            found[f"{row} - {about.against}"] = {"seeds": seeds} | differences(groups)
    return found


def markdown(table: dict[str, Any]) -> list[str]:
    """The tables of docs/results.md: means over seeds, and differences with their intervals."""
    lines = ["| set and row | seeds | " + " | ".join(COLUMNS.values()) + " | minutes |"]
    lines += ["|---" * (len(COLUMNS) + 3) + "|"]
    for named, entries in ((named, table["rows"][named]) for named in RUNS_OF if named in table["rows"]):
        values = [mean([figure(entry, name) for entry in entries.values()]) for name in COLUMNS]
        minutes = [entry["minutes"] for entry in entries.values()]
        lines.append(f"| {named} | {len(entries)} | " + " | ".join(values) + f" | {max(minutes)} |")
    lines += ["", "| difference | " + " | ".join(COLUMNS.values()) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for section in ("compared", "mean_of_sets"):
        for name, gaps in table.get(section, {}).items():
            lines.append(f"| {name} | " + " | ".join(change(gaps[column]) for column in COLUMNS) + " |")
    return lines


if __name__ == "__main__":
    main()
