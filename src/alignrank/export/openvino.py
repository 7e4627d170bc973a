"""OpenVINO's form: a graph (.xml) and its weights (.bin) beside it, converted from the ONNX file that was checked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from alignrank.errors import InputError, first_line
from alignrank.export import onnx
from alignrank.export.files import ABOUT, about_of, text_of
from alignrank.export.graph import Array, Opened, Subject
from alignrank.export.int8 import JOINED, KEY
from alignrank.extras import require

EXTRA = "openvino"
# Of the processor's choice it would be 16 bits where that is fast, and scores would have three digits.
SETTINGS = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}


def write(subject: Subject, path: Path) -> None:
    """`path` and, with the suffix .bin, its weights. Raises InputError for missing packages, see also `onnx.write`."""
    require(EXTRA, *onnx.MODULES, "openvino")
    with TemporaryDirectory() as folder:
        graph = Path(folder) / "model.onnx"
        onnx.write(subject.in_full(), graph)
        _convert(graph, path, subject.about(), half=subject.options.half)


def in_8_bits(subject: Subject) -> Callable[[Path, int], int]:
    """As `onnx.in_8_bits`."""
    require(EXTRA, *onnx.MODULES, "openvino")
    made = onnx.quantizer(subject.in_full(), JOINED)

    def write(path: Path, spared: int) -> int:
        model, kept = made.quantized(spared=spared)
        about = {entry.key: entry.value for entry in model.metadata_props if entry.key == KEY}
        with TemporaryDirectory() as folder:
            graph = Path(folder) / "model.onnx"
            graph.write_bytes(model.SerializeToString())
            _convert(graph, path, subject.about() | about)
        return kept

    return write


def _convert(graph: Path, path: Path, about: dict[str, str], *, half: bool = False) -> None:
    """An ONNX file."""
    import openvino

    model = openvino.convert_model(graph)
    model.set_rt_info(text_of(about), ABOUT)
    openvino.save_model(model, path, compress_to_fp16=half)


def open_file(path: Path) -> Opened:
    """Raises InputError for what is no such file, and where OpenVINO is not installed."""
    require(EXTRA, "openvino")
    import openvino

    if not path.with_suffix(".bin").is_file():
        raise InputError(f"{path}: has no weights beside it; {path.with_suffix('.bin').name} belongs to it")
    core = openvino.Core()
    try:
        model = core.read_model(path)
        compiled = core.compile_model(model, "CPU", SETTINGS | {"INFERENCE_NUM_THREADS": torch.get_num_threads()})
    except RuntimeError as error:
        raise InputError(f"{path}: is no file that OpenVINO can run ({first_line(error)})") from None
    about = about_of(model.get_rt_info(ABOUT).astype(str), path) if model.has_rt_info(ABOUT) else {}
    request = compiled.create_infer_request()

    def run(images: Array) -> list[Array]:
        request.infer([images])
        return [np.array(request.get_output_tensor(place).data) for place in range(len(compiled.outputs))]

    return Opened(run, about)
