"""Core ML, for Apple's machines: converted by coremltools, and not run here, because only macOS can."""

from __future__ import annotations

import warnings
from pathlib import Path

from alignrank.errors import ExportError, InputError, first_line
from alignrank.export.graph import Opened, Subject
from alignrank.export.torchscript import traced
from alignrank.extras import require

EXTRA = "coreml"


def write(subject: Subject, path: Path) -> None:
    """A folder, as the format has it. Raises InputError for missing packages, ExportError where coremltools cannot."""
    require(EXTRA, "coremltools")
    import coremltools

    images = subject.example[:1]
    precision = coremltools.precision.FLOAT16 if subject.options.half else coremltools.precision.FLOAT32
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = coremltools.convert(
                traced(subject, images),
                inputs=[coremltools.TensorType("images", shape=tuple(images.shape))],
                outputs=[coremltools.TensorType(name) for name in subject.graph.outputs],
                convert_to="mlprogram",
                compute_precision=precision,
            )
    # A converter's gaps come as errors of many classes.
    except Exception as error:
        raise ExportError(f"coreml: coremltools cannot convert this network ({first_line(error)})") from None
    model.user_defined_metadata.update(subject.about(one_image=True))
    model.save(str(path))


def open_file(path: Path) -> Opened:
    """Raises InputError: not here."""
    raise InputError(f"{path}: Core ML files run on Apple's machines alone, not in alignrank; export another format")
