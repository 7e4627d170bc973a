"""`benchmark`: engines of a detector, timed, with a table, a picture and a JSON file."""

from __future__ import annotations

import io
import json
from importlib import metadata
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.table import Table

from alignrank.benchmark.engines import Engine, engines
from alignrank.benchmark.memory import peak_memory
from alignrank.benchmark.options import BenchmarkOptions
from alignrank.benchmark.timing import PARTS, Seconds, rounds_of, timed
from alignrank.data.decode import decode
from alignrank.device import choose_device, device_name
from alignrank.errors import InputError
from alignrank.folders import new_run_folder
from alignrank.inference.drawn_scenes import drawn_scene
from alignrank.inference.predict import Pipeline
from alignrank.report.latency import plot_latency
from alignrank.terminal.progress import console, say, steps, warn
from alignrank.weights.checkpoint import Checkpoint

DECODES = 20
PICTURE = (720, 1280)
PACKAGES = ("torch", "onnxruntime", "openvino")
SHORT = ("pre", "net", "post")  # the parts, in the table


def benchmark_to_folder(
    weights: Path | Checkpoint, options: BenchmarkOptions, *, out: str | Path | None = None, device: str = "auto"
) -> dict[str, Any]:
    """`benchmark`, and in the new folder `out`, else runs/benchmark, benchmark.json and benchmark.png.

    Returns {out} and all that `benchmark` returns.
    """
    with new_run_folder(out, "benchmark") as folder:
        result = benchmark(weights, options, device=device)
        (folder / "benchmark.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        plot_latency(result, folder / "benchmark.png")
        say(f"benchmark.json and benchmark.png are in {folder}")
    return {"out": str(folder), **result}


def benchmark(weights: Path | Checkpoint, options: BenchmarkOptions, *, device: str = "auto") -> dict[str, Any]:
    """Time, throughput and memory of every engine on one picture.

    {recipe, imgsz, picture: [height, width] px, device, threads, rounds, versions, decode_ms, engines: {name:
    {latency_ms: {median, p95}, ratio (of latency to that of the first engine, within rounds), parts_ms, images_per_
    second: {batch: number}, memory_mb, detections}}, skipped: {name: reason}}. Latency is from decoded pixels to
    detections. Raises InputError for what cannot be used.
    """
    jpeg, pixels = _picture(options)
    with TemporaryDirectory() as folder:
        made = dict(engines(weights, options, device, Path(folder)))
        ready = {name: engine for name, engine in made.items() if isinstance(engine, Engine)}
        skipped = {name: reason for name, reason in made.items() if isinstance(reason, str)}
        for reason in skipped.values():
            warn(reason)
        pipelines = {name: engine.opened(options, device) for name, engine in ready.items()}
        if not pipelines:
            raise InputError("engines: none of them can be had here")
        rounds = rounds_of(options.batches, options.rounds)
        with steps("measuring", sum(rounds.values())) as advance:
            seconds, found = timed(pipelines, pixels, rounds, advance)
        shape = pixels.shape[0], pixels.shape[1]
        with steps("measuring memory", len(ready) if options.memory else 0) as advance:
            memory = {}
            for name, engine in ready.items() if options.memory else ():
                memory[name] = peak_memory(engine, options, device, shape)
                advance()
    first = next(iter(pipelines.values()))
    rows = {name: _figures(seconds[name], seconds[next(iter(seconds))]) for name in pipelines}
    for name, row in rows.items():
        peak = memory.get(name)
        row |= {"memory_mb": None if peak is None else round(peak / 1e6, 1), "detections": found[name]}
    return _about(first, device) | {
        "picture": list(shape), "rounds": {str(batch): count for batch, count in rounds.items()},
        "decode_ms": _decoding(jpeg), "engines": rows, "skipped": skipped,
    }  # fmt: skip


def _about(pipeline: Pipeline, device: str) -> dict[str, Any]:
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "recipe": pipeline.detector.recipe, "imgsz": pipeline.detector.size.imgsz,
        "device": device_name(choose_device(device)), "threads": torch.get_num_threads(), "versions": versions,
    }  # fmt: skip


def _picture(options: BenchmarkOptions) -> tuple[bytes, Any]:
    """The file, and its pixels [H,W,3] uint8."""
    if options.image is not None:
        path = Path(options.image)
        pixels = decode(path)
        return path.read_bytes(), pixels
    stream = io.BytesIO()
    Image.fromarray(drawn_scene(np.random.default_rng(0), *PICTURE)).save(stream, "JPEG", quality=90)
    return stream.getvalue(), decode(stream.getvalue())


def _decoding(file: bytes) -> float:
    times = []
    for _ in range(DECODES):
        start = perf_counter()
        decode(file)
        times.append(perf_counter() - start)
    return round(median(times) * 1e3, 3)


def _figures(seconds: dict[int, Seconds], of_first: dict[int, Seconds]) -> dict[str, Any]:
    """Of an engine, from its times and those of the first one."""
    batch = next(iter(seconds))
    own, first = _totals(seconds[batch]), _totals(of_first[batch])
    speed = {str(batch): batch / float(np.median(_totals(by_part))) for batch, by_part in seconds.items()}
    return {
        "latency_ms": {"median": _ms(np.median(own)), "p95": _ms(np.percentile(own, 95))},
        "ratio": round(float(np.median(own / first)), 4),
        "parts_ms": {part: _ms(np.median(seconds[batch][part])) for part in PARTS},
        "images_per_second": {batch: round(images, 2) for batch, images in speed.items()},
    }


def _totals(by_part: Seconds) -> Any:
    return np.sum([by_part[part] for part in PARTS], 0)


def _ms(seconds: Any) -> float:
    return round(float(seconds) * 1e3, 3)


def say_benchmark(result: dict[str, Any]) -> None:
    """The figures as a table."""
    batches = list(result["rounds"])
    table = Table("engine", "ms", "p95", "ratio", *SHORT, "images/s", "MB")
    for name, row in result["engines"].items():
        speed, memory = (f"{images:.0f}" for images in row["images_per_second"].values()), row["memory_mb"]
        table.add_row(
            name, f"{row['latency_ms']['median']:.1f}", f"{row['latency_ms']['p95']:.1f}", f"{row['ratio']:.2f}",
            *(f"{row['parts_ms'][part]:.1f}" for part in PARTS), ", ".join(speed),
            "-" if memory is None else f"{memory:.0f}",
        )  # fmt: skip
    console().print(table)
    height, width = result["picture"]
    say(
        f"{result['recipe']} at {result['imgsz']} px, batch {batches[0]}, {result['device']}, {result['threads']} "
        f"threads; from a decoded picture of {width} x {height}, whose decoding takes {result['decode_ms']:.1f} ms; "
        f"images/s in batches of {', '.join(batches)}"
    )
