"""Training throughput of our yolov8-n trainer against Ultralytics' YOLOv8n trainer, measured alternately on the CPU.

    python benchmarks/training_speed.py                    # 3 rounds with 0 and with 2 loader workers, about 30 minutes
    python benchmarks/training_speed.py --rounds 1 --workers 0 --batches 2 --warmup 1 --out /tmp/try.json

Each measurement is a process of its own: decode into memory, start the trainer, leave --warmup batches out, time
the next --batches full batches between the trainers' own batch-end callbacks (loading, forward, loss, backward,
clipping, optimizer step and averaged weights included; validation, pictures and files not). A round runs every row
once; ratios are taken within a round. Rows in which other processes used more than 6 % of the machine are flagged,
and their round is left out of the ratios as long as a clean one remains.

Ultralytics (AGPL-3.0) is a program to be measured against: it is installed into an environment of its own in the
user's cache (ALIGNRANK_BENCH_CACHE) and run there by that environment's Python, never imported by ours.
Data by path: ALIGNRANK_SHARED, else ../shared.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from statistics import mean, median
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("ALIGNRANK_SHARED", ROOT.parent / "shared"))
CACHE = Path(os.environ.get("ALIGNRANK_BENCH_CACHE", Path.home() / ".cache" / "alignrank-bench"))
ULTRALYTICS = "8.4.190"
ROWS = ("alignrank-fp32", "ultralytics", "alignrank-auto", "ultralytics-as-shipped")
BATCH, SIDE, EPOCHS, FOREIGN_LIMIT = 16, 320, 100, 0.06

SAME = (
    "images (the same JPEGs, kept decoded in memory at network size), side, batch, classes, random initial weights, mosaic "
    "and the ranges of flip, colour, shift and scale, AdamW with its rates and decay, one step per batch, gradient "
    "clipping at 10, averaged weights, loader workers, torch version, fp32 (except alignrank-auto)"
)
DIFFERENT = (
    "augmentation: theirs OpenCV on numpy, a mosaic of four times the area warped down, theirs three mosaic partners from a "
    "buffer of recent images; ours torch, images pasted at their final size, partners from the whole set. memory "
    "format: ours channels_last. threads: theirs sets its own number when it starts (row ultralytics-as-shipped); row "
    "ultralytics sets it back to that of ours. deterministic: off in both, theirs would be on by default. loss and "
    "assignment are each trainer's own. precision of alignrank-auto is our default on this machine"
)
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
    "weight_decay": 0.0005, "warmup_epochs": 3, "nbs": BATCH, "cache": "ram", "close_mosaic": 0, "fliplr": 0.5, "flipud": 0.0,
    "hsv_h": 0.015, "hsv_s": 0.7, "hsv_v": 0.4, "degrees": 0.0, "shear": 0.0, "perspective": 0.0, "copy_paste": 0.0,
    "amp": False, "pretrained": False, "val": False, "plots": False, "save": False, "deterministic": False, "rect": False,
    "verbose": False, "device": "cpu", "data": "data.yaml", "seed": 0, **AUGMENT,
}  # fmt: skip


class Clock:
    """Times batches from the trainers' callbacks. Standard library only: both environments run this source."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.spec = spec
        self.times: list[float] = []
        self.seen = self.index = 0
        self.epoch = -1
        self.last = 0.0
        self.since: tuple[float, float, float] | None = None

    def tick(self, epoch: int) -> bool:
        """Called after each batch; True when there are enough. An epoch's first and last, smaller batch are not timed."""
        now = time.perf_counter()
        self.index = self.index + 1 if epoch == self.epoch else 0
        full = (self.index + 1) * self.spec["batch"] <= self.spec["images"]
        if self.since is not None and full and self.index > 0:
            self.times.append(now - self.last)
        self.epoch, self.seen = epoch, self.seen + 1
        if self.seen == self.spec["warmup"]:
            self.since = self.load()
        self.last = time.perf_counter()
        return len(self.times) >= self.spec["batches"]

    def load(self) -> tuple[float, float, float]:
        """Wall seconds, CPU seconds of the whole machine, CPU seconds of this session's processes (loader workers too)."""
        with open("/proc/stat") as file:
            fields = [int(value) for value in file.readline().split()[1:9]]
        own = 0
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/stat") as file:
                    stat = file.read().rpartition(")")[2].split()
            except OSError:  # ended meanwhile
                continue
            if int(stat[3]) == os.getsid(0):
                own += sum(map(int, stat[11:15]))
        tick = os.sysconf("SC_CLK_TCK")
        return time.perf_counter(), (sum(fields) - fields[3] - fields[4]) / tick, own / tick

    def write(self, **about: Any) -> None:
        """The result file: seconds per batch, the share of the machine that others used meanwhile."""
        wall, busy, own = (after - before for after, before in zip(self.load(), self.since or self.load(), strict=True))
        share = max(0.0, (busy - own) / (wall * (os.cpu_count() or 1)))
        with open(self.spec["result"], "w") as file:
            json.dump({"seconds": self.times, "foreign": share, **about}, file)


