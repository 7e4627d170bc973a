"""What several verbs share: option types, worked examples in the help, JSON on stdout."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alignrank.cli.completion import choice, one_of, published_recipes, recipes
from alignrank.errors import InputError
from alignrank.weights.catalog import check_recipe, weights_file

if TYPE_CHECKING:
    from alignrank.weights.checkpoint import Checkpoint

Json = Annotated[bool, typer.Option("--json", help="print one JSON object on stdout")]
Overrides = Annotated[list[str] | None, typer.Argument(help="section.field=value of the recipe", show_default=False)]
DATA_HELP, DEVICE_HELP = (
    "folder or file of a data set (forms: docs/data.md), or digits",
    "auto, cpu, cuda, cuda:N or mps",
)
Data = Annotated[str, typer.Option(help=DATA_HELP)]
Model = Annotated[
    str | None, typer.Option(help="recipe name (see `alignrank models`) or YAML file", autocompletion=recipes)
]
RandomModel = Annotated[
    str | None,
    typer.Option(help="recipe name or YAML file, in place of weights: random ones", autocompletion=recipes),
]
SPLITS = ("train", "val", "test")
Split = Annotated[str, choice(*SPLITS)]
WEIGHTS_HELP = "a .safetensors file, a run's folder, or hf://OWNER/NAME"
Weights = Annotated[str, typer.Option(help=WEIGHTS_HELP)]
RUNNABLE_HELP = f"{WEIGHTS_HELP}; or an exported file"
Runnable = Annotated[str, typer.Option(help=RUNNABLE_HELP)]
RunnableOrModel = Annotated[str | None, typer.Option("--weights", help=RUNNABLE_HELP)]
PublishedModel = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="in place of weights: a recipe with published ones, which are fetched",
        autocompletion=published_recipes,
    ),
]
Pretrained = Annotated[
    str | None, typer.Option(help="of --model: a folder with its published files, in place of the hub")
]
Nms = Annotated[bool, typer.Option("--nms", help="one-to-many output and NMS, also where the model needs none")]
Agnostic = Annotated[bool, typer.Option("--agnostic", help="one object, one class: suppression across classes")]
Consensus = Annotated[
    float | None,
    typer.Option(min=0, max=0.99, help="overlap above which boxes of an object are merged [default: recipe's, 0: off]"),
]
Tta = Annotated[bool, typer.Option("--tta", help="look at the mirror image, too, and merge: twice the time")]
Tile = Annotated[
    int | None, typer.Option(help="look at large images in square tiles of this side, px of the image, and as a whole")
]
Overlap = Annotated[
    float | None, typer.Option(help="share of its side that a tile has in common with the next [default: 0.2]")
]
ValConf = Annotated[float | None, typer.Option(min=0, max=1, help="lowest score kept [default: recipe's or 0.001]")]
PredictConf = Annotated[float | None, typer.Option(min=0, max=1, help="lowest score shown [default: recipe's or 0.25]")]
Iou = Annotated[
    float | None,
    typer.Option(min=0, max=1, help="NMS threshold, not used by NMS-free models [default: recipe's or 0.7]"),
]
IMGSZ_HELP = "longer side of the network's input, px, a multiple of 32; or SHORTER,LONGER"
Imgsz = Annotated[str | None, typer.Option(help=f"{IMGSZ_HELP} [default: as trained]")]
Rect = Annotated[
    bool | None,
    typer.Option("--rect/--square", help="shape of the input: the image's own, or a square [default: recipe's, rect]"),
]
CLASSES_HELP = "with commas between them, or one each time"
Classes = Annotated[list[str] | None, typer.Option(help=f"only these, names or numbers, {CLASSES_HELP}")]
MaxDets = Annotated[int | None, typer.Option(min=1, help="boxes per image at most [default: recipe's or 300]")]
Device = Annotated[str, typer.Option(help=DEVICE_HELP, autocompletion=one_of("auto", "cpu", "cuda", "mps"))]


def check_subject(verb: str, weights: str | None, model: str | None, pretrained: str | None = None) -> None:
    """Raises InputError unless one of --weights and --model is given, and there is such a file or recipe; and for
    --pretrained without --model.
    """
    if (weights is None) == (model is None):
        raise InputError(f"{verb}: give --weights or --model, one of them")
    if model is not None:
        check_recipe(model, "command line")
    elif pretrained is not None:
        raise InputError("--pretrained: is for --model")
    if weights is not None:
        weights_file(weights)


def weights_or_published(weights: str | None, model: str | None, pretrained: str | None) -> Path | Checkpoint:
    """The one of --weights and --model that `check_subject` has seen; what is published is fetched or in a folder."""
    if weights is not None:
        return Path(weights)
    from alignrank.weights.published import published_model

    return published_model(str(model), pretrained)


def refuse_overrides(weights: str | None, overrides: Sequence[str] | None) -> None:
    """Raises InputError for overrides where there are weights."""
    if weights is not None and overrides:
        raise InputError(f"{overrides[0]}: weights have a recipe of their own; overrides are for --model")


def examples(*lines: str) -> str:
    """The end of a verb's help."""
    return "\b\nExample:\n" + "\n".join(f"  {line}" for line in lines)


def print_json(value: Any) -> None:
    """One object on stdout."""
    sys.stdout.write(json.dumps(value) + "\n")


def read_batch(text: str | None) -> int | str | None:
    """A number, or a word such as `auto`."""
    return int(text) if text is not None and text.lstrip("-").isdigit() else text


def read_overrides(items: list[str] | None) -> dict[str, Any]:
    """The `section.field=value` words of a command line, by field."""
    from alignrank.config import parse_overrides

    return parse_overrides(items or [])
