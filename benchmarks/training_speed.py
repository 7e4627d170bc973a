"""Training throughput of our yolov8-n trainer against Ultralytics' YOLOv8n trainer, measured alternately on the CPU.

    python benchmarks/training_speed.py              # 3 rounds with 0 and with 2 loader workers, about 30 minutes

Each measurement is a process of its own: --warmup batches, then --batches full ones timed between the trainers'
batch-end callbacks (loading, forward, loss, backward, clipping, optimizer, averaged weights; no validation or files).
A round runs every row once; ratios are taken within a round. A row is flagged if other processes used more than 6 %
of the machine, and its round left out of the ratios if a clean one remains.

Ultralytics (AGPL-3.0) is only measured against: installed into an environment of its own in ALIGNRANK_BENCH_CACHE
and run by that environment's Python, never imported by ours. What is the same and what differs: benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import inspect
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from statistics import mean, median
from typing import Any

from machine import processor

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("ALIGNRANK_SHARED", ROOT.parent / "shared"))
CACHE = Path(os.environ.get("ALIGNRANK_BENCH_CACHE", Path.home() / ".cache" / "alignrank-bench"))
ULTRALYTICS = "8.4.190"
PACKAGES = ("alignrank", "torch", "torchvision", "lightning", "numpy")
ROWS = ("alignrank-fp32", "ultralytics", "alignrank-auto", "ultralytics-as-shipped")
BATCH, SIDE, EPOCHS, FOREIGN_LIMIT = 16, 320, 100, 0.06
AUGMENT = {"mosaic": 1.0, "mixup": 0.0, "scale": 0.5, "translate": 0.1}
OURS = {
    "train.epochs": EPOCHS, "train.batch": BATCH, "train.imgsz": SIDE, "train.optimizer": "adamw", "train.lr": 0.0015,
    "train.final_lr": 0.01, "train.momentum": 0.9, "train.weight_decay": 0.0005, "train.warmup_epochs": 3,
    "train.clip_norm": 10, "train.accumulate": 1, "train.cache": "ram", "augment.plain_epochs": 0, "augment.flip": 0.5,
    "augment.flip_vertical": 0.0, "augment.hue": 0.015, "augment.saturation": 0.7, "augment.brightness": 0.4,
    "augment.multi_scale": 0.0, **{f"augment.{name}": value for name, value in AUGMENT.items()},
}  # fmt: skip
THEIRS = {
    "epochs": EPOCHS, "batch": BATCH, "imgsz": SIDE, "optimizer": "AdamW", "lr0": 0.0015, "lrf": 0.01, "momentum": 0.9,
    "weight_decay": 0.0005, "warmup_epochs": 3, "nbs": BATCH, "cache": "ram", "close_mosaic": 0, "fliplr": 0.5,
    "flipud": 0.0, "hsv_h": 0.015, "hsv_s": 0.7, "hsv_v": 0.4, "degrees": 0.0, "shear": 0.0, "perspective": 0.0,
    "copy_paste": 0.0, "amp": False, "pretrained": False, "val": False, "plots": False, "save": False, "rect": False,
    "deterministic": False, "verbose": False, "device": "cpu", "data": "data.yaml", "seed": 0, **AUGMENT,
}  # fmt: skip


class Clock:
    """Times batches from the trainers' callbacks. Standard library only: both environments run this source."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.spec = spec
        self.times: list[float] = []
        self.seen, self.index, self.epoch, self.last = 0, 0, -1, 0.0
        self.since: tuple[float, float, float] | None = None

    def tick(self, epoch: int) -> bool:
        """Called after each batch; True when there are enough. An epoch's first and its smaller last are not timed."""
        now = time.perf_counter()
        self.index = self.index + 1 if epoch == self.epoch else 0
        if self.since and 0 < self.index < self.spec["full_batches"]:
            self.times.append(now - self.last)
        self.epoch, self.seen = epoch, self.seen + 1
        if self.seen == self.spec["warmup"]:
            self.since = self.load()
        self.last = time.perf_counter()
        return len(self.times) >= self.spec["batches"]

    def load(self) -> tuple[float, float, float]:
        """Wall seconds, CPU ticks of the whole machine, CPU ticks of this session (loader workers too)."""
        fields = [int(value) for value in Path("/proc/stat").read_text().split()[1:9]]
        own = 0
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            except OSError:  # ended meanwhile
                continue
            own += sum(map(int, stat[11:15])) if int(stat[3]) == os.getsid(0) else 0
        return time.perf_counter(), sum(fields) - fields[3] - fields[4], own

    def write(self, **about: Any) -> None:
        """The result file: seconds per batch, the share of the machine that others used meanwhile."""
        wall, busy, own = (after - before for after, before in zip(self.load(), self.since or self.load(), strict=True))
        share = max(0.0, (busy - own) / os.sysconf("SC_CLK_TCK") / (wall * (os.cpu_count() or 1)))
        Path(self.spec["result"]).write_text(json.dumps({"seconds": self.times, "foreign": share, **about}))


