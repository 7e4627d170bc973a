"""What is left between the network and the machine: predict over the bare network, decode and selection within the
graph, 8 bits over 32, and the share of the machine's convolution peak. Ratios in one run each, two threads, batch 1.

    python benchmarks/cpu_shares.py --weights runs/a --data DATA             # 640 px, about 6 minutes a set of weights
    python benchmarks/cpu_shares.py --weights runs/a runs/b --data DATA --imgsz 320
    python benchmarks/cpu_shares.py --models alignrank-n                     # of 80 classes, seconds
    python benchmarks/cpu_shares.py --weights runs/a --data DATA --imgsz 64 --rounds 2 --out x.json   # does it run

weights: trained ones, for what 8 bits keep in 32 depends on them. data: calibrates them. Files are written by
`alignrank export`; each runtime has a process of its own, in which files take turns round for round.

- `predict`: from decoded pixels (1280 x 720) to detections over the network alone, by the parts of `alignrank
  benchmark`; `ratio`: the same of the file in 8 bits over that in 32, network and all.
- `parity`: what the gate of each export found: AP of the weights and of the file, pairs of detections that change
  their order.
- `decode`: ONNX Runtime's seconds of all that is behind the last convolutions and their activations, as a graph of its
  own, over those of the whole: the choice of cells, the ends of their box branches, decoding, suppression, consensus,
  selection. `consensus`: that less the same of a file without consensus boxes. --models: of untrained ones.
- `peak`: floating-point operations a second of ONNX Runtime over those of a convolution of 256 channels on 40 x 40
  cells in PyTorch, taken in turn with it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from itertools import product
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
from machine import processor
from paired import ROOT, alignrank, commit

from alignrank.cores import limit_spinning

RESULTS = ROOT / "benchmarks" / "results" / "cpu_shares.json"
THREADS = 2
FILES = {
    "onnx": {"onnx": ["--format", "onnx"], "onnx-int8": ["--format", "onnx", "--int8"]},
    "openvino": {"openvino": ["--format", "openvino"], "openvino-int8": ["--format", "openvino", "--int8"]},
}
SUFFIX = {"onnx": ".onnx", "openvino": ".xml"}
PARITY = ("images", "ap", "ap_exported", "pairs", "inversions")
CONVOLUTIONS = ("Conv", "GridSample")


def eager(spec: dict[str, Any]) -> dict[str, Any]:
    """Predict over the network in PyTorch."""
    from alignrank.inference.options import PredictOptions
    from alignrank.inference.predict import Pipeline
    from alignrank.weights.deployed import deploy

    detector = deploy(Path(spec["weights"]), "cpu").resized(spec["imgsz"], rect=False)
    return parts({"eager": Pipeline(detector, PredictOptions(batch=1))}, spec["rounds"])


def exported(spec: dict[str, Any]) -> dict[str, Any]:
    """Predict over the network of files, and files in 8 bits over those in 32."""
    from alignrank.export.runtimes import open_exported
    from alignrank.inference.options import PredictOptions
    from alignrank.inference.predict import Pipeline

    found = {name: open_exported(Path(path), "cpu") for name, path in spec["files"].items()}
    return parts(
        {name: Pipeline(detector, PredictOptions(batch=1)) for name, detector in found.items()}, spec["rounds"]
    )


def parts(pipelines: dict[str, Any], rounds: int) -> dict[str, Any]:
    """{name: {ms, predict, ratio}}: ratio to the first of them, within rounds."""
    from alignrank.benchmark.timing import PARTS, timed

    pixels = np.random.default_rng(0).integers(0, 256, (720, 1280, 3), dtype=np.uint8)
    seconds, _ = timed(pipelines, pixels, {1: rounds}, lambda: None)
    totals = {name: np.sum([of[1][part] for part in PARTS], 0) for name, of in seconds.items()}
    first = totals[next(iter(totals))]
    return {
        name: {
            "ms": {part: round(median(of[1][part]) * 1e3, 3) for part in PARTS},
            "predict": round(float(np.median(totals[name] / of[1]["network"])), 4),
            "ratio": round(float(np.median(totals[name] / first)), 4),
        }
        for name, of in seconds.items()
    }


def decoding(spec: dict[str, Any]) -> dict[str, float]:
    """What the ends of ONNX files take of the time of the first of them, all in turn."""
    import onnxruntime

    def runner(content: str | bytes, feed: dict[str, Any]) -> Callable[[], object]:
        session = onnxruntime.InferenceSession(content, session_options(), providers=["CPUExecutionProvider"])
        return lambda: session.run(None, feed or {session.get_inputs()[0].name: image(spec["imgsz"])})

    steps = {name: runner(*end(path)) for name, path in spec["files"].items()}
    steps["whole"] = runner(next(iter(spec["files"].values())), {})
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for _, (name, step) in product(range(spec["rounds"]), steps.items()):
        taken[name].append(seconds(step))
    return {name: round(median(taken[name]) / median(taken["whole"]), 4) for name in spec["files"]}


def end(path: str) -> tuple[bytes, dict[str, Any]]:
    """What is behind the last convolutions of an ONNX file, as a file, and random inputs for it."""
    import onnx
    from onnx.utils import Extractor

    model = onnx.load(path)
    graph, constants = model.graph, {each.name for each in model.graph.initializer}
    leading: set[str] = set()  # values that lead to a convolution
    for node in reversed(graph.node):
        if node.op_type in CONVOLUTIONS or not leading.isdisjoint(node.output):
            leading.update(node.input)
    made = {each.name for each in graph.input}  # before the end
    activated: set[str] = set()
    for node in graph.node:
        inputs = set(node.input) - constants
        if node.op_type in CONVOLUTIONS or (node.op_type in ("Sigmoid", "Mul") and inputs <= activated):
            activated.update(node.output)
        elif leading.isdisjoint(node.output):
            continue
        made.update(node.output)
    needed = {name for node in graph.node if made.isdisjoint(node.output) for name in node.input} & made
    values = [*graph.value_info, *graph.input]
    shapes = {each.name: [side.dim_value or 1 for side in each.type.tensor_type.shape.dim] for each in values}
    drawn = np.random.default_rng(0)
    feed = {name: drawn.standard_normal(shapes[name], dtype=np.float32) for name in sorted(needed)}
    cut = Extractor(model).extract_model(list(feed), [output.name for output in graph.output])
    return cut.SerializeToString(), feed


def peak(spec: dict[str, Any]) -> dict[str, Any]:
    """`peak` of an ONNX file."""
    import onnxruntime
    import torch

    from alignrank.weights import checkpoint
    from alignrank.weights.models import multiply_adds

    torch.set_num_threads(THREADS)
    torch.set_grad_enabled(False)
    model = checkpoint.load(Path(spec["weights"])).build_model().eval().deploy()
    flops = 2 * multiply_adds(model, (spec["imgsz"], spec["imgsz"]))
    session = onnxruntime.InferenceSession(spec["file"], session_options(), providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: image(spec["imgsz"])}
    conv, cells = torch.nn.Conv2d(256, 256, 3, padding=1), torch.rand(1, 256, 40, 40)
    of_conv = 2 * 256 * 256 * 9 * 40 * 40
    rows = []
    for _ in range(spec["rounds"]):
        network = flops / seconds(lambda: session.run(None, feed))
        rows.append((network, of_conv / seconds(lambda: conv(cells))))
    speeds = {"network": median(own for own, _ in rows) / 1e9, "conv": median(best for _, best in rows) / 1e9}
    return {
        "peak": round(median(own / best for own, best in rows), 4),
        "gflops_a_second": {name: round(value) for name, value in speeds.items()},
    }


def seconds(step: Callable[[], object], repetitions: int = 5) -> float:
    """The median."""
    taken = []
    for _ in range(repetitions):
        start = perf_counter()
        step()
        taken.append(perf_counter() - start)
    return median(taken)


def session_options() -> Any:
    """Two threads that do not spin into what runs beside them."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = THREADS, 1
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


