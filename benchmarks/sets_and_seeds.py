"""The flagship against its peers and against itself with one change at a time: three data sets, two or three seeds.

    python benchmarks/sets_and_seeds.py --threads 1           # seed 0 of every row, then the tables
    python benchmarks/sets_and_seeds.py --rows nuclei/alignrank-n --seeds 0 1 2 --threads 1
    python benchmarks/sets_and_seeds.py --rows                # the tables anew, of what there is

The protocol, set before the first run:

- Sets: bloodcells, aerialcars (all four classes learned, the class car judged), nuclei (300 detections an image).
  320 px, batch 16, 60 epochs (nuclei 30), random weights, each trainer's own augmentation and optimizer.
- Ours: validated every second epoch, the best epoch's weights count, in the precision that is the default of the
  processor (bf16 where it has it). Ultralytics' YOLOv8n and YOLO26n: fp32, validated every epoch, theirs count too.
- `alignrank-n` as it was at the first run, and the one that all choices led to: seeds 0, 1, 2. Single changes: on
  bloodcells and aerialcars, seeds 0, 1. Peers: seeds 0, 1. Seed 0 of every row comes first.
- Added later, before their own first run, on the same sets and seeds: the two losses together, after these alone on
  bloodcells; the new one without refinement, on all sets, after seed 0 of it with, whose refinement is worth AP .001,
  .001 and .010 (put out in the trained networks); of today's recipe what can be left out (`no ...`), on all sets, after
  seed 2 of it, which is behind `yolov8-n` on two of them.
- Choices (which changes stay, and their constants) are made on bloodcells alone. Overlaps of consensus are set here: .7
  inside of alignrank, .75 behind NMS.
- A row has outputs, each evaluated on the same weights. Differences are of one output of one row and one of another, by
  set and as mean over the sets, with 95 % intervals over images and seeds. Seeds that both have count.
- The choice (29 November, after seeds 0 and 1 of bloodcells): consensus in the loss and in the network. The second one,
  after these and seed 0 of the other sets: no refinement. The third one (30 November, after seed 2 of bloodcells): a
  rate of .003, confirmed on the other sets; a run at .006 was behind it there and was stopped. `yolov8-n` has it, too.
  The fourth one (30 November, after seeds 3 and 4 of bloodcells, confirmed by both on nuclei and by seed 3 on
  aerialcars): box branches in the place of fusion.
  Commands from before name no option that a recipe did not have yet; those after name it at that value, which is the
  same.
- Two machines can differ more than two seeds (docs/alignrank.md#chance). So of the rows that have draws, seeds 0 and 1
  are one machine's (AMD), seed 2 is another's (Intel), seeds 3 and 4 are a third one's (AMD): all of a difference is
  of one machine.
- The best peer is the one of Ultralytics' three outputs with the highest AP, as mean over the three sets.

Two processes may run different rows; finished (row, seed) pairs are kept, interrupted ones resumed. Intervals come
from draws that are kept beside the table (results/sets_and_seeds). Of the runs before 29 November there are none: their
intervals stay until the rows are trained again. Data by path: ALIGNRANK_SHARED, else ../shared.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import peers
from intervals import Array, change, differences
from machine import processor
from paired import (
    BEFORE,
    ROOT,
    SHARED,
    Rows,
    commit,
    diagnosis,
    figure,
    figures,
    mean,
    measured,
    recorded,
    trained,
)

from alignrank.metrics import Diagnosis

RESULTS = ROOT / "benchmarks" / "results" / "sets_and_seeds.json"
RUNS = ROOT / "runs" / "sets_and_seeds"


@dataclass(frozen=True)
class DataSet:
    """Epochs of a training, detections of an image that count, and the class that is judged (empty: all)."""

    epochs: int
    max_dets: int = 100
    judged: str = ""


SETS = {
    "bloodcells": DataSet(60),
    "aerialcars": DataSet(60, judged="car"),
    "nuclei": DataSet(30, max_dets=300),
}
SINGLE_CHANGES = ("bloodcells", "aerialcars")
NMS, NMS_FREE = "NMS", "NMS-free"
REFINED = "alignrank-n, consensus loss"
NEW = f"{REFINED}, no refinement"
RATE, PLAIN = f"{NEW}, rate .003", "yolov8-n, rate .003"
BOXES = f"{RATE}, box branches for fusion"
FIRST = "alignrank-n, rate .003"
CONSENSUS = {NMS: 0.75, NMS_FREE: 0.7}
OURS = {NMS_FREE: [], NMS: ["--nms"]}
MERGED = {
    f"{NMS_FREE}, consensus": ["--consensus", str(CONSENSUS[NMS_FREE])],
    f"{NMS}, consensus": ["--nms", "--consensus", str(CONSENSUS[NMS])],
}
AFTER_NMS = {NMS: [], f"{NMS}, consensus": ["--consensus", str(CONSENSUS[NMS])]}


@dataclass(frozen=True)
class Row:
    """A model, the words of its training, and {output: options of `val`}; no options: Ultralytics trains it."""

    model: str
    words: Sequence[str] = ()
    outputs: dict[str, list[str]] = field(default_factory=dict)
    sets: Sequence[str] = tuple(SETS)


LATER = ("loss.consensus=0.25", "head.refine=false", "train.lr=0.003")


def _changed(*words: str, sets: Sequence[str] = SINGLE_CHANGES) -> Row:
    return Row("alignrank-n", (*BEFORE, *words), OURS | MERGED, sets)


ROWS = {
    "alignrank-n": _changed(sets=tuple(SETS)),
    "yolov8-n": Row("yolov8-n", ["train.lr=0.0015"], AFTER_NMS),
    "Ultralytics yolov8n": Row("yolov8n"),
    "Ultralytics yolo26n": Row("yolo26n"),
    "yolov10-n": Row("yolov10-n", outputs=OURS | {f"{NMS}, consensus": MERGED[f"{NMS}, consensus"]}),
    "alignrank-n, pairs across": _changed("loss.rank_scope=class", "loss.rank_across=best"),
    "alignrank-n, pairs of both": _changed("loss.rank_scope=both", "loss.align_scope=class"),
    REFINED: _changed("loss.consensus=0.25", sets=tuple(SETS)),
    "alignrank-n, quality": _changed("head.quality=0.5"),
    "alignrank-n, consensus and pairs across": _changed(
        "loss.consensus=0.25", "loss.rank_scope=class", "loss.rank_across=best"
    ),
    "alignrank-n, no refinement": _changed("head.refine=false"),
    NEW: _changed("loss.consensus=0.25", "head.refine=false", sets=tuple(SETS)),
    # All that the recipe was at first, at the rate of today's: what changed since for speed and order, together.
    FIRST: _changed("train.lr=0.003", sets=["bloodcells"]),
    # The recipe until 30 November; in the network it has the consensus of the outputs "NMS-free, consensus".
    RATE: _changed(*LATER, sets=tuple(SETS)),
    f"{RATE}, no ranking losses": _changed(*LATER, "loss.consensus=0", "loss.align=0", "loss.rank=0", sets=tuple(SETS)),
    f"{RATE}, no fusion": _changed(*LATER, "head.fusion=false", sets=tuple(SETS)),
    # Box branches in the place of fusion: plain, or twice as wide, or both, which is the recipe since.
    f"{RATE}, plain boxes for fusion": _changed(
        *LATER, "head.fusion=false", "head.separable_boxes=false", sets=tuple(SETS)
    ),
    f"{RATE}, separable boxes for fusion": _changed(*LATER, "head.fusion=false", "head.box_width=64", sets=tuple(SETS)),
    BOXES: _changed(*LATER, "head.fusion=false", "head.box_width=64", "head.separable_boxes=false", sets=tuple(SETS)),
    PLAIN: Row("yolov8-n", ["train.lr=0.003"], AFTER_NMS),
}
THEIRS = {"one_to_many": NMS, "nms_free": NMS_FREE}
COMMON = ["--imgsz", "320", "--batch", "16", "train.val_every=2"]
RUNS_OF = [f"{data}/{row}" for row, data in product(ROWS, SETS) if data in ROWS[row].sets]
Output = tuple[str, str]  # of a row
# One minus another.
COMPARED = [
    *((("alignrank-n", f"{way}, consensus"), ("alignrank-n", way)) for way in (NMS_FREE, NMS)),
    (("yolov8-n", f"{NMS}, consensus"), ("yolov8-n", NMS)),
    (("yolov10-n", f"{NMS}, consensus"), ("yolov10-n", NMS)),
    *(((row, way), ("alignrank-n", way)) for row in ROWS if row.startswith("alignrank-n, ") for way in OURS | MERGED),
    *(((row, f"{NMS_FREE}, consensus"), ("alignrank-n", NMS_FREE)) for row in (REFINED, NEW)),
    *(((NEW, way), (REFINED, way)) for way in OURS | MERGED),
    *(((RATE, way), (NEW, way)) for way in OURS | MERGED),
    *(((row, way), (RATE, way)) for row in ROWS if row.startswith(f"{RATE}, ") for way in OURS | MERGED),
    ((PLAIN, NMS), ("yolov8-n", NMS)),
    *(((row, f"{NMS_FREE}, consensus"), (PLAIN, NMS)) for row in (RATE, BOXES)),
    ((BOXES, f"{NMS_FREE}, consensus"), (FIRST, NMS_FREE)),
    *(
        (one, peer)
        for one in (
            ("alignrank-n", NMS_FREE),
            ("alignrank-n", f"{NMS_FREE}, consensus"),
            (REFINED, f"{NMS_FREE}, consensus"),
            (NEW, f"{NMS_FREE}, consensus"),
            (RATE, f"{NMS_FREE}, consensus"),
            (BOXES, f"{NMS_FREE}, consensus"),
        )
        for peer in (
            ("Ultralytics yolov8n", NMS),
            ("Ultralytics yolo26n", NMS_FREE),
            ("Ultralytics yolo26n", NMS),
            ("yolov8-n", NMS),
        )
    ),
]
COLUMNS = {
    "ap": "AP", "ap50": "AP50", "ap75": "AP75", "lrp": "oLRP", "rank.spearman_true_class_mean": "true boxes",
    "rank.misranked": "mis-ranked", "rank.misranked_nms65": "at .65", "rank.ap_lost_between": "lost between",
}  # fmt: skip


def folder(row: str, data: str, seed: int) -> Path:
    """Where the run is."""
    name = row.replace(", ", "-").replace(" ", "_") if ROWS[row].outputs else ROWS[row].model  # peers.py names it so
    return RUNS / f"{name}-{data}-seed{seed}"


def place(output: str) -> str:
    """The folder of an output in its run."""
    return output.replace(", ", "-")


def evaluated(row: str, output: str, data: str, seed: int) -> Path:
    """Where the detections of an output of a run are."""
    return folder(row, data, seed) / place(output)


def judged(row: str, output: str, data: str, seed: int) -> Diagnosis:
    """Those detections, of the class that is judged."""
    about = SETS[data]
    classes = [about.judged] if about.judged else None
    found = evaluated(row, output, data, seed)
    return diagnosis(SHARED / "data" / data, found, max_dets=about.max_dets, classes=classes)


def run(named: str, seed: int, threads: int) -> dict[str, Any]:
    """Train (or resume) one row on one set with one seed and evaluate its outputs; its entry of the table."""
    data, _, name = named.partition("/")
    row, out = ROWS[name], folder(name, data, seed)
    if row.outputs:
        about = trained(
            out, SHARED / "data" / data, seed, threads, ["--model", row.model, *COMMON, *_epochs(data), *row.words]
        )
        for output, options in row.outputs.items():
            wanted = [*options, "--max-dets", str(SETS[data].max_dets)]
            measured(out, place(output), SHARED / "data" / data, threads, wanted)
        outputs = list(row.outputs)
    else:
        about = theirs(out, row.model, data, seed, threads)
        outputs = [output for output in THEIRS.values() if (out / place(output)).exists()]
    return {"outputs": {output: figures(judged(name, output, data, seed)) for output in outputs}} | about


def theirs(out: Path, model: str, data: str, seed: int, threads: int) -> dict[str, Any]:
    """Train one of Ultralytics' and put its detections where those of ours would be; how it was."""
    gt = SHARED / "data" / data / "annotations" / "val.json"
    peers.train(model, data, seed, threads, epochs=SETS[data].epochs, runs=RUNS)
    for ours, output in THEIRS.items():
        if (out / ours / "predictions.json").exists():
            (out / place(output)).mkdir(exist_ok=True)
            detections = out / place(output) / "detections.json"
            peers.coco_results(out / ours / "predictions.json", json.loads(gt.read_text()), detections)
    command = f"python benchmarks/sets_and_seeds.py --rows '{data}/Ultralytics {model}' --seeds {seed}"
    versions = {"ultralytics": peers.ULTRALYTICS, "commit": commit(), "device": "cpu", "precision": "32-true"}
    return {"command": command, "seed": seed, "processor": processor()} | versions


