"""`export`: weights in another format. The table of formats; each has a file of its own."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from alignrank.errors import ExportError, InputError, nearest
from alignrank.export import coreml, litert, onnx, openvino, pt2, torchscript
from alignrank.export.graph import Array, Subject, subject_of
from alignrank.export.options import PLAIN, ExportOptions
from alignrank.export.parity import record_of, write_record
from alignrank.folders import make_folder, new_file
from alignrank.input_size import InputSize
from alignrank.terminal.progress import warn
from alignrank.weights import checkpoint
from alignrank.weights.catalog import is_fetched, is_recipe
from alignrank.weights.checkpoint import Checkpoint
from alignrank.weights.deployed import SelectionOptions, deploy
from alignrank.weights.untrained import of_recipe


@dataclass(frozen=True, slots=True)
class Format:
    """suffix: of its file; beside: suffixes of files that belong to it. extra: what has its packages, "" for none.
    module: has `write(subject, path)` and `open_file(path)`, and where it can `first_difference_in(path, subject,
    images)`, with `int8` also `in_8_bits(subject)`. options: which of `dynamic`, `half` and `int8` it has. runs:
    whether it can be run here, and so compared.
    """

    name: str
    suffix: str
    extra: str
    module: Any
    options: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    runs: bool = True


FORMATS = {
    row.name: row
    for row in (
        Format("onnx", ".onnx", "export", onnx, ("dynamic", "half", "int8")),
        Format("openvino", ".xml", "openvino", openvino, ("dynamic", "half", "int8"), beside=(".bin",)),
        Format("pt2", ".pt2", "", pt2, ("dynamic",)),
        Format("torchscript", ".torchscript", "", torchscript),
        Format("litert", ".tflite", "litert", litert),
        Format("coreml", ".mlpackage", "coreml", coreml, ("half",), runs=False),
    )
}

# Parts of the network that stay in 32 bits at least, where others are in 8; the next number counts where the gate
# refuses the file.
SPARED = (0, 1, 2, 4, 8)


def format_of(name: str, options: ExportOptions) -> Format:
    """The row of a format. Raises InputError for unknown ones, and for options that it does not have."""
    if name not in FORMATS:
        raise InputError(f"format: {name!r} is not supported; {nearest(name, FORMATS)}")
    row = FORMATS[name]
    for option in ("dynamic", "half", "int8"):
        if getattr(options, option) and option not in row.options:
            having = ", ".join(other.name for other in FORMATS.values() if option in other.options)
            raise InputError(f"{option}: {name} has no such form here ({having} have); leave out --{option}")
    return row


def export_weights(
    weights: Path | Checkpoint,
    format: str,
    *,
    options: ExportOptions = PLAIN,
    selection: SelectionOptions | None = None,
    out: str | Path | None = None,
    calibration: Callable[[InputSize], Sequence[Array]] = lambda size: (),
    check: Callable[[Checkpoint, Subject, Path, bool], object] = lambda loaded, subject, path, last: None,
) -> Path:
    """Write weights in another format, beside them or to `out`. Returns the path.

    weights: also the name of a recipe, for random ones; they go to RECIPE.SUFFIX in the working folder, and so do those
    that were fetched from the hub.
    calibration: gives images [1,3,H,W] as a network of that size takes them, for 8 bits.
    check: is given the weights as exported, their graph, the file before that gets its name, and whether it is the
    last one to be tried. Where it raises ExportError for that, what it tells is left as FILE.parity.json, unless there
    is an earlier FILE, to which that belongs.
    """
    if selection is not None and selection.tta:
        raise InputError("tta: is of predict and val; an exported file sees one image")
    row = format_of(format, options)
    if isinstance(weights, Path):
        weights = of_recipe(str(weights)) if is_recipe(weights) else checkpoint.load(weights)
    is_file = weights.path.is_file() and not is_fetched(weights.path)
    beside = weights.path.with_suffix(row.suffix) if is_file else Path(Path(weights.recipe.name).name + row.suffix)
    path = new_file(out if out is not None else beside, "out")
    if row.beside and path.suffix != row.suffix:
        raise InputError(f"out: {path}: a file of {row.name} must end with {row.suffix}")
    if options.nms and "nms" in weights.recipe.to_dict().get("postprocess", {}):
        weights = weights.with_nms()
    if selection is not None:
        weights = selection.of(weights)
    detector = deploy(weights, "cpu").resized(options.imgsz)
    subject = subject_of(
        detector.network,
        detector.postprocess,
        imgsz=detector.size,
        names=detector.classes,
        recipe=detector.recipe,
        options=options,
    )
    if options.int8:
        subject = replace(subject, calibration=calibration(subject.size))
    if options.nms and not subject.graph.suppression:
        raise InputError(f"{weights.path}: {weights.recipe.name} has no output for NMS; leave out --nms")
    make_folder(path.parent, "out")
    try:
        # In a folder of its own until it is checked; of one file system with its place, so that it can be renamed.
        with TemporaryDirectory(prefix=".export-", dir=path.parent) as folder:
            written = Path(folder) / f"{path.stem}{row.suffix}"
            _write(row, subject, written, partial(check, weights))
            for suffix in row.beside:
                os.replace(written.with_suffix(suffix), path.with_suffix(suffix))
            if path.is_dir():
                shutil.rmtree(path)
            os.replace(written, path)
            record_of(path).unlink(missing_ok=True)  # of what was there before
    except ExportError as error:
        if error.record and not path.exists():
            write_record(path, {"passed": False, "problem": str(error), **error.record})
        raise
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from None
    return path


def _write(row: Format, subject: Subject, path: Path, check: Callable[[Subject, Path, bool], object]) -> None:
    """Checked. In 8 bits with ever more parts spared, until the check has nothing to say against the file."""
    if not subject.options.int8:
        row.module.write(subject, path)
        check(subject, path, True)
        return
    write, spared = row.module.in_8_bits(subject), [*SPARED]
    while spared:
        kept = write(path, spared.pop(0))
        spared = [number for number in spared if number > kept]  # with less it would be the same file
        try:
            check(subject, path, not spared)
        except ExportError as error:
            if not spared:
                raise
            warn(f"{str(error).partition('; not written')[0]}; once more, with more parts in 32 bits")
        else:
            return