def image(side: int) -> Any:
    """A network's input."""
    return np.random.default_rng(0).random((1, 3, side, side), dtype=np.float32)


CHILDREN = {"eager": eager, "exported": exported, "decoding": decoding, "peak": peak}


def child(what: str, **spec: Any) -> dict[str, Any]:
    """What a function of CHILDREN says, in a process of its own."""
    words = [sys.executable, __file__, "--child", json.dumps([what, spec])]
    environment = dict(os.environ)
    limit_spinning(environment)  # as the command line does
    ended = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    said: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return said


def measured(weights: Path, data: Path, imgsz: int, rounds: int, folder: Path) -> dict[str, Any]:
    """All figures of a set of weights."""
    about = {"weights": str(weights.resolve()), "imgsz": imgsz, "rounds": rounds}
    result: dict[str, Any] = {"predict": child("eager", **about)}
    for runtime, files in FILES.items():
        paths = {name: str(folder / f"{name}{SUFFIX[runtime]}") for name in files}
        for name, words in files.items():
            more = ["--imgsz", str(imgsz), "--data", str(data), "--out", paths[name]]
            alignrank(THREADS, "export", "--weights", about["weights"], *words, *more)
            told = json.loads(Path(f"{paths[name]}.parity.json").read_text())
            result.setdefault("parity", {})[name] = {key: told[key] for key in PARITY}
        result["predict"] |= child("exported", files=paths, rounds=rounds)
        if runtime == "onnx":
            about |= {"file": paths["onnx"]}
            result |= child("decoding", files={"decode": paths["onnx"]}, **about) | child("peak", **about)
    return result