# Run by the other environment's Python. Its public interface only: YOLO, add_callback, train.
RUNNER = """
import json, os, sys, time
import ultralytics, torch  # in this order: theirs sets the threads that torch starts with
from pathlib import Path; from typing import Any
{clock}
spec = json.loads(sys.argv[1])
clock, shipped = Clock(spec), []
def begin(trainer):
    shipped.append(torch.get_num_threads())
    torch.set_num_threads(spec["threads"] or shipped[0])
def tick(trainer):
    if clock.tick(trainer.epoch):
        clock.write(threads=torch.get_num_threads(), threads_as_shipped=shipped[0], torch=torch.__version__,
            parameters=sum(p.numel() for p in trainer.model.parameters()), precision="32-true",
            batches_per_epoch=len(trainer.train_loader), optimizer=type(trainer.optimizer).__name__)
        sys.exit()
model = ultralytics.YOLO("yolov8n.yaml")
model.add_callback("on_train_start", begin)
model.add_callback("on_train_batch_end", tick)
model.train(**spec["settings"])
"""


def train_ours(spec: dict[str, Any]) -> None:
    """The child process of our rows: `training.fit` as it is, with a stop-watch where the Recorder would be."""
    import lightning as L
    import torch

    from alignrank.data.source import read
    from alignrank.training import fit as fitting
    from alignrank.training.plan import Plan
    from alignrank.weights.recipe import load_recipe

    clock = Clock(spec)

    class StopWatch(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, module: Any, *_: Any) -> None:
            if not trainer.should_stop and clock.tick(trainer.current_epoch):
                clock.write(
                    threads=torch.get_num_threads(), torch=torch.__version__, precision=str(trainer.precision),
                    parameters=sum(p.numel() for p in module.model.parameters()),
                    batches_per_epoch=int(trainer.num_training_batches), optimizer=type(trainer.optimizers[0]).__name__,
                )  # fmt: skip
                trainer.should_stop = True

    fitting.Recorder = lambda plan, averaged, log: StopWatch()  # type: ignore[assignment,misc]
    splits = read(spec["data"]).splits()
    recipe = load_recipe("yolov8-n", num_classes=len(splits["train"].classes), overrides=spec["settings"])
    out, device = Path(spec["result"]).parent, torch.device("cpu")
    fitting.fit(Plan(recipe, splits["train"], splits["val"], out, device, workers=spec["workers"]))


def ultralytics_python() -> Path:
    """The other environment's Python; made on first use, by uv (on PATH or in UV) or pip, with the torch of ours."""
    torch = [f"{name}=={version(name).split('+')[0]}" for name in ("torch", "torchvision")]
    environment = CACHE / f"ultralytics-{ULTRALYTICS}-{torch[0]}"
    python, complete = environment / "bin" / "python", environment / "complete"
    if complete.exists():
        return python
    shutil.rmtree(environment, ignore_errors=True)
    uv = os.environ.get("UV") or shutil.which("uv")
    make = [uv, "venv", "--python", sys.executable] if uv else [sys.executable, "-m", "venv"]
    install = [uv, "pip", "install", "--python", python] if uv else [python, "-m", "pip", "install"]
    subprocess.run([*make, environment], check=True)
    subprocess.run([*install, f"ultralytics=={ULTRALYTICS}", *torch], check=True)
    complete.touch()
    return python


