"""Latency of our models against Ultralytics' YOLO26 on the CPU, in ONNX Runtime, in OpenVINO and in PyTorch,
measured alternately.

    python benchmarks/latency.py                     # 35 rounds, size n, all three, about 10 minutes
    python benchmarks/latency.py --runtimes eager    # the others stay as measured
    python benchmarks/latency.py --size s --runtimes ort

Batch 1, 640 px, two threads, fp32, 80 classes, random weights. Each runtime has processes of its own, several: where
one happens to put a row's memory changes that row by 5 % until the process ends. A round times all rows in turn, each
the median of a few repetitions; ratios are taken within a round. Rounds in which other processes used more than 6 % of
the machine are set aside and repeated, for at most --minutes. Ultralytics (AGPL-3.0) is only measured against, by the
Python of the environment that training_speed.py makes. The rows: benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import inspect
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import timeit
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from latency_eager import Answering, answer_ours, peers_program
from machine import processor
from training_speed import FOREIGN_LIMIT, ROOT, ULTRALYTICS, Clock, ultralytics_python

SIDE, THREADS, WARMUP, CLASSES = 640, 2, 5, [str(label) for label in range(80)]
RUNTIMES = ("ort", "openvino", "eager")
OPENVINO, EXPORTERS = "2026.4.1", ("onnx", "onnxscript", "onnxruntime")

# Run by the other environment's Python, after the source of `randomize`.
EXPORT_PEERS = """
import json, sys, torch, ultralytics
from torch.utils.flop_counter import FlopCounterMode
folder, side, *names = sys.argv[1:]
image, about = torch.zeros(1, 3, int(side), int(side)), {}
torch.set_grad_enabled(False)
for name in names:
    torch.manual_seed(0)
    model = ultralytics.YOLO(name.removesuffix("-raw") + ".yaml").model
    model.end2end = not name.endswith("-raw")  # as nms=False sets it; by default all of 8.4.190 leave NMS to others
    randomize(model, torch.rand(2, 3, int(side), int(side)))
    model.fuse(verbose=False)
    model.model[-1].export, model.model[-1].format = True, "onnx"
    with FlopCounterMode(display=False) as counter: model(image)  # also makes the anchors that the export freezes
    gflops = sum(v for op, v in counter.get_flop_counts()["Global"].items() if "conv" in str(op)) / 1e9
    about[name] = {"parameters": sum(p.numel() for p in model.parameters()), "gflops": round(gflops, 2)}
    torch.onnx.export(model, (image,), f"{folder}/{name}.onnx", dynamo=True, opset_version=18, input_names=["images"],
        external_data=False, verbose=False)
