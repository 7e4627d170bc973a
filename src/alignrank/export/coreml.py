"""Core ML, for Apple's machines: converted by coremltools, and not run here, because only macOS can."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from alignrank.errors import ExportError, InputError, first_line
from alignrank.export.graph import Opened, Subject
from alignrank.export.torchscript import traced
from alignrank.extras import require

EXTRA = "coreml"


def write(subject: Subject, path: Path) -> None:
    """A folder, as the format has it. Raises InputError for missing packages, ExportError where coremltools cannot."""
    require(EXTRA, "coremltools")
    import coremltools

    _fill_gaps()
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


def _fill_gaps() -> None:
    """Tell coremltools 9 how to convert what it does not: `or` of truth values, transposed matrices, ones like another
    tensor's, a choice between numbers, whole numbers from arrays of one, which NumPy 2.4 refuses as it does that, and
    products with a vector.
    """
    from coremltools.converters.mil import Builder, register_torch_op
    from coremltools.converters.mil.frontend.torch import ops

    register_torch_op(ops.logical_or, torch_alias=["or"], override=True)

    @register_torch_op(override=True)  # type: ignore[untyped-decorator]
    def mt(context: Any, node: Any) -> None:
        (x,) = ops._get_inputs(context, node, expected=1)
        order = [*range(len(x.shape) - 2), -1, -2]
        context.add(Builder.transpose(x=x, perm=order, name=node.name))

    @register_torch_op(override=True)  # type: ignore[untyped-decorator]
    def new_ones(context: Any, node: Any) -> None:
        shape = ops._get_inputs(context, node)[1]
        if isinstance(shape, list):
            shape = Builder.concat(values=shape, axis=0)
        context.add(Builder.fill(shape=shape, value=1.0, name=node.name))

    @register_torch_op(torch_alias=["int"], override=True)  # type: ignore[untyped-decorator]
    def whole_number(context: Any, node: Any) -> None:
        (x,) = ops._get_inputs(context, node, expected=1)
        if x.val is not None:
            number = Builder.const(val=int(np.asarray(x.val).item()), name=node.name)
        else:
            number = Builder.cast(x=Builder.squeeze(x=x) if x.shape else x, dtype="int32", name=node.name)
        context.add(number, node.name)

    product, choice = ops.matmul, ops.where

    @register_torch_op(torch_alias=["where.self"], override=True)  # type: ignore[untyped-decorator]
    def where(context: Any, node: Any) -> None:
        inputs = ops._get_inputs(context, node)
        if len(inputs) < 3 or any(x.shape for x in inputs):
            choice(context, node)
            return
        condition, a, b = (
            Builder.expand_dims(x=x, axes=[0]) for x in (inputs[0], *ops.promote_input_dtypes(inputs[1:]))
        )
        chosen = Builder.select(cond=condition, a=a, b=b)
        context.add(Builder.squeeze(x=chosen, axes=[0], name=node.name))

    @register_torch_op(override=True)  # type: ignore[untyped-decorator]
    def matmul(context: Any, node: Any) -> None:
        x, vector = ops._get_inputs(context, node, expected=2)
        if len(vector.shape) != 1:
            product(context, node)
            return
        column = ops._construct_matmul(x, Builder.expand_dims(x=vector, axes=[-1]), f"{node.name}_column")
        context.add(Builder.squeeze(x=column, axes=[-1], name=node.name))


def open_file(path: Path) -> Opened:
    """Raises InputError: not here."""
    raise InputError(f"{path}: Core ML files run on Apple's machines alone, not in alignrank; export another format")
