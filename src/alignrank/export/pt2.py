"""PyTorch's own: a program of `torch.export`, which runs without this package's code."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch

from alignrank.errors import InputError, first_line
from alignrank.export.files import ABOUT, about_of, text_of
from alignrank.export.graph import Array, Opened, ShippedGraph, Subject, dynamic_sides, no_other_sides


def write(subject: Subject, path: Path) -> None:
    """Raises InputError where a `dynamic` graph turns out to be of one size."""
    graph = ShippedGraph(subject.graph).eval()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        with no_other_sides(subject.graph):
            program = torch.export.export(
                graph, (subject.example,), dynamic_shapes={"images": dynamic_sides(subject.graph)}, strict=False
            )
        torch.export.save(program, path, extra_files={ABOUT: text_of(subject.about())})


def open_file(path: Path) -> Opened:
    """Raises InputError for what is no such file."""
    texts: dict[str, Any] = {ABOUT: ""}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = torch.export.load(path, extra_files=texts).module()
    # A damaged archive fails in many ways, and none has a class of its own.
    except Exception as error:
        raise InputError(f"{path}: is no program that PyTorch can load ({first_line(error)})") from None

    def run(images: Array) -> list[Array]:
        with torch.no_grad():
            return [output.numpy() for output in module(torch.from_numpy(images))]

    return Opened(run, about_of(texts[ABOUT], path))