def measure(row: str, spec: dict[str, Any], python: Path, data: Path, threads: int) -> dict[str, Any]:
    """One process: its row of the results."""
    with tempfile.TemporaryDirectory(prefix="alignrank-speed-") as folder:
        spec = spec | {"result": f"{folder}/result.json"}
        environment = os.environ | {"YOLO_OFFLINE": "1", "YOLO_AUTOINSTALL": "false", "YOLO_CONFIG_DIR": folder}
        if row.startswith("ultralytics"):
            settings = THEIRS | {"workers": spec["workers"], "project": folder}
            spec |= {"threads": 0 if row.endswith("as-shipped") else threads, "settings": settings}
            command = [python, "-c", RUNNER.format(clock=inspect.getsource(Clock)), json.dumps(spec)]
        else:
            spec |= {"data": str(data), "settings": OURS | {"train.precision": row.removeprefix("alignrank-")}}
            command = [sys.executable, __file__, "--child", json.dumps(spec)]
        # Ultralytics takes data.yaml's `path: .` from the working directory. Clock.load knows its own by the session.
        log = Path(folder, "log.txt")
        streams: dict[str, Any] = {"stdout": log.open("w"), "stderr": subprocess.STDOUT}
        ended = subprocess.run(command, cwd=data, env=environment, start_new_session=True, check=False, **streams)
        if ended.returncode or not Path(spec["result"]).exists():
            sys.exit(f"{row} failed:\n{log.read_text()[-4000:]}")
        result: dict[str, Any] = json.loads(Path(spec["result"]).read_text())
    seconds = result.pop("seconds")
    figures = {"median_s": median(seconds), "mean_s": mean(seconds), "images_per_s": BATCH / median(seconds)}
    return {"row": row, **figures, "timed": len(seconds), "flagged": result["foreign"] > FOREIGN_LIMIT, **result}


def ratios(rounds: list[dict[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Our images per second over theirs within a round: median and range over the undisturbed rounds, else over all."""
    table = {}
    for ours, theirs in itertools.product(rounds[0], rounds[0]):
        if ours.startswith("alignrank") and theirs.startswith("ultralytics"):
            clean = [r for r in rounds if not (r[ours]["flagged"] or r[theirs]["flagged"])]
            values = [r[theirs]["median_s"] / r[ours]["median_s"] for r in clean or rounds]
            figures = {"median": median(values), "min": min(values), "max": max(values)}
            table[f"{ours} / {theirs}"] = {k: round(v, 3) for k, v in figures.items()} | {"clean_rounds": len(clean)}
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {"rounds": 3, "batches": 40, "warmup": 6}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=ROWS)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "training_speed.json")
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        train_ours(options.child)
        return
    import torch

    from alignrank.data.convert import convert
    from alignrank.data.source import read

    threads, data = torch.get_num_threads(), CACHE / "bloodcells-yolo"
    if not data.exists():
        convert(read(SHARED / "data" / "bloodcells"), data, "yolo")
    full = len(read(data).splits()["train"]) // BATCH
    python = ultralytics_python()
    git = ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    about = {
        "command": " ".join(["python", "benchmarks/training_speed.py", *sys.argv[1:]]),
        "commit": subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip(),
        "device": f"cpu ({processor()}, {os.cpu_count()} cores, {threads} threads)",
        "versions": {name: version(name) for name in PACKAGES} | {"ultralytics": ULTRALYTICS},
        "settings": {"alignrank": OURS, "ultralytics": THEIRS},
    }
    results: dict[int, Any] = {}
    for workers in options.workers:
        spec = {"full_batches": full, "workers": workers, "warmup": max(options.warmup, 1), "batches": options.batches}
        rounds: list[dict[str, dict[str, Any]]] = []
        for number in range(options.rounds):
            rounds.append({})
            for row in options.rows:
                result = rounds[-1][row] = measure(row, spec, python, data, threads)
                speed = f"{result['median_s'] * 1e3:6.0f} ms/batch {result['images_per_s']:5.1f} images/s"
                how = f"{result['precision']}, {result['threads']} threads, others {result['foreign']:.0%}"
                print(f"workers {workers} round {number + 1} {row:22} {speed}, {how}", flush=True)
            results[workers] = {"ratios": ratios(rounds), "rounds": rounds}
            options.out.write_text(json.dumps({**about, "workers": results}, indent=1) + "\n")
        print(f"workers {workers} ratios " + json.dumps(ratios(rounds), indent=1), flush=True)


if __name__ == "__main__":
    main()
