"""How many objects an image of AlignRank's NMS-free output may hold: the same trained networks, more and more objects.

    python benchmarks/sets_and_seeds.py --rows "bloodcells/ROW" --seeds 3   # trains, see ROW below
    python benchmarks/crowded.py                                            # all networks of ROW that are there

Of blood cells and aerial cars a picture is 1, 4, 9 or 16 validation images of 320 px, in rows, evaluated at its full
size, so that objects look as they did in training; images that fill no picture are left out. Nuclei are crowded as they
are.

- `by score`: the 300 cells with the highest scores, as it was until `nn.cells.priorities` (docs/decisions/0037).
- `in turn`: 300 cells, those beside a better one later.
- `in turn, auto`: as many as `head.candidates=auto` gives for these images, where that is more.
- `NMS`: all cells, the one-to-many output behind NMS.

All with consensus boxes. Nothing is trained here: candidates and their order have no part in what a network learns,
but for the one number that tells how much duplicates are lowered. 1,000 detections of an image count. Differences come
with paired bootstrap intervals over the pictures. Data by path: ALIGNRANK_SHARED, else ../shared.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
from intervals import differences_table
from machine import processor
from paired import ROOT, SHARED, Rows, commit, compare, diagnosis, figures, mean
from PIL import Image
from sets_and_seeds import BOXES, CONSENSUS, NMS, SETS
from sets_and_seeds import folder as trained_in

from alignrank.contracts import WantedThresholds
from alignrank.data.source import read
from alignrank.detectors import alignrank
from alignrank.evaluation.options import ValOptions
from alignrank.evaluation.val import val_to_folder
from alignrank.metrics import Diagnosis
from alignrank.training.auto_candidates import candidates_for
from alignrank.weights import checkpoint
from alignrank.weights.recipe import Recipe

ROW = BOXES
RESULTS = ROOT / "benchmarks" / "results" / "crowded.json"
RUNS = ROOT / "runs" / "crowded"
SIDE, MAX_DETS = 320, 1000
SIDES = {"bloodcells": (1, 2, 3, 4), "aerialcars": (1, 2, 3, 4), "nuclei": (1,)}
WAYS = ("by score", "in turn", "in turn, auto", NMS)
COLUMNS = {"ap": "AP", "ap50": "AP50", "ap75": "AP75", "lrp": "oLRP"}


@dataclass(frozen=True)
class Pictures:
    """`side` x `side` images of a set in one."""

    data: str
    side: int

    @property
    def name(self) -> str:
        """For tables and folders."""
        return f"{self.data} {self.side}x{self.side}"

    @property
    def drawn(self) -> bool:
        """Whether they are put together here; else they are the set's own images."""
        return len(SIDES[self.data]) > 1

    @property
    def folder(self) -> Path:
        """Where they are."""
        return RUNS / self.name.replace(" ", "_") if self.drawn else SHARED / "data" / self.data


def draw(pictures: Pictures) -> None:
    """Write them as a COCO folder, unless that is done. A single one is scaled to SIDE, too."""
    annotations = pictures.folder / "annotations" / "val.json"
    if annotations.exists():
        return
    split = read(str(SHARED / "data" / pictures.data)).val
    assert split is not None
    for part in (annotations.parent, pictures.folder / "images"):
        part.mkdir(parents=True, exist_ok=True)
    categories = [{"id": i, "name": name} for i, name in enumerate(split.classes)]
    content: dict[str, list[dict[str, object]]] = {"images": [], "annotations": [], "categories": categories}
    whole, count = SIDE * pictures.side, pictures.side**2
    for begin in range(0, len(split.samples) - count + 1, count):
        number, canvas = begin // count, Image.new("RGB", (whole, whole), (114, 114, 114))
        for place, sample in enumerate(split.samples[begin : begin + count]):
            scale, left, top = SIDE / max(sample.size), place % pictures.side * SIDE, place // pictures.side * SIDE
            with Image.open(sample.image) as image:
                canvas.paste(image.convert("RGB").resize([round(x * scale) for x in sample.size[::-1]]), (left, top))
            for (x1, y1, x2, y2), label, crowd in zip(
                sample.boxes.tolist(), sample.labels.tolist(), sample.crowd.tolist(), strict=True
            ):
                box = [x1 * scale + left, y1 * scale + top, (x2 - x1) * scale, (y2 - y1) * scale]
                content["annotations"].append({
                    "id": len(content["annotations"]), "image_id": number, "category_id": label, "bbox": box,
                    "area": box[2] * box[3], "iscrowd": int(crowd),
                })  # fmt: skip
        file = f"{number:04d}.png"
        canvas.save(pictures.folder / "images" / file)
        content["images"].append({"id": number, "file_name": file, "width": whole, "height": whole})
    annotations.write_text(json.dumps(content))


