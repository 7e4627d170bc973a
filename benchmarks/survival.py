"""Runs killed at random moments and resumed: how many go on, and how many end with the weights of one never stopped.

    python benchmarks/survival.py                # 20 kills, about 15 minutes of one core

A training on real images (bloodcells, two loader processes, one thread) is killed by SIGKILL at a moment drawn from its
whole length, start and final evaluation included, then resumed. Survived: the resumed run ends with exit code 0. Equal:
raw and averaged weights, optimizer, schedule and the history of losses are those of the run that was never killed, bit
for bit; so is a second run that was never killed. Data by path: ALIGNRANK_SHARED, else ../shared.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import processor
from paired import ROOT, SHARED

from alignrank.training.state import last_state, progress_of

DATA = SHARED / "data" / "bloodcells"
RESULTS = ROOT / "benchmarks" / "results" / "survival.json"
COMMAND = ["train", "--model", "alignrank-n", "--data", str(DATA), "--imgsz", "96", "--batch", "16", "--epochs", "4"]
COMMAND += ["--workers", "2", "--device", "cpu", "--seed", "0", "model.size=t"]


def start(*words: str) -> subprocess.Popen[bytes]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "alignrank", *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env=environment, cwd=ROOT,
    )  # fmt: skip


def flat(value: Any) -> list[Any]:
    """All leaves of nested containers, in order."""
    if isinstance(value, dict):
        return [leaf for key in value for leaf in (key, *flat(value[key]))]
    if isinstance(value, list | tuple):
        return [leaf for item in value for leaf in flat(item)]
    return [value]


def outcome(run: Path) -> list[Any]:
    """Model, averages, optimizer, schedule, step and losses at the end, as leaves; times are left out."""
    path = last_state(run)
    assert path is not None
    state = torch.load(path, map_location="cpu", weights_only=True)
    history = json.loads((run / "history.json").read_text())
    for row in (*history, *(row for part in state["callbacks"].values() for row in part.get("history", []))):
        row.pop("seconds")
    for part in state["callbacks"].values():
        part.pop("seconds", None)
    parts = ("epoch", "global_step", "state_dict", "optimizer_states", "lr_schedulers", "callbacks")
    return flat([history, *(state[part] for part in parts)])


def equal(first: list[Any], second: list[Any]) -> bool:
    return len(first) == len(second) and all(
        torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in zip(first, second, strict=True)
    )


def killed(run: Path, seconds: float) -> dict[str, Any]:
    """Start a run, kill it after so long, resume it."""
    process = start(*COMMAND, "--out", str(run))
    time.sleep(seconds)
    process.kill()
    process.wait()
    state = last_state(run) if run.exists() else None
    entry: dict[str, Any] = {"killed_after": round(seconds, 2), "epochs_done": progress_of(state)[0] if state else 0}
    if not (run / "run.json").exists():  # nothing had been started: the same command is the way to go on
        shutil.rmtree(run, ignore_errors=True)
        return entry | {"again": "from the start", "exit_code": start(*COMMAND, "--out", str(run)).wait()}
    if (run / "results.json").exists():
        return entry | {"again": "was complete", "exit_code": 0}
    return entry | {"again": "resumed", "exit_code": start("train", "--resume", str(run)).wait()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if not DATA.exists():
        sys.exit(f"{DATA} is not there: set ALIGNRANK_SHARED")
    rng = np.random.default_rng(arguments.seed)
    table: dict[str, Any] = {
        "command": "python benchmarks/" + " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "training": "alignrank " + " ".join(COMMAND).replace(str(DATA), os.path.relpath(DATA, ROOT)),
        "seed": arguments.seed, "kills": [],
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder, "whole")
        begun = time.monotonic()
        if start(*COMMAND, "--out", str(whole)).wait() != 0:
            sys.exit("the run that is not killed failed")
        length = time.monotonic() - begun
        expected, results = outcome(whole), json.loads((whole / "results.json").read_text())
        table |= {key: results[key] for key in ("commit", "device", "torch")}
        table["processor"] = processor()
        start(*COMMAND, "--out", f"{folder}/twice").wait()
        table["twice_equal"] = equal(expected, outcome(Path(folder, "twice")))
        for number in range(arguments.kills):
            run = Path(folder, str(number))
            entry = killed(run, rng.uniform(0, length))
            entry["equal"] = entry["exit_code"] == 0 and equal(expected, outcome(run))
            table["kills"].append(entry)
            print(number, entry, flush=True)
            shutil.rmtree(run)
    table["survived"] = sum(entry["exit_code"] == 0 for entry in table["kills"])
    table["equal"] = sum(entry["equal"] for entry in table["kills"])
    RESULTS.write_text(json.dumps(table, indent=1) + "\n")
    print(f"{table['survived']} of {arguments.kills} survived, {table['equal']} equal; twice {table['twice_equal']}")


if __name__ == "__main__":
    main()