print(json.dumps(about))
"""


def randomize(model: Any, images: Any) -> None:
    """Call with gradients off. Leaves no zeros that a runtime could fold away, and, by batch norms that fit the images,
    no activations that vanish with depth: these would be slow denormals, and all scores the same."""
    for parameter in (p for p in model.parameters() if not p.any()):
        parameter.normal_(std=0.01)
    for norm in (m for m in model.modules() if hasattr(m, "running_mean")):
        norm.momentum = 1.0
    model.train()(images)
    model.eval()


def our_rows(size: str) -> dict[str, tuple[str, dict[str, Any]]]:
    """Row -> recipe and overrides."""
    name, fusionless, sampleless = f"alignrank-{size}", {"head.fusion": False}, {"head.sampling": "none"}
    refined = {"head.refine": True}
    # What n was before fusion gave way to wider boxes, and the other sizes are.
    width = 32 if size == "n" else 64
    fused: dict[str, Any] = {"head.fusion": True, "head.box_width": width, "head.separable_boxes": True}
    variants: dict[str, dict[str, Any]] = {
        "": {}, "-base": fusionless | sampleless, "-fused": fused, "-fusion": fused | sampleless,
        "-sampling": fusionless | refined, "-dense": {"head.sampling": "dense"}, "-alone": {"head.consensus_iou": 0.0},
        "-refined": refined, "-quality": refined | {"head.quality": 0.5},
    }  # fmt: skip
    rows = {name + ending: (name, overrides) for ending, overrides in variants.items()}
    return rows | {other: (other, {}) for other in (f"yolov10-{size}", f"yolov8-{size}")}


def built_rows(size: str, names: list[str]) -> Iterator[tuple[str, Any]]:
    """Row and what its recipe builds, weights drawn. Call with gradients off."""
    import torch

    from alignrank.weights.catalog import recipe_names
    from alignrank.weights.recipe import load_recipe

    for name in names:
        recipe, overrides = our_rows(size)[name]
        if recipe not in recipe_names():
            print(f"{name}: skipped, there is no recipe {recipe}", file=sys.stderr)
            continue
        torch.manual_seed(0)
        built = load_recipe(recipe, num_classes=len(CLASSES), overrides=overrides).build()
        randomize(built.model, torch.rand(2, 3, SIDE, SIDE))
        yield name, built


def export_ours(folder: str, size: str, names: list[str]) -> dict[str, dict[str, float]]:
    """A child process of our environment: writes the ONNX files as we ship them; row -> parameters and GFLOPs."""
    import torch

    from alignrank.export import onnx as export
    from alignrank.weights.models import multiply_adds

    # Networks that have learnt nothing amplify rounding more than the export's check allows.
    export.BOX_TOLERANCE, export.SCORE_TOLERANCE = 0.1, 0.01
    torch.set_grad_enabled(False)
    about = {}
    for name, built in built_rows(size, names):
        model = built.model
        export.export_onnx(model, built.postprocess, f"{folder}/{name}.onnx", imgsz=SIDE, names=CLASSES)
        gflops = 2 * multiply_adds(model.deploy(), (SIDE, SIDE)) / 1e9
        about[name] = {"parameters": sum(p.numel() for p in model.parameters()), "gflops": round(gflops, 2)}
    return about


def compiled(runtime: str, path: str) -> Any:
    """A function of no arguments: one inference on a fixed random image, from and to numpy arrays."""
    import numpy as np

    image = np.random.default_rng(0).random((1, 3, SIDE, SIDE), dtype=np.float32)
    if runtime == "openvino":
        import openvino

        graph = openvino.Core().read_model(path)
        graph.reshape(list(image.shape))  # ours have a dynamic batch
        config = {"NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": THREADS, "INFERENCE_PRECISION_HINT": "f32"}
        network = openvino.compile_model(graph, "CPU", config)
        return lambda: network(image)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = THREADS, 1
    options.add_session_config_entry("session.force_spinning_stop", "1")  # else idle threads spin into the next row
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"images": image})


def from_files(spec: dict[str, Any]) -> dict[str, Callable[[int], list[float]]]:
    """Row -> seconds of so many inferences, of ONNX files in a runtime of this process."""
    found = {name: compiled(spec["runtime"], path) for name, path in spec["files"].items()}
    return {name: lambda times, f=f: timeit.repeat(f, number=1, repeat=times) for name, f in found.items()}


def eager(spec: dict[str, Any]) -> dict[str, Callable[[int], list[float]]]:
    """Row -> seconds of so many inferences, of PyTorch in two processes of this session."""
    ours, peers = ([name for name in spec["files"] if (name in our_rows(spec["size"])) == own] for own in (True, False))
    asked = json.dumps({"size": spec["size"], "answered": ours})
    own = Answering([sys.executable, __file__, "--child", asked]) if ours else None
    words = [spec["python"], "-c", peers_program(randomize), str(SIDE), str(THREADS), *peers]
    of = dict.fromkeys(ours, own) | dict.fromkeys(peers, Answering(words) if peers else None)
    return {name: partial(process.seconds, name) for name, process in of.items() if process is not None}


def time_rows(spec: dict[str, Any]) -> list[dict[str, Any]]:
    """A child process: rounds until enough are undisturbed; each the share of others and row -> seconds."""
    functions = eager(spec) if spec["runtime"] == "eager" else from_files(spec)
    for function in functions.values():
        function(WARMUP)
    rounds: list[dict[str, Any]] = []
    clock, clean, start = Clock({}), 0, timeit.default_timer()
    while not rounds or (clean < spec["rounds"] and timeit.default_timer() - start < spec["minutes"] * 60):
        before = clock.load()
        times = {name: function(spec["repetitions"]) for name, function in functions.items()}
        wall, busy, own = (b - a for a, b in zip(before, clock.load(), strict=True))
        foreign = max(0.0, (busy - own) / os.sysconf("SC_CLK_TCK") / (wall * (os.cpu_count() or 1)))
        clean += foreign <= FOREIGN_LIMIT
        rounds.append({"foreign": foreign, "seconds": times})
    return rounds


def figures(rounds: list[dict[str, Any]], references: list[str]) -> dict[str, Any]:
    """Per row over the undisturbed rounds, or over all if there is none: milliseconds and ratios to the references."""
    clean = [r for r in rounds if r["foreign"] <= FOREIGN_LIMIT]
    used = [r["seconds"] for r in clean or rounds]
    rows: dict[str, Any] = {}
    for name in used[0]:
        typical = [median(r[name]) for r in used]
        fastest = min(min(r[name]) for r in used)
        rows[name] = {"median_ms": round(median(typical) * 1e3, 3), "min_ms": round(fastest * 1e3, 3)}
        for other in [r for r in references if r in used[0]]:
            ratios = [own / median(r[other]) for own, r in zip(typical, used, strict=True)]
            rows[name] |= {f"ratio_to_{other}": round(median(ratios), 4), f"ratio_to_{other}_95": interval(ratios)}
    counts = {"rounds_kept": len(clean), "rounds_set_aside": len(rounds) - len(clean)}
    return {**counts, "foreign": round(median(r["foreign"] for r in clean or rounds), 4), "rows": rows}


def interval(values: list[float]) -> list[float] | None:
    """At least 95 % confidence for the median, from order statistics; None for fewer than 6 values."""
    rank, tail = 0, 1
    while tail <= 0.025 * 2 ** len(values):  # tail: of the 2^n outcomes of n coins, those with at most `rank` heads
        rank += 1
        tail += math.comb(len(values), rank)
    return [round(sorted(values)[i], 4) for i in (rank - 1, -rank)] if rank else None


def peers_python() -> Path:
    """The Python of training_speed.py's environment, with the runtimes beside Ultralytics."""
    python, uv = ultralytics_python(), os.environ.get("UV") or shutil.which("uv")
    pins = [*(f"{name}=={version(name)}" for name in EXPORTERS), f"openvino=={OPENVINO}"]
    check = (
        f"import importlib.metadata as m; assert all(m.version(p.split('==')[0]) == p.split('==')[1] for p in {pins})"
    )
    if subprocess.run([python, "-c", check], stderr=subprocess.DEVNULL, check=False).returncode:
        install = [uv, "pip", "install", "--python", python] if uv else [python, "-m", "pip", "install"]
        subprocess.run([*install, *pins], check=True)
    return python


