"""The pictures of docs/alignrank.md: sampling points while training, gate values, scores against IoUs.

    python benchmarks/alignrank_figures.py         # runs/ablation/{base,all}-seed0, which ablation.py makes

Validation images of bloodcells. Writes docs/images/alignrank_{sampling,gates,scores}.png.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ablation import DATA, ROOT, folder
from torch import Tensor

from alignrank.data.loader import EvaluationSet, evaluation_loader
from alignrank.data.opening import open_split, opened
from alignrank.detectors.alignrank import AlignRank
from alignrank.drawing import color
from alignrank.metrics import Diagnosis, read_inputs
from alignrank.nn.bcdm import GatedFusion
from alignrank.weights import checkpoint

IMAGES = ROOT / "docs" / "images"
LEVELS = ("stride 8", "stride 16", "stride 32")
SHOWN, CROP = 3, 0.35  # detections of an image, and what of a box's side is shown around them
SCATTER = {"s": 5, "alpha": 0.35, "linewidths": 0}

Places = tuple[Tensor, Tensor]


def network(weights: Path) -> AlignRank:
    model = checkpoint.load(weights).build_model()
    assert isinstance(model, AlignRank)
    return model.eval()


def places(model: AlignRank, images: Tensor) -> Places:
    """Where all candidates of one image look, grid [K,G,L,P,2] in px, and the weights [K,G,L,P]."""
    assert model.sampling is not None
    seen: list[Places] = []
    look = model.sampling.places

    def record(*arguments: Any) -> Any:
        query, grid, weights = look(*arguments)
        size = grid.new_tensor([images.shape[-1], images.shape[-2]])
        seen.append(((grid[0] + 1) / 2 * size, weights[0]))
        return query, grid, weights

    model.sampling.places = record  # type: ignore[method-assign]
    with torch.no_grad():
        model(images)
    model.sampling.places = look  # type: ignore[method-assign]
    return seen[0]


def sampling_figure(run: Path, image: Tensor) -> None:
    """The final model's best detections, and where the network looked for the same cells at each stage."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    found = sorted(run.glob("epoch_*.safetensors"))
    if not found:
        sys.exit(f"{run}: no epoch_*.safetensors; train with train.save_every")
    figure = Figure(figsize=(3 * len(found), 3 * SHOWN), layout="constrained")
    axes = figure.subplots(SHOWN, len(found), squeeze=False)
    pixels = image[0].permute(1, 2, 0).numpy()
    with torch.no_grad():
        final = network(found[-1])(image)
    best = final.logits[0].amax(-1).sort(descending=True).indices
    boxes = _apart(final.boxes[0][best])[:SHOWN]
    for column, stage in enumerate(found):
        model = network(stage)
        with torch.no_grad():
            predicted = model(image)
        grid, weights = places(model, image)
        for row, box in enumerate(boxes):
            nearest = int((predicted.boxes[0] - box).abs().sum(-1).argmin())
            axis = axes[row][column]
            axis.imshow(pixels)
            left, top, right, bottom = predicted.boxes[0, nearest].tolist()
            axis.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, ec="white", lw=1.5))
            for level in range(grid.shape[2]):
                points, size = grid[nearest, :, level].reshape(-1, 2), weights[nearest, :, level].flatten()
                keep = size > 1e-3
                axis.scatter(*points[keep].T, s=300 * size[keep], color=color(level), edgecolors="white", lw=0.5)
            left, top, right, bottom = box.tolist()
            x, y = CROP * (right - left), CROP * (bottom - top)
            axis.set(xlim=(left - x, right + x), ylim=(bottom + y, top - y), xticks=[], yticks=[])
            if row == 0:
                axis.set_title(f"epoch {int(stage.stem.removeprefix('epoch_'))}")
    handles = [axes[0][0].scatter([], [], color=color(level), label=LEVELS[level]) for level in range(len(LEVELS))]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(LEVELS))
    figure.savefig(IMAGES / "alignrank_sampling.png", dpi=90)


def _apart(boxes: Tensor) -> list[Tensor]:
    """Boxes, best first, without those whose centre lies in a better one."""
    kept: list[Tensor] = []
    for box in boxes:
        x, y = (box[:2] + box[2:]) / 2
        if not any(other[0] < x < other[2] and other[1] < y < other[3] for other in kept):
            kept.append(box)
    return kept


def gates_figure(run: Path, batches: Any) -> None:
    """Values of each gate over all validation images, cells and channels."""
    from matplotlib.figure import Figure

    model = network(run / "best.safetensors")
    assert model.fusion is not None
    gates = {f"{LEVELS[i]} takes from {LEVELS[i + 1]}": gate for i, gate in enumerate(model.fusion.top_down)}
    gates |= {f"{LEVELS[i + 1]} takes from {LEVELS[i]}": gate for i, gate in enumerate(model.fusion.bottom_up)}
    edges = np.linspace(0, 1, 101)
    counts = {name: np.zeros(100) for name in gates}

    def watch(name: str, module: Any) -> None:
        def count(module: GatedFusion, inputs: tuple[Tensor, Tensor]) -> None:
            counts[name] += np.histogram(module.gate(*inputs).numpy(), edges)[0]

        module.register_forward_pre_hook(count)

    for name, module in gates.items():
        watch(name, module)
    with torch.no_grad():
        for batch in batches:
            model(batch.images.float() / 255)
    figure = Figure(figsize=(8, 3.5), layout="constrained")
    axis = figure.subplots()
    middle = (edges[1:] + edges[:-1]) / 2
    for i, (name, count) in enumerate(counts.items()):
        axis.plot(
            middle, count / count.sum() * 100, color=color(i), label=f"{name} (mean {middle @ count / count.sum():.2f})"
        )
    axis.axvline(1 / (1 + np.e), color="grey", ls=":", label="before training")
    axis.set(xlabel="gate", ylabel="density", xlim=(0, 1), ylim=(0, None))
    axis.legend(fontsize="small")
    figure.savefig(IMAGES / "alignrank_gates.png", dpi=90)


def scores_figure(before: Path, after: Path) -> None:
    """Score against IoU with the object, of all candidates of objects."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.2), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, (name, run) in zip(axes, {"base, NMS-free": before, "all parts, NMS-free": after}.items(), strict=True):
        diagnosis = Diagnosis(read_inputs(DATA / "annotations" / "val.json", run / "nms_free" / "detections.json"))
        fits = diagnosis.fits
        axis.scatter(fits.ious, fits.scores, color=color(0), **SCATTER)
        spearman = diagnosis.metrics.scalars()["rank.spearman"]
        axis.set(title=f"{name}: Spearman {spearman:.2f}", xlabel="IoU with the object", xlim=(0.5, 1), ylim=(0, 1))
    axes[0].set_ylabel("score")
    figure.savefig(IMAGES / "alignrank_scores.png", dpi=90)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, default=folder("base", 0))
    parser.add_argument("--after", type=Path, default=folder("all", 0))
    arguments = parser.parse_args()
    images = opened(open_split(str(DATA), "val"), checkpoint.load(arguments.after).recipe.size_in_use)
    batches = list(evaluation_loader(EvaluationSet(images), 16, workers=0))
    sampling_figure(arguments.after, batches[0].images[:1].float() / 255)
    gates_figure(arguments.after, batches)
    scores_figure(arguments.before, arguments.after)


if __name__ == "__main__":
    main()
