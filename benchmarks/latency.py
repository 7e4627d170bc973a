"""Latency of our models against Ultralytics' YOLO26 on the CPU, in ONNX Runtime and in OpenVINO, measured alternately.

    python benchmarks/latency.py                     # 31 rounds, size n, both runtimes, about 5 minutes
    python benchmarks/latency.py --size s --runtimes ort

Batch 1, 640 px, two threads, fp32, 80 classes, random weights. Our rows, here for size n:

    alignrank-n              all parts
    alignrank-n-base         without fusion and sampling; -fusion and -sampling add one of them to it
    alignrank-n-no-compare   all parts, but candidates do not attend to each other
    alignrank-n-dense        sampling at every cell instead of the best ones
    yolov10-n, yolov8-n      our builds of these networks

Each runtime has a process of its own, in which a round times all rows in turn, each the median of a few repetitions;
ratios are taken within a round. Rounds in which other processes used more than 6 % of the machine are set aside and
repeated, for at most --minutes. Ultralytics (AGPL-3.0) is only measured against, in the environment that
training_speed.py makes: its Python exports its networks and runs all files. Details: benchmarks/README.md.
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
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from training_speed import FOREIGN_LIMIT, ROOT, ULTRALYTICS, ultralytics_python

SIDE, THREADS, CLASSES, WARMUP = 640, 2, 80, 5
OPENVINO = "2026.4.1"
RUNTIMES = ("ort", "openvino")
EXPORTERS = ("onnx", "onnxscript", "onnxruntime")

# Run by the other environment's Python, after the source of `randomize`.
EXPORT_PEERS = """
import json, sys, torch, ultralytics
from torch.utils.flop_counter import FlopCounterMode
folder, side, *names = sys.argv[1:]
image, about = torch.zeros(1, 3, int(side), int(side)), {}
torch.set_grad_enabled(False)
for name in names:
    torch.manual_seed(0)
    model = ultralytics.YOLO(f"{name}.yaml").model
    randomize(model, torch.rand(2, 3, int(side), int(side)))
    model.fuse(verbose=False)
    model.model[-1].export, model.model[-1].format = True, "onnx"
    with FlopCounterMode(display=False) as counter:  # this forward also makes the anchors that the export freezes
        model(image)
    flops = sum(v for op, v in counter.get_flop_counts()["Global"].items() if "conv" in str(op))
    about[name] = {"parameters": sum(p.numel() for p in model.parameters()), "gflops": round(flops / 1e9, 2)}
    torch.onnx.export(model, (image,), f"{folder}/{name}.onnx", dynamo=True, opset_version=18, input_names=["images"],
        external_data=False, verbose=False)
print(json.dumps(about))
"""


def randomize(model: Any, images: Any) -> None:
    """Call with gradients off. Leaves no zeros that a runtime could fold away, and, by batch norms that fit the images,
    no activations that vanish with depth: these would be slow denormals, and all scores the same."""
    for parameter in model.parameters():
        if not parameter.any():
            parameter.normal_(std=0.01)
    for module in model.modules():
        if hasattr(module, "running_mean"):
            module.momentum = 1.0
    model.train()(images)
    model.eval()


def our_rows(size: str) -> dict[str, tuple[str, dict[str, Any]]]:
    """Row -> recipe and overrides."""
    name = f"alignrank-{size}"
    no_fusion, no_sampling = {"head.fusion": False}, {"head.sampling": "none"}
    variants = {
        "": {}, "-base": no_fusion | no_sampling, "-fusion": no_sampling, "-sampling": no_fusion,
        "-no-compare": {"head.compare": False}, "-dense": {"head.sampling": "dense"},
    }  # fmt: skip
    rows: dict[str, tuple[str, dict[str, Any]]] = {name + end: (name, changes) for end, changes in variants.items()}
    return rows | {other: (other, {}) for other in (f"yolov10-{size}", f"yolov8-{size}")}


def peer_rows(size: str) -> list[str]:
    """Ultralytics' networks of that size; the first is the one that ratios are taken to."""
    return [f"yolo26{size}", f"yolov8{size}", f"yolov10{size}"]


