"""What training costs beside the network: images a second of a real training over those of a bare loop, in turn.

    python benchmarks/trainer_share.py
    python benchmarks/trainer_share.py --models alignrank-n --rounds 60

Ours is a run of `alignrank train` (`fit`) on bloodcells, 320 px, batch 16, mosaic and all, images decoded in memory:
loading, augmentation, forward, loss, backward, clipping, AdamW, averaged weights and all hooks, from the end of one
batch to the end of the next. The bare loop is forward, loss, backward and AdamW of a copy of the network on that same
batch, in the same precision; it takes its step in the callback at the end of ours. The first steps are a warm-up. A
ratio is the median over steps of bare over own seconds, with its quartiles. Validation and files are in neither.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
import training_speed
from paired import ROOT, SHARED, commit
from rank_detr_cost import in_turn

from alignrank.contracts import Batch
from alignrank.data.source import read
from alignrank.device import choose_precision
from alignrank.training import fit as fitting
from alignrank.training.plan import Plan
from alignrank.weights.recipe import load_recipe

RESULTS = ROOT / "benchmarks" / "results" / "trainer_share.json"
DATA = SHARED / "data" / "bloodcells"
WARM_UP, BOUND = 4, 0.88


class InTurn(L.Callback):
    """Takes a bare step behind each of the trainer's; `seconds` of (own, bare)."""

    def __init__(self, rounds: int) -> None:
        self.rounds = rounds
        self.seconds: list[tuple[float, float]] = []
        self._last = 0.0

    def on_train_start(self, trainer: L.Trainer, module: Any) -> None:
        self._model = copy.deepcopy(module.model)
        self._optimizer = torch.optim.AdamW(self._model.parameters(), lr=1e-4)

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, outputs: Any, batch: Batch, index: int) -> None:
        own = time.perf_counter() - self._last
        if len(batch.targets) == module.settings.batch:
            images = batch.network_input()
            began = time.perf_counter()
            with trainer.precision_plugin.forward_context():
                loss = module.criterion(self._model(images), batch.targets).total
            self._optimizer.zero_grad()
            loss.backward()
            self._optimizer.step()
            if self._last:
                self.seconds.append((own, time.perf_counter() - began))
        trainer.should_stop = len(self.seconds) == self.rounds + WARM_UP
        self._last = time.perf_counter()


def measured(name: str, precision: str, rounds: int) -> dict[str, Any]:
    """The bare loop's seconds over the trainer's."""
    splits = read(str(DATA)).splits()
    settings = training_speed.OURS | {"train.precision": precision}
    recipe = load_recipe(name, num_classes=len(splits["train"].classes), overrides=settings)
    turns = InTurn(rounds)
    with tempfile.TemporaryDirectory() as folder:
        fitting.Recorder = lambda plan, averaged, log: turns  # type: ignore[assignment,misc]
        torch.manual_seed(0)
        fitting.fit(Plan(recipe, splits["train"], splits["val"], Path(folder), torch.device("cpu"), workers=0))
    return in_turn(turns.seconds[WARM_UP:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["yolov8-n", "alignrank-n"])
    parser.add_argument("--precisions", nargs="+", default=["fp32", "auto"])
    parser.add_argument("--rounds", type=int, default=30)
    arguments = parser.parse_args()
    table: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in arguments.models:
        for precision in arguments.precisions:
            found = measured(name, precision, arguments.rounds)
            command = f"python benchmarks/trainer_share.py --models {name} --precisions {precision}"
            about = {"bound": BOUND, "command": f"{command} --rounds {arguments.rounds}", "commit": commit()}
            device = f"cpu ({platform.machine()}, {torch.get_num_threads()} threads)"
            about |= {"device": device, "precision": str(choose_precision(precision, torch.device("cpu")))}
            table[f"{name}, {precision}"] = found | about | {"torch": torch.__version__}
            RESULTS.write_text(json.dumps(table, indent=1) + "\n")
            print(f"{name}, {precision}: {found['ratio']} {found['quartiles']}", flush=True)


if __name__ == "__main__":
    main()
