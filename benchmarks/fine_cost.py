"""What FINE costs: the paper's comparison of five attentions (its table 3), and the latency of whole detectors.

    python benchmarks/fine_cost.py                     # everything, about 10 minutes on an idle machine
    python benchmarks/fine_cost.py --only module

All attentions in one run. `module`: the two modules as they are in RT-DETR at 640 px (256 channels; strides 32 and 16,
16 and 8): operations that they add (two per multiply-add, beside the printed figure where there is one), peak memory of
a forward and backward of one image, each in a process of its own, and eager latency. `detector`: yolov8-s at 640 px in
ONNX Runtime, without FINE and with it, batch 1, two threads, random weights, measured as latency.py does: rounds that
other processes disturbed are set aside. The bound is the issue's.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import timeit
from pathlib import Path
from typing import Any

import torch
from latency import CLASSES, SIDE, figures, randomize, time_rows
from paired import ROOT, commit
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from alignrank.export import onnx as export
from alignrank.nn.fine import FINE
from alignrank.weights.recipe import load_recipe

RESULTS = ROOT / "benchmarks" / "results" / "fine_cost.json"
ATTENTIONS = ("vanilla", "window", "area", "linear", "aats")
PRINTED = {"vanilla": 18.0, "window": 8.9, "area": 10.0, "linear": 7.0, "aats": 1.2}
CHANNELS, BOUND, HOST = 256, 1.07, "yolov8-s"
ROUNDS, REPETITIONS = 15, 3


def pair(attention: Any) -> tuple[list[FINE], list[tuple[Tensor, Tensor]]]:
    """Both modules, and what each gets of a 640 px image."""
    torch.manual_seed(0)
    maps = {stride: torch.rand(1, CHANNELS, SIDE // stride, SIDE // stride) for stride in (8, 16, 32)}
    modules = [FINE(CHANNELS, pool, attention=attention) for pool in (1, 2)]
    return modules, [(maps[16], maps[32]), (maps[8], maps[16])]


def operations(attention: str) -> float:
    """GFLOPs of both modules."""
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        modules, inputs = pair(attention)
        for module, (low, high) in zip(modules, inputs, strict=True):
            module(low, high)
    total: int = counter.get_total_flops()
    return total / 1e9


def memory(attention: str) -> float:
    """MiB by which the peak of this process rises in a forward and backward: call it in a fresh one (Linux)."""
    modules, inputs = pair(attention)
    Path("/proc/self/clear_refs").write_text("5")  # the peak of importing is forgotten
    before = _peak()
    outputs = [module(low, high) for module, (low, high) in zip(modules, inputs, strict=True)]
    torch.stack([output.sum() for output in outputs]).sum().backward()
    return _peak() - before


def _peak() -> float:
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def module_table() -> dict[str, Any]:
    """Operations, memory and eager latency of the modules, the latter in turn."""
    table: dict[str, Any] = {}
    for attention in ATTENTIONS:
        measured = subprocess.run([sys.executable, __file__, "--memory", attention], capture_output=True, check=True)
        table[attention] = {
            "gflops": round(operations(attention), 2),
            "printed_gflops": PRINTED[attention],
            "peak_mib": round(float(measured.stdout), 1),
        }
    pairs = {attention: pair(attention) for attention in ATTENTIONS}

    @torch.inference_mode()
    def forward(attention: str) -> None:
        for module, (low, high) in zip(*pairs[attention], strict=True):
            module(low, high)

    times: dict[str, list[float]] = {attention: [] for attention in ATTENTIONS}
    for _ in range(ROUNDS):
        for attention in ATTENTIONS:
            times[attention].append(min(timeit.repeat(lambda a=attention: forward(a), number=1, repeat=REPETITIONS)))  # type: ignore[misc]
    for attention in ATTENTIONS:
        table[attention]["eager_ms"] = round(statistics.median(times[attention]) * 1e3, 2)
    return table


def detector_table(minutes: float) -> dict[str, Any]:
    """Latency of the host, and of the host with each attention."""
    export.BOX_TOLERANCE, export.SCORE_TOLERANCE = 0.1, 0.01  # networks that have learnt nothing amplify rounding
    rows: dict[str, dict[str, Any]] = {HOST: {}}
    rows |= {f"{HOST}+{attention}": {"neck.fine": True, "neck.fine_attention": attention} for attention in ATTENTIONS}
    with tempfile.TemporaryDirectory() as folder:
        files = {}
        for name, overrides in rows.items():
            torch.manual_seed(0)
            built = load_recipe(HOST, num_classes=len(CLASSES), overrides=overrides).build()
            with torch.no_grad():
                randomize(built.model, torch.rand(2, 3, SIDE, SIDE))
            files[name] = f"{folder}/{name}.onnx"
            export.export_onnx(built.model, built.postprocess, files[name], imgsz=SIDE, names=CLASSES)
        spec = {"runtime": "ort", "files": files, "rounds": 35, "repetitions": REPETITIONS, "minutes": minutes}
        return figures(time_rows(spec), [HOST])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=6.0, help="at most, of the detectors' rounds")
    parser.add_argument("--only", choices=("module", "detector"), help="measure one part, keep the other")
    parser.add_argument("--memory", choices=ATTENTIONS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory:
        print(memory(arguments.memory))
        return
    result: dict[str, Any] = json.loads(RESULTS.read_text()) if arguments.only else {}
    about = {"commit": commit(), "device": f"cpu ({torch.get_num_threads()} threads)", "torch": torch.__version__}
    if arguments.only != "detector":
        result["module"] = about | {"attentions": module_table()}
    if arguments.only != "module":
        result["detector"] = about | detector_table(arguments.minutes)
        ratio = result["detector"]["rows"][f"{HOST}+aats"][f"ratio_to_{HOST}"]
        result |= {"command": "python benchmarks/fine_cost.py", "bound": BOUND, "within": ratio <= BOUND}
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