def export_ours(folder: str, size: str, names: list[str]) -> dict[str, dict[str, float]]:
    """A child process of our environment: writes the ONNX files as we ship them; row -> parameters and GFLOPs."""
    import torch

    from alignrank.engine import export
    from alignrank.engine.model_table import convolution_flops
    from alignrank.engine.recipe import load_recipe, recipe_names

    # Networks that have learnt nothing amplify rounding more than the export's check allows.
    export.BOX_TOLERANCE, export.SCORE_TOLERANCE = 0.1, 0.01
    torch.set_grad_enabled(False)
    labels, about = [str(label) for label in range(CLASSES)], {}
    for name in names:
        recipe, overrides = our_rows(size)[name]
        if recipe not in recipe_names():
            print(f"{name}: skipped, there is no recipe {recipe}", file=sys.stderr)
            continue
        torch.manual_seed(0)
        built = load_recipe(recipe, num_classes=CLASSES, overrides=overrides).build()
        model: Any = built.model
        randomize(model, torch.rand(2, 3, SIDE, SIDE))
        export.export_onnx(model, built.postprocess, f"{folder}/{name}.onnx", imgsz=SIDE, names=labels)
        model.deploy()
        parameters = sum(p.numel() for p in model.parameters())
        about[name] = {"parameters": parameters, "gflops": round(convolution_flops(model) / 1e9, 2)}
    return about


def compiled(runtime: str, path: str) -> Callable[[], Any]:
    """One inference on a fixed random image, from and to numpy arrays."""
    import numpy as np

    image = np.random.default_rng(0).random((1, 3, SIDE, SIDE), dtype=np.float32)
    if runtime == "openvino":
        import openvino

        core = openvino.Core()
        graph = core.read_model(path)
        graph.reshape(list(image.shape))  # ours have a dynamic batch
        config = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": THREADS,
                  "INFERENCE_PRECISION_HINT": "f32"}  # fmt: skip
        network = core.compile_model(graph, "CPU", config)
        return lambda: network(image)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = THREADS, 1
    # Without it the idle threads of one session spin while the next one is timed.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"images": image})