def _epochs(data: str) -> list[str]:
    return ["--epochs", str(SETS[data].epochs)]


def main() -> None:
    needed = [SHARED / "data" / data for data in SETS]
    table = recorded(str(__doc__), RESULTS, RUNS_OF, needed, run)
    compared: dict[str, Any] = dict(table.read().get("compared", {}))  # kept where draws are not here
    for one, other in COMPARED:
        name = f"{' '.join(one)} - {' '.join(other)}"
        groups = {data: pairs for data in SETS if (pairs := _pairs(table, one, other, data))}
        seeds = {data: list(pairs) for data, pairs in groups.items()}
        known = {data: compared.get(name, {}).get(data, {}).get("seeds", []) for data in SETS}
        if any(set(known[data]) - set(seeds.get(data, [])) for data in SETS):
            continue
        if any(seeds[data] != known[data] for data in seeds):
            by_set = {data: list(pairs.values()) for data, pairs in groups.items()}
            entry = {data: {"seeds": seeds[data]} | differences([pairs]) for data, pairs in by_set.items()}
            compared[name] = entry | {"mean": {"sets": len(groups)} | differences(list(by_set.values()))}
    table.update(compared=compared)
    print("\n".join(markdown(table.read())))


def _pairs(table: Rows, one: Output, other: Output, data: str) -> dict[int, tuple[Array, Array]]:
    """{seed: draws of the other and of the one}, of seeds that both have."""
    found = {}
    for seed in table.seeds(*(f"{data}/{row}" for row, _ in (one, other))):
        first, second = (_draws(table, *each, data, seed) for each in (other, one))
        if first is not None and second is not None:
            found[seed] = (first, second)
    return found


