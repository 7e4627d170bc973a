"""The verb `tune`."""

from __future__ import annotations

from typing import Annotated

import typer

from alignrank.cli.options import (
    DATA_HELP,
    DEVICE_HELP,
    IMGSZ_HELP,
    Json,
    Overrides,
    print_json,
    read_batch,
    read_overrides,
)
from alignrank.input_size import read_size
from alignrank.weights.catalog import check_recipe


def tune(
    data: Annotated[str, typer.Option(help=DATA_HELP)],
    overrides: Overrides = None,
    model: Annotated[str | None, typer.Option(help="recipe name (see `alignrank models`) or YAML file")] = None,
    trials: Annotated[int, typer.Option(min=1, help="trainings, of all processes on the study together")] = 20,
    metric: Annotated[str, typer.Option(help="figure of results.json to make better: ap, ap75, lrp, ...")] = "ap",
    space: Annotated[str | None, typer.Option(help="YAML file: section.field to {low, high}, choices or null")] = None,
    prune: Annotated[bool, typer.Option(help="end trials early that are below the median")] = True,
    storage: Annotated[
        str | None, typer.Option(help="address of another database [default: study.db in the folder]")
    ] = None,
    val: Annotated[str | None, typer.Option(help="validation data, where DATA has none")] = None,
    weights: Annotated[str | None, typer.Option(help="start each trial from these weights")] = None,
    epochs: Annotated[int | None, typer.Option(help="of each trial [default: recipe's]")] = None,
    batch: Annotated[str | None, typer.Option(help="images per step, or auto")] = None,
    imgsz: Annotated[str | None, typer.Option(help=f"{IMGSZ_HELP} [default: recipe's]")] = None,
    seed: Annotated[int | None, typer.Option(help="of everything random")] = None,
    workers: Annotated[int | None, typer.Option(help="loader processes")] = None,
    device: Annotated[str | None, typer.Option(help=DEVICE_HELP)] = None,
    out: Annotated[
        str | None, typer.Option(help="folder of the study, which goes on if it is there [default: runs/tune-MODEL]")
    ] = None,
    as_json: Json = False,
) -> None:
    """Search a recipe's options for the best figure; the same command goes on, or joins from another process."""
    if model is not None:
        check_recipe(model, "command line")
    from alignrank.tuning import tune as run

    result = run(
        data, caller="command line", model=model, trials=trials, metric=metric, space=space, prune=prune,
        storage=storage, val=val, weights=weights, epochs=epochs, batch=read_batch(batch), imgsz=read_size(imgsz),
        seed=seed, workers=workers, device=device, out=out, **read_overrides(overrides),
    )  # fmt: skip
    if as_json:
        print_json(result)