def selection(name: str, imgsz: int, rounds: int, folder: Path) -> dict[str, Any]:
    """`decode` and `consensus` of an untrained model of 80 classes, medians of five processes."""
    from alignrank import Detector

    files = {"decode": str(folder / "with.onnx"), "without": str(folder / "without.onnx")}
    for path, overlap in zip(files.values(), (None, 0.0), strict=True):
        Detector(name).export("onnx", imgsz=imgsz, out=path, consensus=overlap, check=False)
    runs = [child("decoding", files=files, imgsz=imgsz, rounds=rounds) for _ in range(5)]
    found = {key: median(run[key] for run in runs) for key in files}
    return found | {"consensus": round(found["decode"] - found["without"], 4), "runs": runs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, nargs="+", default=[])
    parser.add_argument("--models", nargs="+", default=[])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--imgsz", type=int, default=640)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        what, spec = options.child
        print(json.dumps(CHILDREN[what](spec)))
        return
    table: dict[str, Any] = json.loads(options.out.read_text()) if options.out.exists() else {}
    data, imgsz, rounds = options.data, options.imgsz, options.rounds
    for each in [*options.weights, *options.models]:
        trained = isinstance(each, Path)
        with tempfile.TemporaryDirectory(prefix="alignrank-shares-") as name:
            folder = Path(name)
            found = measured(each, data, imgsz, rounds, folder) if trained else selection(each, imgsz, rounds, folder)
        words = f"--weights {each} --data {data}" if trained else f"--models {each}"
        command = f"python benchmarks/cpu_shares.py {words} --imgsz {imgsz}"
        device = f"cpu ({processor()}, {THREADS} threads)"
        key = f"{each.name} {imgsz}" if trained else f"{each}, untrained {imgsz}"
        table[key] = found | {"command": command, "commit": commit(), "device": device}
        options.out.write_text(json.dumps(table, indent=1) + "\n")
        print(key, json.dumps(found, indent=1), flush=True)


if __name__ == "__main__":
    main()