@contextmanager
def by_score() -> Iterator[None]:
    """Cells are chosen by their scores alone."""
    kept: Callable[..., torch.Tensor] = alignrank.priorities
    alignrank.priorities = lambda logits, maps: logits
    try:
        yield
    finally:
        alignrank.priorities = kept


def run(pictures: Pictures, way: str, seed: int) -> dict[str, Any] | None:
    """Evaluate the network of that seed in that way unless that is done; None where auto is no more than 300."""
    split = read(str(pictures.folder)).val
    assert split is not None
    objects = [int((~sample.crowd).sum()) for sample in split.samples]
    candidates = candidates_for(objects) if way.endswith("auto") else alignrank.CANDIDATES
    if way.endswith("auto") and candidates == alignrank.CANDIDATES:
        return None
    out = evaluated(pictures, way, seed)
    if not (out / "metrics.json").exists():
        loaded = checkpoint.load(trained_in(ROW, pictures.data, seed) / "best.safetensors")
        values = loaded.recipe.to_dict()
        values["head"] |= {"candidates": candidates, "consensus_iou": CONSENSUS["NMS-free"]}
        loaded = replace(loaded, recipe=Recipe.parse(values, where=str(loaded.path)))
        options = ValOptions(thresholds=WantedThresholds(), coco_max_dets=MAX_DETS, batch=2)
        if pictures.drawn:
            options = replace(options, imgsz=SIDE * pictures.side)
        if way == NMS:
            options = replace(options, nms=True, consensus=CONSENSUS[NMS])
        with by_score() if way == "by score" else nullcontext():
            val_to_folder(loaded, str(pictures.folder), options, out=out, device="cpu")
    return {"candidates": candidates, "objects": round(sum(objects) / len(objects), 1), "pictures": len(objects)}


def evaluated(pictures: Pictures, way: str, seed: int) -> Path:
    """Where the detections are."""
    return RUNS / f"{pictures.name} {way} {seed}".replace(", ", "-").replace(" ", "_")


def judged(pictures: Pictures, way: str, seed: int) -> Diagnosis:
    """Them, of the class that is judged."""
    about = SETS[pictures.data]
    classes = [about.judged] if about.judged else None
    return diagnosis(pictures.folder, evaluated(pictures, way, seed), max_dets=MAX_DETS, classes=classes)


def main() -> None:
    torch.set_num_threads(1)
    table = Rows(RESULTS)
    sets = {each.name: each for each in (Pictures(data, side) for data in SIDES for side in SIDES[data])}
    for pictures in sets.values():
        seeds = [seed for seed in range(10) if (trained_in(ROW, pictures.data, seed) / "best.safetensors").exists()]
        if seeds and pictures.drawn:
            draw(pictures)
        for seed, way in product(seeds, WAYS):
            row = f"{pictures.name}, {way}"
            if str(seed) not in table.read()["rows"].get(row, {}) and (about := run(pictures, way, seed)) is not None:
                found = figures(judged(pictures, way, seed))
                table.record(row, seed, {**found, **about, "commit": commit(), "processor": processor()})
    named = {f"{name}, {way}": (pictures, way) for (name, pictures), way in product(sets.items(), WAYS)}
    wanted = {
        f"{name}, {one} minus {other}": (f"{name}, {other}", f"{name}, {one}")
        for name, (one, other) in product(sets, (WAYS[1::-1], (WAYS[2], WAYS[0]), (WAYS[1], NMS), (WAYS[2], NMS)))
    }
    compare(
        table, "compared", wanted,
        lambda row, seed: evaluated(*named[row], seed), lambda row, seed: judged(*named[row], seed),
    )  # fmt: skip
    table.update(command="python benchmarks/crowded.py", of=ROW)
    print("\n".join(markdown(table.read(), list(sets))))


def markdown(table: dict[str, Any], names: list[str]) -> list[str]:
    """The tables of docs/alignrank.md: means over seeds, and differences with their intervals."""
    lines = [
        "| pictures | objects | seeds | " + " | ".join(f"{c}, {way}" for c in ("AP", "AP75") for way in WAYS) + " |"
    ]
    lines += ["|---" * (len(WAYS) * 2 + 3) + "|"]
    for name in names:
        rows = {way: list(table["rows"].get(f"{name}, {way}", {}).values()) for way in WAYS}
        if any(rows.values()):
            cells = [mean([entry[c] for entry in rows[way]]) for c in ("ap", "ap75") for way in WAYS]
            first = rows[WAYS[0]]
            lines.append(f"| {name} | {first[0]['objects']} | {len(first)} | " + " | ".join(cells) + " |")
    return [*lines, "", *differences_table(table["compared"], COLUMNS)]


if __name__ == "__main__":
    main()
