"""What the first contact takes: `models`, a mistyped name, and a first prediction against a bare script's.

    python benchmarks/startup.py                          # this checkout
    python benchmarks/startup.py --before /tmp/before     # and a checkout of an earlier commit, in turn with it

The bare script imports torch, loads a traced network of the same weights, opens the picture with Pillow, resizes it
and runs the network: nothing else can be left out. `Detector` does the same with alignrank in Python; `predict` on the
command line writes its results and a picture besides. All run in fresh processes with one thread, in turn.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from machine import processor
from paired import ROOT, commit
from PIL import Image

RESULTS = ROOT / "benchmarks" / "results" / "startup.json"
SIDE = 640
FILES = "w.safetensors", "w.pt", "picture.jpg"
BARE = """
import sys
import numpy as np, torch
from PIL import Image
network = torch.jit.load(sys.argv[1])
image = Image.open(sys.argv[2]).convert("RGB").resize(({side}, {side}))
pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float().div_(255)
with torch.no_grad():
    outputs = network(pixels)
print([tuple(x.shape) for x in outputs])
"""
DETECTOR = """
import sys
import alignrank
print(len(alignrank.Detector.load(sys.argv[1]).predict(sys.argv[2])))
"""


def prepare(folder: Path) -> None:
    """Write a picture, weights of yolov8-n as trained weights are saved, and the same network traced."""
    import torch

    from alignrank.weights import checkpoint
    from alignrank.weights.deployed import deploy
    from alignrank.weights.recipe import load_recipe

    torch.manual_seed(0)
    recipe = load_recipe("yolov8-n", num_classes=80)
    names = [str(label) for label in range(80)]
    weights, traced, picture = (folder / name for name in FILES)
    checkpoint.save(weights, recipe.build().model.state_dict(), recipe=recipe, classes=names, metrics={})
    network = deploy(weights, "cpu").network

    class Outputs(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            predictions = self.network(images)
            return predictions.boxes, predictions.scores()

    with torch.no_grad():
        torch.jit.trace(Outputs().eval(), torch.zeros(1, 3, SIDE, SIDE), check_trace=False).save(str(traced))
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)).save(picture)


def taken(command: list[str], source: Path, folder: Path) -> dict[str, float]:
    """Seconds of the clock and of the processor, and the most memory in MB, of a process."""
    environment, begun = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(source / "src")}, time.perf_counter()
    with (folder / "said.txt").open("w") as said:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=said, stderr=said)
        _, status, used = os.wait4(process.pid, 0)  # unlike getrusage, of this child alone
    process.returncode = os.waitstatus_to_exitcode(status)
    wall = time.perf_counter() - begun
    return {"wall": wall, "cpu": used.ru_utime + used.ru_stime, "mb": used.ru_maxrss / 1024}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="a checkout of an earlier commit")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    sources = {"after": ROOT} | ({"before": arguments.before.resolve()} if arguments.before else {})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # The children's memory is counted from the parent's, which must be small, without PyTorch.
        preparing = get_context("spawn").Process(target=prepare, args=(folder,))
        preparing.start()
        preparing.join()
        weights, traced, picture = (folder / name for name in FILES)
        (folder / "bare.py").write_text(BARE.format(side=SIDE))
        (folder / "detector.py").write_text(DETECTOR)
        python, program = sys.executable, [sys.executable, "-m", "alignrank"]
        commands = {
            "models": [*program, "models"],
            "mistyped name": [*program, "train", "--model", "yolo8-n", "--data", "digits"],
            "Detector": [python, "detector.py", str(weights), str(picture)],
            "predict": [*program, "predict", "--weights", str(weights), str(picture), "--device", "cpu"],
        }
        rows: dict[str, list[dict[str, float]]] = {}
        for number in range(arguments.rounds + 1):
            bare = taken([python, "bare.py", str(traced), str(picture)], ROOT, folder)
            found = {"bare script": bare} | {
                f"{what}, {when}": taken(command, source, folder)
                for what, command in commands.items()
                for when, source in sources.items()
            }
            if number:  # the first fills the caches of files
                for key, value in found.items():
                    rows.setdefault(key, []).append(value)
    medians = {
        row: {kind: statistics.median(one[kind] for one in found) for kind in found[0]} for row, found in rows.items()
    }
    bare = medians["bare script"]
    table = {
        "command": "python benchmarks/" + " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "commit": commit(),
        "before": None if arguments.before is None else commit(arguments.before),
        "torch": version("torch"),
        "device": f"cpu ({processor()}, {os.cpu_count()} cores, one thread)",
        "rounds": arguments.rounds,
        "medians": {row: {kind: round(value, 3) for kind, value in found.items()} for row, found in medians.items()},
        "over_bare": {
            f"{what}, {when}": {kind: round(medians[f"{what}, {when}"][kind] / bare[kind], 3) for kind in bare}
            for what in ("Detector", "predict")
            for when in sources
        },
    }
    arguments.out.write_text(json.dumps(table, indent=1) + "\n")
    print(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