def child(python: Path | str, *arguments: str, config: str) -> Any:
    """The JSON in the last line of a process; `config`: where Ultralytics may write. Clock.load needs the session."""
    environment = os.environ | {"YOLO_OFFLINE": "1", "YOLO_AUTOINSTALL": "false", "YOLO_CONFIG_DIR": config}
    how: dict[str, Any] = {"env": environment, "stdout": subprocess.PIPE, "text": True, "start_new_session": True}
    ended = subprocess.run([python, *arguments], **how, check=False)
    if ended.returncode:
        sys.exit(f"latency: a child process failed:\n{ended.stdout[-4000:]}")
    return json.loads(ended.stdout.splitlines()[-1])


def say(runtime: str, result: dict[str, Any], models: dict[str, dict[str, float]], references: list[str]) -> None:
    """The figures of one runtime as a table."""
    note = "" if result["rounds_kept"] else "; FIGURES OF DISTURBED ROUNDS"
    print(f"\n{runtime}: {result['rounds_kept']} rounds kept, {result['rounds_set_aside']} set aside{note}")
    print(f"{'':23}     M  GFLOPs      ms     min" + "".join(f"  {'/ ' + name:19}" for name in references))
    for name, row in result["rows"].items():
        size = f"{models[name]['parameters'] / 1e6:6.2f}{models[name]['gflops']:8.2f}"
        line = f"{name:23}{size}{row['median_ms']:8.2f}{row['min_ms']:8.2f}"
        for other in references:
            low, high = row.get(f"ratio_to_{other}_95") or (math.nan, math.nan)
            line += f"  {row.get(f'ratio_to_{other}', math.nan):.3f} ({low:.3f}-{high:.3f})"
        print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {"rounds": 35, "repetitions": 5, "minutes": 10, "processes": 7}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--size", choices=("n", "s"), default="n")
    parser.add_argument("--runtimes", nargs="+", choices=RUNTIMES, default=RUNTIMES)
    parser.add_argument("--rows", nargs="+", help="only these")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "latency.json")
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        if "answered" in options.child:
            answer_ours(lambda: built_rows(options.child["size"], options.child["answered"]), SIDE, THREADS)
        else:
            print(json.dumps(time_rows(options.child) if "runtime" in options.child else export_ours(**options.child)))
        return
    ours, size = list(our_rows(options.size)), options.size
    peers = [f"yolo26{size}", f"yolo26{size}-raw", f"yolov8{size}", f"yolov10{size}"]
    wanted = options.rows or ours + peers
    references = [peers[0], f"alignrank-{size}-base", f"alignrank-{size}"]
    git = ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    python, versions = peers_python(), {name: version(name) for name in ("alignrank", "torch", "numpy", *EXPORTERS)}
    origin = {
        "command": " ".join(["python", "benchmarks/latency.py", *sys.argv[1:]]),
        "commit": subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip(),
    }
    about: dict[str, Any] = {
        **origin,
        "device": f"cpu ({processor()}, {os.cpu_count()} cores, {THREADS} threads)",
        "versions": versions | {"openvino": OPENVINO, "ultralytics": ULTRALYTICS},
    }
    with tempfile.TemporaryDirectory(prefix="alignrank-latency-") as folder:
        spec = {"folder": folder, "size": size, "names": [name for name in ours if name in wanted]}
        models = child(sys.executable, __file__, "--child", json.dumps(spec), config=folder)
        program = "from typing import Any\n" + inspect.getsource(randomize) + EXPORT_PEERS
        models |= child(python, "-c", program, folder, str(SIDE), *(n for n in peers if n in wanted), config=folder)
        about |= {"models": models, "runtimes": {}}
        shares = {"rounds": -(-options.rounds // options.processes), "minutes": options.minutes / options.processes}
        spec = {"repetitions": options.repetitions, **shares}
        spec |= {"files": {name: f"{folder}/{name}.onnx" for name in models}}
        for runtime in options.runtimes:
            work = json.dumps(spec | {"runtime": runtime, "size": size, "python": str(python)})
            own = sys.executable if runtime == "eager" else python
            rounds = [r for _ in range(options.processes) for r in child(own, __file__, "--child", work, config=folder)]
            about["runtimes"][runtime] = {**figures(rounds, references), **origin}
            say(runtime, about["runtimes"][runtime], models, references)
            record(options.out, size, about, list(origin))


def record(path: Path, size: str, about: dict[str, Any], origin: list[str]) -> None:
    """Write what was measured so far; what this run has not measured stays, with where it comes from."""
    written = json.loads(path.read_text()) if path.exists() else {}
    if known := written.get(size):
        stay = {name: {key: known[key] for key in origin} | found for name, found in known["runtimes"].items()}
        about = about | {"runtimes": stay | about["runtimes"], "models": known["models"] | about["models"]}
    path.write_text(json.dumps({**written, size: about}, indent=1) + "\n")


if __name__ == "__main__":
    main()
