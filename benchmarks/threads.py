"""Time and processor time of a short epoch, before and after: alone and beside busy neighbours, on one core and on two.

Before is a worktree of another commit, made for the time of the measurement. Needs Linux, and two cores that nobody
else uses: the neighbours are its own. `--rounds 1` takes about 5 minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from machine import processor
from paired import ROOT, commit

from alignrank.data.digits import build

OUT = ROOT / "benchmarks" / "results" / "threads.json"
BEFORE = "84242b5"
TRAIN = ("--model", "yolov8-n", "--epochs", "1", "--imgsz", "160", "--batch", "8", "--device", "cpu")
FIXED = ("train.precision=fp32", "augment.mosaic=0")
NUM_TRAIN, NUM_VAL = 96, 8
# Condition -> cores that the training may use, cores of which a neighbour uses all it can get.
CONDITIONS = {
    "one core": (1, 0),
    "two cores": (2, 0),
    "two cores, one of them busy": (2, 1),
    "two cores, both busy": (2, 2),
}
# What a user can set, for comparison.
SETTINGS: dict[str, dict[str, str]] = {
    "before": {},
    "after": {},
    "after, OMP_WAIT_POLICY=PASSIVE": {"OMP_WAIT_POLICY": "PASSIVE"},
    "after, ALIGNRANK_THREADS=1": {"ALIGNRANK_THREADS": "1"},
}
OF_THREADS = (
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "ALIGNRANK_THREADS"),
    *("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"),
)
# It ends with this process, however that ends.
NEIGHBOUR = """
import os, sys
parent = os.getppid()
os.sched_setaffinity(0, [int(sys.argv[1])])
while os.getppid() == parent:
    sum(range(100_000))
"""


@contextmanager
def neighbours(cores: Sequence[int]) -> Iterator[None]:
    """A process that spins on each of `cores`."""
    spinning = [subprocess.Popen([sys.executable, "-c", NEIGHBOUR, str(core)]) for core in cores]
    try:
        yield
    finally:
        for process in spinning:
            process.kill()
            process.wait()


@contextmanager
def checkout(name: str) -> Iterator[Path]:
    """A worktree of the commit `name`."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "before"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(tree), name], check=True)
        try:
            yield tree
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], check=True)


def timed(words: Sequence[str], tree: Path, cores: Sequence[int], settings: Mapping[str, str]) -> dict[str, float]:
    """Seconds of the clock and of all processors for one process with the source in `tree`."""
    environment = {name: value for name, value in os.environ.items() if name not in OF_THREADS}
    environment |= {"PYTHONPATH": str(tree / "src"), "HF_HUB_OFFLINE": "1", **settings}
    start = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, *words], env=environment, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )  # fmt: skip
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(words)}: ended with {os.waitstatus_to_exitcode(status)}")
    return {"seconds": time.monotonic() - start, "cpu_seconds": usage.ru_utime + usage.ru_stime}


def measured(tree: Path, data: Path, cores: Sequence[int], settings: Mapping[str, str]) -> dict[str, float]:
    """One training of one epoch; epoch_seconds: of the epoch itself, with its evaluation."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        words = ["-m", "alignrank", "train", *TRAIN, *FIXED, "--data", str(data), "--out", str(out)]
        row = timed(words, tree, cores, settings)
        return row | {"epoch_seconds": json.loads((out / "results.json").read_text())["seconds"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", default=BEFORE, help="the commit to compare with")
    parser.add_argument("--rounds", type=int, default=1, help="of everything, in turn; the medians count")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the worktree is removed
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        raise SystemExit("threads.py: needs two cores")
    found: dict[tuple[str, str], list[dict[str, float]]] = defaultdict(list)
    startup = []
    with tempfile.TemporaryDirectory() as folder, checkout(arguments.before) as before:
        data = Path(folder) / "digits"
        build(data, num_train=NUM_TRAIN, num_val=NUM_VAL)
        for _ in range(arguments.rounds):
            startup.append(timed(["-c", "import alignrank.training.run"], ROOT, cores, {}))
            for condition, (num_cores, num_busy) in CONDITIONS.items():
                for name, settings in SETTINGS.items():
                    with neighbours(cores[:num_busy]):
                        tree = before if name == "before" else ROOT
                        row = measured(tree, data, cores[:num_cores], settings)
                    found[condition, name].append(row)
                    print(f"{condition:28s} {name:32s} {json.dumps(row)}", flush=True)
    rows = [{"condition": of, "threads": name, **medians(runs)} for (of, name), runs in found.items()]
    record: dict[str, Any] = {
        "command": f"python benchmarks/threads.py --before {arguments.before} --rounds {arguments.rounds}",
        "commit": commit(),
        "before": arguments.before,
        "device": f"cpu ({processor()}, {os.cpu_count()} cores)",
        "torch": torch.__version__,
        "training": " ".join(["alignrank train", *TRAIN, *FIXED]) + f" on {NUM_TRAIN} scenes of digits",
        "startup": medians(startup),
        "rows": rows,
    }
    arguments.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def medians(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {key: round(statistics.median(run[key] for run in runs), 1) for key in runs[0]}


if __name__ == "__main__":
    main()