def load() -> tuple[float, float, float]:
    """Seconds: wall clock, all processors busy since boot, this process on all its threads."""
    fields = [int(value) for value in Path("/proc/stat").read_text().split()[1:9]]
    busy = (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")
    return time.perf_counter(), busy, time.process_time()


def time_rows(spec: dict[str, Any]) -> list[dict[str, Any]]:
    """A child process: rounds until enough are undisturbed; each the others' share and row -> milliseconds."""
    functions = {name: compiled(spec["runtime"], path) for name, path in spec["files"].items()}
    for function in functions.values():
        for _ in range(WARMUP):
            function()
    rounds: list[dict[str, Any]] = []
    end = time.perf_counter() + spec["minutes"] * 60
    clean = 0
    while not rounds or (clean < spec["rounds"] and time.perf_counter() < end):
        before, times = load(), {}
        for name, function in functions.items():
            times[name] = []
            for _ in range(spec["repetitions"]):
                start = time.perf_counter()
                function()
                times[name].append((time.perf_counter() - start) * 1e3)
        wall, busy, own = (b - a for a, b in zip(before, load(), strict=True))
        foreign = max(0.0, (busy - own) / (wall * (os.cpu_count() or 1)))
        clean += foreign <= FOREIGN_LIMIT
        rounds.append({"foreign": foreign, "ms": times})
    return rounds


def figures(rounds: list[dict[str, Any]], references: dict[str, str]) -> dict[str, Any]:
    """Per row over the undisturbed rounds, or over all if there is none: milliseconds and ratios to the references."""
    clean = [r for r in rounds if r["foreign"] <= FOREIGN_LIMIT]
    used = clean or rounds
    rows: dict[str, Any] = {}
    for name in used[0]["ms"]:
        typical = [median(r["ms"][name]) for r in used]
        rows[name] = {"median_ms": round(median(typical), 3), "min_ms": round(min(min(r["ms"][name]) for r in used), 3)}
        for label, reference in references.items():
            if reference in used[0]["ms"]:
                ratios = [ms / median(r["ms"][reference]) for ms, r in zip(typical, used, strict=True)]
                rows[name][f"ratio_to_{label}"] = round(median(ratios), 4)
                rows[name][f"ratio_to_{label}_95"] = interval(ratios)
    shares = {"foreign_median": round(median(r["foreign"] for r in used), 4), "disturbed": not clean}
    return {"rounds_kept": len(clean), "rounds_set_aside": len(rounds) - len(clean), **shares, "rows": rows}


def interval(values: list[float]) -> list[float] | None:
    """At least 95 % confidence for the median, from order statistics; None for fewer than 6 values."""
    rank, tail = 0, 1
    while tail <= 0.025 * 2 ** len(values):  # tail: of the 2^n outcomes of n coins, those with at most `rank` heads
        rank += 1
        tail += math.comb(len(values), rank)
    return [round(sorted(values)[i], 4) for i in (rank - 1, -rank)] if rank else None


def peers_python() -> Path:
    """The Python of training_speed.py's environment, with the runtimes beside Ultralytics."""
    python = ultralytics_python()
    wanted = {name: version(name) for name in EXPORTERS} | {"openvino": OPENVINO}
    test = f"from importlib.metadata import version; assert all(version(n) == v for n, v in {wanted}.items())"
    if subprocess.run([python, "-c", test], stderr=subprocess.DEVNULL, check=False).returncode:
        uv = os.environ.get("UV") or shutil.which("uv")
        install = [uv, "pip", "install", "--python", python] if uv else [python, "-m", "pip", "install"]
        subprocess.run([*install, *(f"{name}=={pin}" for name, pin in wanted.items())], check=True)
    return python


def child(python: Path | str, *arguments: str, config: str) -> Any:
    """What a process prints as JSON in its last line. `config` is where Ultralytics may write its settings."""
    environment = os.environ | {"YOLO_OFFLINE": "1", "YOLO_AUTOINSTALL": "false", "YOLO_CONFIG_DIR": config}
    ended = subprocess.run([python, *arguments], env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if ended.returncode:
        sys.exit(f"latency: a child process failed:\n{ended.stdout[-4000:]}")
    return json.loads(ended.stdout.splitlines()[-1])


def say(runtime: str, result: dict[str, Any], models: dict[str, dict[str, float]]) -> None:
    """The figures of one runtime as a table."""
    kept = f"{result['rounds_kept']} rounds, {result['rounds_set_aside']} set aside"
    print(f"\n{runtime}: {kept}" + (", NONE UNDISTURBED: figures of all rounds" if result["disturbed"] else ""))
    print(f"{'':24}{'M':>7}{'GFLOPs':>8}{'ms':>8}{'min':>8}  ratio to the peer    ratio to the base")
    for name, row in result["rows"].items():
        model, cells = models[name], ""
        for label in ("peer", "base"):
            low, high = row.get(f"ratio_to_{label}_95") or (math.nan, math.nan)
            cells += f"  {row.get(f'ratio_to_{label}', math.nan):.3f} ({low:.3f}-{high:.3f})"
        size = f"{model['parameters'] / 1e6:7.2f}{model['gflops']:8.2f}"
        print(f"{name:24}{size}{row['median_ms']:8.2f}{row['min_ms']:8.2f}{cells}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--minutes", type=float, default=10, help="time limit of each runtime")
    parser.add_argument("--size", choices=("n", "s"), default="n")
    parser.add_argument("--runtimes", nargs="+", choices=RUNTIMES, default=list(RUNTIMES))
    parser.add_argument(
        "--rows", nargs="+", choices=[row for size in "ns" for row in (*our_rows(size), *peer_rows(size))]
    )
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "latency.json")
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(time_rows(options.child) if "runtime" in options.child else export_ours(**options.child)))
        return
    ours, peers = our_rows(options.size), peer_rows(options.size)
    wanted = options.rows or [*ours, *peers]
    references = {"peer": peers[0], "base": f"alignrank-{options.size}-base"}
    git = ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    cpu = Path("/proc/cpuinfo").read_text().partition("model name")[2].partition("\n")[0].strip("\t: ")
    python = peers_python()
    about: dict[str, Any] = {
        "command": " ".join(["python", "benchmarks/latency.py", *sys.argv[1:]]),
        "commit": subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip(),
        "device": f"cpu ({cpu}, {os.cpu_count()} cores, {THREADS} threads)",
        "versions": {name: version(name) for name in ("alignrank", "torch", *EXPORTERS)}
        | {"openvino": OPENVINO, "ultralytics": ULTRALYTICS},
        "references": references,
    }
    with tempfile.TemporaryDirectory(prefix="alignrank-latency-") as folder:
        spec = {"folder": folder, "size": options.size, "names": [name for name in ours if name in wanted]}
        models = child(sys.executable, __file__, "--child", json.dumps(spec), config=folder)
        program = "from typing import Any\n" + inspect.getsource(randomize) + EXPORT_PEERS
        names = [name for name in peers if name in wanted]
        models |= child(python, "-c", program, folder, str(SIDE), *names, config=folder)
        about |= {"models": models, "runtimes": {}}
        spec = {"files": {name: f"{folder}/{name}.onnx" for name in models}}
        spec |= {"rounds": options.rounds, "repetitions": options.repetitions, "minutes": options.minutes}
        for runtime in options.runtimes:
            timing = json.dumps(spec | {"runtime": runtime})
            result = figures(child(python, __file__, "--child", timing, config=folder), references)
            about["runtimes"][runtime] = result
            say(runtime, result, models)
    # One entry for each size; that of the other size stays.
    written = json.loads(options.out.read_text()) if options.out.exists() else {}
    options.out.write_text(json.dumps({**written, options.size: about}, indent=1) + "\n")


if __name__ == "__main__":
    main()
