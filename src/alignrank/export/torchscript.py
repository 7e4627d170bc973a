"""TorchScript: a trace of the graph, for C++ programs with libtorch. PyTorch calls it deprecated and still runs it."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch

from alignrank.errors import InputError, first_line
from alignrank.export.files import ABOUT, about_of, text_of
from alignrank.export.graph import Array, Opened, ShippedGraph, Subject


def traced(subject: Subject, images: torch.Tensor) -> Any:
    """The graph as these images run through it."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        return torch.jit.trace(ShippedGraph(subject.graph).eval(), (images,), check_trace=False)


def write(subject: Subject, path: Path) -> None:
    """One size, any batch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(traced(subject, subject.example), path, _extra_files={ABOUT: text_of(subject.about())})


def open_file(path: Path) -> Opened:
    """Raises InputError for what is no such file."""
    texts: dict[str, Any] = {ABOUT: ""}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = torch.jit.load(path, map_location="cpu", _extra_files=texts)
    except (RuntimeError, ValueError, OSError) as error:
        raise InputError(f"{path}: is no TorchScript file ({first_line(error)})") from None
    text = texts[ABOUT]

    def run(images: Array) -> list[Array]:
        with torch.no_grad():
            return [output.numpy() for output in module(torch.from_numpy(images))]

    return Opened(run, about_of(text.decode() if isinstance(text, bytes) else text, path))
