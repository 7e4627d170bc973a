"""LiteRT, as TensorFlow Lite is called now: one image at a time, for phones and small machines."""

from __future__ import annotations

import io
import warnings
import zipfile
from contextlib import redirect_stdout
from pathlib import Path

import torch

from alignrank.errors import InputError, first_line
from alignrank.export.files import ABOUT, about_of, text_of
from alignrank.export.graph import Array, Opened, ShippedGraph, Subject
from alignrank.extras import require

EXTRA = "litert"


def write(subject: Subject, path: Path) -> None:
    """Metadata is a zip archive behind the graph, as in the format's own tools. Raises InputError for missing
    packages.
    """
    require(EXTRA, "litert_torch")
    import litert_torch

    # The converter knows weights by their addresses, and copies those that are not contiguous: one copy after another
    # may lie at the same address, and is then taken for the first (litert-torch 0.10).
    graph = ShippedGraph(subject.graph).to(memory_format=torch.contiguous_format).eval()
    # The converter tells its steps on stdout, which is for results.
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        litert_torch.convert(graph, (subject.example[:1],)).export(str(path))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(ABOUT, text_of(subject.about(one_image=True)))


def open_file(path: Path) -> Opened:
    """Raises InputError for what is no such file, and where LiteRT is not installed."""
    require(EXTRA, "ai_edge_litert")
    from ai_edge_litert.interpreter import Interpreter

    try:
        interpreter = Interpreter(str(path))
        interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        raise InputError(f"{path}: is no LiteRT file ({first_line(error)})") from None
    text = ""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            text = archive.read(ABOUT).decode() if ABOUT in archive.namelist() else ""
    (given,), made = interpreter.get_input_details(), interpreter.get_output_details()
    # In no order of their own; their names end with their places.
    made = sorted(made, key=lambda output: output["name"])

    def run(images: Array) -> list[Array]:
        interpreter.set_tensor(given["index"], images)
        interpreter.invoke()
        return [interpreter.get_tensor(output["index"]) for output in made]

    return Opened(run, about_of(text, path))