# Run by the other environment's Python. Its public interface only: YOLO, add_callback, train.
RUNNER = """
import json, os, sys, time
from typing import Any
import torch, ultralytics
{clock}
class Enough(Exception): pass
spec = json.loads(sys.argv[1])
clock, shipped = Clock(spec), []
def begin(trainer):
    shipped.append(torch.get_num_threads())
    if spec["threads"]:
        torch.set_num_threads(spec["threads"])
def tick(trainer):
    if clock.tick(trainer.epoch):
        clock.write(threads=torch.get_num_threads(), threads_as_shipped=shipped[0], batches_per_epoch=len(trainer.train_loader),
            parameters=sum(p.numel() for p in trainer.model.parameters()), precision="32-true", torch=torch.__version__,
            optimizer=type(trainer.optimizer).__name__, ultralytics=ultralytics.__version__)
        raise Enough
model = ultralytics.YOLO("yolov8n.yaml")
model.add_callback("on_train_start", begin)
model.add_callback("on_train_batch_end", tick)
try:
    model.train(**spec["settings"])
except Enough:
    pass
"""


def train_ours(spec: dict[str, Any]) -> None:
    """The child process of our rows: `engine.train.fit` as it is, with a stop-watch where the Recorder would be."""
    import lightning as L
    import torch

    from alignrank.data.source import read
    from alignrank.engine import record
    from alignrank.engine.recipe import load_recipe
    from alignrank.engine.train import Plan, fit

    clock = Clock(spec)

    class StopWatch(L.Callback):
        def __init__(self, *_: Any) -> None:
            pass

        def on_train_batch_end(self, trainer: L.Trainer, module: Any, *_: Any) -> None:
            if not trainer.should_stop and clock.tick(trainer.current_epoch):
                parameters = sum(p.numel() for p in module.model.parameters())
                clock.write(
                    threads=torch.get_num_threads(), batches_per_epoch=int(trainer.num_training_batches), parameters=parameters,
                    precision=str(trainer.precision), torch=torch.__version__, optimizer=type(trainer.optimizers[0]).__name__,
                )  # fmt: skip
                trainer.should_stop = True

    record.Recorder = StopWatch  # type: ignore[assignment,misc]
    source = read(spec["data"])
    assert source.train is not None and source.val is not None
    recipe = load_recipe("yolov8-n", num_classes=len(source.train.classes), overrides=spec["settings"])
    out = Path(spec["result"]).parent
    fit(Plan(recipe, source.train, source.val, out, torch.device("cpu"), workers=spec["workers"]))


