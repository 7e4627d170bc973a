"""What a training step of another library's detector costs through our engine: ratios to a bare loop over that
library's model, steps taken in turn in one process.

    python benchmarks/hosts_step.py
    python benchmarks/hosts_step.py --models transformers/dfine-n --rounds 9

Ours is Lightning's trainer with the module of `alignrank train`: its step of forward, loss, backward, clipping and
AdamW, and the hooks around it, between the trainer's callbacks of a batch. The bare loop is a copy of the same
library object, called with targets as the library documents it, with its own loss, the same clipping and AdamW with the
same rates. It takes its step in the callback that follows ours (before ours in every other round), on the same two
pictures with ten objects each, 320 px (FCOS and its kin scale nothing), random weights, fp32. Loading, validation
and averaged weights are in neither. A ratio is the median over rounds of the ratio in a round, with its quartiles. The
bound is that of the issue.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from machine import processor
from paired import ROOT, commit
from rank_detr_cost import in_turn
from torch.utils.data import DataLoader

from alignrank.contracts import Batch, Frame, Targets
from alignrank.training.module import TrainingModule
from alignrank.training.plan import Plan
from alignrank.weights.recipe import load_recipe

RESULTS = ROOT / "benchmarks" / "results" / "hosts_step.json"
MODELS = [
    *(
        "transformers/rtdetr-r18",
        "transformers/rtdetr-v2-r18",
        "transformers/dfine-n",
        "transformers/deformable-detr-r50",
    ),
    *("torchvision/fcos_resnet50_fpn", "torchvision/retinanet_resnet50_fpn_v2"),
]
SIDE, IMAGES, OBJECTS, CLASSES, BOUND = 320, 2, 10, 80, 1.05
Step = Callable[[], None]


def scene() -> Batch:
    """Random pictures with objects of all sizes."""
    generator = torch.Generator().manual_seed(0)
    targets = []
    for _ in range(IMAGES):
        corner = torch.rand(OBJECTS, 2, generator=generator) * SIDE * 0.6
        side = (0.05 + 0.35 * torch.rand(OBJECTS, 2, generator=generator)) * SIDE
        labels = torch.randint(CLASSES, (OBJECTS,), generator=generator)
        targets.append(Targets(torch.cat([corner, corner + side], 1), labels))
    return Batch(torch.rand(IMAGES, 3, SIDE, SIDE, generator=generator), targets, [Frame("", (SIDE, SIDE))] * IMAGES)


class Module(TrainingModule):
    """The engine's, with one batch that is in memory."""

    batches: list[Batch]

    def train_dataloader(self) -> DataLoader[Batch]:
        return DataLoader(self.batches, batch_size=None)  # type: ignore[arg-type]  # a list is a dataset


def engine(name: str, batch: Batch, rounds: int, out: Path) -> Module:
    """The module of a training of `rounds` steps."""
    recipe = load_recipe(
        name,
        num_classes=CLASSES,
        overrides={"train.epochs": 1, "train.imgsz": SIDE, "train.batch": IMAGES, "augment.multi_scale": 0.0},
    )
    torch.manual_seed(0)
    module = Module(Plan(recipe, None, None, out, torch.device("cpu")))  # type: ignore[arg-type]  # no data is read
    module.batches = [batch] * rounds
    return module


def bare_model(name: str, host: Any) -> Any:
    """The library's object with the same weights; a copy of transformers' would have our loss function."""
    if name.startswith("torchvision/"):
        return copy.deepcopy(host)
    bare = type(host)(host.config)
    bare.load_state_dict(host.state_dict(), strict=False)  # heads that are shared stand there twice
    return bare


def library_loss(name: str, host: Any, batch: Batch) -> Callable[[], torch.Tensor]:
    """The loss of the library's own training call."""
    if name.startswith("torchvision/"):
        host.transform._skip_resize = True
        truth = [{"boxes": target.boxes, "labels": target.labels} for target in batch.targets]
        return lambda: torch.stack(list(host(list(batch.images), truth).values())).sum()
    centred = [
        torch.cat([(t.boxes[:, :2] + t.boxes[:, 2:]) / 2, t.boxes[:, 2:] - t.boxes[:, :2]], 1) for t in batch.targets
    ]
    labels = [{"class_labels": t.labels, "boxes": b / SIDE} for t, b in zip(batch.targets, centred, strict=True)]
    return lambda: host(pixel_values=batch.images, labels=labels).loss


class InTurn(L.Callback):
    """Takes the bare step beside each of the engine's; `seconds` of (bare, engine)."""

    def __init__(self, bare: Step) -> None:
        self.bare = bare
        self.seconds: list[tuple[float, float]] = []
        self._before, self._start = 0.0, 0.0

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, index: int) -> None:
        self._before = self._timed() if index % 2 else 0.0
        self._start = time.perf_counter()

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, index: int) -> None:
        own = time.perf_counter() - self._start
        self.seconds.append((self._before or self._timed(), own))

    def _timed(self) -> float:
        start = time.perf_counter()
        self.bare()
        return time.perf_counter() - start


def measured(name: str, rounds: int) -> dict[str, Any]:
    """Ratio of the engine's step to the bare one."""
    batch = scene()
    with tempfile.TemporaryDirectory() as folder:
        module = engine(name, batch, rounds + 1, Path(folder))
        host = bare_model(name, module.model.host).train()
        clip = module.settings.clip_norm or None
        loss = library_loss(name, host, batch)
        optimizer = torch.optim.AdamW(host.parameters(), lr=1e-6)

        def bare() -> None:
            optimizer.zero_grad()
            loss().backward()
            if clip:
                torch.nn.utils.clip_grad_norm_(host.parameters(), clip)
            optimizer.step()

        turns = InTurn(bare)
        L.Trainer(
            accelerator="cpu", max_epochs=1, gradient_clip_val=clip, callbacks=[turns], logger=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
        ).fit(module)  # fmt: skip
    return in_turn(turns.seconds[1:])  # the first is a warm-up


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--rounds", type=int, default=12)
    arguments = parser.parse_args()
    table: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in arguments.models:
        found = measured(name, arguments.rounds)
        command = f"python benchmarks/hosts_step.py --models {name} --rounds {arguments.rounds}"
        about = {"bound": BOUND, "command": command, "commit": commit(), "device": processor()}
        table[name] = found | about | {"torch": torch.__version__, "threads": torch.get_num_threads()}
        RESULTS.write_text(json.dumps(table, indent=1) + "\n")
        print(f"{name}: {found['ratio']} {found['quartiles']} of {found['seconds'][0]} s", flush=True)


if __name__ == "__main__":
    main()
