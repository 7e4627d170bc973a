"""The verb `benchmark`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from alignrank.benchmark.options import EAGER, FILES, BenchmarkOptions
from alignrank.cli.options import (
    RUNNABLE_HELP,
    Device,
    Imgsz,
    Json,
    Overrides,
    RandomModel,
    check_subject,
    print_json,
    read_overrides,
    refuse_overrides,
)
from alignrank.input_size import read_size


def benchmark(
    overrides: Overrides = None,
    weights: Annotated[str | None, typer.Option(help=RUNNABLE_HELP)] = None,
    model: RandomModel = None,
    imgsz: Imgsz = None,
    batch: Annotated[str, typer.Option(help="images at a time; latency is that of the first")] = "1,8,16",
    engines: Annotated[
        str | None,
        typer.Option(help=f"of {', '.join(EAGER + FILES)} [default: the usual ones that are installed]"),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="in each, all engines in turn")] = 30,
    image: Annotated[str | None, typer.Option(help="a picture [default: a drawn one, 1280 x 720]")] = None,
    memory: Annotated[bool, typer.Option(help="of a process for each engine")] = True,
    device: Device = "auto",
    out: Annotated[str | None, typer.Option(help="new folder [default: runs/benchmark]")] = None,
    as_json: Json = False,
) -> None:
    """Measure latency by part, throughput and memory of a detector, by engine; a picture and benchmark.json."""
    check_subject("benchmark", weights, model)
    refuse_overrides(weights, overrides)
    batches: list[Any] = [int(part) if part.isdecimal() else part for part in batch.split(",")]
    from alignrank.benchmark.run import benchmark_to_folder, say_benchmark
    from alignrank.weights.untrained import of_recipe

    named = None if engines is None else engines.split(",")
    options = BenchmarkOptions(read_size(imgsz), batches, named, rounds, image, memory)
    subject = Path(weights) if weights is not None else of_recipe(str(model), read_overrides(overrides))
    result = benchmark_to_folder(subject, options, out=out, device=device)
    say_benchmark(result)
    if as_json:
        print_json(result)