def ultralytics_python() -> Path:
    """The other environment's Python; the environment is made on first use, with the torch version of ours."""
    environment = CACHE / f"ultralytics-{ULTRALYTICS}"
    python = environment / "bin" / "python"
    wanted = {"ultralytics": ULTRALYTICS, **{name: version(name).split("+")[0] for name in ("torch", "torchvision")}}
    check = "import importlib.metadata as m, json; print(json.dumps({n: m.version(n).split('+')[0] for n in %r}))"
    if python.exists():
        found = subprocess.run([python, "-c", check % list(wanted)], capture_output=True, text=True, check=False)
        if found.returncode == 0 and json.loads(found.stdout) == wanted:
            return python
    print(f"installing ultralytics {ULTRALYTICS} into {environment}", flush=True)
    shutil.rmtree(environment, ignore_errors=True)
    packages = [f"{name}=={number}" for name, number in wanted.items()]
    uv = os.environ.get("UV") or shutil.which("uv")
    if uv:
        subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, environment], check=True)
        subprocess.run([uv, "pip", "install", "--quiet", "--python", python, *packages], check=True)
    else:
        subprocess.run([sys.executable, "-m", "venv", environment], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
    return python


def measure(row: str, workers: int, python: Path, data: Path, images: int, options: argparse.Namespace) -> dict[str, Any]:
    """One process: its row of the results."""
    with tempfile.TemporaryDirectory(prefix="alignrank-speed-") as folder:
        spec: dict[str, Any] = {
            "batch": BATCH, "images": images, "warmup": options.warmup, "batches": options.batches, "workers": workers,
            "result": f"{folder}/result.json",
        }  # fmt: skip
        environment = os.environ | {"YOLO_OFFLINE": "1", "YOLO_AUTOINSTALL": "false", "YOLO_CONFIG_DIR": folder}
        if row.startswith("ultralytics"):
            threads = 0 if row.endswith("as-shipped") else options.threads
            spec |= {"threads": threads, "settings": THEIRS | {"workers": workers, "project": folder}}
            command = [python, "-c", RUNNER.format(clock=inspect.getsource(Clock)), json.dumps(spec)]
        else:
            spec |= {"data": str(data), "settings": OURS | {"train.precision": row.removeprefix("alignrank-")}}
            command = [sys.executable, __file__, "--child", json.dumps(spec)]
        # The YOLO folder's data.yaml says `path: .`, which Ultralytics takes from the working directory.
        log = Path(folder, "log.txt")
        with log.open("w") as file:
            ended = subprocess.run(
                command, cwd=data, env=environment, stdout=file, stderr=subprocess.STDOUT, start_new_session=True, check=False
            )
        if ended.returncode or not Path(spec["result"]).exists():
            sys.exit(f"{row} failed:\n{log.read_text()[-4000:]}")
        result: dict[str, Any] = json.loads(Path(spec["result"]).read_text())
    seconds = result.pop("seconds")
    figures = {"median_s": median(seconds), "mean_s": mean(seconds), "images_per_s": BATCH / median(seconds)}
    return {"row": row, **figures, "timed": len(seconds), "flagged": result["foreign"] > FOREIGN_LIMIT, **result}


def ratios(rounds: list[dict[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Our images per second over theirs: median and range over the rounds in which neither was disturbed, else over all."""
    table = {}
    for ours in (name for name in rounds[0] if name.startswith("alignrank")):
        for theirs in (name for name in rounds[0] if name.startswith("ultralytics")):
            clean = [r for r in rounds if not (r[ours]["flagged"] or r[theirs]["flagged"])]
            values = [r[theirs]["median_s"] / r[ours]["median_s"] for r in clean or rounds]
            table[f"{ours} / {theirs}"] = {
                "median": median(values), "range": [min(values), max(values)], "rounds": len(values), "clean": len(clean)
            }  # fmt: skip
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batches", type=int, default=40, help="timed batches of each process")
    parser.add_argument("--warmup", type=int, default=6, help="batches before them")
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

    options.threads = torch.get_num_threads()
    original, data = SHARED / "data" / "bloodcells", CACHE / "bloodcells-yolo"
    if not original.exists():
        sys.exit(f"{original} is not there: set ALIGNRANK_SHARED")
    if not data.exists():
        convert(read(original), data, "yolo")
    train = read(data).train
    assert train is not None
    python = ultralytics_python()
    git = ["git", "-C", str(ROOT)]
    head, changed = (
        subprocess.run([*git, *arguments], capture_output=True, text=True, check=False).stdout.strip()
        for arguments in (["rev-parse", "HEAD"], ["status", "--porcelain", "src"])
    )
    cpu = [line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")]
    report: dict[str, Any] = {
        "command": " ".join(["python", "benchmarks/training_speed.py", *sys.argv[1:]]),
        "commit": head + (" with changes in src" if changed else ""),
        "device": f"cpu ({cpu[0] if cpu else platform.machine()}, {os.cpu_count()} cores, {options.threads} threads)",
        "versions": {n: version(n) for n in ("alignrank", "torch", "torchvision", "lightning")} | {"ultralytics": ULTRALYTICS},
        "same": SAME, "different": DIFFERENT, "settings": {"alignrank": OURS, "ultralytics": THEIRS}, "workers": {},
    }  # fmt: skip
    for workers in options.workers:
        rounds: list[dict[str, dict[str, Any]]] = []
        for number in range(options.rounds):
            rounds.append({})
            for row in options.rows:
                result = rounds[-1][row] = measure(row, workers, python, data, len(train), options)
                print(
                    f"workers {workers} round {number + 1} {row:22} {result['median_s'] * 1e3:6.0f} ms/batch "
                    f"{result['images_per_s']:5.1f} images/s  {result['precision']}, {result['threads']} threads, "
                    f"others {result['foreign']:.0%}{' FLAGGED' if result['flagged'] else ''}",
                    flush=True,
                )
            report["workers"][workers] = {"ratios": ratios(rounds), "rounds": rounds}
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.write_text(json.dumps(report, indent=1) + "\n")
        for name, ratio in ratios(rounds).items():
            low, high = ratio["range"]
            print(f"workers {workers}  {name}: {ratio['median']:.2f} ({low:.2f} to {high:.2f}, {ratio['clean']} clean rounds)")
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