def _draws(table: Rows, row: str, output: str, data: str, seed: int) -> Array | None:
    folder = evaluated(row, output, data, seed)
    return table.draws(f"{data}/{row}/{output}", seed, folder, lambda: judged(row, output, data, seed))


def markdown(table: dict[str, Any]) -> list[str]:
    """The tables of docs/results.md: means over seeds by set, and differences as means over the sets."""
    lines = ["| set | row | output | seeds | " + " | ".join(COLUMNS.values()) + " |", "|---" * (len(COLUMNS) + 4) + "|"]
    for data in SETS:
        for row in ROWS:
            entries = list(table["rows"].get(f"{data}/{row}", {}).values())
            for output in entries[0]["outputs"] if entries else ():
                values = [mean([figure(entry["outputs"][output], name) for entry in entries]) for name in COLUMNS]
                lines.append(f"| {data} | {row} | {output} | {len(entries)} | " + " | ".join(values) + " |")
    lines += ["", "| difference | set | seeds | " + " | ".join(COLUMNS.values()) + " |"]
    lines += ["|---" * (len(COLUMNS) + 3) + "|"]
    for name, by_set in table["compared"].items():
        for data, gaps in by_set.items():
            counted = len(gaps["seeds"]) if "seeds" in gaps else f"{gaps['sets']} sets"
            lines.append(f"| {name} | {data} | {counted} | " + " | ".join(change(gaps.get(c)) for c in COLUMNS) + " |")
    return lines


if __name__ == "__main__":
    main()
