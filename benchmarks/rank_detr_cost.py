"""What the rank parts cost over H-DETR, and what a training step costs beside transformers' Deformable DETR: ratios of
steps taken in turn, in one process.

    python benchmarks/rank_detr_cost.py                    # all three, ResNet-50 at 640 px, batch 1
    python benchmarks/rank_detr_cost.py --only peer --rounds 9

Each round runs both sides, first one first, then the other; a round's ratio is of neighbours in time, and the median
over rounds counts. `training`: forward, loss, backward and the optimizer's step of rank-h-detr-r50 over h-detr-r50 (300
one-to-one and 1,500 one-to-many queries). `inference`: of the same as deployed, selection included. `peer`: forward,
loss and backward of deformable-detr-r50 over `DeformableDetrForObjectDetection` with equal layers, queries, widths,
backbone (random) and input; needs transformers, which nothing else here does. The bounds are those of the issue.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from machine import processor
from paired import ROOT, commit

from alignrank.contracts import Batch, Frame, Targets
from alignrank.detectors import predictions_of
from alignrank.weights.recipe import load_recipe

RESULTS = ROOT / "benchmarks" / "results" / "rank_detr_cost.json"
SIDE, OBJECTS, CLASSES = 640, 20, 80
BOUNDS = {"training": 1.04, "inference": 1.02, "peer": 1.1}
Step = Callable[[], None]


def scene() -> Batch:
    """A random picture with objects of all sizes."""
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(OBJECTS, 2, generator=generator) * SIDE * 0.6
    side = (0.05 + 0.35 * torch.rand(OBJECTS, 2, generator=generator)) * SIDE
    labels = torch.randint(CLASSES, (OBJECTS,), generator=generator)
    image = torch.rand(1, 3, SIDE, SIDE, generator=generator).contiguous(memory_format=torch.channels_last)
    return Batch(image, [Targets(torch.cat([corner, corner + side], 1), labels)], [Frame("", (SIDE, SIDE))])


def built(name: str, **overrides: Any) -> Any:
    """A recipe's network with random weights, as the training has it in memory."""
    torch.manual_seed(0)
    result = load_recipe(name, num_classes=CLASSES, overrides=overrides).build()
    result.model.to(memory_format=torch.channels_last)
    return result


def training_step(name: str, batch: Batch, *, step: bool = True, **overrides: Any) -> Step:
    """Forward, loss and backward of a recipe on `batch`, and the optimizer's step."""
    own = built(name, **overrides)
    own.model.train()
    optimizer = torch.optim.AdamW(own.model.parameters(), lr=1e-6)

    def run() -> None:
        optimizer.zero_grad()
        predictions = predictions_of(own.model, batch.images, batch)
        own.criterion(predictions, batch.targets, progress=0.5).total.backward()
        if step:
            optimizer.step()

    return run


def inference_step(name: str, batch: Batch) -> Step:
    """From the network's input to the selection, as deployed."""
    own = built(name)
    model = own.model.eval().deploy()

    @torch.inference_mode()
    def run() -> None:
        own.postprocess(predictions_of(model, batch.images, batch), conf=0.001, iou=0.7, max_dets=300)

    return run


def peer_step(batch: Batch) -> Step:
    """transformers' network and loss, with our plain recipe's numbers."""
    from transformers import DeformableDetrConfig, DeformableDetrForObjectDetection

    part = load_recipe("deformable-detr-r50").architecture.transformer  # type: ignore[attr-defined]
    torch.manual_seed(0)
    config = DeformableDetrConfig(
        use_timm_backbone=True, backbone="resnet50", use_pretrained_backbone=False, backbone_config=None,
        num_queries=300, num_labels=CLASSES, d_model=part.width,
        encoder_layers=part.encoder, decoder_layers=part.decoder,
        encoder_ffn_dim=part.hidden, decoder_ffn_dim=part.hidden,
        encoder_attention_heads=part.heads, decoder_attention_heads=part.heads,
        encoder_n_points=part.points, decoder_n_points=part.points, num_feature_levels=4,
        dropout=0.0, attention_dropout=0.0, activation_dropout=0.0, auxiliary_loss=True,
        two_stage=True, with_box_refine=True, disable_custom_kernels=True,
    )  # fmt: skip
    model = DeformableDetrForObjectDetection(config).train().to(memory_format=torch.channels_last)
    target = batch.targets[0]
    centre, side = (target.boxes[:, :2] + target.boxes[:, 2:]) / 2, target.boxes[:, 2:] - target.boxes[:, :2]
    labels = [{"class_labels": target.labels, "boxes": torch.cat([centre, side], 1) / SIDE}]
    print(f"peer: {sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters", flush=True)

    def run() -> None:
        model.zero_grad()
        model(pixel_values=batch.images, labels=labels).loss.backward()

    return run


def ratio(first: Step, second: Step, rounds: int) -> dict[str, Any]:
    """Seconds of the second over those of the first, in turn."""
    for step in (first, second):
        step()
    seconds: list[tuple[float, float]] = []
    for number in range(rounds):
        taken = {}
        for step in (first, second) if number % 2 == 0 else (second, first):
            start = time.perf_counter()
            step()
            taken[step] = time.perf_counter() - start
        seconds.append((taken[first], taken[second]))
        print([round(value, 3) for value in seconds[-1]], round(seconds[-1][1] / seconds[-1][0], 4), flush=True)
    return in_turn(seconds)


def in_turn(seconds: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Of (first, second) of each round: the median of their ratios with its quartiles, and the seconds of both."""
    ratios = sorted(b / a for a, b in seconds)
    quarter = len(ratios) // 4
    return {
        "ratio": round(statistics.median(ratios), 4),
        "quartiles": [round(ratios[quarter], 4), round(ratios[-1 - quarter], 4)],
        "seconds": [round(statistics.median(side), 3) for side in zip(*seconds, strict=True)],
        "rounds": len(seconds),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=list(BOUNDS))
    parser.add_argument("--rounds", type=int, default=11)
    arguments = parser.parse_args()
    batch = scene()
    pairs: dict[str, Callable[[], tuple[Step, Step]]] = {
        "inference": lambda: (inference_step("h-detr-r50", batch), inference_step("rank-h-detr-r50", batch)),
        "training": lambda: (training_step("h-detr-r50", batch), training_step("rank-h-detr-r50", batch)),
        "peer": lambda: (peer_step(batch), training_step("deformable-detr-r50", batch, step=False)),
    }
    table: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in [arguments.only] if arguments.only else list(pairs):
        found = ratio(*pairs[name](), arguments.rounds)
        command = f"python benchmarks/rank_detr_cost.py --only {name} --rounds {arguments.rounds}"
        table[name] = found | {"bound": BOUNDS[name], "command": command, "commit": commit()}
        print(name, table[name], flush=True)
        table |= {
            "device": f"cpu ({processor()}, {torch.get_num_threads()} threads)",
            "torch": torch.__version__,
        }
        RESULTS.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
